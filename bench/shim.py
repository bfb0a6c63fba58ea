"""How fast the shim takes writes, next to the bare cost of inserting the row: `python -m bench.shim [--count 400] [--rounds 5]`.

A shim process on an embedded PostgreSQL with its usual durability; no org, no worker: an action is accepted when its row is there. In each
round the shim and the bare inserts take their turns. Bare: the same row by one INSERT and commit each, or by one COPY for a batch.
"""

import argparse
import base64
import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import psycopg
import requests
from psycopg.types.json import Jsonb
from rich.console import Console
from rich.table import Table

from models.migrations import upgrade
from worker.local_servers import EmbeddedPostgres

USER = "bench"
FIELDS = {"LastName": "Ito", "FirstName": "Aiko", "Email": "aiko@ito.example", "Phone": "555-0100", "Title": "Buyer"}
DESCRIBE = {
    "name": "Contact",
    "keyPrefix": "003",
    "createable": True,
    "updateable": True,
    "queryable": True,
    "fields": [
        {"name": name, "type": "string", "length": 80, "createable": True, "updateable": True} for name in FIELDS
    ],
}
COLUMNS = "id, connection_id, object, operation, fields, content_hash, order_key, ticket, state, source"
Timings = list[float]  # seconds of each request


def main() -> None:
    """Start everything, run the rounds, print the table."""
    parser = argparse.ArgumentParser(prog="python -m bench.shim", description=__doc__)
    parser.add_argument("--count", type=int, default=400, help="single requests of a round")
    parser.add_argument("--batch", type=int, default=1000, help="actions of one batch request")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--callers", type=int, default=8)
    options = parser.parse_args()
    with ExitStack() as cleanup:
        bench = Bench(cleanup)
        kinds: dict[str, tuple[Callable[[], Timings], int, int]] = {
            "single, 1 caller: shim": (lambda: bench.single(options.count, 1), options.count, 1),
            "single, 1 caller: bare INSERT": (lambda: bench.inserts(options.count, 1), options.count, 1),
            f"single, {options.callers} callers: shim": (
                lambda: bench.single(options.count, options.callers),
                options.count,
                options.callers,
            ),
            f"single, {options.callers} callers: bare INSERT": (
                lambda: bench.inserts(options.count, options.callers),
                options.count,
                options.callers,
            ),
            f"batch of {options.batch:,}: shim": (lambda: bench.batch(options.batch), options.batch, 1),
            f"batch of {options.batch:,}: bare COPY": (lambda: bench.copy(options.batch), options.batch, 1),
        }
        results: dict[str, list[tuple[float, Timings]]] = {name: [] for name in kinds}
        for number in range(options.rounds + 1):  # the first warms up
            for name, (work, _, _) in kinds.items():
                began = time.perf_counter()
                timings = work()
                if number:
                    results[name].append((time.perf_counter() - began, timings))
    show({name: (kinds[name][1], found) for name, found in results.items()}, options.rounds)


class Bench:
    """Postgres, a shim and a key."""

    def __init__(self, cleanup: ExitStack) -> None:
        folder = Path(cleanup.enter_context(tempfile.TemporaryDirectory(prefix="sfsync-bench-")))
        folder.chmod(0o755)  # PostgreSQL may run as another user
        self.url = cleanup.enter_context(EmbeddedPostgres(folder / "postgres", {})).url
        upgrade(self.url)
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        self.shim = f"http://127.0.0.1:{port}"
        env = {
            **os.environ,
            "DATABASE_URL": self.url,
            "REDIS_URL": "redis://127.0.0.1:1/0",
            "ENCRYPTION_KEY": base64.urlsafe_b64encode(os.urandom(32)).decode(),
            "SFSYNC_SHIM_PORT": str(port),
            "SFSYNC_SHIM_REQUESTS_PER_MINUTE": "100000000",
            "SFSYNC_LOG_LEVEL": "ERROR",
        }
        command = [sys.executable, "-m", "worker.cli"]
        key = ["api-keys", "create", "--name", "bench", "--scope", "write", "--json"]
        made = subprocess.run([*command, *key], env=env, check=True, capture_output=True, text=True)
        self.headers = {"Authorization": f"Bearer {json.loads(made.stdout)['key']}", "Prefer": "respond-async"}
        self.connection_id = self._connect()
        cleanup.enter_context(running([*command, "shim"], env))
        while not self._is_up():
            time.sleep(0.1)

    def _connect(self) -> int:
        with psycopg.connect(self.url) as connection:
            row = connection.execute(
                "INSERT INTO salesforce_oauth_tokens (user_id, grant_type, login_url, schema_name, access_token)"
                " VALUES (%s, 'refresh_token', 'x', 'salesforce', 'x') RETURNING id",
                (USER,),
            ).fetchone()
            assert row
            connection.execute(
                "INSERT INTO sfsync.object_describes (connection_id, object, describe) VALUES (%s, 'contact', %s)",
                (row[0], Jsonb(DESCRIBE)),
            )
        return int(row[0])

    def _is_up(self) -> bool:
        try:
            return requests.get(f"{self.shim}/readyz", timeout=5).ok
        except requests.ConnectionError:
            return False

    def single(self, count: int, callers: int) -> Timings:
        """One create a request."""

        def call(session: requests.Session) -> None:
            answer = session.post(
                f"{self.shim}/api/salesforce/contacts",
                json={"user_id": USER, **FIELDS},
                headers=self.headers,
                timeout=60,
            )
            assert answer.status_code == 202, answer.text

        return spread(count, callers, requests.Session, call)

    def batch(self, size: int) -> Timings:
        """One request with `size` creates."""
        actions = [{"object": "Contact", "operation": "create", "fields": FIELDS}] * size
        began = time.perf_counter()
        body = {"user_id": USER, "actions": actions}
        answer = requests.post(f"{self.shim}/api/salesforce/actions", json=body, headers=self.headers, timeout=120)
        assert answer.status_code == 202, answer.text
        return [time.perf_counter() - began]

    def _row(self) -> tuple[Any, ...]:
        return (
            uuid.uuid4(),
            self.connection_id,
            "Contact",
            "create",
            Jsonb(FIELDS),
            bytes(32),
            uuid.uuid4().hex,
            0,
            "ready",
            "http",
        )

    def inserts(self, count: int, callers: int) -> Timings:
        """The row alone, by one INSERT and commit each."""
        statement = f"INSERT INTO sfsync.actions ({COLUMNS}) VALUES ({', '.join(['%s'] * 10)})".encode()
        return spread(
            count,
            callers,
            lambda: psycopg.connect(self.url, autocommit=True),
            lambda one: one.execute(statement, self._row()),
        )

    def copy(self, size: int) -> Timings:
        """The rows alone, by one COPY."""
        with psycopg.connect(self.url, autocommit=True) as connection:
            began = time.perf_counter()
            with (
                connection.cursor() as cursor,
                cursor.copy(f"COPY sfsync.actions ({COLUMNS}) FROM STDIN".encode()) as copy,
            ):
                for _ in range(size):
                    copy.write_row(self._row())
            return [time.perf_counter() - began]


@contextmanager
def running(command: list[str], env: dict[str, str]) -> Iterator[None]:
    """A process while the block lasts."""
    process = subprocess.Popen(command, env=env)
    try:
        yield
    finally:
        process.terminate()
        process.wait()


def spread(count: int, callers: int, open_: Callable[[], Any], call: Callable[[Any], Any]) -> Timings:
    """`count` calls by so many threads, each with a session of its own; the seconds of each."""
    timings: Timings = []

    def work() -> None:
        with open_() as session:
            for _ in range(count // callers):
                began = time.perf_counter()
                call(session)
                timings.append(time.perf_counter() - began)

    threads = [threading.Thread(target=work) for _ in range(callers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(timings) == count // callers * callers
    return timings


def show(results: dict[str, tuple[int, list[tuple[float, Timings]]]], rounds: int) -> None:
    """The table: medians over the rounds; latencies of all requests."""
    table = Table(title=f"medians of {rounds} rounds on {os.cpu_count()} cores", title_justify="left")
    for column in ("what", "actions/s", "median ms", "p95 ms"):
        table.add_column(column, justify="left" if column == "what" else "right")
    for name, (count, found) in results.items():
        latencies = [one * 1000 for _, timings in found for one in timings]
        p95 = quantiles(latencies, n=20)[-1] if len(latencies) > 1 else latencies[0]
        rate = median(count / seconds for seconds, _ in found)
        table.add_row(name, f"{rate:,.0f}", f"{median(latencies):.1f}", f"{p95:.1f}")
    Console(width=100).print(table)


if __name__ == "__main__":
    main()
