"""How long to wait before a call that met a passing fault is made again: the org's own advice, else longer each time."""

import random
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import cast

FIRST_PAUSE_SECONDS = 0.5  # before the first repetition, doubled for each next, with jitter
LONGEST_ADVICE = timedelta(hours=1)  # whoever asks for more is looked at again all the same


def advice(headers: Mapping[str, str], now: datetime | None) -> timedelta | None:
    """What Retry-After says, in seconds or as a date; None where it says nothing. `now`: the org's time."""
    value = headers.get("Retry-After", "").strip()
    if value.isdigit():
        return min(timedelta(seconds=int(value[:9])), LONGEST_ADVICE)
    try:
        until = parsedate_to_datetime(value).astimezone(UTC) if value else None
    except ValueError:
        return None
    return None if until is None or now is None else max(timedelta(0), min(until - now, LONGEST_ADVICE))


def pause(failures: int, advised: timedelta | None) -> float:
    """Seconds before the next attempt: the org's advice, else doubled each time; with jitter, so that workers part."""
    if advised is not None:
        return advised.total_seconds() + random.uniform(0, 0.5)  # noqa: S311
    return cast(float, FIRST_PAUSE_SECONDS * 2**failures * random.uniform(0.5, 1.5))  # noqa: S311
