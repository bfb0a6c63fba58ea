"""The ledger: permits in blocks, bookings, the org's own count, slots; over several processes and several orgs."""

from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.integration.conftest import Rows
from worker.attribution import attributed
from worker.budget import policy
from worker.budget.accounts import may_spend
from worker.budget.ledger import Ledger
from worker.db import Database
from worker.errors import CrowdedError, OverBudgetError
from worker.salesforce.metering import Kind
from worker.salesforce.usage import Usage
from worker.settings import Settings, load_settings

ORG = "00D000000000001AAA"
NOON = datetime(2026, 11, 28, 12, 0, tzinfo=UTC)


class World:
    """One org's time, for every ledger made here; each ledger stands for a process."""

    def __init__(self, database: Database, settings: Settings) -> None:
        self.database = database
        self.settings = settings
        self.now = NOON

    def ledger(self, **changed: Any) -> Ledger:
        settings = self.settings.model_copy(update=changed)
        return Ledger(
            self.database, settings, now=lambda _: self.now, clock=lambda: self.now.timestamp(), writes_itself=False
        )

    def said(self, used: int, of: int = 1000) -> Usage:
        return Usage(used, of, self.now)


@pytest.fixture
def world(database: Database, database_url: str, rows: Rows) -> World:
    for number, (user, org) in enumerate((("a", ORG), ("b", ORG), ("c", "00D000000000002AAA")), start=1):
        rows(
            "INSERT INTO salesforce_oauth_tokens (user_id, grant_type, login_url, schema_name, access_token, organization_id)"
            f" VALUES ('{user}', 'refresh_token', 'https://login.salesforce.com', 's{number}', 'x', '{org}')"
        )
    return World(database, load_settings({"DATABASE_URL": database_url, "ENCRYPTION_KEY": "A" * 43}))


def call(ledger: Ledger, lane: str, *, connection: int = 1, says: Usage | None = None, kind: Kind = Kind.CALL) -> None:
    meter = ledger.meter(connection)
    with attributed(object="Contact", lane=lane, cause="test"), meter.permit(kind) as permit:
        permit.used, permit.usage = True, says


def as_long_as_permitted(ledger: Ledger, lane: str, *, written: bool = False) -> tuple[int, OverBudgetError]:
    """How many calls a lane could make, and what it was told then."""
    for made in range(10_000):
        try:
            call(ledger, lane)
        except OverBudgetError as error:
            return made, error
        if written:
            ledger.write()
    raise AssertionError("nobody stops it")


def test_a_block_is_taken_once_and_spent_in_memory(world: World, rows: Rows) -> None:
    ledger = world.ledger()
    call(ledger, "refresh", says=world.said(1))
    for _ in range(policy.BLOCK - 1):
        call(ledger, "refresh")
    assert rows("SELECT permits FROM sfsync.orgs")[0][0] == {str(int(NOON.timestamp())): policy.BLOCK}
    call(ledger, "refresh")
    assert sum(rows("SELECT permits FROM sfsync.orgs")[0][0].values()) == 2 * policy.BLOCK


def test_calls_are_booked_by_hour_object_lane_and_cause(world: World, rows: Rows) -> None:
    ledger = world.ledger()
    call(ledger, "refresh", kind=Kind.QUERY_JOB)
    call(ledger, "refresh")
    world.now += timedelta(hours=1)
    call(ledger, "actions", connection=2)
    with attributed(object="Contact", lane="refresh", cause="test"):
        ledger.meter(1).bulk(bytes=500)
    ledger.write()
    ledger.write()
    assert rows(
        "SELECT hour, object, lane, cause, calls, query_jobs, result_bytes FROM sfsync.usage ORDER BY 1, 3"
    ) == [
        (NOON + timedelta(hours=1), "Contact", "actions", "test", 1, 0, 0),
        (NOON + timedelta(hours=1), "Contact", "refresh", "test", 2, 1, 500),
    ]


def test_a_call_outside_a_step_is_booked_under_the_process(world: World, rows: Rows) -> None:
    ledger = world.ledger()
    ledger.lane = "shim"
    with ledger.meter(1).permit(Kind.CALL) as permit:
        permit.used = True
    ledger.write()
    assert rows("SELECT lane, cause, calls FROM sfsync.usage") == [("shim", "other", 1)]


def test_what_never_left_is_neither_booked_nor_spent(world: World, rows: Rows) -> None:
    ledger = world.ledger()
    for _ in range(3 * policy.BLOCK):
        with ledger.meter(1).permit(Kind.CALL):
            pass
    ledger.write()
    assert rows("SELECT count(*) FROM sfsync.usage") == [(0,)]
    assert sum(rows("SELECT permits FROM sfsync.orgs")[0][0].values()) == policy.BLOCK


def test_the_token_endpoint_costs_nothing(world: World, rows: Rows) -> None:
    ledger = world.ledger()
    call(ledger, "refresh", kind=Kind.FREE)
    ledger.write()
    assert rows("SELECT count(*) FROM sfsync.orgs") == [(0,)]


def test_the_newest_count_of_the_org_wins(world: World, rows: Rows) -> None:
    one, other = world.ledger(), world.ledger()
    call(one, "refresh", says=world.said(100))
    world.now += timedelta(seconds=5)
    call(other, "refresh", connection=2, says=world.said(40))
    other.write()
    one.write()
    assert rows("SELECT api_used, api_max, api_reported_at FROM sfsync.orgs") == [(40, 1000, world.now)]


def test_calls_without_a_count_are_added_to_it(world: World, rows: Rows) -> None:
    ledger = world.ledger()
    call(ledger, "refresh", says=world.said(100))
    call(ledger, "backfill")
    ledger.write()
    call(ledger, "backfill")
    ledger.write()
    assert rows("SELECT api_used FROM sfsync.orgs") == [(102,)]


def test_refreshes_leave_the_reserve_to_actions(world: World, rows: Rows) -> None:
    ledger = world.ledger(reserve_share=0.2)
    call(ledger, "refresh", says=world.said(790))
    ledger.close()
    other = world.ledger(reserve_share=0.2)
    made, told = as_long_as_permitted(other, "refresh", written=True)
    assert made == 10
    assert "800 of 1,000" in str(told)
    assert "200 are kept for actions" in str(told)
    assert told.retry_after == policy.WAIT_FOR_ROOM
    assert as_long_as_permitted(other, "upkeep")[0] == 0
    made, told = as_long_as_permitted(other, "actions", written=True)
    assert made == 200
    assert "1,000 of 1,000" in str(told)
    assert rows("SELECT reserve_left FROM sfsync.orgs") == [(0,)]


def test_several_processes_and_connections_never_pass_the_allowance(world: World) -> None:
    processes = [world.ledger(reserve_share=0.0) for _ in range(6)]
    call(processes[0], "refresh", says=world.said(0, of=123))
    processes[0].write()
    made = [as_long_as_permitted(ledger, "refresh")[0] for ledger in processes]
    assert made[0] > 100
    for ledger in processes:
        ledger.write()
    made += [as_long_as_permitted(ledger, "refresh")[0] for ledger in processes]
    assert sum(made) == 123
    call(world.ledger(), "refresh", connection=3)  # another org has its own


def test_a_killed_process_loses_its_block_until_it_lapses(world: World) -> None:
    killed = world.ledger(reserve_share=0.0)
    call(killed, "refresh", says=world.said(0, of=1 + policy.BLOCK))
    killed.write()
    call(killed, "refresh")
    del killed
    heir = world.ledger(reserve_share=0.0)
    world.now += timedelta(minutes=1)
    assert as_long_as_permitted(heir, "refresh")[0] < policy.BLOCK
    world.now += policy.BLOCK_LASTS + timedelta(minutes=1)
    call(heir, "refresh")


def test_all_spent_by_the_orgs_word_stops_every_process_until_its_count_falls(world: World, rows: Rows) -> None:
    one, other = world.ledger(), world.ledger()
    call(one, "actions", says=world.said(500))
    call(other, "actions")
    one.meter(1).refused(OverBudgetError("TotalRequests", code="REQUEST_LIMIT_EXCEEDED"))
    with pytest.raises(OverBudgetError, match="spent") as refused:
        call(one, "actions")
    assert refused.value.retry_after == policy.BLOCKED_FOR
    world.now += timedelta(minutes=2)
    call(other, "upkeep", kind=Kind.LIMITS, says=world.said(400))
    other.write()
    call(one, "actions")


def test_too_many_at_once_is_not_all_spent(world: World) -> None:
    ledger = world.ledger()
    ledger.meter(1).refused(CrowdedError("ConcurrentRequests", code="REQUEST_LIMIT_EXCEEDED"))
    call(ledger, "actions")


def test_bulk_jobs_stop_at_the_days_allowance(world: World, rows: Rows) -> None:
    ledger = world.ledger()
    call(ledger, "backfill", kind=Kind.QUERY_JOB)
    rows('UPDATE sfsync.orgs SET limits = \'{"DailyBulkV2QueryJobs": {"Max": 10, "Remaining": 0}}\'')
    with pytest.raises(OverBudgetError, match="10 of 10 Bulk query jobs"):
        call(ledger, "backfill", kind=Kind.QUERY_JOB)
    call(ledger, "backfill", kind=Kind.INGEST_JOB)
    call(ledger, "backfill")


def test_calls_at_once_are_capped_over_all_processes_and_some_are_kept_for_actions(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.budget.slots.PATIENCE_SECONDS", 0.0)
    one, other = world.ledger(parallel_calls=5), world.ledger(parallel_calls=5)

    def hold(stack: ExitStack, ledger: Ledger, lane: str) -> None:
        with attributed(lane=lane):
            stack.enter_context(ledger.meter(1).permit(Kind.CALL))

    with ExitStack() as held:
        for number in range(4):
            hold(held, (one, other)[number % 2], "refresh")
        with pytest.raises(CrowdedError):
            hold(held, one, "refresh")
        hold(held, one, "actions")
        with pytest.raises(CrowdedError):
            hold(held, other, "actions")
    one.close()
    with ExitStack() as held:
        for _ in range(3):
            hold(held, other, "actions")


def test_an_idle_process_gives_its_block_back(world: World, rows: Rows) -> None:
    ledger = world.ledger()
    call(ledger, "refresh", says=world.said(1))
    ledger.write()
    world.now += timedelta(seconds=31)
    ledger.write()
    assert rows("SELECT permits FROM sfsync.orgs") == [({},)]


def test_upkeep_that_needs_many_calls_is_begun_only_where_the_policy_has_room(database: Database, rows: Rows) -> None:
    rows(
        "INSERT INTO salesforce_oauth_tokens (user_id, grant_type, login_url, schema_name, access_token, organization_id)"
        f" VALUES ('may', 'refresh_token', 'x', 'may', 'x', '{ORG}')"
    )
    ((connection_id,),) = rows("SELECT id FROM salesforce_oauth_tokens WHERE user_id = 'may'")

    def may(calls: int) -> bool:
        with database.transaction() as session:
            return may_spend(session, connection_id, calls, "upkeep", NOON, 0.2)

    assert may(1_000)  # the org has not said anything yet
    rows(
        "INSERT INTO sfsync.orgs (organization_id) VALUES ('" + ORG + "') ON CONFLICT DO NOTHING;"
        " UPDATE sfsync.orgs SET api_used = 785, api_max = 1000, reserve_left = NULL, blocked_until = NULL, permits = '{}'"
    )
    assert may(15)
    assert not may(16)  # 200 are kept for actions
    rows(f"UPDATE sfsync.orgs SET api_used = 0, blocked_until = '{NOON + timedelta(minutes=1)}'")
    assert not may(1)
