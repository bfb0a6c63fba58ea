"""Row locks: a writer holds the rows that it touches, and their parents, until its transaction ends.

A second writer waits, at most the lock time, and is then refused. Source: Apex Developer Guide, "Locking Records";
Bulk API guide, "Lock contention".
"""

import threading
import time
from collections.abc import Iterable

from local_org.clock import Clock
from local_org.errors import ApiError


class LockedError(Exception):
    """A row is held by another writer; the transaction is to be undone and tried again."""

    def __init__(self, record_id: str) -> None:
        super().__init__(record_id)
        self.record_id = record_id


def unable_to_lock(record_id: str) -> ApiError:
    text = f"unable to obtain exclusive access to this record or 1 records: {record_id}"
    return ApiError(400, "UNABLE_TO_LOCK_ROW", text, [])


class Locks:
    """Who holds which rows: a writer's number, or a test that asked for it (with an end by the org's clock)."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._freed = threading.Condition()
        self._held: dict[str, int] = {}
        self._until: dict[str, int] = {}
        self._next = 1

    def owner(self) -> int:
        """A number for a new writer."""
        with self._freed:
            self._next += 1
            return self._next

    def take(self, owner: int, record_ids: Iterable[str]) -> None:
        """Hold rows for a writer; for nobody (0) only look. Raises LockedError for the first that is held."""
        with self._freed:
            for record_id in record_ids:
                if self._is_held(record_id, owner):
                    raise LockedError(record_id)
                if owner:
                    self._held[record_id] = owner

    def _is_held(self, record_id: str, owner: int) -> bool:
        until = self._until.get(record_id)
        if until is not None and until > self._clock.exact_ms():
            return True
        self._until.pop(record_id, None)
        return self._held.get(record_id, owner) != owner

    def free(self, owner: int) -> None:
        with self._freed:
            for record_id in [key for key, held_by in self._held.items() if held_by == owner]:
                del self._held[record_id]
            self._freed.notify_all()

    def hold(self, record_ids: Iterable[str], milliseconds: int) -> None:
        """Hold rows on behalf of a test, as a long transaction of somebody else would; 0 lets them go."""
        with self._freed:
            for record_id in record_ids:
                self._until[record_id] = self._clock.exact_ms() + milliseconds
            self._freed.notify_all()

    def wait(self, deadline: float) -> None:
        """Wait a moment for a row, not beyond `deadline` (monotonic seconds)."""
        with self._freed:
            left = deadline - time.monotonic()
            if left <= 0:
                return
            self._freed.wait(min(left, 0.05))
