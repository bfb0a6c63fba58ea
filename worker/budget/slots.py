"""Slots for parallel calls of an org, shared by all processes: leased for a minute, one or more at a time, filled in memory.

So a call costs no transaction, and the share of a process that was killed comes back.
"""

import threading
import time
from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy.orm import Session

from worker.budget import accounts
from worker.db import Database
from worker.errors import CrowdedError
from worker.settings import Settings

LEASE = timedelta(seconds=60)  # renewed while slots are in use
RENEWED_SECONDS = 15.0
PATIENCE_SECONDS = 3.0  # how long a call waits here for a slot before its step is put off
CROWDED_PAUSE = timedelta(seconds=2)


@dataclass
class _Held:
    """What this process has of one org. Guarded by the lock."""

    leased: int = 0
    in_use: int = 0
    busiest: int = 0  # most slots in use since the lease was last looked at
    renewed: float = 0.0  # monotonic


class Slots:
    """Of one process, `process` by name. Safe between threads."""

    def __init__(self, database: Database, settings: Settings, process: str) -> None:
        self._database = database
        self._settings = settings
        self._process = process
        self._held: dict[str, _Held] = {}
        self._freed = threading.Condition()

    def enter(self, org: str, lane: str) -> None:
        """A slot for one call; waits a little for one. Raises CrowdedError when the org is busy with us."""
        ends = time.monotonic() + PATIENCE_SECONDS
        while not (self._use(org) or (self._lease(org, lane) and self._use(org))):
            if time.monotonic() > ends:
                text = "as many calls of this org are under way as SFSYNC_PARALLEL_CALLS and the org's kind allow"
                raise CrowdedError(text, code="PARALLEL_CALLS", retry_after=CROWDED_PAUSE)
            with self._freed:
                self._freed.wait(0.3)

    def leave(self, org: str) -> None:
        """Give a slot back."""
        with self._freed:
            self._of(org).in_use -= 1
            self._freed.notify()

    def due(self) -> dict[str, int]:
        """Orgs whose lease must be renewed now, and slots to keep: as many as were in use lately."""
        now = time.monotonic()
        with self._freed:
            found = {
                org: held for org, held in self._held.items() if held.leased and now - held.renewed >= RENEWED_SECONDS
            }
            for held in found.values():
                held.leased = max(held.busiest, held.in_use)
                held.busiest, held.renewed = held.in_use, now
            return {org: held.leased for org, held in found.items()}

    def renew(self, session: Session, org: str, slots: int) -> None:
        """Keep so many slots for a while longer; none gives the lease back."""
        accounts.renew_lease(session, org, self._process, slots, LEASE)

    def let_go(self) -> None:
        """Have `due` name all leases at once, and keep only what is in use."""
        with self._freed:
            for held in self._held.values():
                held.busiest, held.renewed = 0, float("-inf")

    def _use(self, org: str) -> bool:
        with self._freed:
            held = self._of(org)
            if held.in_use >= held.leased:
                return False
            held.in_use += 1
            held.busiest = max(held.busiest, held.in_use)
            return True

    def _lease(self, org: str, lane: str) -> bool:
        """Ask for one slot more than we hold; whether we got it."""
        with self._freed:
            before = self._of(org).leased
        wanted = self._settings.parallel_calls
        with self._database.transaction() as session:
            slots = accounts.lease(session, org, self._process, before + 1, lane, wanted=wanted, lasts=LEASE)
        with self._freed:
            held = self._of(org)
            held.leased = max(held.leased, slots)
            held.renewed = time.monotonic()
            return slots > before

    def _of(self, org: str) -> _Held:
        return self._held.setdefault(org, _Held())
