"""Waiting on conditions, for tests: never on time alone."""

import time
from collections.abc import Callable

LIMIT_SECONDS = 120.0  # far beyond what any condition needs: a limit, not an expectation


def until(condition: Callable[[], object], *, limit: float = LIMIT_SECONDS) -> None:
    """Return as soon as `condition()` is true; fail when it never becomes so."""
    end = time.monotonic() + limit
    while not condition():
        if time.monotonic() > end:
            raise AssertionError("what was waited for did not happen")
        time.sleep(0.02)
