"""A grant that ends in the org: noticed, told of once, its work waits; connecting again resumes all of it. Over real HTTP."""

import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import psycopg
import pytest
from standardwebhooks.webhooks import Webhook

from tests.consent import sign_in
from tests.org import Org, start_org
from tests.receiver import Receiver, receiving
from worker import lanes
from worker.actions.accept import accept
from worker.actions.intent import Intent
from worker.callbacks.signing import secret_of
from worker.db import Database
from worker.mirror.requests import request_update
from worker.pulse import Pulse
from worker.runtime import Runtime
from worker.settings import load_settings
from worker.tokens.authorize import begin_authorization, finish_authorization
from worker.tokens.connect import Connected, Target
from worker.triggers import store
from worker.triggers.store import Asked

Rows = Callable[..., list[tuple[Any, ...]]]
SECRET = secret_of(os.urandom(32))
LANES = ("actions", "refresh", "backfill", "upkeep")


@pytest.fixture
def org(tmp_path: Path) -> Iterator[Org]:
    with start_org(tmp_path / "org", seed="Account=3") as running:
        yield running


@pytest.fixture
def operator() -> Iterator[Receiver]:
    with receiving() as receiver:
        yield receiver


@pytest.fixture
def rt(database: Database, org: Org, operator: Receiver, tmp_path: Path) -> Iterator[Runtime]:
    environ = {
        "DATABASE_URL": database.url,
        "REDIS_URL": "redis://127.0.0.1:1/0",
        "ENCRYPTION_KEY": "A" * 43,
        "SALESFORCE_CLIENT_ID": org.client_id,
        "SALESFORCE_CLIENT_SECRET": org.client_secret,
        "SALESFORCE_LOGIN_URL": org.url,
        "SALESFORCE_ALLOWED_HOSTS": org.url,
        "SFSYNC_DATA_FOLDER": str(tmp_path),
        "SFSYNC_WEBHOOK_URL": operator.url,
        "SFSYNC_WEBHOOK_SECRET": SECRET,
        "SFSYNC_CALLBACK_ALLOWED_HOSTS": operator.url,
    }
    runtime = Runtime(load_settings(environ))
    yield runtime
    runtime.close()


@pytest.fixture
def rows(database_url: str) -> Rows:
    def run(statement: str, *values: object) -> list[tuple[Any, ...]]:
        with psycopg.connect(database_url, autocommit=True) as connection:
            cursor = connection.execute(statement.encode(), values or None)
            return cursor.fetchall() if cursor.description else []

    return run


def connect(rt: Runtime, org: Org, back: Receiver) -> Connected:
    """A person consents in the browser."""
    target = Target("me")
    begun = begin_authorization(rt.database, rt.vault, rt.settings, target, back.url)
    page = sign_in(org, begun.url, approve=True)
    (code,) = parse_qs(urlsplit(page.url).query)["code"]
    return finish_authorization(rt.database, rt.vault, rt.settings, begun.state, code)


def work_off(rt: Runtime) -> int:
    """Do what is due, as workers find it, until nothing is; how many steps."""
    steps, pulse = 0, Pulse()
    for _ in range(50):
        with rt.database.transaction() as session:
            due = [one for lane in LANES for one in lanes.due(session, lane, 10)]
        if not due:
            return steps
        for one in due:
            assert pulse.take_slot(one.name, one.row_id)
            pulse.run(one.name, one.row_id, partial(lanes.STEPS[one.name], rt, one.row_id))
        steps += len(due)
    raise AssertionError(f"it does not end: {due}")


def create(rt: Runtime, connection_id: int, name: str) -> None:
    accept(
        rt.actions, connection_id, [Intent(object="Account", operation="create", fields={"Name": name})], source="http"
    )


def test_a_revoked_grant_parks_everything_tells_the_operator_once_and_reconnecting_resumes(
    rt: Runtime, org: Org, operator: Receiver, rows: Rows
) -> None:
    me = connect(rt, org, operator).connection_id
    with rt.database.transaction() as session:
        request_update(session, me, "Account", "manual", refresh_seconds=60)
        asked = Asked("often", "scheduled_trigger", "process_data", every_seconds=60, objects=["Account"])
        store.add(session, me, store.checked(asked, rt.now(), rt.triggers.capabilities), rt.now())
    work_off(rt)
    create(rt, me, "before")
    work_off(rt)
    assert rows("SELECT state FROM sfsync.actions") == [("delivered",)]

    org.control.revoke_tokens()
    create(rt, me, "while it is revoked")
    with rt.database.transaction() as session:
        request_update(session, me, "Account", "manual", refresh_seconds=60)
    rows("UPDATE sfsync.triggers SET next_due_at = clock_timestamp()")
    work_off(rt)
    state, reason = rows("SELECT state, state_reason FROM salesforce_oauth_tokens")[0]
    assert (state, "expired access/refresh token" in reason) == ("revoked", True)
    ((headers, body),) = operator.got
    told = Webhook(SECRET).verify(body, headers)
    assert (told["type"], told["data"]["user_id"]) == ("connection.revoked", "me")

    lanes.fire_due(rt)
    create(rt, me, "later")
    assert work_off(rt) == 0  # nothing of it is due, nobody asks the org again
    assert rows("SELECT state, attempts FROM sfsync.actions WHERE state <> 'delivered'") == [("ready", 0)] * 2
    assert rows("SELECT state FROM sfsync.runs WHERE state <> 'done'") == [("ready",)]
    assert rows("SELECT count(*) FROM sfsync.firings") == [(0,)]
    assert len(operator.got) == 1

    assert connect(rt, org, operator).connection_id == me
    lanes.fire_due(rt)
    work_off(rt)  # at once: what waited is due again
    assert rows("SELECT state, count(*) FROM sfsync.actions GROUP BY 1") == [("delivered", 3)]
    assert rows("SELECT count(*) FROM sfsync.runs WHERE state <> 'done'") == [(0,)]
    assert rows("SELECT count(*) FROM sfsync.firings") == [(1,)]
    names = [row[0] for row in rows("SELECT name FROM salesforce.account")]
    assert sorted(name for name in names if name in ("before", "later", "while it is revoked")) == [
        "before",
        "later",
        "while it is revoked",
    ]
    assert len(operator.got) == 1
