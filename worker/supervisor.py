"""The whole stack as child processes of one: what `sfsync up` and `sfsync demo` run.

A child that dies is started again, with a growing pause. All children end with us: in order on Ctrl-C or SIGTERM, by the
kernel when we are killed (Linux). What `DATABASE_URL`, `REDIS_URL`, `ENCRYPTION_KEY` and `SALESFORCE_LOGIN_URL` already
give is used; the rest is brought along and kept in one folder.
"""

import base64
import json
import os
import secrets
import shlex
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from models.migrations import upgrade
from worker.errors import SettingsError
from worker.local_servers import PYTHON, SFSYNC, EmbeddedPostgres, EmbeddedValkey, die_with_parent, free_port
from worker.log import get_logger
from worker.settings import ENCRYPTION_KEY_BYTES, load_settings

log = get_logger(__name__)

STOP_SECONDS = 25.0
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 30.0  # seconds before a dead child is started again
START_SECONDS = 120.0
FLOWER_OPTIONS = ("--read_only=True", "--max_tasks=5000")  # its own default keeps 100,000 tasks in memory
ORG_NEEDS = ("lark", "python_multipart")  # of the extra `org`
WORKERS = ("actions", "refresh", "backfill")


@dataclass
class Child:
    """One service of the stack: its command, its log, its process."""

    name: str
    command: Sequence[str]
    env: Mapping[str, str]
    log_file: Path
    url: str = ""  # where a person can look at it
    restart: bool = True
    cwd: Path | None = None
    process: subprocess.Popen[bytes] | None = None
    pause: float = FIRST_PAUSE
    started: float = 0.0
    starts: int = 0

    def start(self) -> None:
        """Start the process, in a session of its own so that Ctrl-C reaches only us."""
        with self.log_file.open("ab") as output:
            self.process = subprocess.Popen(
                list(self.command),
                env=dict(self.env),
                cwd=self.cwd,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                preexec_fn=die_with_parent(signal.SIGTERM),
            )
        self.started, self.starts = time.monotonic(), self.starts + 1

    @property
    def running(self) -> bool:
        """Whether the process lives."""
        return self.process is not None and self.process.poll() is None


@dataclass
class Stack:
    """What runs: the environment that every part shares, and the children."""

    folder: Path
    env: dict[str, str]
    children: list[Child] = field(default_factory=list)
    brought: dict[str, str] = field(default_factory=dict)  # name → URL of the servers we brought along
    org: dict[str, Any] | None = None  # the local org's ready file, where it runs

    def add(
        self,
        name: str,
        command: Sequence[str],
        *,
        url: str = "",
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
    ) -> Child:
        """Start a service, here or in the folder `cwd`."""
        log_file = self.folder / "logs" / f"{name}.log"
        child = Child(name, command, {**self.env, **(env or {})}, log_file, url, cwd=cwd)
        child.log_file.parent.mkdir(parents=True, exist_ok=True)
        child.start()
        self.children.append(child)
        return child

    def env_of_stack(self) -> dict[str, str]:
        """The variables another shell needs to work with this stack: what we added to the environment or were given."""
        ours = ("DATABASE_", "REDIS_", "ENCRYPTION_", "SALESFORCE_", "SFSYNC_")
        return {name: value for name, value in sorted(self.env.items()) if name.startswith(ours)}

    def write_env(self) -> Path:
        """`env.sh` in the folder, readable by its owner alone: `. env.sh` and every `sfsync` command works on this stack."""
        file = self.folder / "env.sh"
        file.touch(mode=0o600)
        lines = [f"export {name}={shlex.quote(value)}" for name, value in self.env_of_stack().items()]
        file.write_text("\n".join([*lines, ""]))
        return file

    def revive(self) -> None:
        """Start dead children again, each after a pause that grows while it keeps dying."""
        now = time.monotonic()
        for child in self.children:
            if child.running or not child.restart:
                continue
            if now - child.started > 60:
                child.pause = FIRST_PAUSE
            if now - child.started >= child.pause:
                log.warning("child.restarted", name=child.name, log=str(child.log_file))
                child.pause = min(child.pause * 2, LONGEST_PAUSE)
                child.start()

    def watch(self, stop: Callable[[], bool]) -> None:
        """Keep the children running until `stop()`."""
        while not stop():
            self.revive()
            time.sleep(0.2)

    def close(self) -> None:
        """Ask all children to end, newest first; kill whoever does not."""
        for child in reversed(self.children):
            child.restart = False
            if child.running and child.process:
                child.process.terminate()
        limit = time.monotonic() + STOP_SECONDS
        for child in reversed(self.children):
            _await_end(child, limit)
        self.children.clear()


def _await_end(child: Child, limit: float) -> None:
    if child.process is None:
        return
    try:
        child.process.wait(max(0.1, limit - time.monotonic()))
    except subprocess.TimeoutExpired:
        os.killpg(child.process.pid, signal.SIGKILL)
        child.process.wait()


@contextmanager
def full_stack(
    folder: Path, environ: Mapping[str, str], *, org_options: Sequence[str] = (), shim_port: int | None = None
) -> Iterator[Stack]:
    """Everything: servers that are not given, tables, the local org where no org is given, workers, beat, shim, Flower.

    Yields once all are started and the shim answers; ends them when the block ends.
    """
    folder = folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as cleanup:
        stack = Stack(folder, {**environ, "SFSYNC_DATA_FOLDER": str(folder)})
        _bring_servers(stack, cleanup)
        cleanup.callback(stack.close)
        _bring_key(stack)
        if not environ.get("SALESFORCE_LOGIN_URL"):
            _bring_org(stack, org_options)
        port = shim_port or int(environ.get("SFSYNC_SHIM_PORT") or free_port())
        stack.env["SFSYNC_SHIM_PORT"] = str(port)
        settings = load_settings(stack.env)  # wrong settings stop us here, before anything of ours runs
        upgrade(settings.database_url.get_secret_value())
        flower_port = free_port()
        stack.env.setdefault("SFSYNC_FLOWER_URL", f"http://127.0.0.1:{flower_port}")  # the status page links to it
        for lane in WORKERS:
            stack.add(f"worker-{lane}", [*SFSYNC, "worker", lane])
        stack.add("beat", [*SFSYNC, "beat"])
        stack.add("shim", [*SFSYNC, "shim"], url=f"http://127.0.0.1:{port}")
        _bring_flower(stack, flower_port)
        yield stack


def _bring_servers(stack: Stack, cleanup: ExitStack) -> None:
    if not stack.env.get("DATABASE_URL"):
        postgres = EmbeddedPostgres(stack.folder / "postgres")
        cleanup.callback(postgres.stop)
        stack.env["DATABASE_URL"] = stack.brought["postgres"] = postgres.start()
    if not stack.env.get("REDIS_URL"):
        valkey = EmbeddedValkey(stack.folder / "valkey")
        cleanup.callback(valkey.stop)
        stack.env["REDIS_URL"] = stack.brought["valkey"] = valkey.start()


def _bring_key(stack: Stack) -> None:
    """The embedded stack keeps its key in its own folder: tokens of the last time can be read the next time."""
    if stack.env.get("ENCRYPTION_KEY") or stack.env.get("ENCRYPTION_KEY_FILE"):
        return
    file = stack.folder / "encryption.key"
    if not file.exists():
        file.touch(mode=0o600)
        file.write_text(base64.urlsafe_b64encode(secrets.token_bytes(ENCRYPTION_KEY_BYTES)).decode())
    stack.env["ENCRYPTION_KEY_FILE"] = str(file)


def org_command(*options: str) -> list[str]:
    """How the local org is started: it shares no code with us. SettingsError when what it needs is not installed."""
    if any(find_spec(name) is None for name in ORG_NEEDS):
        raise SettingsError("the local org is not installed: pip install 'sfsync[org]', or set SALESFORCE_LOGIN_URL")
    return [*PYTHON, "-m", "local_org", *options]


def _bring_org(stack: Stack, options: Sequence[str]) -> None:
    """The local org over HTTPS, as real clients insist on; its settings become those of every part."""
    ready = stack.folder / "org.json"
    ready.unlink(missing_ok=True)
    port = _kept_port(stack.folder / "org.port")
    data = stack.folder / "org"
    places = ("--port", str(port), "--data", str(data), "--ready-file", str(ready))
    child = stack.add("org", org_command(*places, *options))
    known = _wait_ready(child, ready)
    child.url = known["url"]
    stack.org = known
    stack.env |= {
        "SALESFORCE_LOGIN_URL": known["url"],
        "SALESFORCE_ALLOWED_HOSTS": known["url"],
        "SALESFORCE_CLIENT_ID": known["client_id"],
        "SALESFORCE_CLIENT_SECRET": known["client_secret"],
    }
    if known["ca_file"]:
        stack.env["SALESFORCE_CA_FILE"] = known["ca_file"]


def _kept_port(file: Path) -> int:
    """The same port as last time, since connections remember the org's address."""
    if not file.exists():
        file.write_text(str(free_port()))
    return int(file.read_text())


def _wait_ready(child: Child, ready: Path) -> dict[str, Any]:
    limit = time.monotonic() + START_SECONDS
    while time.monotonic() < limit and child.running:
        try:
            known: dict[str, Any] = json.loads(ready.read_text())
        except (FileNotFoundError, json.JSONDecodeError):
            time.sleep(0.05)
            continue
        return known
    tail = child.log_file.read_text(errors="replace")[-800:]
    raise SettingsError(f"the local org did not start. Its log ({child.log_file}) ends:\n{tail}")


def _bring_flower(stack: Stack, port: int) -> None:
    """Flower on loopback, read-only, behind a password of its own; broker and password are kept out of the command line.

    It runs in our folder: it would read a `celeryconfig.py` or `flowerconfig.py` that is in its own.
    """
    password = secrets.token_urlsafe(12)
    stack.add(
        "flower",
        [*PYTHON, "-m", "celery", "flower", "--address=127.0.0.1", f"--port={port}", *FLOWER_OPTIONS],
        url=f"http://sfsync:{password}@127.0.0.1:{port}",
        env={"FLOWER_BASIC_AUTH": f"sfsync:{password}", "CELERY_BROKER_URL": stack.env["REDIS_URL"]},
        cwd=stack.folder,
    )
