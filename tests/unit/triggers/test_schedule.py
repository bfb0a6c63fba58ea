"""Due times on both sides of every edge: clock changes, policies, what is missed."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from worker.triggers.schedule import (
    MOST_WAITING,
    Due,
    Plan,
    Policy,
    Schedule,
    ScheduleError,
    check,
    due_times,
    interval,
    plan,
    states,
)

START = datetime(2026, 1, 1, tzinfo=UTC)


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def due(cron: str, zone: str, after: str, count: int) -> list[str]:
    """The next due times, UTC, as 2026-03-29 01:00."""
    found = due_times(Schedule(cron, zone, None, START), utc(after))
    return [f"{at:%Y-%m-%d %H:%M}" for at, _ in zip(found, range(count), strict=False)]


# Berlin: 2026-03-29 02:00 becomes 03:00 (01:00 UTC); 2026-10-25 03:00 becomes 02:00 (01:00 UTC).
@pytest.mark.parametrize(
    ("cron", "after", "expected"),
    [
        ("30 1 * * *", "2026-03-28 12:00", ["2026-03-29 00:30", "2026-03-29 23:30"]),  # just before the gap
        ("30 2 * * *", "2026-03-28 00:00", ["2026-03-28 01:30", "2026-03-29 01:00", "2026-03-30 00:30"]),  # in it
        ("0 3 * * *", "2026-03-28 12:00", ["2026-03-29 01:00", "2026-03-30 01:00"]),  # just after
        ("0 2,3 * * *", "2026-03-28 12:00", ["2026-03-29 01:00", "2026-03-30 00:00"]),  # two become one
        ("30 1 * * *", "2026-10-24 12:00", ["2026-10-24 23:30", "2026-10-26 00:30"]),  # before the repeated hour
        ("30 2 * * *", "2026-10-24 12:00", ["2026-10-25 00:30", "2026-10-26 01:30"]),  # in it: once, the first time
        ("0 3 * * *", "2026-10-24 12:00", ["2026-10-25 02:00", "2026-10-26 02:00"]),  # after it
        ("30 * * * *", "2026-03-28 23:45", ["2026-03-29 00:30", "2026-03-29 01:30", "2026-03-29 02:30"]),
        ("30 * * * *", "2026-10-24 23:45", ["2026-10-25 00:30", "2026-10-25 01:30", "2026-10-25 02:30"]),
        ("*/30 2 * * *", "2026-03-28 12:00", ["2026-03-30 00:00", "2026-03-30 00:30"]),
        ("*/30 2 * * *", "2026-10-24 12:00", ["2026-10-25 00:00", "2026-10-25 00:30", "2026-10-25 01:00"]),
    ],
)
def test_clocks_that_change(cron: str, after: str, expected: list[str]) -> None:
    assert due(cron, "Europe/Berlin", after, len(expected)) == expected


@pytest.mark.parametrize("after", ["2026-10-25 00:29", "2026-10-25 00:30", "2026-10-25 00:45", "2026-10-25 01:10"])
def test_a_fixed_time_in_a_repeated_hour_comes_once_from_wherever_one_asks(after: str) -> None:
    first = ["2026-10-25 00:30"] if after < "2026-10-25 00:30" else []
    assert due("30 2 * * *", "Europe/Berlin", after, 2) == [*first, "2026-10-26 01:30", "2026-10-27 01:30"][:2]


def test_zones_of_the_south_and_of_half_an_hour() -> None:
    assert due("30 2 * * *", "Australia/Sydney", "2026-10-03 00:00", 2) == ["2026-10-03 16:00", "2026-10-04 15:30"]
    assert due("15 2 * * *", "Australia/Lord_Howe", "2026-10-03 00:00", 2) == ["2026-10-03 15:30", "2026-10-04 15:15"]
    assert due("0 9 * * 1-5", "Asia/Kolkata", "2026-01-02 05:00", 1) == ["2026-01-05 03:30"]


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(["Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "UTC", "America/Santiago"]),
    st.sampled_from(["30 2 * * *", "*/20 * * * *", "15 0-4 * * *", "0 2 1,15 * 1", "*/30 2 * * *", "59 23 * * SUN"]),
    st.integers(0, 1_000_000).map(lambda minutes: START + timedelta(minutes=minutes)),
    st.integers(0, 3_000),
)
def test_asking_later_gives_the_same_due_times(zone: str, cron: str, after: datetime, minutes: int) -> None:
    """What falls due does not depend on when one began to count: a worker that starts anew goes on as the former one would have."""
    schedule = Schedule(cron, zone, None, START)
    later = after + timedelta(minutes=minutes)
    all_of_them = []
    for at in due_times(schedule, after):
        if at > later + timedelta(days=3):
            break
        all_of_them.append(at)
    rest = []
    for at in due_times(schedule, later):
        if at > later + timedelta(days=3):
            break
        rest.append(at)
    assert rest == [at for at in all_of_them if at > later]
    assert all_of_them == sorted(set(all_of_them))


def test_an_interval_counts_from_its_anchor() -> None:
    schedule = Schedule(None, "UTC", timedelta(minutes=40), utc("2026-01-01 00:10"))
    found = due_times(schedule, utc("2026-01-01 02:00"))
    assert [f"{next(found):%H:%M}" for _ in range(3)] == ["02:10", "02:50", "03:30"]
    assert next(due_times(schedule, utc("2026-01-01 02:10"))) == utc("2026-01-01 02:50")
    assert next(due_times(schedule, utc("2025-12-31 00:00"))) == utc("2026-01-01 00:50")


@pytest.mark.parametrize(
    ("cron", "zone", "words"),
    [
        ("* * * *", "UTC", "five fields"),
        ("0 * * * * *", "UTC", "five fields"),
        ("61 * * * *", "UTC", r"bad minute.*minute \(0-59\)"),
        ("0 24 * * *", "UTC", r"bad hour.*hour \(0-23\)"),
        ("*/0 * * * *", "UTC", "bad minute"),
        ("0 0 * * 5-1", "UTC", "bad day of week"),
        ("0 8 * * *", "localtime", "no time zone 'localtime'"),
        ("@daily", "UTC", "five fields"),
        ("0 0 31 2 *", "UTC", "bad day of month"),
        ("0 0 */20 * 1L", "UTC", "no due time"),
        ("0 8 * * *", "Berlin", "did you mean Europe/Berlin"),
        ("0 8 * * *", "../etc/passwd", "no time zone"),
        ("0 8 * * *", "", "IANA"),
    ],
)
def test_a_wrong_schedule_is_refused_with_a_way_out(cron: str, zone: str, words: str) -> None:
    with pytest.raises(ScheduleError, match=words):
        check(Schedule(cron, zone, None, START))


def test_intervals_are_read_and_bounded() -> None:
    assert [interval(text).total_seconds() for text in ("90", "90s", "15m", " 2H ", "1d")] == [90, 90, 900, 7200, 86400]
    for wrong in ("", "soon", "-5m", "1.5h", "1w"):
        with pytest.raises(ScheduleError, match="90s, 15m"):
            interval(wrong)
    for seconds in (4, 366 * 86_400 + 1):
        with pytest.raises(ScheduleError, match="5 seconds"):
            check(Schedule(None, "UTC", timedelta(seconds=seconds), START))
    for seconds in (5, 366 * 86_400):
        check(Schedule(None, "UTC", timedelta(seconds=seconds), START))


HOURLY = Schedule("0 * * * *", "UTC", None, START)
FIRST = utc("2026-01-01 05:00")


def planned(missed: str, now: str, limit: int = 2) -> Plan:
    return plan(HOURLY, Policy(missed, limit, timedelta(seconds=60)), FIRST, utc(now))


def hours(decided: Plan) -> tuple[list[tuple[int, int]], int, int | None]:
    """(hour, missed) that fire, how many are skipped, the hour of the last skipped."""
    until = decided.skipped_until.hour if decided.skipped_until else None
    return [(one.at.hour, one.missed) for one in decided.fire], decided.skipped, until


def test_before_its_time_nothing_happens() -> None:
    assert planned("all", "2026-01-01 04:59:59") == Plan((), 0, None, FIRST)


def test_on_time_until_the_grace_ends() -> None:
    for policy in ("skip", "once", "all"):
        for moment in ("05:00:00", "05:01:00"):
            decided = planned(policy, f"2026-01-01 {moment}")
            assert decided == Plan((Due(FIRST),), 0, None, utc("2026-01-01 06:00"))
    assert hours(planned("skip", "2026-01-01 05:01:01")) == ([], 1, 5)
    assert hours(planned("once", "2026-01-01 05:01:01")) == ([(5, 0)], 0, None)
    assert hours(planned("all", "2026-01-01 05:01:01")) == ([(5, 0)], 0, None)


@pytest.mark.parametrize(
    ("policy", "now", "expected"),
    [
        ("skip", "10:00:30", ([(10, 0)], 5, 9)),
        ("skip", "10:30:00", ([], 6, 10)),
        ("once", "10:00:30", ([(10, 5)], 0, None)),
        ("once", "10:30:00", ([(10, 5)], 0, None)),
        ("all", "10:00:30", ([(8, 0), (9, 0), (10, 0)], 3, 7)),
        ("all", "10:30:00", ([(9, 0), (10, 0)], 4, 8)),
        ("all", "06:00:30", ([(5, 0), (6, 0)], 0, None)),
        ("all", "07:00:30", ([(5, 0), (6, 0), (7, 0)], 0, None)),
    ],
)
def test_what_was_missed(policy: str, now: str, expected: object) -> None:
    decided = planned(policy, f"2026-01-01 {now}")
    assert hours(decided) == expected
    assert decided.next_due_at is not None
    assert decided.next_due_at > utc(f"2026-01-01 {now}")


def test_no_due_time_is_unaccounted_for() -> None:
    for policy in ("skip", "once", "all"):
        for minutes in range(0, 1200, 13):
            now = FIRST + timedelta(minutes=minutes, seconds=30)
            decided = plan(HOURLY, Policy(policy, 3, timedelta(seconds=60)), FIRST, now)
            assert sum(1 + one.missed for one in decided.fire) + decided.skipped == minutes // 60 + 1


def test_overlaps() -> None:
    assert states("allow", 3, unfinished=5, waiting=5) == ["ready"] * 3
    assert states("skip", 2, unfinished=1, waiting=0) == ["skipped"] * 2
    assert states("skip", 3, unfinished=0, waiting=0) == ["ready", "waiting", "waiting"]
    assert states("queue", 2, unfinished=1, waiting=0) == ["waiting"] * 2
    assert states("queue", 2, unfinished=0, waiting=0) == ["ready", "waiting"]
    assert states("queue", 2, unfinished=100, waiting=MOST_WAITING - 1) == ["waiting", "skipped"]
    assert states("queue", 1, unfinished=101, waiting=MOST_WAITING) == ["skipped"]
    assert states("skip", 0, unfinished=1, waiting=0) == states("allow", 0, unfinished=0, waiting=0) == []
