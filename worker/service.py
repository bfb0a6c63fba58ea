"""A worker process: Celery with a poller at its side. What `sfsync worker` runs."""

import gc
import os
import signal
import socket
import subprocess
import sys
import threading
from types import FrameType
from typing import Any

from celery import signals

from worker.app import leave_logging_alone, make_app
from worker.lanes import SERVICES
from worker.local_servers import SFSYNC, die_with_parent
from worker.log import get_logger, setup_logging
from worker.poller import Poller
from worker.pulse import PULSE, beat
from worker.runtime import Runtime, runtime
from worker.settings import Settings
from worker.tokens.replay import replay_spool

log = get_logger(__name__)

PREFORK = "backfill"  # the service whose steps run in processes of their own, so that their memory is given back
PROCESSES = 2
# Where there are so many, one org never has all slots of a process (see pulse.py). The one that it leaves to others comes on top
# for actions, so that an org alone has as many calls under way as there are threads.
SHARED_FROM, SPARE_SLOTS = 3, 1
PAUSE_SECONDS = 1.0  # before a poller that died is started again
# How long a thread may hold Python's lock while others wait for it (5 ms unless set). A step waits for Postgres or the org
# dozens of times, and after each of them for the lock: beside batches that compute, that was most of a single action's time.
SWITCH_SECONDS = 0.0005
# How many new objects make Python's collector begin (700 unless set): a page of records is thousands, none of them garbage yet.
COLLECTED_AFTER = 20_000


def serve(settings: Settings, service: str, concurrency: int | None) -> int:
    """Be a worker until SIGTERM; steps in hand are finished. The exit code."""
    setup_logging(level=settings.log_level, as_json=settings.log_json)
    threads = concurrency or (PROCESSES if service == PREFORK else settings.worker_threads)
    app = make_app(settings, client_name=f"sfsync-{service}")
    poller = Sibling(service, threads) if service == PREFORK else _poller(settings, service, threads)
    leave_logging_alone()
    # worker_init comes before the first connection to the broker: without Redis a worker never gets past that.
    signals.worker_init.connect(lambda **_: _begin(poller), weak=False)
    signals.worker_shutting_down.connect(lambda **_: poller.stop(), weak=False)
    if service == PREFORK:
        signals.worker_process_init.connect(lambda **_: _begin_child(service), weak=False)
    worker = app.Worker(
        hostname=f"{service}.{os.getpid()}@{socket.gethostname()}",
        pool_cls="prefork" if service == PREFORK else "threads",
        concurrency=threads,
        queues=list(SERVICES[service]),
        without_gossip=True,
        without_mingle=True,  # it waits a second for neighbours' answers; nothing of ours depends on them
        quiet=True,
    )
    try:
        worker.start()
    except SystemExit:
        pass
    finally:
        poller.join()
    return int(worker.exitcode or 0)


def poll_only(settings: Settings, service: str, concurrency: int | None, beside: int | None) -> None:
    """Be a worker that takes its work from Postgres alone, until SIGTERM."""
    setup_logging(level=settings.log_level, as_json=settings.log_json)
    threads = concurrency or (PROCESSES if service == PREFORK else settings.worker_threads)
    poller = _poller(settings, service, threads, beside)

    def on_signal(_number: int, _frame: FrameType | None) -> None:
        poller.stop()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, on_signal)
    _begin(poller)
    poller.wait()
    poller.join()


def _begin(poller: "Poller | Sibling") -> None:
    """Start, all being imported: the collector need not go through that each time, all threads waiting (0.2 s beside a Bulk job)."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(COLLECTED_AFTER)
    poller.start()


def _poller(settings: Settings, service: str, threads: int, beside: int | None = None) -> Poller:
    sys.setswitchinterval(SWITCH_SECONDS)
    rt = Runtime(settings, application=f"sfsync-{service}")
    rt.database.check_server()
    restored = replay_spool(rt.database, rt.vault, settings)
    log.info("worker.starts", service=service, threads=threads, tokens_restored=restored)
    spare = SPARE_SLOTS if service == "actions" and threads >= SHARED_FROM else 0
    return Poller(rt, service, SERVICES[service], threads=threads + spare, beside=beside)


def _begin_child(service: str) -> None:
    """In a new child of the prefork pool: end with the parent, whatever it dies of; tell the parent's row of finished steps."""
    if prepare := die_with_parent(signal.SIGKILL):
        prepare()
    parent, lanes = os.getppid(), " ".join(SERVICES[service])

    def tell(**_: Any) -> None:
        finished, PULSE.finished = PULSE.finished, 0
        try:
            rt = runtime()
            with rt.database.transaction() as session:
                beat(session, service, "worker", lanes, pid=parent, steps=finished)
            rt.ledger.write()  # the pool ends its children without notice
        except Exception as error:
            log.info("process.not_told", error=type(error).__name__)

    signals.task_postrun.connect(tell, weak=False)


class Sibling:
    """The poller of a prefork worker: a process of its own, since a fork must copy neither its threads nor its connections."""

    def __init__(self, service: str, threads: int) -> None:
        self.command = [*SFSYNC, "worker", service, "--poll-only"]
        self.command += [f"--beside={os.getpid()}", f"--concurrency={threads}"]
        self._stop = threading.Event()
        self._process: subprocess.Popen[bytes] | None = None
        self._thread = threading.Thread(target=self._run, name="sibling", daemon=True)

    def start(self) -> None:
        """Start the process, and again whenever it ends."""
        self._thread.start()

    def stop(self) -> None:
        """Have it take no more work."""
        self._stop.set()
        if self._process is not None:
            self._process.terminate()

    def join(self) -> None:
        """Wait until its steps have ended."""
        self.stop()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        """The kernel ends a child with the *thread* that started it, so this one lives as long as we do."""
        while not self._stop.is_set():
            self._process = subprocess.Popen(self.command, preexec_fn=die_with_parent(signal.SIGTERM))
            if self._stop.is_set():
                self._process.terminate()
            code = self._process.wait()
            if not self._stop.wait(PAUSE_SECONDS):
                log.warning("sibling.restarted", code=code)
