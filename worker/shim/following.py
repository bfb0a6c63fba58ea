"""Live events for many callers with one question to Postgres: a reader for this process, a bounded queue for each caller."""

import asyncio
import time
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

from starlette.concurrency import run_in_threadpool

from worker.db import Database
from worker.events import Event, Reader
from worker.log import get_logger

log = get_logger(__name__)

POLL_SECONDS = 0.5
TROUBLE_SECONDS = 2.0
QUEUE = 2000  # events that wait for one slow caller; then its stream ends, and it resumes by the last id it saw


@dataclass(eq=False)
class Follower:
    """One caller. `low`: no event up to this id will come any more; None in the queue: the stream ends."""

    user_ids: Collection[str] | None
    queue: "asyncio.Queue[tuple[Event, int] | None]" = field(default_factory=lambda: asyncio.Queue(QUEUE + 1))

    def offer(self, event: Event, low: int) -> None:
        """Put an event into the queue, if it is one for this caller."""
        if self.user_ids is not None and event.user_id not in self.user_ids:
            return
        if self.queue.qsize() >= QUEUE:
            self.end()
        else:
            self.queue.put_nowait((event, low))

    def end(self) -> None:
        """What is in the queue is still told, then the stream ends."""
        with suppress(asyncio.QueueFull):
            self.queue.put_nowait(None)


class Feed:
    """Who follows, and the task that reads for them. Used from the event loop alone."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._followers: set[Follower] = set()
        self._task: asyncio.Task[None] | None = None
        self._reader = Reader()
        self._begun: asyncio.Event = asyncio.Event()
        self._stopping = False

    @property
    def count(self) -> int:
        """How many follow now."""
        return len(self._followers)

    @property
    def seen(self) -> int:
        """The newest id that was handed out; what is older is in the table."""
        return self._reader.seen

    @asynccontextmanager
    async def follow(self, user_ids: Collection[str] | None) -> AsyncIterator[Follower]:
        """Follow from now on, until the block ends."""
        follower = Follower(user_ids)
        self._followers.add(follower)
        if self._stopping:
            follower.end()
        if self._task is None or self._task.done():
            self._begun = asyncio.Event()
            self._task = asyncio.create_task(self._run())
        try:
            await self._begun.wait()
            yield follower
        finally:
            self._followers.discard(follower)

    def stop(self) -> None:
        """The process ends: so do all streams."""
        self._stopping = True
        self._begun.set()
        for follower in self._followers:
            follower.end()

    async def _run(self) -> None:
        self._reader = Reader()
        while self._followers and not self._stopping:
            try:
                events = await run_in_threadpool(self._read)
            except Exception as error:  # Postgres is away: nobody misses anything, it comes later
                log.warning("shim.cannot_follow", error=type(error).__name__)
                await asyncio.sleep(TROUBLE_SECONDS)
                continue
            self._begun.set()
            for event in events:
                for follower in self._followers:
                    follower.offer(event, self._reader.low)
            await asyncio.sleep(POLL_SECONDS)

    def _read(self) -> list[Event]:
        with self._database.transaction() as session:
            if self._reader.seen < 0:
                self._reader.begin(session, time.monotonic())
            return self._reader.read(session, time.monotonic())
