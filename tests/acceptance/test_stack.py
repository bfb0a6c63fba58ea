"""The stack as a whole: it comes up, it looks after its services, and it leaves nothing behind, whatever ends it."""

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import psycopg
import pytest
import requests

from tests.acceptance.stack import ROOT, start_stack
from tests.waiting import until
from worker.local_servers import SFSYNC, EmbeddedValkey, die_with_parent, free_port

pytestmark = pytest.mark.acceptance

SERVICES = {"actions", "refresh", "backfill"}


APPLICATION = ("tasks", "models", "worker", "local_org", "secrets", "celeryconfig", "flowerconfig")


class Up:
    """A running `sfsync up` and what it said. It was started in an application's folder, whose modules are named like ours."""

    def __init__(self, folder: Path) -> None:
        env = {"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/"), "PYTHONPATH": str(ROOT)}
        self.log = folder / "up.log"
        application = folder / "application"
        application.mkdir()
        for name in APPLICATION:
            (application / f"{name}.py").write_text("raise RuntimeError('a module of the application was imported')")
        with self.log.open("wb") as output:
            self.process = subprocess.Popen(
                [*SFSYNC, "up", "--json", "--folder", str(folder / "data"), "--seed", "Account=5,Contact=10"],
                env=env,
                cwd=application,
                stdout=subprocess.PIPE,
                stderr=output,
                start_new_session=True,
                preexec_fn=die_with_parent(signal.SIGTERM),
            )

    def wait(self) -> dict[str, Any]:
        """What `up` prints once everything is started."""
        assert self.process.stdout is not None
        text = ""
        for line in self.process.stdout:
            text += line.decode()
            if line.rstrip() == b"}":
                said: dict[str, Any] = json.loads(text)
                return said
        raise AssertionError(f"up ended: {self.log.read_text()[-3000:]}")

    def family(self) -> list[psutil.Process]:
        """Every process below `up`."""
        return psutil.Process(self.process.pid).children(recursive=True)

    def close(self) -> None:
        """End it, if a test did not."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()


@pytest.fixture
def up(tmp_path: Path) -> Iterator[Up]:
    running = Up(tmp_path)
    yield running
    running.close()


def alive_lanes(database_url: str) -> set[str]:
    """Services whose process was seen in the last seconds."""
    with psycopg.connect(database_url) as connection:
        seen = "SELECT name FROM sfsync.processes WHERE seen_at > clock_timestamp() - interval '10 seconds'"
        return {row[0].partition("@")[0] for row in connection.execute(seen)}


def answers(url: str) -> bool:
    with suppress(requests.ConnectionError):
        return requests.get(url, timeout=30).ok
    return False


def gone(processes: list[psutil.Process]) -> bool:
    return not any(process.is_running() and process.status() != psutil.STATUS_ZOMBIE for process in processes)


def test_up_brings_everything_and_ctrl_c_leaves_no_process_behind(up: Up) -> None:
    said = up.wait()
    assert {"postgres", "valkey", "org", "beat", "shim", "flower"} <= set(said["parts"])
    database_url = said["environment"]["DATABASE_URL"]
    until(lambda: {*SERVICES, "beat"} <= alive_lanes(database_url))
    until(lambda: answers(said["parts"]["flower"]))
    assert "child.restarted" not in up.log.read_text()
    family = up.family()
    up.process.send_signal(signal.SIGINT)
    assert up.process.wait(60) == 0
    assert gone(family)


def test_a_supervisor_killed_outright_leaves_no_process_behind(up: Up) -> None:
    database_url = up.wait()["environment"]["DATABASE_URL"]
    until(lambda: alive_lanes(database_url) >= SERVICES)
    family = up.family()
    up.process.kill()
    until(lambda: gone(family))


def test_a_worker_that_dies_is_started_again(up: Up) -> None:
    database_url = up.wait()["environment"]["DATABASE_URL"]
    until(lambda: alive_lanes(database_url) >= SERVICES)
    with psycopg.connect(database_url, autocommit=True) as connection:
        dead = connection.execute("DELETE FROM sfsync.processes WHERE lanes = 'actions' RETURNING pid").fetchone()
    assert dead is not None
    os.kill(dead[0], signal.SIGKILL)
    until(lambda: "actions" in alive_lanes(database_url))


def test_a_worker_ends_cleanly_with_redis_absent(tmp_path: Path, database_url: str) -> None:
    with start_stack(tmp_path, database_url, f"redis://127.0.0.1:{free_port()}/0", seed="Contact=10") as stack:
        workers = [stack.start("worker", service) for service in sorted(SERVICES)]
        until(lambda: alive_lanes(database_url) >= SERVICES)
        families = [psutil.Process(worker.pid).children(recursive=True) for worker in workers]
        for worker in workers:
            worker.terminate()
        assert [worker.wait(60) for worker in workers] == [0, 0, 0]
        assert all(gone(family) for family in families)
        assert alive_lanes(database_url) == set()


def test_the_poller_beside_a_prefork_worker_is_started_again_when_it_dies(
    tmp_path: Path, database_url: str, valkey: EmbeddedValkey
) -> None:
    with start_stack(tmp_path, database_url, valkey.url, seed="Contact=10") as stack:
        worker = stack.start("worker", "backfill")

        def poller() -> psutil.Process | None:
            for child in psutil.Process(worker.pid).children():
                with suppress(psutil.NoSuchProcess):  # a zombie has no command line either
                    if "--poll-only" in child.cmdline():
                        return child
            return None

        until(lambda: alive_lanes(database_url) == {"backfill"})
        first = poller()
        assert first is not None
        first.kill()
        until(lambda: (now := poller()) is not None and now.pid != first.pid)
        stack.rows("DELETE FROM sfsync.processes")
        until(lambda: alive_lanes(database_url) == {"backfill"})
