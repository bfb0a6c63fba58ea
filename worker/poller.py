"""The poller: asks Postgres what is due in this process's lanes and does it, with or without Redis.

It starts before any broker connection (a worker without Redis never gets further than that), keeps the process's row in
`processes`, and ends the process when a step outlives its claim.
"""

import os
import random
import signal
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

from worker import db, pulse
from worker.lanes import HOUSEWORK, STEPS, due
from worker.log import get_logger
from worker.pulse import PULSE
from worker.runtime import Runtime
from worker.steps import Busy

log = get_logger(__name__)

BEAT_SECONDS = 3.0  # between two signs of life
JITTER = 0.2  # share of the pause: many workers must not ask at the same moment
WATCHDOG_SECONDS = 60.0  # least time that a step may go on after its claim was lost
EXIT_WEDGED = 70  # exit code of a process that ended itself because a step would not end


class Poller:
    """One thread that asks, and an executor that works. `service` names the process in `processes`.

    `beside`: the process id of the prefork worker that we stand beside; its row is ours to keep, and we end with it.
    """

    def __init__(
        self, rt: Runtime, service: str, lanes: tuple[str, ...], *, threads: int, beside: int | None = None
    ) -> None:
        self.rt = rt
        self.service = service
        self.lanes = lanes
        self.threads = threads
        self.beside = beside
        self._stop = threading.Event()
        self._look = threading.Event()  # set when it is worth looking at once
        self._lock = threading.Lock()
        self._in_hand: Counter[tuple[str, int]] = Counter()
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix="step")
        self._thread = threading.Thread(target=self._run, name="poller", daemon=True)
        self._counted = 0
        self._next_beat = 0.0
        self._next_housework = dict.fromkeys(HOUSEWORK if "upkeep" in lanes else (), 0.0)
        self._silent = False

    def start(self) -> None:
        """Begin to ask; returns at once."""
        PULSE.allow(self.threads)
        PULSE.look = self._look.set
        self._thread.start()

    def stop(self) -> None:
        """Take no more work; steps in hand go on. Returns at once."""
        self._stop.set()
        self._look.set()

    def join(self) -> None:
        """Wait until the steps in hand have ended, then leave the list of processes."""
        self.stop()
        if self._thread.is_alive():
            self._thread.join()
        self._executor.shutdown(wait=True)
        try:
            with self.rt.database.transaction() as session:
                pulse.leave(session, self.service, pid=self.beside)
        except Exception as error:
            log.info("process.not_signed_off", error=type(error).__name__)

    def wait(self) -> None:
        """Return once the poller takes no more work."""
        self._thread.join()

    def _run(self) -> None:
        pause = self.rt.settings.poll_seconds
        while not self._stop.is_set():
            self._look.clear()
            self._round()
            self._watch()
            self._look.wait(pause * random.uniform(1 - JITTER, 1 + JITTER))  # noqa: S311 - jitter, not a secret

    def _round(self) -> None:
        """One look; a Postgres that is away is reported once, and asked again at the next look."""
        try:
            self._beat()
            self._do_housework()
            crowded = [self._take(lane) for lane in self.lanes]
            PULSE.crowded = any(crowded)
        except Exception as error:
            if not self._silent:
                log.exception("poller.failed", error=type(error).__name__)
            self._silent = True
        else:
            self._silent = False

    def _beat(self) -> None:
        if time.monotonic() < self._next_beat:
            return
        finished = PULSE.finished
        with self.rt.database.transaction() as session:
            steps = finished - self._counted
            pulse.beat(session, self.service, "worker", " ".join(self.lanes), pid=self.beside, steps=steps)
        self._counted = finished
        self._next_beat = time.monotonic() + BEAT_SECONDS

    def _do_housework(self) -> None:
        now = time.monotonic()
        for name, next_time in self._next_housework.items():
            if now >= next_time and self._begin(name, 0):
                self._next_housework[name] = now + HOUSEWORK[name]

    def _take(self, lane: str) -> bool:
        """Start the steps that are due, as far as slots are free; whether some found none.

        Each row gets one step; then those with much to do get more, as long as a slot stays free for what comes next.
        """
        with self.rt.database.transaction() as session:
            found = due(session, lane, 2 * self.threads)
        for one in found:
            PULSE.learn(one.name, one.row_id, one.org)
        begun = [self._stop.is_set() or self._begin(one.name, one.row_id) for one in found]
        for one in [one for one in found if one.deep] * self.threads:
            if PULSE.free > 1 and not self._stop.is_set():
                self._begin(one.name, one.row_id, again=True)
        return not all(begun)

    def _begin(self, name: str, row_id: int, *, again: bool = False) -> bool:
        """Hand one step to the executor, a further one of the same row only if asked; False when no slot is free."""
        with self._lock:
            if (self._in_hand[name, row_id] or PULSE.in_hand(name, row_id)) and not again:
                return True
            if not PULSE.take_slot(name, row_id, further=again):
                return False
            self._in_hand[name, row_id] += 1
        self._executor.submit(self._work, name, row_id)
        return True

    def _work(self, name: str, row_id: int) -> None:
        answer = None
        try:
            answer = PULSE.run(name, row_id, lambda: STEPS[name](self.rt, row_id))
        except Exception:
            log.exception("step.failed", task=name, id=row_id)
        finally:
            with self._lock:
                self._in_hand[name, row_id] -= 1
                if not self._in_hand[name, row_id]:
                    del self._in_hand[name, row_id]
        if answer is not None and not isinstance(answer, Busy):
            self._look.set()  # there may be more: do not wait for the next look

    def _watch(self) -> None:
        if self.beside and os.getppid() != self.beside:
            log.warning("poller.left_alone")
            self.stop()
        settings = self.rt.settings
        over_claim = db.longest_overrun() > max(WATCHDOG_SECONDS, 2 * settings.claim_seconds)
        over_time = PULSE.longest() > 2 * max(settings.page_seconds, settings.request_seconds)
        if over_claim or over_time:
            self._give_up()

    def _give_up(self) -> None:
        """A step would not end: take no more work, let the others finish, and exit; a supervisor starts us again."""
        log.critical("process.wedged", steps=[f"{step.name} {step.row_id}" for step in PULSE.running()])
        self.stop()
        os.kill(os.getpid(), signal.SIGTERM)
        limit = time.monotonic() + self.rt.settings.claim_seconds
        while PULSE.running() and time.monotonic() < limit:
            time.sleep(0.2)
        if PULSE.running():
            os._exit(EXIT_WEDGED)
