"""Salesforce's own and others' clients, unchanged, against a local org.

Each lives in an environment of its own, in a folder outside the checkout (SFSYNC_CLIENTS_DIR, or the user's cache);
what cannot be installed is skipped with the reason. Not part of the ordinary tests: set SFSYNC_TEST_CLIENTS=1.
"""

import fcntl
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
INSTALL_SECONDS = 900

collect_ignore_glob = [] if os.environ.get("SFSYNC_TEST_CLIENTS") else ["test_*.py"]


@dataclass(frozen=True)
class LocalOrg:
    """A running org, from its ready file."""

    url: str
    ca_file: str | None
    client_id: str
    client_secret: str
    username: str
    password: str
    user_id: str


def _environments() -> Path:
    default = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "sfsync" / "clients"
    folder = Path(os.environ.get("SFSYNC_CLIENTS_DIR", default))
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """One installer at a time, also across the processes of a parallel run."""
    with (folder.parent / f"{folder.name}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _installed(name: str, wanted: list[str], install: Callable[[Path], list[list[str]]]) -> Path:
    """The environment `name`, made by these commands if it does not hold exactly `wanted` yet."""
    folder = _environments() / name
    stamp = folder / ".installed"
    with _locked(folder):
        if stamp.exists() and stamp.read_text() == json.dumps(wanted):
            return folder
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        for command in install(folder):
            _must(command, folder)
        stamp.write_text(json.dumps(wanted))
    return folder


def _must(command: list[str], folder: Path) -> None:
    if shutil.which(command[0]) is None:
        pytest.skip(f"{command[0]} is not installed")
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=INSTALL_SECONDS)
    if done.returncode:
        pytest.skip(f"cannot install: {' '.join(command)}: {done.stderr.strip()[-300:]}")


def npm(name: str, *packages: str) -> Path:
    """A folder with these npm packages and Node 22, which comes as a package, too."""
    command = ["npm", "install", "--no-audit", "--no-fund", "--prefix", "."]
    wanted = ["node@22", *packages]
    return _installed(name, wanted, lambda _: [["npm", "init", "-y"], [*command, *wanted]])


def pip(name: str, *packages: str) -> Path:
    """A virtual environment with these Python packages."""
    return _installed(
        name,
        list(packages),
        lambda folder: [
            [sys.executable, "-m", "venv", str(folder / "venv")],
            [str(folder / "venv/bin/pip"), "install", "--quiet", *packages],
        ],
    )


@pytest.fixture(scope="session")
def node() -> Callable[[Path], str]:
    def program(folder: Path) -> str:
        return str(folder / "node_modules/.bin/node")

    return program


@pytest.fixture(scope="session")
def jsforce_folder() -> Path:
    return npm("jsforce", "jsforce@3")


@pytest.fixture(scope="session")
def axios_folder() -> Path:
    return npm("axios", "axios@1")


@pytest.fixture(scope="session")
def cli_folder() -> Path:
    return npm("cli", "@salesforce/cli@2")


@pytest.fixture(scope="session")
def tap_folder() -> Path:
    return pip("tap", "tap-salesforce")


@contextmanager
def started(folder: Path, *options: str) -> Iterator[LocalOrg]:
    """A local org as its command line starts it."""
    ready = folder / "ready.json"
    command = [sys.executable, "-m", "local_org", "--port", "0", "--data", str(folder / "org")]
    with (folder / "org.log").open("w") as log:
        process = subprocess.Popen(
            [*command, "--ready-file", str(ready), *options], cwd=ROOT, stdout=log, stderr=subprocess.STDOUT
        )
        try:
            yield _when_ready(process, ready, folder / "org.log")
        finally:
            process.terminate()
            process.wait(timeout=30)


def _when_ready(process: "subprocess.Popen[bytes]", ready: Path, log: Path) -> LocalOrg:
    while not ready.exists():
        with pytest.raises(subprocess.TimeoutExpired):  # it should not end
            process.wait(timeout=0.05)
    data: dict[str, Any] = json.loads(ready.read_text())
    return LocalOrg(**{name: data[name] for name in LocalOrg.__dataclass_fields__})


@pytest.fixture(scope="session")
def start_org() -> Any:
    return started


@pytest.fixture(scope="module")
def plain_org(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalOrg]:
    """An org over plain HTTP."""
    with started(tmp_path_factory.mktemp("org"), "--http", "--seed", "Account=250,Contact=5000") as org:
        yield org


@pytest.fixture(scope="module")
def secure_org(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalOrg]:
    """An org over HTTPS with its own CA."""
    with started(tmp_path_factory.mktemp("org"), "--seed", "Account=250,Contact=5000") as org:
        yield org


def run(command: list[str], env: Mapping[str, str], *, timeout: float = 240, cwd: Path | None = None) -> str:
    """Standard output of a command that must succeed."""
    done = subprocess.run(command, env={**os.environ, **env}, capture_output=True, text=True, timeout=timeout, cwd=cwd)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="session")
def command() -> Callable[..., str]:
    return run
