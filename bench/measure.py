"""Running one measured thing in a process of its own, and telling what it cost."""

import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Cost:
    """Seconds of the measured part (`seconds`), CPU seconds and peak memory of the whole process (MiB)."""

    seconds: float
    cpu_seconds: float
    peak_mib: float


def in_own_process(module: str, argument: Mapping[str, Any], env: Mapping[str, str]) -> Cost:
    """Run `python -m module JSON` and read the cost that it prints as its last line."""
    done = subprocess.run(
        [sys.executable, "-m", module, json.dumps(argument)],
        env={**os.environ, **env},
        stdout=subprocess.PIPE,
        check=True,
        text=True,
    )
    return Cost(**json.loads(done.stdout.splitlines()[-1]))


def report(work: Callable[[], float]) -> None:
    """Do `work`, which answers the seconds of its measured part; print the cost of this process as JSON."""
    seconds = work()
    usage = resource.getrusage(resource.RUSAGE_SELF)
    peak = usage.ru_maxrss / (1024 * 1024 if sys.platform == "darwin" else 1024)
    print(json.dumps(asdict(Cost(seconds, usage.ru_utime + usage.ru_stime, peak))))


def timed(work: Callable[[], object]) -> float:
    """Wall seconds of one call."""
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def end_in_order() -> None:
    """Let SIGTERM end this process as Ctrl-C does: what it started is stopped on the way out."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
