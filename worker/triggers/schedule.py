"""Due times of a trigger, and what becomes of those that passed. Pure.

Cron lines are read as Debian's cron reads them, also when clocks change. A line with a fixed hour and minute (neither field
begins with *) fires once in a repeated hour, at its first passing, and right after a skipped one; any other line goes by elapsed time:
what it asks for in a skipped hour does not come, and what it asks for in a repeated hour comes twice.
"""

import difflib
import re
import zoneinfo
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

LEAST_INTERVAL = timedelta(seconds=5)
LONGEST_INTERVAL = timedelta(days=366)
FIELDS = "five fields: minute (0-59), hour (0-23), day of month (1-31), month (1-12), day of week (0-7); as 0 8 * * 1-5"
OF_THE_MACHINE = ("localtime", "posixrules")  # zones that are another on each machine
UNITS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86_400}


class ScheduleError(ValueError):
    """A cron line, time zone or interval is wrong; the message says how to mend it."""


@dataclass(frozen=True, slots=True)
class Schedule:
    """A cron line in a time zone, or an interval counted from `anchor`; exactly one of the two."""

    cron: str | None
    time_zone: str
    every: timedelta | None
    anchor: datetime


@dataclass(frozen=True, slots=True)
class Policy:
    """What becomes of due times that passed by more than `grace`. `missed`: skip, once, all (the newest `limit`)."""

    missed: str
    limit: int
    grace: timedelta


@dataclass(frozen=True, slots=True)
class Due:
    """One due time to fire; `missed`: earlier ones that it stands for."""

    at: datetime
    missed: int = 0


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do at one look: fire these, in order; the `skipped` (how many) up to `skipped_until` do not fire."""

    fire: tuple[Due, ...]
    skipped: int
    skipped_until: datetime | None
    next_due_at: datetime | None


def check(schedule: Schedule) -> None:
    """Raise ScheduleError for a schedule that is wrong or has no due time ever."""
    if schedule.every is not None:
        if not LEAST_INTERVAL <= schedule.every <= LONGEST_INTERVAL:
            raise ScheduleError("an interval is 5 seconds at least and 366 days at most")
        return
    zone(schedule.time_zone)
    if next(due_times(schedule, schedule.anchor), None) is None:
        raise ScheduleError(f"the cron line {schedule.cron!r} has no due time: no such day comes")


def zone(name: str) -> ZoneInfo:
    """The time zone of an IANA name; ScheduleError, with a likely name, for any other."""
    try:
        if name in OF_THE_MACHINE:
            raise ValueError(name)
        return ZoneInfo(name)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
        known = {known.lower(): known for known in zoneinfo.available_timezones().difference(OF_THE_MACHINE)}
        close = difflib.get_close_matches(name.lower().replace(" ", "_"), known, n=1, cutoff=0.5)
        hint = f"did you mean {known[close[0]]}?" if close else "give an IANA name, as Europe/Berlin"
        raise ScheduleError(f"there is no time zone {name!r}; {hint}") from None


def interval(text: str) -> timedelta:
    """90, 90s, 15m, 2h, 1d → a duration; ScheduleError for anything else."""
    found = re.fullmatch(r"\s*(\d{1,9})\s*([smhd]?)\s*", text.lower())
    if found is None:
        raise ScheduleError(f"{text!r} is no interval; give it as 90s, 15m, 2h or 1d")
    return timedelta(seconds=int(found[1]) * UNITS[found[2]])


def due_times(schedule: Schedule, after: datetime) -> Iterator[datetime]:
    """Due times later than `after`, ascending, aware UTC. Ends only for a cron line that never comes (again)."""
    if schedule.every is not None:
        passed = max(0, (after - schedule.anchor) // schedule.every)
        at = (schedule.anchor + passed * schedule.every).astimezone(UTC)
        while True:
            at += schedule.every
            if at > after:
                yield at
    assert schedule.cron is not None
    last = after
    for local in _cron(schedule.cron, after.astimezone(zone(schedule.time_zone))):
        at = local.astimezone(UTC)
        if at > last:  # begun within a repeated hour, the library names the first passing once more
            last = at
            yield at


def _cron(line: str, start: datetime) -> Iterator[datetime]:
    if len(line.split()) != 5:
        raise ScheduleError(f"the cron line {line!r} is wrong; give {FIELDS}")
    try:
        return CronSim(line, start)
    except CronSimError as error:
        fault = str(error).lower().replace("-", " ")
        raise ScheduleError(f"the cron line {line!r} is wrong ({fault}); give {FIELDS}") from None


def plan(schedule: Schedule, policy: Policy, next_due_at: datetime, now: datetime) -> Plan:
    """What to do about `next_due_at` and all due times after it, up to `now`.

    The newest one is on time when it passed within `grace`; the others were missed.
    """
    if next_due_at > now:
        return Plan((), 0, None, next_due_at)
    newest = deque([next_due_at], policy.limit + 2)  # what may be fired; of the others the number is enough
    count, following = 1, None
    for at in due_times(schedule, next_due_at):
        if at > now:
            following = at
            break
        newest.append(at)
        count += 1
    times = list(newest)
    on_time = [Due(times.pop())] if now - times[-1] <= policy.grace else []
    fire = tuple(_chosen(policy, times, count - len(on_time), on_time))
    skipped = count - sum(1 + due.missed for due in fire)
    kept = len(fire) if policy.missed == "all" else len(on_time)
    until = list(newest)[-1 - kept] if skipped else None
    return Plan(fire, skipped, until, following)


def _chosen(policy: Policy, missed: list[datetime], count: int, on_time: list[Due]) -> list[Due]:
    """What fires: `missed` are the newest of `count` missed due times."""
    if policy.missed == "all":
        return [*map(Due, missed[-policy.limit :]), *on_time]
    if policy.missed == "once" and count:
        return [Due(on_time[0].at, count)] if on_time else [Due(missed[-1], count - 1)]
    return on_time


MOST_WAITING = 100  # firings of one trigger that wait behind earlier work; more are skipped


def states(overlap: str, count: int, *, unfinished: int, waiting: int) -> list[str]:
    """How `count` new firings of a trigger begin, while so many earlier ones are unfinished: ready, waiting or skipped.

    Missed due times that are made up for come one after the other, whatever the policy but `allow`.
    """
    if overlap == "allow":
        return ["ready"] * count
    if overlap == "skip" and unfinished:
        return ["skipped"] * count
    begun = [] if unfinished else ["ready"][:count]
    room = max(0, MOST_WAITING - waiting)
    behind = count - len(begun)
    return begun + ["waiting"] * min(behind, room) + ["skipped"] * max(0, behind - room)
