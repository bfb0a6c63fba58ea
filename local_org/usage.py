"""What the org's callers have used of their allowances: counted per hour, over a rolling day."""

import threading
from typing import Any

from local_org.store import Store

HOUR_MS = 3_600_000
KEEP_EVERY = 200  # calls between two writes to disk


class Usage:
    """Counts API calls by the org's clock; survives a restart."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._hours: dict[int, int] = {int(hour): count for hour, count in store.setting("usage", {}).items()}
        self._unkept = 0

    def count(self, calls: int = 1) -> int:
        """Count calls and give the number of the last 24 hours, these included."""
        hour = self._store.clock.exact_ms() // HOUR_MS
        with self._lock:
            self._hours[hour] = self._hours.get(hour, 0) + calls
            self._unkept += calls
            return self._sum(hour)

    def used(self) -> int:
        hour = self._store.clock.exact_ms() // HOUR_MS
        with self._lock:
            return self._sum(hour)

    def _sum(self, hour: int) -> int:
        for old in [item for item in self._hours if item <= hour - 24]:
            del self._hours[old]
        return sum(self._hours.values())

    @property
    def is_behind(self) -> bool:
        """Whether enough was counted since the last `keep`."""
        return self._unkept >= KEEP_EVERY

    def set(self, calls: int) -> None:
        """Pretend that this many calls were made in the last 24 hours."""
        with self._lock:
            self._hours = {self._store.clock.exact_ms() // HOUR_MS: calls}
        self.keep()

    def keep(self) -> None:
        with self._lock:
            self._unkept = 0
            kept: dict[str, Any] = {str(hour): count for hour, count in self._hours.items()}
        self._store.keep_setting("usage", kept)
