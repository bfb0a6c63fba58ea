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

from tests.edge.mirror.world import World
from tests.org import Org
from worker.db import Database
from worker.errors import DisconnectedError, SyncError
from worker.mirror import steps
from worker.mirror.deps import MirrorDeps
from worker.salesforce.client import AccessToken, OrgClient, http_options
from worker.steps import Step


class KilledError(BaseException):
    """No `except Exception` sees this, as none sees a kill."""


@dataclass
class Life:
    """How many moments are left: before a transaction, before its commit, after it, before a call, after it."""

    left: int | None = None
    over: bool = False
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def moment(self) -> None:
        """One more; the last kills every thread of the worker."""
        if threading.current_thread().name.startswith("keep-"):
            return  # the keeper stops with its step
        with self._lock:
            if self.left is not None and not self.over:
                self.left -= 1
                self.over = self.left < 0
            if self.over:
                raise KilledError


class MortalDatabase(Database):
    """A database whose user may die around each transaction."""

    def __init__(self, url: str, life: Life) -> None:
        super().__init__(url)
        self.life = life

    @contextmanager
    def transaction(self) -> Iterator[Session]:
        self.life.moment()
        with super().transaction() as session:
            yield session
            self.life.moment()
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


@dataclass
class RenewingToken:
    """Asks for another token when the org no longer takes the one we have."""

    org: Org
    token: AccessToken

    def current(self) -> AccessToken:
        return self.token

    def renew(self, stale: AccessToken) -> AccessToken:
        if self.token.version == stale.version:
            self.token = AccessToken(self.org.token(), self.org.url, stale.version + 1)
        return self.token

    def refused(self, token: AccessToken, reason: str) -> SyncError:
        return DisconnectedError(reason)


class MortalWorker:
    """Takes steps as a worker does, and may be killed within one."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.life = Life()
        self.tokens = RenewingToken(world.org, world.tokens.token)
        self.database = MortalDatabase(world.database.url, self.life)
        self.deps = MirrorDeps(self.database, world.settings, self.client, world.wake)

    def client(self, connection_id: int) -> OrgClient:
        client = MortalClient(self.tokens, http_options(self.world.settings))
        object.__setattr__(client, "life", self.life)
        return client

    def step(self, run_id: int, *, dies_after: int | None = None) -> Step | None:
        """One step, after the claims of the dead have run out; None when the worker was killed in it."""
        self.expire_claims()
        self.life.left, self.life.over = dies_after, False
        try:
            return steps.step(self.deps, run_id)
        except KilledError:
            return None
        finally:
            self.life.left, self.life.over = None, False

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
        while (run := self.world.run(run_id))["state"] == "ready":
            self.step(run_id)
        return run

    def close(self) -> None:
        self.database.close()
