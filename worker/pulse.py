"""What this process is doing: the steps that run in it, how many it may run at once, and its row in `processes`.

Liveness is measured by finished steps, in Postgres: a worker whose every thread hangs still answers a ping.
"""

import os
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from sqlalchemy import text
from sqlalchemy.orm import Session

from worker.errors import FencedError, SyncError, TransientError
from worker.log import bound, get_logger
from worker.steps import Busy, Step

log = get_logger(__name__)

LATELY_SECONDS = 60.0  # so long after another org's work, further steps of one row take few slots
YOUNG_SECONDS = 0.25  # a step that is older waits for something, and nobody gives way to it
WAY_SECONDS = 0.1  # the longest that a step gives way at once
WAY_SHARE = 0.5  # … and of its whole time


@dataclass(frozen=True, slots=True)
class Running:
    """A step in hand; `since` is `time.monotonic()`."""

    name: str
    row_id: int
    since: float
    org: str = ""


class Pulse:
    """The steps of this process. Slots bound how many run at once, whoever asked for them: a message or the poller.

    With three slots or more one org never has them all, so that another's work need not wait for its steps to end. Steps share
    more than slots: Python's lock, the machine, Postgres. So where several orgs have work, one that has many steps takes fewer
    slots, and its steps, and those that have been running for long, give way to young ones of orgs that have one.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._ended = threading.Condition(self._lock)
        self._slots = 1
        self._taken: Counter[str] = Counter()  # org → slots; "" where a row's org is not known
        self._orgs: dict[tuple[str, int], str] = {}  # of the rows that the poller has seen
        self._seen: dict[str, float] = {}  # orgs by when they had work last, the latest at the end
        self._running: dict[int, Running] = {}
        self._gave: dict[int, float] = {}  # seconds that the steps in hand gave way, by thread
        self._woken: set[tuple[str, int]] = set()  # rows that a message came for while they were in hand
        self._turned_away = False  # somebody found no slot
        self.look: Callable[[], None] = lambda: None  # called when these may be served
        self.crowded = False  # work is due for which no slot is free: long turns should end
        self.finished = 0  # steps that did something: one that found nothing to do is no sign of progress

    def allow(self, threads: int) -> None:
        """Set how many steps may run at once; before the first step."""
        self._slots = threads
        self._seen.clear()

    @property
    def free(self) -> int:
        """Slots that are free."""
        return self._slots - self._taken.total()

    def learn(self, name: str, row_id: int, org: str) -> None:
        """Note whose row it is, for messages, which do not say."""
        with self._lock:
            if len(self._orgs) > 10_000:
                self._orgs.clear()
            self._orgs[name, row_id] = org
            self._see(org)

    def _see(self, org: str) -> None:
        if not org:
            return
        self._seen.pop(org, None)
        self._seen[org] = self._clock()
        if len(self._seen) > 2:  # the latest two tell all: whether there was another
            del self._seen[next(iter(self._seen))]

    def take_slot(self, name: str = "", row_id: int = 0, *, further: bool = False) -> bool:
        """Take a slot for a step of a row; False when there is none for its org. `run()` gives it back.

        `further`: another step of this row has one. Nobody waits for a slot: threads that do would keep messages of other orgs
        from being read.
        """
        with self._lock:
            org = self._orgs.get((name, row_id), "")
            self._see(org)
            if self.free < 1 or self._taken[org] >= self._most(org, further=further):
                self._turned_away |= not further
                return False
            self._taken[org] += 1
            return True

    def _most(self, org: str, *, further: bool) -> int:
        if not org or self._slots < 3:
            return self._slots
        now = self._clock()
        others = any(one != org and now - at < LATELY_SECONDS for one, at in self._seen.items())
        return max(1, self._slots // 8) if further and others else self._slots - 1

    def give_way(self) -> None:
        """Called in a step where it may pause: one of several of its org, or one that is no longer young, lets young steps of
        orgs that have one go first.

        It waits a moment at most, and no more than half of its time, so that it goes on however many of them come.
        """
        key = threading.get_ident()
        with self._lock:
            me, now = self._running.get(key), self._clock()
            if me is None or not me.org or not self._is_passed(me.org, now):
                return
            age, gave = now - me.since, self._gave.get(key, 0.0)
            if self._taken[me.org] > 1 or age >= YOUNG_SECONDS:
                at_most = min(WAY_SECONDS, WAY_SECONDS + age * WAY_SHARE - gave)
                self._ended.wait_for(lambda: not self._is_passed(me.org, self._clock()), at_most)
                self._gave[key] = gave + self._clock() - now

    def _is_passed(self, org: str, now: float) -> bool:
        singles = (one for one in self._running.values() if one.org != org and self._taken[one.org] == 1)
        return any(now - one.since < YOUNG_SECONDS for one in singles)

    def in_hand(self, name: str, row_id: int, *, woken: bool = False) -> bool:
        """Whether a step of this row runs here; if so and it was `woken`, the row is looked at again after it."""
        with self._lock:
            found = any((one.name, one.row_id) == (name, row_id) for one in self._running.values())
            if found and woken:
                self._woken.add((name, row_id))
            return found

    def run(self, name: str, row_id: int, body: Callable[[], Step | None]) -> Step | None:
        """Run a step for which a slot was taken, and give the slot back; its answer, None when it failed.

        What we raise on purpose ends here, as one line: the row's claim runs out and the row comes up again, its attempts
        were counted at the claim. A bug goes on to the caller, who logs it whole; the row fares the same.
        """
        key = threading.get_ident()
        answer: Step | None = Busy()
        with self._lock:
            self._running[key] = Running(name, row_id, self._clock(), self._orgs.get((name, row_id), ""))
        try:
            with bound(task=name, id=row_id):
                answer = _reporting(body)
                return answer
        finally:
            with self._lock:
                org = self._running.pop(key).org
                self._gave.pop(key, None)
                self.finished += not isinstance(answer, Busy)
                self._taken[org] -= 1
                self._ended.notify_all()
                again = self._turned_away or (name, row_id) in self._woken
                self._turned_away = False
                self._woken.discard((name, row_id))
            if again:
                self.look()

    def running(self) -> list[Running]:
        """The steps in hand."""
        with self._lock:
            return list(self._running.values())

    def longest(self) -> float:
        """Seconds that the oldest step in hand has been running; 0 when there is none."""
        now = self._clock()
        return max((now - step.since for step in self.running()), default=0.0)


def _reporting(body: Callable[[], Step | None]) -> Step | None:
    try:
        return body()
    except FencedError as error:
        log.info("step.overtaken", error=str(error))
    except TransientError as error:
        log.warning("step.postponed", error=str(error))
    except SyncError as error:
        log.error("step.refused", error=str(error))
    return None


PULSE = Pulse()


def process_name(service: str, pid: int | None = None) -> str:
    """A process's key in `processes`: service@host:pid."""
    return f"{service}@{socket.gethostname()}:{pid or os.getpid()}"


def beat(session: Session, service: str, role: str, lanes: str, *, pid: int | None = None, steps: int = 0) -> None:
    """Write a process's sign of life; `steps` finished since the last one."""
    session.execute(
        text(
            """
            INSERT INTO sfsync.processes AS p (name, role, lanes, pid, host, steps, last_step_at)
            VALUES (:name, :role, :lanes, :pid, :host, :steps, CASE WHEN :steps > 0 THEN clock_timestamp() END)
            ON CONFLICT (name) DO UPDATE SET seen_at = clock_timestamp(), steps = p.steps + EXCLUDED.steps,
                   last_step_at = coalesce(EXCLUDED.last_step_at, p.last_step_at)
            """
        ),
        {
            "name": process_name(service, pid),
            "role": role,
            "lanes": lanes,
            "pid": pid or os.getpid(),
            "host": socket.gethostname(),
            "steps": steps,
        },
    )


@dataclass(frozen=True, slots=True)
class Sign:
    """How long ago, in seconds, a process was seen, and since when no step of it has ended."""

    name: str
    seen: float
    stepped: float


def sign_of(session: Session, service: str, host: str) -> Sign | None:
    """The newest sign of life of a worker service on a host."""
    query = """
    SELECT name, extract(epoch FROM clock_timestamp() - seen_at) AS seen,
           extract(epoch FROM clock_timestamp() - coalesce(last_step_at, started_at)) AS stepped
      FROM sfsync.processes WHERE role = 'worker' AND host = :host AND starts_with(name, :prefix) ORDER BY seen_at DESC LIMIT 1
    """
    row = session.execute(text(query), {"host": host, "prefix": f"{service}@"}).one_or_none()
    return None if row is None else Sign(row.name, float(row.seen), float(row.stepped))


def beat_sign(session: Session) -> float | None:
    """Seconds since a message of beat last arrived; None when none ever did."""
    query = "SELECT extract(epoch FROM clock_timestamp() - seen_at) FROM sfsync.processes WHERE role = 'beat'"
    found = session.scalar(text(query))
    return None if found is None else float(found)


def leave(session: Session, service: str, *, pid: int | None = None) -> None:
    """Remove a process's row: it stopped as it should."""
    session.execute(text("DELETE FROM sfsync.processes WHERE name = :name"), {"name": process_name(service, pid)})


def tick(session: Session) -> None:
    """Note that a message of beat arrived: beat, the broker and a worker are alive together."""
    session.execute(
        text(
            """
            INSERT INTO sfsync.processes AS p (name, role, pid, host, steps, last_step_at)
            VALUES ('beat', 'beat', 0, '', 1, clock_timestamp())
            ON CONFLICT (name) DO UPDATE SET seen_at = clock_timestamp(), last_step_at = clock_timestamp(), steps = p.steps + 1
            """
        )
    )
