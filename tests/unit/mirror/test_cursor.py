"""Windows leave no gap; pauses grow and end."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.mirror.cursor import (
    SHORTEST_OVERLAP,
    next_look,
    next_pause,
    read_began,
    restart_pause,
    window_start,
    young_since,
)

INSTANTS = st.datetimes(datetime(2000, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001
SPANS = st.timedeltas(timedelta(0), timedelta(minutes=10))


@given(INSTANTS, SPANS, SPANS)
def test_whatever_is_stamped_after_a_read_was_sent_is_in_the_next_window(
    sent: datetime, took: timedelta, overlap: timedelta
) -> None:
    answered = sent + took
    cursor = read_began(answered, took)
    stamp = sent.replace(microsecond=0)  # of a change in the very second in which the read was sent
    assert cursor <= sent
    assert window_start(cursor, overlap) <= stamp - SHORTEST_OVERLAP


@pytest.mark.parametrize(("overlap", "expected"), [(0, 2), (2, 2), (30, 30)])
def test_a_window_overlaps_by_two_seconds_at_least(overlap: int, expected: int) -> None:
    cursor = datetime(2026, 1, 1, tzinfo=UTC)
    assert cursor - window_start(cursor, timedelta(seconds=overlap)) == timedelta(seconds=expected)


def test_young_rows_are_those_of_the_longest_transaction() -> None:
    began = datetime(2026, 1, 1, 1, tzinfo=UTC)
    assert young_since(began) == datetime(2026, 1, 1, 0, 45, tzinfo=UTC)


@pytest.mark.parametrize(("age", "expected"), [(0, 0.2), (-5, 0.2), (0.8, 0.2), (4, 1.0), (3600, 5.0)])
def test_looks_at_a_job_become_rarer(age: float, expected: float) -> None:
    assert next_look(timedelta(seconds=age), 5.0).total_seconds() == pytest.approx(expected)


def test_pauses_double_up_to_five_minutes() -> None:
    pauses = [0.0]
    for _ in range(12):
        pauses.append(next_pause(pauses[-1]))
    assert pauses[1:5] == [1, 2, 4, 8]
    assert pauses[-1] == 300


def test_a_read_is_begun_anew_at_once_and_then_ever_later() -> None:
    assert [restart_pause(n).total_seconds() for n in (1, 2, 3, 4, 5)] == [0, 15, 60, 240, 960]
