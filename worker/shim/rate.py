"""How often a key may ask: a token bucket for each, in this process's memory.

In memory, because a limit that costs a write to Postgres for each request would be the load it is to keep away. Several shim
processes allow their sum.
"""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

BURST_SHARE = 0.1  # of a minute's requests may come at once
MOST_KEYS = 10_000


@dataclass(slots=True)
class _Bucket:
    left: float
    at: float


class Rates:
    """One bucket per key. Used from many threads."""

    def __init__(self, per_minute: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._per_second = per_minute / 60
        self._burst = max(1.0, per_minute * BURST_SHARE)
        self._clock = clock
        self._lock = threading.Lock()
        self._buckets: dict[int, _Bucket] = {}

    def take(self, key_id: int) -> float | None:
        """None when the request may pass; else the seconds after which one may."""
        now = self._clock()
        with self._lock:
            if len(self._buckets) > MOST_KEYS:
                self._buckets.clear()  # they were full again long ago, or nearly
            bucket = self._buckets.setdefault(key_id, _Bucket(self._burst, now))
            bucket.left = min(self._burst, bucket.left + (now - bucket.at) * self._per_second)
            bucket.at = now
            if bucket.left >= 1:
                bucket.left -= 1
                return None
            return (1 - bucket.left) / self._per_second
