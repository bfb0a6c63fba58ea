"""What the org itself says of its API allowance. Pure."""

import re
from dataclasses import dataclass
from datetime import datetime

_USAGE = re.compile(r"(?:^|[;\s])api-usage=(\d+)/(\d+)")


@dataclass(frozen=True, slots=True)
class Usage:
    """Calls used of the calls allowed in a rolling day, as reported at `at` (the org's time)."""

    used: int
    max: int
    at: datetime | None


def parse_usage(header: str | None, at: datetime | None) -> Usage | None:
    """`api-usage=25/5000; per-app-api-usage=17/250(appName=x)` → 25 of 5000; None when there is no such header."""
    found = _USAGE.search(header or "")
    return Usage(int(found[1]), int(found[2]), at) if found else None
