"""Retention: what ended long ago is forgotten with its attempts; keys longer; nothing that something still needs."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from worker.actions import claims, record, retention
from worker.actions.accept import Intent, accept
from worker.actions.changes import Change
from worker.actions.deps import ActionDeps
from worker.actions.queues import Queue

Rows = Callable[..., list[tuple[Any, ...]]]
RECORD = "003000000000001AAA"


def change(key: str | None = None) -> Intent:
    return Intent("Contact", "update", {"Email": "a@b.example"}, record_id=RECORD, idempotency_key=key)


def deliver(deps: ActionDeps, connection_id: int, rows: Rows) -> None:
    ((queue_id,),) = rows("SELECT id FROM sfsync.action_queues")
    now = deps.database.now()
    with deps.database.transaction() as session:
        batch = claims.claim_batch(
            session, Queue(queue_id, connection_id, "Contact"), now=now, sent_at=now, ttl=deps.settings.claim_ttl
        )
    assert batch
    done = {"id": RECORD, "success": True}
    with deps.database.transaction() as session:
        record.write(
            session, batch, [Change(one.id, "delivered", outcome=done, record_id=RECORD) for one in batch.actions]
        )


def age(rows: Rows, days: float) -> None:
    rows("UPDATE sfsync.actions SET finished_at = clock_timestamp() - make_interval(secs => %s)", days * 86_400)


def test_an_action_is_forgotten_after_its_time_with_its_attempts_and_its_empty_line(
    deps: ActionDeps, connection_id: int, rows: Rows
) -> None:
    accept(deps, connection_id, [change()], source="cli")
    deliver(deps, connection_id, rows)
    age(rows, 31)
    assert retention.prune(deps) == 0  # the mirror was not told yet
    rows("UPDATE sfsync.actions SET remembered_at = clock_timestamp()")
    age(rows, 29)
    assert retention.prune(deps) == 0
    age(rows, 31)
    assert retention.prune(deps) == 1
    for table in ("actions", "action_attempts", "action_lines"):
        assert rows(f"SELECT count(*) FROM sfsync.{table}") == [(0,)]


def test_a_key_is_remembered_for_longer_and_then_it_is_a_new_request(
    deps: ActionDeps, connection_id: int, rows: Rows
) -> None:
    (first,) = accept(deps, connection_id, [change("k")], source="cli")
    deliver(deps, connection_id, rows)
    rows("UPDATE sfsync.actions SET remembered_at = clock_timestamp()")
    age(rows, 89)
    assert retention.prune(deps) == 0
    assert accept(deps, connection_id, [change("k")], source="cli")[0].id == first.id
    age(rows, 91)
    assert retention.prune(deps) == 1
    assert not accept(deps, connection_id, [change("k")], source="cli")[0].repeated


def test_what_is_not_over_is_kept_and_so_is_the_line_that_something_stands_in(
    deps: ActionDeps, connection_id: int, rows: Rows
) -> None:
    accept(deps, connection_id, [change(), change()], source="cli")
    deliver(deps, connection_id, rows)
    rows("UPDATE sfsync.actions SET remembered_at = clock_timestamp() WHERE state = 'delivered'")
    rows("UPDATE sfsync.actions SET finished_at = now() - interval '99 days' WHERE state = 'delivered'")
    rows("UPDATE sfsync.actions SET created_at = now() - interval '99 days'")
    assert retention.prune(deps) == 1
    assert rows("SELECT state, ticket FROM sfsync.actions") == [("ready", 2)]
    assert rows("SELECT next_ticket FROM sfsync.action_lines") == [(3,)]


def test_a_parent_is_kept_as_long_as_its_child_is(deps: ActionDeps, connection_id: int, rows: Rows) -> None:
    account = Intent("Account", "create", {"Name": "Acme"}, idempotency_key="acme")
    child = Intent("Contact", "create", {"LastName": "x"}, parents={"AccountId": "acme"})
    accept(deps, connection_id, [account, child], source="cli")
    rows(
        "UPDATE sfsync.actions SET state = 'cancelled', finished_at = now() - interval '99 days' WHERE object = 'Account'"
    )
    assert retention.prune(deps) == 0
    rows("UPDATE sfsync.actions SET state = 'cancelled', finished_at = now() - interval '99 days'")
    assert retention.prune(deps) == 1
    assert retention.prune(deps) == 1


def test_large_backlogs_go_in_small_transactions(
    deps: ActionDeps, connection_id: int, rows: Rows, monkeypatch: Any
) -> None:
    monkeypatch.setattr(retention, "AT_ONCE", 10)
    accept(deps, connection_id, [replace(change(), record_id=f"003{n:012}AAA") for n in range(35)], source="cli")
    rows("UPDATE sfsync.actions SET state = 'cancelled', finished_at = now() - interval '99 days'")
    assert retention.prune(deps) == 35
    assert rows("SELECT count(*) FROM sfsync.action_lines") == [(0,)]


def test_a_line_that_only_kept_a_record_quiet_goes_when_that_is_over(
    deps: ActionDeps, connection_id: int, rows: Rows
) -> None:
    rows(
        "INSERT INTO sfsync.action_lines (connection_id, object, order_key, quiet_until) VALUES"
        " (%s, 'Contact', 'a', now() - interval '1 hour'), (%s, 'Contact', 'b', now() + interval '1 hour')",
        connection_id,
        connection_id,
    )
    retention.prune(deps)
    assert rows("SELECT order_key FROM sfsync.action_lines") == [("b",)]
