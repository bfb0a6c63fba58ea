"""For any stream of actions over a few records, whatever goes wrong: they are applied in the order in which they were accepted."""

import uuid
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.edge.actions.world import World, rest_create
from tests.org import Org, start_org
from tests.waiting import until
from worker.actions.intent import Intent
from worker.db import Database

RECORDS = 3
WRITES = r"composite|ui-api/records|jobs/ingest"
LOCKED = [{"errorCode": "UNABLE_TO_LOCK_ROW", "message": "unable to obtain exclusive access"}]
BUSY = [{"errorCode": "SERVER_UNAVAILABLE", "message": "too busy"}]
FAULTS: list[dict[str, Any]] = [
    {"cut": "after"},
    {"cut": "before"},
    {"truncate_bytes": 30},
    {"status": 503, "body": BUSY},
    {"status": 429},
    {"status": 400, "body": LOCKED},
    {"status": 500, "body": "<html>"},
]
step = st.tuples(
    st.integers(0, RECORDS - 1),
    st.sampled_from(["update", "merge", "bad", "wide"]),
    st.booleans(),  # whether it is accepted together with the one before it
)
trouble = st.lists(st.tuples(st.sampled_from(FAULTS), st.integers(0, 3)), max_size=4)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Org]:
    with start_org(tmp_path_factory.mktemp("order") / "org", seed="Account=3,Contact=3,Opportunity=3") as org:
        yield org


@pytest.fixture
def world(shared: Org, database: Database, database_url: str) -> World:
    return World(shared, database, database_url, bulk_ingest_rows=2)


@settings(
    max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(stream=st.lists(step, min_size=2, max_size=14), faults=trouble)
def test_applied_order_is_accepted_order(world: World, stream: list[tuple[int, str, bool]], faults: list[Any]) -> None:
    org = world.org
    world.rows("TRUNCATE sfsync.actions, sfsync.action_lines, sfsync.ingest_jobs CASCADE")
    org.control.clear_faults()
    ids = [rest_create(org, "Contact", {"LastName": f"order {uuid.uuid4().hex[:8]}"}) for _ in range(RECORDS)]
    begin = max(entry["seq"] for entry in org.control.journal())
    for action, skip in faults:
        org.control.add_fault(match={"path_regex": WRITES, "skip": skip}, action=action)
    for burst in _bursts(stream):
        world.accept(*[_intent(number, ids[place], kind) for number, (place, kind, _) in burst])
        world.step()
    until(lambda: _settled(world))

    asked = [
        [number for number, (place, kind, _) in enumerate(stream) if place == one and kind != "bad"]
        for one in range(RECORDS)
    ]
    merging = {number for number, (_, kind, _) in enumerate(stream) if kind == "merge"}
    applied = _applied(org, ids, begin)
    for place in range(RECORDS):
        assert applied[place] == sorted(applied[place]), (place, applied)  # none was undone by an earlier one
        left_out = set(asked[place]) - set(applied[place])
        assert left_out <= merging, (place, applied, asked)  # what was merged may never have been seen alone
        assert applied[place][-1:] == asked[place][-1:]


def _intent(number: int, record_id: str, kind: str) -> Intent:
    if kind == "bad":
        return Intent("Contact", "update", {"Title": str(number), "Email": "nonsense"}, record_id=record_id)
    if kind == "wide":  # another set of columns in a Bulk job
        return Intent("Contact", "update", {"Title": str(number), "Fax": str(number)}, record_id=record_id)
    return Intent("Contact", "update", {"Title": str(number)}, record_id=record_id, mergeable=kind == "merge")


def _bursts(stream: list[tuple[int, str, bool]]) -> list[list[tuple[int, tuple[int, str, bool]]]]:
    bursts: list[list[tuple[int, tuple[int, str, bool]]]] = []
    for number, one in enumerate(stream):
        if bursts and one[2]:
            bursts[-1].append((number, one))
        else:
            bursts.append([(number, one)])
    return bursts


def _settled(world: World) -> bool:
    """One more step, with time passing: pauses are over, and what was cut off has long ended."""
    world.step(later=timedelta(seconds=700))
    world.rows("UPDATE sfsync.ingest_jobs SET due_at = clock_timestamp() WHERE state = 'ready' AND stage <> 'lost'")
    return all(state in ("delivered", "rejected") for state in world.states())


def _applied(org: Org, ids: list[str], begin: int) -> list[list[int]]:
    """The steps in the order in which the org applied them, each record's; the same again right after itself counts once."""
    found: dict[str, list[int]] = {one: [] for one in ids}
    for entry in org.control.journal(begin):
        title = entry["changed"].get("Title")
        if entry["id"] in found and title is not None and found[entry["id"]][-1:] != [int(title)]:
            found[entry["id"]].append(int(title))
    return [found[one] for one in ids]
