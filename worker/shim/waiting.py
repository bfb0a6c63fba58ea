"""Waiting for outcomes without holding a thread: one short question to Postgres for everybody who waits in this process.

Not LISTEN: that needs a connection of its own, and is lost behind a pooler in transaction mode.
"""

import asyncio
from collections.abc import Collection
from uuid import UUID

from starlette.concurrency import run_in_threadpool

from worker.actions import store
from worker.db import Database
from worker.log import get_logger

log = get_logger(__name__)

QUICK_SECONDS = 0.03  # between two questions while somebody has just begun to wait
SLOW_SECONDS = 0.25  # later
QUICK_ROUNDS = 60
TROUBLE_SECONDS = 1.0  # Postgres did not answer


class Outcomes:
    """Who waits for which action. Used from the event loop alone."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._waiting: dict[UUID, set[asyncio.Future[None]]] = {}
        self._task: asyncio.Task[None] | None = None
        self._rounds = 0
        self._stopping = False

    async def wait(self, action_ids: Collection[UUID], seconds: float) -> None:
        """Return when nothing more happens with any of the actions by itself, after `seconds`, or when the process ends."""
        if self._stopping:
            return
        done = {action_id: asyncio.get_running_loop().create_future() for action_id in action_ids}
        for action_id, future in done.items():
            self._waiting.setdefault(action_id, set()).add(future)
        self._rounds = 0
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._ask())
        try:
            await asyncio.wait(done.values(), timeout=seconds)
        finally:
            for action_id, future in done.items():
                self._forget(action_id, future)

    def stop(self) -> None:
        """The process ends: whoever waits is answered at once, with what is known."""
        self._stopping = True
        for futures in self._waiting.values():
            for future in futures:
                if not future.done():
                    future.set_result(None)

    def _forget(self, action_id: UUID, done: "asyncio.Future[None]") -> None:
        waiting = self._waiting.get(action_id, set())
        waiting.discard(done)
        if not waiting:
            self._waiting.pop(action_id, None)

    async def _ask(self) -> None:
        while self._waiting:
            try:
                settled = await run_in_threadpool(self._settled, list(self._waiting))
            except Exception as error:  # they wait until their time is over, and get a 202
                log.warning("shim.cannot_ask", error=type(error).__name__)
                await asyncio.sleep(TROUBLE_SECONDS)
                continue
            for action_id in settled:
                for done in self._waiting.get(action_id, ()):
                    if not done.done():
                        done.set_result(None)
            self._rounds += 1
            await asyncio.sleep(QUICK_SECONDS if self._rounds < QUICK_ROUNDS else SLOW_SECONDS)

    def _settled(self, ids: list[UUID]) -> set[UUID]:
        with self._database.alone() as session:
            return store.settled(session, ids)
