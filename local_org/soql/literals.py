"""Named date literals: TODAY, LAST_N_DAYS:5, N_FISCAL_QUARTERS_AGO:2 ... Source: SOQL and SOSL Reference,
"Date Formats and Date Literals".

Each names a span of whole days, in the user's time zone.
"""

import re
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from zoneinfo import ZoneInfo

_FIXED = {
    "YESTERDAY": ("DAY", -1),
    "TODAY": ("DAY", 0),
    "TOMORROW": ("DAY", 1),
    **{
        f"{word}_{unit}": (unit, step)
        for unit in ("WEEK", "MONTH", "QUARTER", "YEAR", "FISCAL_QUARTER", "FISCAL_YEAR")
        for word, step in (("LAST", -1), ("THIS", 0), ("NEXT", 1))
    },
}
_UNITS = "DAYS|WEEKS|MONTHS|QUARTERS|YEARS|FISCAL_QUARTERS|FISCAL_YEARS"
_LAST_N = re.compile(rf"LAST_N_({_UNITS})")
_NEXT_N = re.compile(rf"NEXT_N_({_UNITS})")
_AGO = re.compile(rf"N_({_UNITS})_AGO")


def is_named(word: str, *, with_number: bool) -> bool:
    """Whether `word` (upper case) is a named date literal that takes a number, or one that takes none."""
    if with_number:
        return any(pattern.fullmatch(word) for pattern in (_LAST_N, _NEXT_N, _AGO))
    return word in _FIXED or word in ("LAST_90_DAYS", "NEXT_90_DAYS")


@dataclass(frozen=True, slots=True)
class Days:
    """Whole days: start <= day < end."""

    start: date
    end: date

    def as_ms(self, zone: ZoneInfo) -> tuple[int, int]:
        """The same span in epoch milliseconds, the days beginning at midnight of `zone`."""
        return _midnight_ms(self.start, zone), _midnight_ms(self.end, zone)


def _midnight_ms(day: date, zone: ZoneInfo) -> int:
    return int(datetime(day.year, day.month, day.day, tzinfo=zone).timestamp()) * 1000


def days(name: str, n: int | None, today: date) -> Days:
    """The days that a literal names. LAST_N_DAYS includes today, other LAST_N_x leave out the current unit."""
    if name in _FIXED:
        unit, step = _FIXED[name]
        return Days(_begin(unit, today, step), _begin(unit, today, step + 1))
    if name in ("LAST_90_DAYS", "NEXT_90_DAYS"):
        name, n = name.replace("90", "N"), 90
    count = n or 0
    if match := _LAST_N.fullmatch(name):
        unit = match[1][:-1]
        return Days(_begin(unit, today, -count), _begin(unit, today, 1 if unit == "DAY" else 0))
    if match := _NEXT_N.fullmatch(name):
        return Days(_begin(match[1][:-1], today, 1), _begin(match[1][:-1], today, count + 1))
    unit = name.removeprefix("N_").removesuffix("S_AGO")
    return Days(_begin(unit, today, -count), _begin(unit, today, -count + 1))


def _begin(unit: str, today: date, step: int) -> date:
    """First day of the unit that lies `step` units after the current one. Weeks begin on Sunday."""
    unit = unit.removeprefix("FISCAL_")  # the org's fiscal year is the calendar year
    if unit == "DAY":
        return _shift(today, step)
    if unit == "WEEK":
        return _shift(today, 7 * step - (today.weekday() + 1) % 7)
    months = {"MONTH": 1, "QUARTER": 3, "YEAR": 12}[unit]
    index = (today.year * 12 + today.month - 1) // months * months + step * months
    year = min(max(index // 12, 1), 9998)
    return date(year, index % 12 + 1, 1)


def _shift(day: date, step: int) -> date:
    try:
        return day + timedelta(days=step)
    except OverflowError:
        return date.max if step > 0 else date.min
