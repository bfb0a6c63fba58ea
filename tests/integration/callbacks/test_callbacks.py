"""Callbacks: told once the outcome is committed, signed, retried, never to a private address that nobody allowed."""

import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from pydantic import SecretStr
from standardwebhooks.webhooks import Webhook, WebhookVerificationError

from tests.integration.conftest import Rows
from tests.integration.tokens.issuer import connected, issuing, settings_for
from tests.receiver import Receiver, receiving
from worker import lanes
from worker.callbacks import checking, deliver, store
from worker.callbacks.calling import Caller
from worker.callbacks.deliver import CallbackDeps
from worker.callbacks.signing import secret_of
from worker.db import Database
from worker.errors import DisconnectedError
from worker.runtime import Runtime
from worker.steps import Again, Busy, Done
from worker.tokens.vault import Vault

VAULT = Vault([b"k" * 32])


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as receiver:
        yield receiver


def deps_for(database: Database, receiver: Receiver | None = None, seconds: float = 5.0) -> CallbackDeps:
    allowed = (receiver.url,) if receiver else ()
    return CallbackDeps(
        database,
        Caller(allowed, seconds),
        lambda value, row: VAULT.decrypt(value, table="callback_secrets", column="secret", row=row),
    )


def add_secret(database: Database, connection_id: int, vault: Vault = VAULT) -> str:
    secret, secret_id = secret_of(os.urandom(32)), f"whk_{os.urandom(4).hex()}"
    sealed = vault.encrypt(secret, table="callback_secrets", column="secret", row=secret_id)
    with database.transaction() as session:
        store.add_secret(session, connection_id, secret_id, sealed)
    return secret


def tell(database: Database, connection_id: int, url: str, **payload: Any) -> int:
    with database.transaction() as session:
        return store.enqueue(session, connection_id=connection_id, url=url, kind="run.finished", payload=payload)


def serve(deps: CallbackDeps, rows: Rows) -> Any:
    ((endpoint,),) = rows("SELECT id FROM sfsync.callback_endpoints ORDER BY id DESC LIMIT 1")
    return deliver.step(deps, endpoint, chance=lambda: 0.5)


def test_a_url_with_nothing_to_be_told_sleeps_until_there_is_something(
    database: Database, connection_id: int, receiver: Receiver, rows: Rows
) -> None:
    add_secret(database, connection_id)
    tell(database, connection_id, receiver.url, run=1)
    assert serve(deps_for(database, receiver), rows) == Again()
    rows("UPDATE sfsync.callback_endpoints SET next_due_at = clock_timestamp()")  # the look a second later
    assert serve(deps_for(database, receiver), rows) == Done()
    assert rows("SELECT next_due_at FROM sfsync.callback_endpoints") == [(None,)]
    tell(database, connection_id, receiver.url, run=2)
    with database.transaction() as session:
        assert len(store.due_endpoints(session, 10)) == 1


def test_a_message_is_told_signed_and_logged(
    database: Database, connection_id: int, receiver: Receiver, rows: Rows
) -> None:
    old, new = add_secret(database, connection_id), add_secret(database, connection_id)
    tell(database, connection_id, receiver.url, run=1)
    with database.transaction() as session:
        assert store.due_endpoints(session, 10) != []
    assert serve(deps_for(database, receiver), rows) == Again()
    ((headers, body),) = receiver.got
    for secret in (old, new):
        told = Webhook(secret).verify(body, headers)
        assert (told["type"], told["data"]) == ("run.finished", {"run": 1})
    ((message_id,),) = rows("SELECT message_id FROM sfsync.callbacks")
    assert headers["webhook-id"] == f"msg_{message_id.hex}"
    assert rows("SELECT state, attempts FROM sfsync.callbacks") == [("delivered", 1)]
    assert rows("SELECT status, error FROM sfsync.callback_attempts") == [(204, None)]
    assert not any(
        secret.encode() in str(row).encode() for secret in (old, new) for row in rows("TABLE sfsync.callback_secrets")
    )


def test_what_fails_is_told_again_for_a_day_under_the_same_id(
    database: Database, connection_id: int, receiver: Receiver, rows: Rows
) -> None:
    add_secret(database, connection_id)
    deps = deps_for(database, receiver)
    receiver.answers = [(500, {}), (302, {"Location": receiver.url}), (503, {"Retry-After": "300"})]
    tell(database, connection_id, receiver.url)
    for pause in (5, 10, 300):
        assert serve(deps, rows) == Done()
        ((left,),) = rows("SELECT extract(epoch FROM due_at - clock_timestamp()) FROM sfsync.callbacks")
        assert pause - 60 < left <= pause
        assert serve(deps, rows) == Busy()  # the endpoint rests
        rows("UPDATE sfsync.callbacks SET due_at = clock_timestamp()")
        rows("UPDATE sfsync.callback_endpoints SET next_due_at = clock_timestamp()")
    rows("UPDATE sfsync.callbacks SET created_at = clock_timestamp() - interval '25 hours'")
    receiver.answers = [(500, {})]
    serve(deps, rows)
    assert rows("SELECT state, attempts FROM sfsync.callbacks") == [("failed", 4)]
    assert [status for (status,) in rows("SELECT status FROM sfsync.callback_attempts ORDER BY id")] == [
        500,
        302,
        503,
        500,
    ]
    assert len({headers["webhook-id"] for headers, _ in receiver.got}) == 1
    with database.transaction() as session:
        ((callback_id,),) = rows("SELECT id FROM sfsync.callbacks")
        assert store.redo(session, [callback_id]) == [callback_id]
    serve(deps, rows)
    assert rows("SELECT state FROM sfsync.callbacks") == [("delivered",)]


def test_gone_disables_the_endpoint_until_somebody_enables_it(
    database: Database, connection_id: int, receiver: Receiver, rows: Rows
) -> None:
    add_secret(database, connection_id)
    deps = deps_for(database, receiver)
    receiver.answers = [(410, {})]
    for number in (1, 2):
        tell(database, connection_id, receiver.url, number=number)
    serve(deps, rows)
    assert rows("SELECT DISTINCT state FROM sfsync.callbacks") == [("failed",)]
    tell(database, connection_id, receiver.url, number=3)
    assert serve(deps, rows) == Busy()
    ((endpoint,),) = rows("SELECT id FROM sfsync.callback_endpoints WHERE disabled_reason LIKE '%410%'")
    with database.transaction() as session:
        assert store.enable(session, endpoint)
    serve(deps, rows)
    assert [json.loads(body)["data"]["number"] for _, body in receiver.got] == [1, 3]


def test_what_comes_for_a_disabled_url_is_given_up_after_a_day(
    database: Database, connection_id: int, receiver: Receiver, rows: Rows
) -> None:
    add_secret(database, connection_id)
    deps = deps_for(database, receiver)
    receiver.answers = [(410, {})]
    tell(database, connection_id, receiver.url)
    serve(deps, rows)
    for number in (1, 2):
        tell(database, connection_id, receiver.url, number=number)
    rows("UPDATE sfsync.callbacks SET created_at = created_at - interval '25 hours' WHERE payload ->> 'number' = '1'")
    deliver.upkeep(deps)
    assert rows("SELECT state FROM sfsync.callbacks ORDER BY id") == [("failed",), ("failed",), ("waiting",)]


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]", "[::ffff:127.0.0.1]", "localhost", "2130706433", "0x7f.1"])
def test_no_private_address_is_called(
    database: Database, connection_id: int, receiver: Receiver, rows: Rows, host: str
) -> None:
    add_secret(database, connection_id)
    port = receiver.url.rsplit(":", 1)[1].split("/")[0]
    tell(database, connection_id, f"https://{host}:{port}/")
    serve(deps_for(database), rows)
    ((status, error),) = rows("SELECT status, error FROM sfsync.callback_attempts")
    assert (status, receiver.got) == (None, [])
    assert "no public address" in error or "not known" in error


def test_a_name_that_changes_its_mind_gains_nothing(receiver: Receiver) -> None:
    """The address that was looked at is the one that is called: the name is resolved once."""
    asked = []

    def resolve(host: str, port: int) -> list[str]:
        asked.append(host)
        return ["203.0.113.1"] if len(asked) == 1 else ["127.0.0.1"]

    answer = Caller((), 1.0, resolve=resolve).call("https://rebinding.example/", b"{}", {})
    assert asked == ["rebinding.example"]
    assert answer.status is None
    assert receiver.got == []


def test_a_receiver_that_never_ends_is_cut_off_at_the_deadline() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def drip() -> None:
            peer, _ = server.accept()
            with peer:
                try:
                    peer.sendall(b"HTTP/1.1 200 OK\r\n")
                    while True:
                        peer.sendall(b"x: y\r\n")
                        time.sleep(0.05)
                except OSError:
                    pass

        thread = threading.Thread(target=drip, daemon=True)
        thread.start()
        url = f"http://127.0.0.1:{server.getsockname()[1]}/"
        answer = Caller((url,), 0.5).call(url, b"{}", {})
        thread.join(30)
    assert answer.status is None
    assert answer.error == "no answer within 0.5 s"


def test_a_worker_killed_in_the_call_leaves_the_message_to_the_next(
    database: Database, connection_id: int, receiver: Receiver, rows: Rows
) -> None:
    add_secret(database, connection_id)
    deps = deps_for(database, receiver)
    tell(database, connection_id, receiver.url)
    ((endpoint_id,),) = rows("SELECT id FROM sfsync.callback_endpoints")
    with database.transaction() as session:
        slow = store.take(session, endpoint_id, timedelta(seconds=60))
    assert slow is not None
    assert serve(deps, rows) == Busy()
    rows("UPDATE sfsync.callback_endpoints SET claim_until = clock_timestamp() - interval '1 second'")
    assert serve(deps, rows) == Again()
    with database.transaction() as session:  # the slow owner comes back: it writes nothing
        message = store.Message(0, uuid.uuid4(), "run.finished", {}, 0, deps.database.now())
        answer = deliver.Answer(500, "late", 1.0)
        assert not store.write(session, slow, message, answer, state="failed", after=timedelta(0), failures=9)
    assert rows("SELECT state, attempts FROM sfsync.callbacks") == [("delivered", 1)]


def test_without_a_secret_nothing_is_sent_and_the_door_says_so(
    database: Database, connection_id: int, receiver: Receiver, rows: Rows
) -> None:
    deps = deps_for(database, receiver)
    assert "no secret" in (checking.wrong_url(deps, connection_id, receiver.url) or "")
    assert "https" in (checking.wrong_url(deps, connection_id, "http://caller.example/") or "")
    tell(database, connection_id, receiver.url)
    serve(deps, rows)
    assert receiver.got == []
    operator = replace(deps, operator_secret=secret_of(b"o" * 32))
    assert checking.wrong_url(operator, connection_id, receiver.url) is None


def test_old_callbacks_are_forgotten_and_sleeping_endpoints_woken(
    database: Database, connection_id: int, receiver: Receiver, rows: Rows
) -> None:
    add_secret(database, connection_id)
    tell(database, connection_id, receiver.url)
    serve(deps_for(database, receiver), rows)
    tell(database, connection_id, receiver.url)
    rows(
        "UPDATE sfsync.callbacks SET finished_at = clock_timestamp() - interval '8 days' WHERE finished_at IS NOT NULL"
    )
    rows("UPDATE sfsync.callback_endpoints SET next_due_at = NULL")
    deliver.upkeep(deps_for(database, receiver))
    assert rows("SELECT state FROM sfsync.callbacks") == [("waiting",)]
    assert rows("SELECT next_due_at <= clock_timestamp() FROM sfsync.callback_endpoints") == [(True,)]


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        ("state = 'cancelled', finished_at = now()", "action.finished"),
        ('state = \'held\', error = \'{"code": "X", "message": "y"}\'', "action.held"),
    ],
)
def test_an_action_that_ends_tells_its_caller_in_the_same_transaction(
    connection_id: int, receiver: Receiver, rows: Rows, change: str, kind: str, database_url: str
) -> None:
    rows(
        "INSERT INTO sfsync.actions (id, connection_id, object, operation, fields, content_hash, order_key, ticket, state, source,"
        " idempotency_key, callback_url) VALUES (gen_random_uuid(), %s, 'Contact', 'create', '{}', sha256('x'), 'k', 0, 'ready',"
        " 'cli', 'key', %s)",
        connection_id,
        receiver.url,
    )
    with psycopg.connect(database_url) as undone:
        undone.execute(f"UPDATE sfsync.actions SET {change}".encode())
        undone.rollback()
    assert rows("SELECT count(*) FROM sfsync.callbacks") == [(0,)]
    rows(f"UPDATE sfsync.actions SET {change}")
    rows(f"UPDATE sfsync.actions SET {change}")  # no new state, nothing new to tell
    ((told, payload),) = rows("SELECT kind, payload FROM sfsync.callbacks")
    assert told == kind
    assert (payload["idempotency_key"], payload["user_id"], payload["operation"]) == ("key", "u", "create")
    assert "fields" not in payload


def test_the_operator_is_told_of_a_revoked_connection_signed_with_the_operators_secret(
    database: Database, receiver: Receiver, rows: Rows, tmp_path: Path
) -> None:
    secret = secret_of(os.urandom(32))
    with issuing() as issuer:
        changed = {
            "webhook_url": receiver.url,
            "webhook_secret": SecretStr(secret),
            "callback_allowed_hosts": (receiver.url,),
        }
        settings = settings_for(database, issuer, tmp_path).model_copy(update=changed)
        revoked = connected(database, settings)
        users = add_secret(database, revoked, Vault(settings.keys))
        runtime = Runtime(settings)
        tokens = runtime.tokens(revoked)
        issuer.revoked = True
        stale = tokens.current()
        for _ in range(2):
            with pytest.raises(DisconnectedError):
                tokens.renew(stale)
    ((endpoint,),) = rows("SELECT id FROM sfsync.callback_endpoints")
    lanes.STEPS[deliver.DELIVER](runtime, endpoint)
    runtime.close()
    ((headers, body),) = receiver.got
    told = Webhook(secret).verify(body, headers)
    assert told["type"] == "connection.revoked"
    assert told["data"]["connection_id"] == revoked
    assert "expired access/refresh token" in told["data"]["reason"]
    with pytest.raises(WebhookVerificationError):
        Webhook(users).verify(body, headers)
