"""Intervals: what users want as long as the allowance permits, never more calls than it permits, and back again."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.budget.pace import (
    HOUR,
    LONGEST_SECONDS,
    Pace,
    affordable,
    at_end_of_day,
    plan,
    resumes,
    returning,
    runs_out,
)

NOON = datetime(2026, 11, 28, 12, 30, tzinfo=UTC)
LONGEST = 3600.0

some = st.lists(
    st.tuples(st.floats(5, 3600), st.floats(0.1, 20), st.floats(0, 100_000)).map(lambda v: Pace(0, *v)),
    min_size=1,
    max_size=12,
).map(lambda found: [Pace(number, one.wanted, one.calls, one.change_rate) for number, one in enumerate(found)])
spendings = st.dictionaries(st.integers(0, 23).map(lambda h: NOON.replace(minute=0) - h * HOUR), st.integers(0, 1000))


def calls_of(paces: list[Pace], intervals: dict[int, float]) -> float:
    return sum(one.calls * 3600 / intervals[one.mirror_id] for one in paces)


@given(some, st.floats(-10, 100_000))
def test_never_more_calls_than_permitted_and_never_faster_than_wanted(paces: list[Pace], permitted: float) -> None:
    found = plan(paces, permitted, LONGEST)
    if found.intervals is None:
        assert permitted <= 0 or sum(one.calls for one in paces) * 3600 / LONGEST_SECONDS * 2 > permitted
        return
    assert calls_of(paces, dict(found.intervals)) <= permitted * 1.0001
    assert all(found.intervals[one.mirror_id] >= one.wanted for one in paces)


@given(some, st.floats(1, 100_000))
def test_what_is_permitted_is_used(paces: list[Pace], permitted: float) -> None:
    found = plan(paces, permitted, LONGEST)
    if found.intervals is not None and found.wanted_per_hour > permitted:
        assert calls_of(paces, dict(found.intervals)) >= permitted * 0.999


@given(some)
def test_an_ample_allowance_gives_what_is_wanted(paces: list[Pace]) -> None:
    wanted = sum(one.calls * 3600 / one.wanted for one in paces)
    found = plan(paces, wanted * 1.001, LONGEST)
    assert found.intervals == {one.mirror_id: one.wanted for one in paces}


@given(some, st.floats(1, 10_000), st.floats(1.01, 10))
def test_more_calls_never_make_an_interval_longer(paces: list[Pace], permitted: float, times: float) -> None:
    less, more = plan(paces, permitted, LONGEST), plan(paces, permitted * times, LONGEST)
    if less.intervals is not None and max(less.intervals.values()) <= LONGEST:
        assert more.intervals is not None
        assert all(more.intervals[key] <= seconds * 1.0001 for key, seconds in less.intervals.items())


def test_mirrors_that_change_more_are_refreshed_more_often() -> None:
    paces = [Pace(1, 60, 1, 0), Pace(2, 60, 1, 99), Pace(3, 60, 4, 99)]
    found = plan(paces, 30, LONGEST).intervals
    assert found is not None
    assert found[1] > found[3] > found[2] > 60


def test_equal_mirrors_share_the_calls_equally() -> None:
    paces = [Pace(number, 60, 1, 7) for number in range(5)]
    found = plan(paces, 4000 / 24, LONGEST).intervals
    assert found is not None
    assert list(found.values()) == pytest.approx([5 * 86_400 / 4000] * 5, rel=0.001)


def test_nothing_left_is_a_pause() -> None:
    assert plan([Pace(1, 60, 1, 0)], 0, LONGEST).intervals is None
    assert plan([Pace(1, 60, 1, 0)], 0.01, LONGEST).intervals is None


@given(spendings, st.floats(-500, 5000))
def test_the_affordable_rate_kept_up_never_passes_the_limit(spent: dict[datetime, int], room: float) -> None:
    rate = affordable(room, spent, NOON)
    for quarter in range(1, 97):
        assert rate * quarter / 4 <= room + returning(spent, NOON, quarter * HOUR / 4) + 0.001


@given(spendings)
def test_all_that_was_spent_comes_back_within_a_day(spent: dict[datetime, int]) -> None:
    recent = {hour: calls for hour, calls in spent.items() if hour > NOON - 23 * HOUR}
    assert returning(recent, NOON, 24 * HOUR) == pytest.approx(sum(recent.values()))


def test_what_comes_back_later_is_not_spent_before() -> None:
    spent = {NOON.replace(minute=0) - 23 * HOUR: 60}  # comes back from half an hour after NOON on, evenly for an hour
    assert affordable(0, spent, NOON) == 0
    assert affordable(1, spent, NOON) == pytest.approx(2)  # the one call must last for half an hour
    assert affordable(0, spent, NOON + HOUR / 2) == pytest.approx(60 / 24)


def test_an_even_day_can_go_on_as_it_was() -> None:
    spent = {NOON.replace(minute=0) - hour * HOUR: 100 for hour in range(25)}
    spent[NOON.replace(minute=0)] = 50
    assert affordable(0, spent, NOON) == pytest.approx(100, rel=0.01)


def test_a_pause_ends_when_calls_come_back() -> None:
    spent = {NOON.replace(minute=0) - 22 * HOUR: 100}
    assert affordable(-10, spent, NOON) < 0
    assert resumes(-10, spent, NOON) == timedelta(hours=1.75)
    assert resumes(-10, {}, NOON) == timedelta(hours=24)


def test_the_forecast_sees_the_end_of_the_allowance() -> None:
    assert runs_out(4000, 5000, {}, NOON, 500) == timedelta(hours=2)
    assert runs_out(4000, 5000, {}, NOON, 10) is None
    assert at_end_of_day(4000, {NOON.replace(minute=0): 300}, NOON, 10) == 3940
