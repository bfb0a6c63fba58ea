"""Renewal on a real Postgres: one at a time, nothing lost, busy told from revoked."""

import multiprocessing
import os
import signal
import threading
from datetime import timedelta
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import text

from models.connection import Connection
from tests.edge.scripted import answer
from tests.integration.tokens.issuer import Issuer, connected, silence
from tests.waiting import until
from worker.db import Database
from worker.errors import DisconnectedError, TransientError
from worker.salesforce import oauth
from worker.salesforce.exchange import AccessToken
from worker.settings import Settings
from worker.tokens import renew
from worker.tokens.renew import StoredTokens, token_spool
from worker.tokens.replay import replay_spool
from worker.tokens.vault import Vault

fork = multiprocessing.get_context("fork")


def tokens_of(database: Database, settings: Settings, connection_id: int) -> StoredTokens:
    return StoredTokens(database, Vault(settings.keys), settings, connection_id)


def row_of(database: Database, connection_id: int) -> Connection:
    with database.transaction() as session:
        return session.get_one(Connection, connection_id)


def attempts(database: Database) -> list[str | None]:
    with database.transaction() as session:
        return list(session.scalars(text("SELECT outcome FROM sfsync.renewals ORDER BY id")))


def stored_refresh_token(database: Database, settings: Settings, connection_id: int) -> str:
    sealed = row_of(database, connection_id).refresh_token
    assert sealed is not None
    return Vault(settings.keys).decrypt(
        sealed, table="salesforce_oauth_tokens", column="refresh_token", row=connection_id
    )


def test_a_stale_token_is_renewed_and_the_rotated_pair_stored(
    tokens: StoredTokens, database: Database, settings: Settings
) -> None:
    first = tokens.current()
    second = tokens.renew(first)
    assert (first.value, second.value, second.version) == ("access-1", "access-2", first.version + 1)
    assert tokens.current() == second
    assert stored_refresh_token(database, settings, tokens.connection_id) == "refresh-2"
    assert attempts(database) == ["renewed"]
    assert token_spool(settings, Vault(settings.keys)).waiting() == []
    assert tokens.renew(second).value == "access-3"


def test_who_comes_late_gets_the_token_that_another_renewed(tokens: StoredTokens, issuer: Issuer) -> None:
    stale = tokens.current()
    tokens.renew(stale)
    assert tokens.renew(stale).value == "access-2"
    assert len(issuer.requests) == 1


def test_without_rotation_the_refresh_token_stays(
    tokens: StoredTokens, issuer: Issuer, database: Database, settings: Settings
) -> None:
    issuer.rotate = False
    tokens.renew(tokens.renew(tokens.current()))
    assert stored_refresh_token(database, settings, tokens.connection_id) == "refresh-1"
    assert len(issuer.requests) == 2


def test_sixteen_processes_with_the_same_stale_token_cause_one_renewal(
    tokens: StoredTokens, issuer: Issuer, database: Database, settings: Settings
) -> None:
    stale = tokens.current()
    answers = fork.Queue()
    barrier = fork.Barrier(16)
    waiting = (
        "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND application_name = 'sfsync-renew'"
    )

    def renew_in_child() -> None:
        barrier.wait()
        answers.put(tokens_of(database, settings, tokens.connection_id).renew(stale).value)

    def all_others_wait() -> None:
        with psycopg.connect(database.url, autocommit=True) as connection:
            until(lambda: connection.execute(waiting).fetchone() == (15,))

    issuer.hook = all_others_wait
    children = [fork.Process(target=renew_in_child) for _ in range(16)]
    for child in children:
        child.start()
    assert [answers.get(timeout=60) for _ in children] == ["access-2"] * 16
    for child in children:
        child.join()
    assert len(issuer.requests) == 1
    assert not issuer.revoked


def test_many_threads_of_one_process_cause_one_renewal_and_hold_one_lock(
    tokens: StoredTokens, issuer: Issuer, database: Database, settings: Settings
) -> None:
    stale = tokens.current()
    found: list[str] = []
    threads = [threading.Thread(target=lambda: found.append(tokens.renew(stale).value)) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == ["access-2"] * 20
    assert len(issuer.requests) == 1


def test_inserts_that_refer_to_the_connection_pass_during_a_renewal(
    tokens: StoredTokens, issuer: Issuer, database: Database
) -> None:
    def insert() -> None:
        with psycopg.connect(database.url, options="-c lock_timeout=2s") as connection:
            connection.execute(
                "INSERT INTO sfsync.mirrors (connection_id, object, table_name) VALUES (%s, 'Contact', 'contact')",
                [tokens.connection_id],
            )

    issuer.hook = insert
    assert tokens.renew(tokens.current()).value == "access-2"


def test_a_refused_grant_is_marked_with_its_reason_and_asked_for_once(
    tokens: StoredTokens, issuer: Issuer, database: Database
) -> None:
    issuer.revoked = True
    stale = tokens.current()
    with pytest.raises(DisconnectedError, match="expired access/refresh token"):
        tokens.renew(stale)
    row = row_of(database, tokens.connection_id)
    assert row.state == "revoked"
    assert row.state_reason is not None
    assert "expired access/refresh token" in row.state_reason
    for use in (tokens.current, lambda: tokens.renew(stale)):
        with pytest.raises(DisconnectedError):
            use()
    assert len(issuer.requests) == 1
    assert attempts(database) == ["revoked"]


def test_busy_is_no_refusal_and_soon_asked_again(
    tokens: StoredTokens, issuer: Issuer, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(renew, "BUSY_PAUSES", (0.01, 0.01, None))
    busy = answer(400, {"error": "invalid_grant", "error_description": "token request is already being processed"})
    replies = iter([busy, busy, None])
    issuer.reply = lambda: next(replies)
    assert tokens.renew(tokens.current()).value == "access-2"
    assert attempts(database) == ["busy", "busy", "renewed"]


def test_a_refused_app_leaves_the_grant_alone(tokens: StoredTokens, issuer: Issuer, database: Database) -> None:
    issuer.reply = lambda: answer(400, {"error": "invalid_client", "error_description": "invalid client credentials"})
    with pytest.raises(TransientError, match="SALESFORCE_CLIENT_SECRET"):
        tokens.renew(tokens.current())
    assert row_of(database, tokens.connection_id).state == "active"


def test_an_answer_that_never_comes_leaves_the_grant_alone(
    tokens: StoredTokens, issuer: Issuer, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(oauth, "TOKEN_SECONDS", 0.3)
    issuer.hook = silence
    stale = tokens.current()
    with pytest.raises(TransientError):
        tokens.renew(stale)
    assert attempts(database) == ["unknown"]
    issuer.hook = lambda: None
    assert tokens.renew(stale).value == "access-2"


def test_a_web_page_instead_of_an_answer_is_no_refusal(
    tokens: StoredTokens, issuer: Issuer, database: Database
) -> None:
    issuer.reply = lambda: answer(503, b"<html>maintenance</html>", {"Content-Type": "text/html"})
    with pytest.raises(TransientError):
        tokens.renew(tokens.current())
    assert row_of(database, tokens.connection_id).state == "active"


def killed_while(
    database: Database, settings: Settings, connection_id: int, stale: AccessToken, moment: threading.Event
) -> None:
    """Renew in a child process and kill it at the moment."""
    child = fork.Process(target=lambda: tokens_of(database, settings, connection_id).renew(stale))
    child.start()
    moment.wait(60)
    assert child.pid is not None
    os.kill(child.pid, signal.SIGKILL)
    child.join()


def test_killed_before_the_answer_the_token_is_tried_again_after_a_while(
    tokens: StoredTokens, issuer: Issuer, database: Database, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    stale = tokens.current()
    asked = threading.Event()

    def never() -> None:
        asked.set()
        silence()

    issuer.hook = never
    killed_while(database, settings, tokens.connection_id, stale, asked)
    issuer.hook = lambda: None
    monkeypatch.setattr(renew, "BUSY_PAUSES", (None,))
    assert attempts(database) == [None]
    with pytest.raises(TransientError, match="storing"):  # its owner might live and store the pair
        tokens.renew(stale)
    monkeypatch.setattr(renew, "OPEN_ATTEMPT", timedelta(0))
    assert tokens.renew(stale).value == "access-2"


def test_killed_between_answer_and_store_the_pair_is_found_on_disk(
    tokens: StoredTokens, issuer: Issuer, database: Database, settings: Settings, tmp_path: Path
) -> None:
    stale = tokens.current()
    leave_pair_on_disk(tokens, database, settings, stale)
    assert row_of(database, tokens.connection_id).token_version == stale.version
    assert tokens.renew(stale).value == "access-2"
    assert stored_refresh_token(database, settings, tokens.connection_id) == "refresh-2"
    assert len(issuer.requests) == 1
    assert attempts(database) == ["renewed"]


def test_a_start_stores_what_a_killed_process_left(
    tokens: StoredTokens, issuer: Issuer, database: Database, settings: Settings
) -> None:
    stale = tokens.current()
    leave_pair_on_disk(tokens, database, settings, stale)
    vault = Vault(settings.keys)
    assert replay_spool(database, vault, settings) == 1
    assert tokens.current().value == "access-2"
    assert replay_spool(database, vault, settings) == 0
    assert tokens.renew(tokens.current()).value == "access-3"


def test_a_pair_on_disk_that_was_overtaken_is_forgotten(
    tokens: StoredTokens, issuer: Issuer, database: Database, settings: Settings
) -> None:
    stale = tokens.current()
    leave_pair_on_disk(tokens, database, settings, stale)
    with database.transaction() as session:  # a person connected anew meanwhile
        session.get_one(Connection, tokens.connection_id).token_version += 1
    assert replay_spool(database, Vault(settings.keys), settings) == 0
    assert tokens.current().value == "access-1"


def leave_pair_on_disk(tokens: StoredTokens, database: Database, settings: Settings, stale: AccessToken) -> None:
    """A child renews and is killed when the pair is on disk, before Postgres has it."""

    def renew_and_die() -> None:
        child = tokens_of(database, settings, tokens.connection_id)
        keep = child._spool.keep

        def keep_and_die(pair: object) -> None:
            keep(pair)  # type: ignore[arg-type]
            os.kill(os.getpid(), signal.SIGKILL)

        child._spool.keep = keep_and_die  # type: ignore[method-assign]
        child.renew(stale)

    child = fork.Process(target=renew_and_die)
    child.start()
    child.join()
    assert child.exitcode == -signal.SIGKILL


def test_a_postgres_that_goes_away_between_answer_and_store_gets_the_pair_when_it_is_back(
    tokens: StoredTokens, issuer: Issuer, database: Database, settings: Settings
) -> None:
    def terminate() -> None:
        with psycopg.connect(database.url, autocommit=True) as connection:
            connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'sfsync-renew'"
            )

    issuer.hook = terminate
    stale = tokens.current()
    assert tokens.renew(stale).value == "access-2"
    assert stored_refresh_token(database, settings, tokens.connection_id) == "refresh-2"
    assert len(issuer.requests) == 1
    assert token_spool(settings, Vault(settings.keys)).waiting() == []


def test_a_disk_that_is_full_does_not_cost_the_grant(tokens: StoredTokens, settings: Settings) -> None:
    settings.data_folder.joinpath("tokens").write_text("not a folder")
    assert tokens.renew(tokens.current()).value == "access-2"


def test_a_token_known_to_have_ended_is_renewed_before_it_is_used(
    tokens: StoredTokens, issuer: Issuer, database: Database
) -> None:
    def expire(interval: str) -> None:
        with database.transaction() as session:
            session.execute(
                text("UPDATE salesforce_oauth_tokens SET expires_at = clock_timestamp() + CAST(:i AS interval)"),
                {"i": interval},
            )

    expire("1 hour")
    assert tokens.current().value == "access-1"
    expire("10 seconds")
    assert tokens.current().value == "access-2"
    issuer.reply = lambda: answer(503, b"")
    expire("-1 hour")
    assert tokens.current().value == "access-2"  # the org has the last word on it


def test_introspection_tells_when_a_token_ends(tokens: StoredTokens, issuer: Issuer, database: Database) -> None:
    issuer.introspection = {"active": True, "exp": 1795300000 + 7200}
    tokens.renew(tokens.current())
    row = row_of(database, tokens.connection_id)
    assert row.expires_at is not None
    assert row.renewed_at is not None
    assert row.expires_at - row.renewed_at == timedelta(hours=2)


@pytest.mark.parametrize("told", ["by introspection", "with the token"])
def test_an_org_whose_clock_is_days_behind_ours_does_not_make_each_token_look_spent(
    tokens: StoredTokens, issuer: Issuer, database: Database, told: str
) -> None:
    issued = 1_700_000_000
    body = {"access_token": "access-2", "instance_url": issuer.server.url, "issued_at": f"{issued}000"}
    issuer.reply = lambda: answer(200, body if told == "by introspection" else {**body, "expires_in": 7200})
    issuer.introspection = {"active": True, "exp": issued + 7200}
    tokens.renew(tokens.current())
    for _ in range(3):
        assert tokens.current().value == "access-2"
    assert len(issuer.requests) == 1


@pytest.mark.parametrize("exp", [1795300000000, "soon", None, -1, 10**13])
def test_an_end_that_is_no_moment_is_not_believed(tokens: StoredTokens, issuer: Issuer, exp: object) -> None:
    issuer.introspection = {"active": True, "exp": exp}
    assert tokens.renew(tokens.current()).value == "access-2"
    assert tokens.current().value == "access-2"


def test_client_credentials_are_asked_for_anew(database: Database, settings: Settings, issuer: Issuer) -> None:
    tokens = tokens_of(database, settings, connected(database, settings, grant_type="client_credentials"))
    assert tokens.renew(tokens.current()).value == "access-2"
    assert issuer.requests[0]["grant_type"] == "client_credentials"
    assert issuer.server.seen[0].headers["authorization"].startswith("Basic ")


def test_client_credentials_go_in_the_body_where_basic_is_not_read(
    database: Database, settings: Settings, issuer: Issuer
) -> None:
    refusal = answer(401, {"error": "invalid_client", "error_description": "missing client_id"})
    issuer.reply = lambda: None if "client_id" in issuer.requests[-1] else refusal
    tokens = tokens_of(database, settings, connected(database, settings, grant_type="client_credentials"))
    assert tokens.renew(tokens.current()).value == "access-2"


def test_a_fresh_token_refused_once_is_a_hiccup_and_three_times_in_a_row_for_a_person(
    tokens: StoredTokens, database: Database
) -> None:
    token = tokens.current()
    kinds = []
    for _ in range(3):
        token = tokens.renew(token)
        kinds.append(type(tokens.refused(token, "Session expired or invalid")))
    assert kinds == [TransientError, TransientError, DisconnectedError]
    assert row_of(database, tokens.connection_id).state == "revoked"


def test_a_connection_that_is_not_there_is_disconnected(database: Database, settings: Settings) -> None:
    with pytest.raises(DisconnectedError):
        tokens_of(database, settings, 4711).current()


def test_tokens_show_in_no_log_error_or_table(
    tokens: StoredTokens, issuer: Issuer, database: Database, capfd: pytest.CaptureFixture[str]
) -> None:
    tokens.renew(tokens.current())
    issuer.revoked = True
    with pytest.raises(DisconnectedError) as caught:
        tokens.renew(tokens.current())
    with psycopg.connect(database.url) as connection:
        tables = connection.execute(
            "SELECT t::text FROM salesforce_oauth_tokens t UNION ALL SELECT r::text FROM sfsync.renewals r"
        ).fetchall()
    seen = f"{capfd.readouterr()} {caught.value!r} {tables} {tokens!r}"
    for secret in ("access-1", "access-2", "refresh-1", "refresh-2", "app-secret"):
        assert secret not in seen
