"""Claims on actions: one owner, outcomes only under a valid claim, the next of a line goes on in the same transaction."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import text

from worker.actions import claims, due, jobs, queues, record, store
from worker.actions.accept import Intent, accept
from worker.actions.changes import Change
from worker.actions.claims import Batch
from worker.actions.deps import ActionDeps
from worker.actions.outcome import Delivered, Problem
from worker.actions.queues import Queue
from worker.actions.upkeep import HEADLESS, LINES_AT_ONCE, upkeep
from worker.errors import FencedError

Rows = Callable[..., list[tuple[Any, ...]]]
RECORD = "003000000000001AAA"
SENT_AT = datetime(2026, 1, 1, tzinfo=UTC)
TTL = timedelta(seconds=60)
EXPIRED = timedelta(seconds=-1)
SETTLING = timedelta(seconds=600)
BUSY = Problem("UNABLE_TO_LOCK_ROW", "busy")


def update(email: str) -> Intent:
    return Intent("Contact", "update", {"Email": email}, record_id=RECORD)


def create() -> Intent:
    return Intent("Contact", "create", {"LastName": "x"})


def queue_of(deps: ActionDeps, rows: Rows) -> Queue:
    ((queue_id,),) = rows("SELECT id FROM sfsync.action_queues WHERE object = 'Contact'")
    with deps.database.transaction() as session:
        found = queues.look(session, queue_id)
    assert found
    return found[0]


def claim(deps: ActionDeps, queue: Queue, ttl: timedelta = TTL) -> Batch | None:
    with deps.database.transaction() as session:
        return claims.claim_batch(session, queue, now=deps.database.now(), sent_at=SENT_AT, ttl=ttl)


def write(deps: ActionDeps, batch: Batch, *changes: Change) -> None:
    with deps.database.transaction() as session:
        record.write(session, batch, changes)


def delivered(batch: Batch, record_id: str = RECORD) -> list[Change]:
    outcome = Delivered(record_id).as_json()
    return [Change(one.id, "delivered", outcome=outcome, record_id=record_id) for one in batch.actions]


def test_a_batch_has_the_heads_of_one_kind_and_is_claimed_once(
    deps: ActionDeps, connection_id: int, rows: Rows
) -> None:
    accept(deps, connection_id, [create(), update("1@b.example"), create(), update("2@b.example")], source="cli")
    queue = queue_of(deps, rows)
    first, second = claim(deps, queue), claim(deps, queue)
    assert first
    assert second
    assert claim(deps, queue) is None
    assert [one.operation for one in first.actions] == ["create", "create"]
    assert [one.fields["Email"] for one in second.actions] == ["1@b.example"]


def test_of_many_who_look_at_once_one_opens_a_job_and_no_more_than_two_are_open(
    deps: ActionDeps, connection_id: int, rows: Rows
) -> None:
    accept(deps, connection_id, [create() for _ in range(3)], source="cli")
    queue = queue_of(deps, rows)
    for _ in range(jobs.JOBS_AT_ONCE):
        with deps.database.transaction() as session, deps.database.transaction() as other:
            assert jobs.may_open(session, queue)
            assert not jobs.may_open(other, queue)
            head = claims.look(session, queue, now=deps.database.now(), limit=1)[0]
            jobs.open_job(session, queue, claims.whole(session, [head]), sent_at=SENT_AT)
    with deps.database.transaction() as session:
        assert not jobs.may_open(session, queue)


def test_the_next_of_a_line_is_ready_when_the_one_before_is_delivered(
    deps: ActionDeps, connection_id: int, rows: Rows
) -> None:
    accept(deps, connection_id, [update("1@b.example"), update("2@b.example")], source="cli")
    batch = claim(deps, queue_of(deps, rows))
    assert batch
    write(deps, batch, *delivered(batch))
    found = rows("SELECT state, finished_at IS NOT NULL, claim_token FROM sfsync.actions ORDER BY ticket")
    assert found == [("delivered", True, None), ("ready", False, None)]


@pytest.mark.parametrize(
    ("state", "goes_on"), [("held", True), ("rejected", True), ("ready", False), ("in_doubt", False)]
)
def test_what_is_over_lets_the_next_go_on_and_what_is_not_does_not(
    deps: ActionDeps, connection_id: int, rows: Rows, state: str, goes_on: bool
) -> None:
    accept(deps, connection_id, [update("1@b.example"), update("2@b.example")], source="cli")
    batch = claim(deps, queue_of(deps, rows))
    assert batch
    doubt = SETTLING if state == "in_doubt" else None
    write(deps, batch, Change(batch.actions[0].id, state, problem=BUSY, doubt=doubt))
    assert rows("SELECT state FROM sfsync.actions WHERE ticket = 2") == [("ready" if goes_on else "waiting",)]


def test_an_outcome_that_comes_after_the_claim_ran_out_is_not_written(
    deps: ActionDeps, connection_id: int, rows: Rows
) -> None:
    accept(deps, connection_id, [create(), create()], source="cli")
    queue = queue_of(deps, rows)
    slow = claim(deps, queue, EXPIRED)
    assert slow
    with deps.database.transaction() as session:
        claims.expire(session, queue, now=deps.database.now(), settling=SETTLING)
    assert rows("SELECT DISTINCT state, doubt_until > clock_timestamp() FROM sfsync.actions") == [("in_doubt", True)]
    assert rows("SELECT DISTINCT way, state, code FROM sfsync.action_attempts") == [
        ("expired", "in_doubt", "NO_ANSWER")
    ]
    with pytest.raises(FencedError):
        write(deps, slow, *delivered(slow))
    assert rows("SELECT DISTINCT state FROM sfsync.actions") == [("in_doubt",)]


def test_one_lost_action_fences_the_whole_write(deps: ActionDeps, connection_id: int, rows: Rows) -> None:
    accept(deps, connection_id, [create(), create()], source="cli")
    batch = claim(deps, queue_of(deps, rows))
    assert batch
    rows("UPDATE sfsync.actions SET claim_token = nextval('sfsync.claim_tokens') WHERE id = %s", batch.actions[0].id)
    with pytest.raises(FencedError):
        write(deps, batch, *delivered(batch))
    assert rows("SELECT DISTINCT state FROM sfsync.actions") == [("sending",)]


def test_what_waits_for_allowance_counts_no_attempt(deps: ActionDeps, connection_id: int, rows: Rows) -> None:
    accept(deps, connection_id, [create()], source="cli")
    batch = claim(deps, queue_of(deps, rows))
    assert batch
    assert batch.actions[0].attempts == 1
    write(deps, batch, Change(batch.actions[0].id, "ready", after=TTL, problem=BUSY, attempt_back=True))
    assert rows("SELECT state, attempts, due_at > clock_timestamp() FROM sfsync.actions") == [("ready", 0, True)]
    assert claim(deps, queue_of(deps, rows)) is None


def test_after_a_doubt_the_record_stays_quiet_until_the_lost_write_can_no_longer_land(
    deps: ActionDeps, connection_id: int, rows: Rows
) -> None:
    accept(deps, connection_id, [update("1@b.example"), update("2@b.example")], source="cli")
    queue = queue_of(deps, rows)
    lost = claim(deps, queue)
    assert lost
    write(deps, lost, Change(lost.actions[0].id, "in_doubt", problem=BUSY, doubt=SETTLING))
    with deps.database.transaction() as session:
        held = claims.claim_doubt(session, queue, now=deps.database.now(), ttl=TTL)
    assert held
    write(deps, held.batch, Change(held.batch.actions[0].id, "ready"))
    again = claim(deps, queue)
    assert again
    assert again.actions[0].doubted
    write(deps, again, *delivered(again))
    accept(deps, connection_id, [update("3@b.example")], source="cli")
    found = rows("SELECT ticket, state, due_at > clock_timestamp() FROM sfsync.actions ORDER BY ticket")
    assert found == [(1, "delivered", False), (2, "ready", True), (3, "waiting", False)]


def test_what_rides_along_in_one_call_has_a_bound_for_all_records_together(
    deps: ActionDeps, connection_id: int, rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claims, "MERGED_AT_ONCE", 6)
    ids = ["003000000000001AAA", "003000000000002AAA"]
    intents = [
        Intent("Contact", "update", {"Email": f"{number}@b.example"}, record_id=one, mergeable=True)
        for number in range(5)
        for one in ids
    ]
    accept(deps, connection_id, intents, source="cli")
    batch = claim(deps, queue_of(deps, rows))
    assert batch
    assert [sum(one.record_id == record for one in batch.actions) for record in ids] == [4, 4]  # itself and three more


def test_a_queue_rests_until_its_next_work_and_is_due_again_then(
    deps: ActionDeps, connection_id: int, rows: Rows
) -> None:
    accept(deps, connection_id, [create()], source="cli")
    queue = queue_of(deps, rows)
    batch = claim(deps, queue)
    with deps.database.transaction() as session:
        assert [row.id for row in due.due_queues(session, 10)] == [queue.id]
        assert queues.rest_queue(session, queue, recheck=TTL)
        assert due.due_queues(session, 10) == []
    assert batch
    write(deps, batch, *delivered(batch))
    rows("UPDATE sfsync.actions SET remembered_at = clock_timestamp()")
    with deps.database.transaction() as session:
        queues.rest_queue(session, queue, recheck=TTL)
    assert rows("SELECT next_due_at FROM sfsync.action_queues") == [(None,)]


def test_a_queue_cannot_be_put_to_sleep_while_somebody_adds_to_it(
    deps: ActionDeps, connection_id: int, rows: Rows
) -> None:
    accept(deps, connection_id, [create()], source="cli")
    queue = queue_of(deps, rows)

    with deps.database.transaction() as adding:
        store.awaken(adding, connection_id, "Contact")
        with deps.database.transaction() as session:
            assert not queues.rest_queue(session, queue, recheck=TTL)


def test_a_disconnected_connection_is_not_served(deps: ActionDeps, connection_id: int, rows: Rows) -> None:
    accept(deps, connection_id, [create()], source="cli")
    rows("UPDATE salesforce_oauth_tokens SET state = 'revoked'")
    with deps.database.transaction() as session:
        assert due.due_queues(session, 10) == []
    rows("UPDATE salesforce_oauth_tokens SET state = 'active'")
    with deps.database.transaction() as session:
        assert len(due.due_queues(session, 10)) == 1


def test_upkeep_mends_a_lost_hint_and_a_line_without_a_head(
    deps: ActionDeps, connection_id: int, rows: Rows, woken: list[int]
) -> None:
    accept(deps, connection_id, [update("1@b.example"), update("2@b.example")], source="cli")
    rows("UPDATE sfsync.actions SET state = 'waiting'")
    rows("UPDATE sfsync.action_queues SET next_due_at = NULL")
    woken.clear()
    upkeep(deps)
    assert rows("SELECT state FROM sfsync.actions ORDER BY ticket") == [("ready",), ("waiting",)]
    assert rows("SELECT id FROM sfsync.action_queues WHERE next_due_at <= clock_timestamp()") == [(woken[0],)]


def test_upkeep_looks_at_heads_and_leaves_alone_what_waits_for_a_reason(
    deps: ActionDeps, connection_id: int, rows: Rows, woken: list[int]
) -> None:
    parent = Intent("Account", "create", {"Name": "p"}, idempotency_key="p")
    child = Intent("Contact", "create", {"LastName": "c"}, parents={"AccountId": "p"})
    accept(deps, connection_id, [parent, child, update("1@b.example"), update("2@b.example")], source="cli")
    other = "003000000000002AAA"
    accept(deps, connection_id, [Intent("Contact", "update", {"Email": "3@b.example"}, record_id=other)], source="cli")
    ((blocked,),) = rows("UPDATE sfsync.actions SET state = 'waiting' WHERE record_id = %s RETURNING id", other)
    rows("UPDATE sfsync.action_lines SET blocked_by = %s WHERE order_key = %s", blocked, other)
    before = rows("SELECT id, state FROM sfsync.actions ORDER BY id")
    woken.clear()
    upkeep(deps)
    assert rows("SELECT id, state FROM sfsync.actions ORDER BY id") == before
    assert woken == []


def test_upkeep_reads_one_action_of_a_line_however_many_wait(
    deps: ActionDeps, connection_id: int, database_url: str, rows: Rows
) -> None:
    accept(deps, connection_id, [update(f"{number}@b.example") for number in range(2_000)], source="cli")
    rows("VACUUM ANALYZE sfsync.actions")
    with deps.database.transaction() as session:
        session.execute(text("SET LOCAL enable_seqscan = off"))
        plan = session.scalar(
            text(f"EXPLAIN (ANALYZE, FORMAT JSON) {HEADLESS}"), {"percent": 100.0, "limit": LINES_AT_ONCE}
        )
    read = [node for node in nodes(plan[0]["Plan"]) if node.get("Relation Name") == "actions" and node["Actual Loops"]]
    assert read
    assert all(node["Actual Rows"] <= 1 for node in read)


def nodes(plan: dict[str, Any]) -> list[dict[str, Any]]:
    """All nodes of a plan."""
    return [plan, *(inner for one in plan.get("Plans", []) for inner in nodes(one))]
