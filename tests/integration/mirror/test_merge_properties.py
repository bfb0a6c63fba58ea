"""The merge: twice is once, and the order in which reads arrive does not matter."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.integration.mirror.things import Things, record_id, row
from worker.db import Database

VERSION = st.tuples(st.integers(1, 3), st.integers(1, 3), st.sampled_from(["a", "b", "gone"]))  # record, second, value
READS = st.lists(st.lists(VERSION, min_size=1, max_size=4, unique_by=lambda one: one[0]), min_size=1, max_size=4)
Reads = list[list[tuple[int, int, str]]]
FEW = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture
def things(database: Database) -> Things:
    return Things(database)


def apply(things: Things, reads: Reads, order: list[int]) -> None:
    things.query("TRUNCATE salesforce.thing, salesforce._tombstones")
    for number in order:
        rows = [
            row(record, second, Name=value, IsDeleted="true" if value == "gone" else "false")
            for record, second, value in reads[number]
        ]
        things.merge(rows, read=number + 1)


def state(things: Things) -> tuple[list[object], list[object]]:
    """Values of the living and who is buried; without the read numbers, which may tell how it came."""
    alive = things.query("SELECT id, name, systemmodstamp FROM salesforce.thing ORDER BY id")
    buried = things.query("SELECT id, systemmodstamp FROM salesforce._tombstones ORDER BY id")
    return list(alive), list(buried)


def expected(reads: Reads) -> dict[str, str]:
    """The newest version of each record: by stamp, then by read number."""
    newest: dict[int, tuple[int, int, str]] = {}
    for number, versions in enumerate(reads):
        for record, second, value in versions:
            newest[record] = max(newest.get(record, (0, 0, "")), (second, number, value))
    return {record_id(record): value for record, (_, _, value) in newest.items() if value != "gone"}


@FEW
@given(READS, st.randoms(use_true_random=False))
def test_the_order_in_which_reads_arrive_does_not_matter(things: Things, reads: Reads, random: object) -> None:
    order = list(range(len(reads)))
    random.shuffle(order)  # type: ignore[attr-defined]
    apply(things, reads, order)
    assert things.names() == expected(reads)
    assert not {one[0] for one in state(things)[0]} & {one[0] for one in state(things)[1]}  # type: ignore[index]


@FEW
@given(READS)
def test_merging_twice_is_merging_once(things: Things, reads: Reads) -> None:
    order = list(range(len(reads)))
    apply(things, reads, order)
    once = state(things)
    for number in order:
        rows = [
            row(record, second, Name=value, IsDeleted="true" if value == "gone" else "false")
            for record, second, value in reads[number]
        ]
        things.merge(rows, read=number + 1)
    assert state(things) == once
