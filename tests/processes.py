"""Real processes for the tests, started cheaply: forked from one that has imported everything, once for each test process.

Importing Celery, SQLAlchemy and the rest costs a process a second or two, and the suite starts hundreds. What is forked
runs `python -m MODULE ARGS` in every other respect: a process of its own, its own environment, folder and streams.
"""

import atexit
import importlib
import json
import os
import random
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import IO, Any, NoReturn

from tests.waiting import LIMIT_SECONDS
from worker.local_servers import die_with_parent

ROOT = Path(__file__).parents[1]
PRELOADED = ("worker.runtime", "worker.service", "worker.shim.server", "worker.triggers.fire", "rich.progress", "typer")
MESSAGE_BYTES = 1 << 18


class Process:
    """As much of `subprocess.Popen` as the tests use; another process is its parent."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """The exit code; None while it runs."""
        if self.returncode is None:
            self.returncode = _ask({"poll": self.pid})["code"]
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end; `subprocess.TimeoutExpired` after `timeout` seconds."""
        limit = time.monotonic() + (timeout if timeout is not None else float("inf"))
        while (code := self.poll()) is None:
            if time.monotonic() > limit:
                raise subprocess.TimeoutExpired(f"process {self.pid}", timeout or 0)
            time.sleep(0.01)
        return code

    def send_signal(self, number: int) -> None:
        """Send a signal, if it still runs."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        """SIGTERM."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL."""
        self.send_signal(signal.SIGKILL)


def start(
    module: str,
    arguments: Sequence[str],
    *,
    output: IO[bytes] | None = None,
    error: IO[bytes] | None = None,
    source: IO[bytes] | None = None,
    env: Mapping[str, str] | None = None,
    group: bool = False,
    dies_with_us: bool = False,
) -> Process:
    """Start `python -m MODULE ARGUMENTS` in the project's folder; `error` goes where `output` does unless given.

    `group`: in a process group of its own. `dies_with_us`: killed when the test process ends.
    """
    with open(os.devnull, "r+b", buffering=0) as nothing:
        output = output or nothing
        files = [file.fileno() for file in (source or nothing, output, error or output)]
        asked = {"module": module, "arguments": list(arguments), "env": dict(os.environ if env is None else env)}
        return Process(_ask({**asked, "group": group, "dies": dies_with_us}, files)["pid"])


def run(
    module: str,
    arguments: Sequence[str],
    *,
    env: Mapping[str, str],
    text: str | None = None,
    limit: float = LIMIT_SECONDS,
) -> "subprocess.CompletedProcess[str]":
    """Run `python -m MODULE ARGUMENTS` to its end, `text` on its standard input; killed after `limit` seconds."""
    with tempfile.TemporaryFile() as source, tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as error:
        source.write((text or "").encode())
        source.seek(0)
        process = start(module, arguments, source=source, output=output, error=error, env=env)
        try:
            code = process.wait(limit)
        finally:
            process.kill()
        output.seek(0)
        error.seek(0)
        return subprocess.CompletedProcess(list(arguments), code, output.read().decode(), error.read().decode())


_socket: socket.socket | None = None


def _ask(request: dict[str, Any], files: Sequence[int] = ()) -> dict[str, Any]:
    global _socket
    if _socket is None:
        _socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            command = [sys.executable, "-m", "tests.processes", str(theirs.fileno())]
            nursery = subprocess.Popen(
                command, cwd=ROOT, pass_fds=[theirs.fileno()], preexec_fn=die_with_parent(signal.SIGKILL)
            )
        atexit.register(_end, _socket, nursery)
    socket.send_fds(_socket, [json.dumps(request).encode()], list(files))
    answer: dict[str, Any] = json.loads(_socket.recv(MESSAGE_BYTES))
    return answer


def _end(ours: socket.socket, nursery: "subprocess.Popen[bytes]") -> None:
    ours.close()
    nursery.wait()


class _Born(Exception):
    """In the new process: what it is to run."""


class _Nursery:
    """The parent of what is started: waits for requests, forks, keeps exit codes."""

    def __init__(self, requests: socket.socket) -> None:
        self._requests = requests
        self._codes: dict[int, int] = {}

    def serve(self) -> NoReturn:
        """Answer until the test process is gone. In a process that is started, raises _Born."""
        for module in PRELOADED:
            importlib.import_module(module)
        assert "worker.cli.output" not in sys.modules, (
            "its console is as wide as the environment of its first import says"
        )
        signal.signal(signal.SIGCHLD, self._reap)
        for number in (signal.SIGINT, signal.SIGTERM):  # for the tests, which end us
            signal.signal(number, signal.SIG_IGN)
        while True:
            data, files, _, _ = socket.recv_fds(self._requests, MESSAGE_BYTES, 3)
            if not data:
                sys.exit()
            request = json.loads(data)
            answer = {"code": self._codes.get(request["poll"])} if "poll" in request else self._start(request, files)
            self._requests.send(json.dumps(answer).encode())

    def _start(self, request: dict[str, Any], files: list[int]) -> dict[str, Any]:
        pid = os.fork()
        if pid == 0:
            self._requests.close()
            _settle(request, files)
            raise _Born
        for file in files:
            os.close(file)
        return {"pid": pid}

    def _reap(self, _number: int, _frame: FrameType | None) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            self._codes[pid] = os.waitstatus_to_exitcode(status)


def _settle(request: dict[str, Any], files: list[int]) -> None:
    """Become what a fresh interpreter with this environment, these streams and arguments is."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if request["group"]:
        os.setsid()
    if request["dies"] and (ask := die_with_parent(signal.SIGKILL)):
        ask()
    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    os.environ.clear()
    os.environ.update(request["env"])
    if request["env"].get("PYTHONUNBUFFERED"):
        sys.stdout.reconfigure(write_through=True)  # type: ignore[union-attr]
    random.seed()
    sys.argv = [request["module"], *request["arguments"]]


if __name__ == "__main__":
    try:
        _Nursery(socket.socket(fileno=int(sys.argv[1]))).serve()
    except _Born:
        pass
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
