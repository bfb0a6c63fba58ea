"""Whose turn it is: orgs take turns, however much one of them has waiting. Turns are counted, not time."""

import threading

import pytest
from pydantic import SecretStr
from sqlalchemy import text

from tests.integration.conftest import Rows
from worker import lanes
from worker.actions.due import due_queues
from worker.db import Database
from worker.local_servers import free_port
from worker.mirror.due import due_runs, first_of_calls
from worker.poller import Poller
from worker.pulse import PULSE
from worker.runtime import Runtime
from worker.settings import Settings
from worker.steps import Done, Step


@pytest.fixture
def connections(rows: Rows) -> list[int]:
    """Three connections: two of the org `busy`, one of `quiet`."""
    made = rows(
        """
        INSERT INTO salesforce_oauth_tokens (user_id, grant_type, login_url, schema_name, access_token, organization_id)
        SELECT 'user' || n, 'refresh_token', 'https://login.salesforce.com', 's' || n, 'x', CASE WHEN n < 3 THEN 'busy' ELSE 'quiet' END
          FROM generate_series(1, 3) n RETURNING id
        """
    )
    return [row[0] for row in made]


def queues(rows: Rows, connection_id: int, count: int) -> list[int]:
    rows = rows(
        "INSERT INTO sfsync.action_queues (connection_id, object, next_due_at)"
        " SELECT %s, 'Object' || n, clock_timestamp() FROM generate_series(1, %s) n RETURNING id",
        connection_id,
        count,
    )
    return [row[0] for row in rows]


def test_the_single_queue_of_one_org_comes_second_at_the_latest(
    rows: Rows, database: Database, connections: list[int]
) -> None:
    queues(rows, connections[0], 30)
    queues(rows, connections[1], 30)
    (single,) = queues(rows, connections[2], 1)
    with database.transaction() as session:
        assert single in [row.id for row in due_queues(session, 2)]


def test_within_an_org_the_queue_served_longest_ago_comes_first(
    rows: Rows, database: Database, connections: list[int]
) -> None:
    several = queues(rows, connections[0], 3)
    rows("UPDATE sfsync.action_queues SET last_served_at = clock_timestamp() - id * interval '1 s'")
    with database.transaction() as session:
        assert [row.id for row in due_queues(session, 9)] == several[::-1]


def runs(rows: Rows, connection_id: int, count: int) -> list[int]:
    rows = rows(
        """
        WITH m AS (INSERT INTO sfsync.mirrors (connection_id, object, table_name)
                   SELECT %s, 'Object' || n, 'object' || n FROM generate_series(1, %s) n RETURNING id)
        INSERT INTO sfsync.runs (mirror_id, kind, lane, cause) SELECT id, 'load', 'refresh', 'manual' FROM m RETURNING id
        """,
        connection_id,
        count,
    )
    return [row[0] for row in rows]


def test_what_an_org_has_in_hand_counts_as_its_turns(rows: Rows, database: Database, connections: list[int]) -> None:
    flood = [*runs(rows, connections[0], 10), *runs(rows, connections[1], 10)]
    rows("UPDATE sfsync.runs SET claim_until = clock_timestamp() + interval '1 hour' WHERE id = ANY(%s)", flood[:5])
    few = runs(rows, connections[2], 4)
    with database.transaction() as session:
        assert [row.id for row in due_runs(session, "refresh", 5)] == [*few, flood[5]]


def test_of_runs_that_may_share_a_call_one_of_each_call_comes(
    rows: Rows, database: Database, connections: list[int]
) -> None:
    made = runs(rows, connections[0], 12)
    rows("UPDATE sfsync.runs SET kind = 'refresh', cause = 'timetable'")

    def due() -> list[int]:
        with database.transaction() as session:
            return [row.id for row in due_runs(session, "refresh", 100)]

    with database.transaction() as session:
        assert first_of_calls(session, made) == [made[0], made[5], made[10]]
        assert first_of_calls(session, []) == []
    assert due() == [made[0], made[5], made[10]]
    rows("UPDATE sfsync.runs SET kind = 'settle' WHERE id = ANY(%s)", made[6:])
    assert due() == [made[0], made[5], made[6], made[11]]
    rows("UPDATE sfsync.runs SET cause = 'manual' WHERE id = %s", made[1])  # a person waits
    rows("UPDATE sfsync.runs SET stage = 'wait' WHERE id = %s", made[2])
    rows("UPDATE sfsync.runs SET options = '{\"alone\": true}' WHERE id = %s", made[3])
    rows("UPDATE sfsync.runs SET attempts = 1 WHERE id = %s", made[4])
    assert due() == [*made[:5], made[6], made[11]]
    rows("UPDATE sfsync.runs SET claim_until = clock_timestamp() + interval '1 hour' WHERE id = ANY(%s)", made[6:8])
    assert due() == [*made[:5], made[8]]  # what the one at work has not taken along comes with the next look


def test_a_flood_of_one_org_leaves_a_slot_to_another(
    database_url: str, rows: Rows, connections: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    flood = queues(rows, connections[0], 20)
    begun: list[int] = []
    full, served, go_on = threading.Event(), threading.Event(), threading.Event()

    def long_step(_rt: Runtime, row_id: int) -> Step:
        begun.append(row_id)
        if row_id not in flood:
            served.set()
            return Done()
        if len(begun) == 3:
            full.set()
        go_on.wait()
        return Done()

    monkeypatch.setattr("worker.poller.STEPS", {**lanes.STEPS, "actions.deliver": long_step})
    settings = Settings(
        database_url=SecretStr(database_url),
        redis_url=SecretStr(f"redis://127.0.0.1:{free_port()}/0"),
        encryption_key=SecretStr("A" * 43),
        poll_seconds=0.05,
    )
    rt = Runtime(settings)
    poller = Poller(rt, "test", ("actions",), threads=4)
    poller.start()
    try:
        assert full.wait(60)
        (single,) = queues(rows, connections[2], 1)
        assert served.wait(60), "the flood holds every slot"
        assert len([one for one in begun if one in flood]) == 3
        assert begun[3] == single
        assert PULSE.crowded
    finally:
        go_on.set()
        poller.join()
        rt.close()
        PULSE.allow(4)


def test_a_deep_queue_is_served_by_several_steps_but_never_by_all(
    database_url: str, rows: Rows, connections: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    (deep,) = queues(rows, connections[0], 1)
    rows(
        """
        INSERT INTO sfsync.actions (id, connection_id, object, operation, fields, content_hash, order_key, ticket, state, source)
        SELECT gen_random_uuid(), %s, 'Object1', 'create', '{}', decode(repeat('00', 32), 'hex'), n::text, 1, 'ready', 'cli' FROM generate_series(1, 300) n
        """,
        connections[0],
    )
    lock, go_on = threading.Lock(), threading.Event()
    begun: list[int] = []

    def long_step(_rt: Runtime, row_id: int) -> Step:
        with lock:
            begun.append(row_id)
        go_on.wait()
        return Done()

    monkeypatch.setattr("worker.poller.STEPS", {**lanes.STEPS, "actions.deliver": long_step})
    settings = Settings(database_url=SecretStr(database_url), encryption_key=SecretStr("A" * 43), poll_seconds=0.05)
    rt = Runtime(settings)
    poller = Poller(rt, "test", ("actions",), threads=4)
    poller.start()
    try:
        with rt.database.transaction() as session:
            looks = session.scalar(text("SELECT count(*) FROM sfsync.processes"))
        assert looks is not None
        for _ in range(100):
            if len(begun) >= 3:
                break
            go_on.wait(0.1)
        assert begun == [deep] * 3
    finally:
        go_on.set()
        poller.join()
        rt.close()
        PULSE.allow(4)
