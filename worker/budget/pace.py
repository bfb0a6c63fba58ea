"""How often mirrors may be refreshed. Pure: what is wanted, what changes and what the allowance permits in, intervals out.

The org counts the calls of the last 24 hours, so calls come back as they grow a day old. What refreshes may spend an hour is
the most that never runs into the limit during the next day if it is kept up. While that covers what users want, they get it;
else intervals stretch: mirrors that change much stretch least. Changes wait half an interval on average, so with the calls
given the waiting of all changes together is least when each interval goes with the root of (calls / changes).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from math import sqrt

HOURS = 24  # of the vendor's window
HOUR = timedelta(hours=1)
QUIET_RATE = 1.0  # changes an hour that even a mirror without any is given credit for
LONGEST_SECONDS = 86_400.0  # an interval that would be longer is a pause


@dataclass(frozen=True, slots=True)
class Pace:
    """One mirror: the interval its user wants (seconds), org calls of one refresh, records changed an hour."""

    mirror_id: int
    wanted: float
    calls: float
    change_rate: float


@dataclass(frozen=True, slots=True)
class Plan:
    """Intervals in seconds by mirror id. None for all: refreshes pause. `wanted_per_hour`: calls that users' wishes would take."""

    intervals: Mapping[int, float] | None
    wanted_per_hour: float
    calls_per_hour: float


def returning(spent: Mapping[datetime, int], now: datetime, ahead: timedelta) -> float:
    """Of the calls spent in each hour (by its beginning), those that leave the window within `ahead` from now."""
    total = 0.0
    for hour, calls in spent.items():
        began, ended = hour + HOURS * HOUR, min(hour + HOUR, max(now, hour)) + HOURS * HOUR
        length = max(ended - began, timedelta(minutes=1))
        total += calls * (_share(now + ahead, began, length) - _share(now, began, length))
    return total


def _share(moment: datetime, began: datetime, length: timedelta) -> float:
    return min(1.0, max(0.0, (moment - began) / length))


def affordable(room: float, spent: Mapping[datetime, int], now: datetime) -> float:
    """Calls an hour that can be kept up for a day. `room`: what is left now; `spent`: by hour, what will come back. ≤ 0: none.

    Looked at by quarters: what comes back at an hour's end cannot be spent at its beginning.
    """
    quarters = range(1, HOURS * 4 + 1)
    return min((room + returning(spent, now, number * HOUR / 4)) / number * 4 for number in quarters)


def resumes(room: float, spent: Mapping[datetime, int], now: datetime) -> timedelta:
    """How long until some room is there again, in quarters of an hour; a day at most."""
    quarters = range(1, HOURS * 4)
    return next((q * HOUR / 4 for q in quarters if room + returning(spent, now, q * HOUR / 4) >= 1), HOURS * HOUR)


def plan(paces: Sequence[Pace], calls_per_hour: float, longest: float) -> Plan:
    """Intervals whose calls fit into `calls_per_hour`. No mirror waits longer than `longest` seconds while others could give."""
    wanted = sum(one.calls * 3600 / one.wanted for one in paces)
    if wanted <= calls_per_hour or not paces:
        return Plan({one.mirror_id: one.wanted for one in paces}, wanted, calls_per_hour)
    if calls_per_hour <= 0:
        return Plan(None, wanted, 0.0)
    most = longest
    while _calls([max(one.wanted, most) for one in paces], paces) > calls_per_hour:
        most *= 2
        if most > LONGEST_SECONDS:
            return Plan(None, wanted, calls_per_hour)
    return Plan(_fill(paces, calls_per_hour, most), wanted, calls_per_hour)


def _fill(paces: Sequence[Pace], calls_per_hour: float, most: float) -> dict[int, float]:
    """The smallest common factor whose intervals fit: found by halving."""
    low, high = 0.0, most * sqrt(max(one.change_rate for one in paces) + QUIET_RATE) * 100
    for _ in range(60):
        middle = (low + high) / 2
        if _calls(_stretched(paces, middle, most), paces) > calls_per_hour:
            low = middle
        else:
            high = middle
    return dict(zip((one.mirror_id for one in paces), _stretched(paces, high, most), strict=True))


def _stretched(paces: Sequence[Pace], factor: float, most: float) -> list[float]:
    return [
        min(max(one.wanted, most), max(one.wanted, factor * sqrt(one.calls / (one.change_rate + QUIET_RATE))))
        for one in paces
    ]


def _calls(intervals: Sequence[float], paces: Sequence[Pace]) -> float:
    """Calls an hour that these intervals take."""
    return sum(one.calls * 3600 / seconds for one, seconds in zip(paces, intervals, strict=True))


def at_end_of_day(used: int, spent: Mapping[datetime, int], now: datetime, calls_per_hour: float) -> int:
    """Calls that the org will count a day from now if `calls_per_hour` are made until then."""
    return round(used - returning(spent, now, HOURS * HOUR) + calls_per_hour * HOURS)


def runs_out(
    used: int, maximum: int, spent: Mapping[datetime, int], now: datetime, calls_per_hour: float
) -> timedelta | None:
    """When the allowance would be spent at this rate; None: not within a day."""
    for quarter in range(HOURS * 4 + 1):
        ahead = quarter * HOUR / 4
        if used - returning(spent, now, ahead) + calls_per_hour * (quarter / 4) >= maximum:
            return ahead
    return None
