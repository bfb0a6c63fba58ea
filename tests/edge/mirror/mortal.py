"""A worker that dies at a chosen moment, inside the test's own process.

To Postgres and the org it is a process killed with -9: what was committed stays, an open transaction is rolled back, the
claim is neither released nor renewed. `python -m bench.proof kills` does the same to real processes.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import text
from sqlalchemy.orm import Session

from tests.edge.mirror.world import OrgToken, World, finish
from worker.db import Database
from worker.mirror import steps
from worker.mirror.deps import MirrorDeps
from worker.salesforce.client import OrgClient, http_options
from worker.steps import Step


class KilledError(BaseException):
    """No `except Exception` sees this, as none sees a kill."""


@dataclass
class Life:
    """How many moments are left (before a transaction, before its commit, after it, before a call, after it), or how many
    transactions that write; `undone`: the last of these is not committed. None: for ever."""

    moments: int | None = None
    writes: int | None = None
    undone: bool = False
    over: bool = False
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def moment(self) -> None:
        """One more; the last kills every thread of the worker."""
        with self._mortal() as mortal:
            if mortal and self.moments is not None:
                self.moments -= 1
                self.over = self.moments < 0

    def write(self, *, committed: bool) -> None:
        """A transaction that has written is about to be committed, or is now."""
        with self._mortal() as mortal:
            if mortal and self.writes is not None:
                self.writes -= committed
                self.over = self.writes == (0 if committed else 1) and committed != self.undone

    @contextmanager
    def _mortal(self) -> Iterator[bool]:
        keeper = threading.current_thread().name.startswith("keep-")  # stops with its step
        with self._lock:
            yield not keeper and not self.over
            if self.over and not keeper:
                raise KilledError


class MortalDatabase(Database):
    """A database whose user may die around each transaction."""

    def __init__(self, url: str, life: Life) -> None:
        super().__init__(url)
        self.life = life

    @contextmanager
    def transaction(self) -> Iterator[Session]:
        wrote = False
        self.life.moment()
        with super().transaction() as session:
            yield session
            self.life.moment()
            if self.life.writes is not None:
                wrote = bool(session.scalar(text("SELECT pg_current_xact_id_if_assigned() IS NOT NULL")))
            if wrote:
                self.life.write(committed=False)
        if wrote:
            self.life.write(committed=True)
        self.life.moment()


class MortalClient(OrgClient):
    """A client whose user may die around each call."""

    life: Life

    def _send(self, *arguments: Any) -> Any:
        self.life.moment()
        sent = super()._send(*arguments)
        try:
            self.life.moment()
        except KilledError:
            sent[0].close()
            raise
        return sent


class MortalWorker:
    """Takes steps as a worker does, and may be killed within one."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.life = Life()
        self.tokens = OrgToken(world.org, world.tokens.token)
        self.database = MortalDatabase(world.database.url, self.life)
        self.deps = MirrorDeps(self.database, world.settings, self.client, world.wake)

    def client(self, connection_id: int) -> OrgClient:
        client = MortalClient(self.tokens, http_options(self.world.settings))
        object.__setattr__(client, "life", self.life)
        return client

    def step(
        self, run_id: int, *, dies_after: int | None = None, writes: int | None = None, undone: bool = False
    ) -> Step | None:
        """One step, after the claims of the dead have run out; None when the worker was killed in it: `dies_after` so many
        moments, or by its last of so many `writes` (see Life)."""
        self.expire_claims()
        life = self.life
        life.moments, life.writes, life.undone, life.over = dies_after, writes, undone, False
        try:
            return steps.step(self.deps, run_id)
        except KilledError:
            return None
        finally:
            life.moments, life.writes, life.over = None, None, False

    def expire_claims(self) -> None:
        """Let the time of every claim pass."""
        with self.world.database.transaction() as session:
            for table in ("runs", "run_pages"):
                session.execute(
                    text(
                        f"UPDATE sfsync.{table} SET claim_until = clock_timestamp() - interval '1 second'"
                        " WHERE state = 'ready' AND claim_until IS NOT NULL"
                    )
                )

    def finish(self, run_id: int) -> dict[str, Any]:
        """Take steps until the run has ended; its row."""
        return finish(lambda: self.world.run(run_id), lambda: self.step(run_id))

    def close(self) -> None:
        self.database.close()
