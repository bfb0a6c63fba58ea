"""A child that is accepted at the very moment at which its parent fails: it fails, too, at once and with its callback."""

import threading
from collections.abc import Callable
from typing import Any

import psycopg
import pytest
from sqlalchemy import text

from tests.integration.actions.test_claims import SENT_AT, TTL, nodes
from tests.waiting import until
from worker.actions import accept as accepting
from worker.actions import claims, queues, record, store
from worker.actions.accept import Intent, accept
from worker.actions.changes import Change
from worker.actions.claims import Batch
from worker.actions.deps import ActionDeps
from worker.actions.family import FAIL
from worker.actions.outcome import Problem
from worker.db import uuid_array

Rows = Callable[..., list[tuple[Any, ...]]]
WRONG = Problem("INVALID_EMAIL_ADDRESS", "no e-mail address")
PARENT = Intent("Account", "create", {"Name": "Ito"}, idempotency_key="p")
CHILD = Intent("Contact", "create", {"LastName": "Ito"}, parents={"AccountId": "p"}, callback_url="https://a.example/x")


def claimed(deps: ActionDeps, rows: Rows) -> Batch:
    ((queue_id,),) = rows("SELECT id FROM sfsync.action_queues WHERE object = 'Account'")
    with deps.database.transaction() as session:
        found = queues.look(session, queue_id)
        assert found
        batch = claims.claim_batch(session, found[0], now=deps.database.now(), sent_at=SENT_AT, ttl=TTL)
    assert batch
    return batch


def fail(deps: ActionDeps, batch: Batch, state: str) -> None:
    with deps.database.transaction() as session:
        record.write(session, batch, [Change(batch.actions[0].id, state, problem=WRONG)])


def of_the_child(rows: Rows) -> list[tuple[Any, ...]]:
    return rows("SELECT state, error ->> 'code' FROM sfsync.actions WHERE object = 'Contact'")


@pytest.mark.parametrize("state", ["rejected", "held"])
def test_a_parent_that_fails_after_it_was_looked_at_takes_the_child_along(
    deps: ActionDeps, connection_id: int, rows: Rows, monkeypatch: pytest.MonkeyPatch, state: str
) -> None:
    accept(deps, connection_id, [PARENT], source="cli")
    batch = claimed(deps, rows)
    original = store.insert

    def insert(*arguments: Any) -> None:
        fail(deps, batch, state)
        original(*arguments)

    monkeypatch.setattr(accepting.store, "insert", insert)
    accept(deps, connection_id, [CHILD], source="cli")
    assert of_the_child(rows) == [(state, "PARENT_FAILED")]
    kind = "action.held" if state == "held" else "action.finished"
    assert rows("SELECT kind, payload ->> 'state' FROM sfsync.callbacks") == [(kind, state)]


def test_a_parent_that_fails_while_the_child_is_being_stored_waits_for_it_and_takes_it_along(
    deps: ActionDeps, connection_id: int, rows: Rows, monkeypatch: pytest.MonkeyPatch, database_url: str
) -> None:
    accept(deps, connection_id, [PARENT], source="cli")
    batch = claimed(deps, rows)
    failing = threading.Thread(target=fail, args=(deps, batch, "rejected"))
    original = store.insert
    blocked = "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"

    def insert(*arguments: Any) -> None:
        original(*arguments)
        failing.start()
        with psycopg.connect(database_url, autocommit=True) as watching:
            until(lambda: watching.execute(blocked).fetchone())

    monkeypatch.setattr(accepting.store, "insert", insert)
    accept(deps, connection_id, [CHILD], source="cli")
    failing.join()
    assert of_the_child(rows) == [("rejected", "PARENT_FAILED")]
    assert rows("SELECT payload ->> 'state' FROM sfsync.callbacks") == [("rejected",)]


MANY_FAMILIES = """
WITH parent AS (
     INSERT INTO sfsync.actions (id, connection_id, object, operation, fields, content_hash, order_key, ticket, state, source)
     SELECT gen_random_uuid(), %s, 'Account', 'create', '{}', sha256('x'), 'p' || n, 0, 'ready', 'cli' FROM generate_series(1, 3000) AS n
     RETURNING id, order_key),
     child AS (
     INSERT INTO sfsync.actions (id, connection_id, object, operation, fields, content_hash, order_key, ticket, state, source)
     SELECT gen_random_uuid(), %s, 'Contact', 'create', '{}', sha256('x'), order_key, 1, 'waiting', 'cli' FROM parent
     RETURNING id, order_key)
INSERT INTO sfsync.action_parents (action_id, field, parent_id)
SELECT child.id, 'AccountId', parent.id FROM child JOIN parent USING (order_key) RETURNING parent_id
"""


def test_a_failure_reads_what_names_it_however_many_actions_there_are(
    deps: ActionDeps, connection_id: int, rows: Rows
) -> None:
    parent = rows(MANY_FAMILIES, connection_id, connection_id)[0][0]
    rows("VACUUM ANALYZE sfsync.actions")
    rows("VACUUM ANALYZE sfsync.action_parents")
    with deps.database.transaction() as session:
        plan = session.scalar(text(f"EXPLAIN (ANALYZE, FORMAT JSON) {FAIL}"), {"ids": uuid_array([parent])})
    read = [node for node in nodes(plan[0]["Plan"]) if node.get("Relation Name") == "actions" and node["Actual Loops"]]
    assert sum(node["Actual Rows"] + node.get("Rows Removed by Filter", 0) for node in read) <= 3
