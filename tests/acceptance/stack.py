"""A small stack for the acceptance tests: a local org, a database, real worker processes, and `sfsync` as a user runs it."""

import base64
import json
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg

from tests import processes
from tests.org import Org, start_org
from tests.processes import Process
from tests.waiting import until

ROOT = Path(__file__).parents[2]


@dataclass
class Stack:
    """What a test needs: the org, the environment of every process, and the processes."""

    org: Org
    database_url: str
    folder: Path
    env: dict[str, str]
    processes: list[Process] = field(default_factory=list)

    def sfsync(self, *arguments: str, code: int = 0, stdin: str | None = None) -> str:
        """Run one command to its end; its standard output. Fails unless it exits with `code`."""
        done = processes.run("worker.cli", arguments, env=self.env, text=stdin)
        assert done.returncode == code, f"{arguments}: {done.returncode}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
        return done.stdout

    def sfsync_json(self, *arguments: str, code: int = 0) -> Any:
        """As `sfsync`, with --json, parsed."""
        return json.loads(self.sfsync(*arguments, "--json", code=code))

    def start(self, *arguments: str) -> Process:
        """Start a service (`worker refresh`, `shim`, ...) in a process group of its own."""
        log = (self.folder / f"{'-'.join(arguments)}-{len(self.processes)}.log").open("wb")
        process = processes.start("worker.cli", arguments, output=log, env=self.env, group=True)
        log.close()
        self.processes.append(process)
        return process

    def kill(self, process: Process) -> None:
        """kill -9 of a service with all its children."""
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    def close(self) -> None:
        """End every service."""
        for process in self.processes:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()

    def rows(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        """Run one statement in the database."""
        with psycopg.connect(self.database_url, autocommit=True) as connection:
            cursor = connection.execute(statement.encode(), values or None)
            return cursor.fetchall() if cursor.description else []

    def wait_for(self, statement: str, *values: object) -> None:
        """Wait until the statement's first column of its first row is true."""
        until(lambda: (rows := self.rows(statement, *values)) and rows[0][0])

    def connect(self, user_id: str = "tester") -> None:
        """Connect by client credentials."""
        self.sfsync("connect", "--user-id", user_id, "--client-credentials")


@contextmanager
def start_stack(folder: Path, database_url: str, redis_url: str, **org_options: Any) -> Iterator[Stack]:
    """A local org with `org_options` and an environment that points at it and at the two servers."""
    with start_org(folder / "org", **org_options) as org:
        env = {
            "PATH": os.environ["PATH"],
            "HOME": os.environ.get("HOME", "/"),
            "PYTHONPATH": str(ROOT),
            "DATABASE_URL": database_url,
            "REDIS_URL": redis_url,
            "ENCRYPTION_KEY": base64.urlsafe_b64encode(os.urandom(32)).decode(),
            "SALESFORCE_LOGIN_URL": org.url,
            "SALESFORCE_ALLOWED_HOSTS": org.url,
            "SALESFORCE_CLIENT_ID": org.client_id,
            "SALESFORCE_CLIENT_SECRET": org.client_secret,
            "SFSYNC_DATA_FOLDER": str(folder / "data"),
            "SFSYNC_POLL_SECONDS": "0.2",
            "SFSYNC_CLAIM_SECONDS": "3",
            "SFSYNC_BULK_PAGE_ROWS": "2000",
            "SFSYNC_REFRESH_SECONDS": "3600",
        }
        stack = Stack(org, database_url, folder, env)
        try:
            yield stack
        finally:
            stack.close()
