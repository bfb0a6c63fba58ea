"""First load and refresh against plain SQL: `python -m bench [--rows 100000] [--rounds 5] [--refresh-rows 0.1]`.

Each round runs our way and the plain way in turn, each in a process of its own, on the same embedded PostgreSQL and the
same bytes; the table shows medians and the median of the rounds' ratios (plain / ours: 1.0 is as fast as plain SQL).
"""

import argparse
import base64
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from statistics import median

import psycopg
import requests
from rich.console import Console
from rich.table import Table

from bench.measure import Cost, end_in_order, in_own_process
from bench.place import Place
from models.migrations import upgrade
from tests.org import start_org
from worker.local_servers import EmbeddedPostgres

PAGE_ROWS = 50_000
OVERLAP_SECONDS = 60  # more than a refresh reads again
USER = "bench"
VERSION = "62.0"


class Bench(Place):
    """The mirror's benchmark: our commands beside the plain way."""

    def sfsync(self, *arguments: str) -> None:
        """One command of ours."""
        subprocess.run(
            [sys.executable, "-m", "worker.cli", *arguments],
            env={**os.environ, **self.env},
            check=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def run_id(self, *arguments: str) -> int:
        """Ask for a run of Contact; its number."""
        self.sfsync("mirror", "--user-id", USER, "--object", "Contact", *arguments)
        return int(self.sql("SELECT max(id) FROM sfsync.runs"))

    def columns(self) -> list[str]:
        """Columns of the mirror that come from the org, in the order they are asked for."""
        listed = self.sql("SELECT array_to_string(columns, ',') FROM sfsync.runs ORDER BY id DESC LIMIT 1")
        return str(listed).lower().split(",")

    def download(self, name: str) -> list[str]:
        """The result pages of the newest run's job, as files: the bytes that our way loaded."""
        job = self.sql("SELECT job_id FROM sfsync.runs ORDER BY id DESC LIMIT 1")
        base = f"{self.org.url}/services/data/v{VERSION}/jobs/query/{job}/results"
        headers = {"Authorization": f"Bearer {self.org.token()}"}
        files, locator = [], ""
        while locator != "null":
            parameters = {"maxRecords": str(PAGE_ROWS)} | ({"locator": locator} if locator else {})
            page = requests.get(base, params=parameters, headers=headers, timeout=600)
            page.raise_for_status()
            file = self.folder / f"{name}-{len(files)}.csv"
            file.write_bytes(page.content)
            files.append(str(file))
            locator = page.headers["Sforce-Locator"]
        return files

    def plain(self, job: str, files: list[str]) -> Cost:
        """The plain way, on a table of its own that is like the mirror."""
        argument = {"url": self.url, "schema": "plain", "table": "contact", "columns": self.columns(), "files": files}
        return in_own_process("bench.plain", {**argument, "job": job}, self.env)

    def ours(self, run_id: int) -> Cost:
        """Our way."""
        return in_own_process("bench.ours", {"run_id": run_id}, self.env)

    def fresh_plain_table(self, *, filled: bool) -> None:
        """A table with the mirror's columns and key, empty or with the mirror's rows."""
        self.sql("DROP SCHEMA IF EXISTS plain CASCADE")
        self.sql("CREATE SCHEMA plain")
        self.sql("CREATE TABLE plain.contact (LIKE salesforce.contact INCLUDING DEFAULTS)")
        self.sql("ALTER TABLE plain.contact ALTER COLUMN _read SET DEFAULT 1")
        if filled:
            self.sql("INSERT INTO plain.contact SELECT * FROM salesforce.contact")
        self.sql("ALTER TABLE plain.contact ADD PRIMARY KEY (id)")
        if filled:
            for definition in self.secondary_indexes():
                self.sql(definition)
            self.sql("ANALYZE plain.contact")
        self.sql("CHECKPOINT")

    def secondary_indexes(self) -> list[str]:
        """The mirror's indexes beside its key, for the plain table."""
        with psycopg.connect(self.url) as connection:
            rows = connection.execute(
                "SELECT indexdef FROM pg_indexes WHERE schemaname = 'salesforce' AND tablename = 'contact'"
                " AND indexdef NOT LIKE '%UNIQUE%'"
            ).fetchall()
        return [str(row[0]).replace("salesforce.contact", "plain.contact") for row in rows]


def first_load(bench: Bench) -> tuple[Cost, Cost]:
    """One round: our first load into an empty mirror, then plain COPY of the same pages."""
    bench.sql("DELETE FROM sfsync.mirrors")
    bench.sql("DROP SCHEMA IF EXISTS salesforce CASCADE")
    run = bench.run_id()
    bench.sql("CHECKPOINT")
    ours = bench.ours(run)
    files = bench.download("load")
    bench.fresh_plain_table(filled=False)
    return ours, bench.plain("copy", files)


def refresh(bench: Bench, changed: int) -> tuple[Cost, Cost]:
    """One round: our refresh of `changed` rows by Bulk, then plain COPY and upsert of the same pages."""
    bench.fresh_plain_table(filled=True)
    bench.org.control.change_rows("Contact", count=changed, seed=int.from_bytes(os.urandom(3), "big"))
    bench.org.control.advance_clock(OVERLAP_SECONDS)  # so that the next round does not read these again
    bench.sql("CHECKPOINT")
    ours = bench.ours(bench.run_id())
    read = bench.sql("SELECT rows_read FROM sfsync.runs ORDER BY id DESC LIMIT 1")
    if read != changed:
        raise RuntimeError(f"{read} records were read where {changed} changed")
    files = bench.download("refresh")
    bench.sql("CHECKPOINT")
    return ours, bench.plain("upsert", files)


def main() -> None:
    """Start everything, run the rounds, print the table."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--refresh-rows", type=int, help="rows changed for a refresh (default: a tenth)")
    options = parser.parse_args()
    end_in_order()
    changed = options.refresh_rows or options.rows // 10
    with ExitStack() as cleanup:
        bench = start(cleanup, options.rows, changed)
        loads = rounds(options.rounds, f"first load of {options.rows:,} rows", lambda: first_load(bench))
        bench.sfsync("mirror", "--user-id", USER, "--wait")  # indexes, and live
        refreshes = rounds(options.rounds, f"refresh of {changed:,} rows", lambda: refresh(bench, changed))
    show(options.rows, changed, loads, refreshes)


def start(cleanup: ExitStack, rows: int, changed: int) -> Bench:
    """A PostgreSQL and a local org with `rows` contacts, connected."""
    folder = Path(cleanup.enter_context(tempfile.TemporaryDirectory(prefix="sfsync-bench-")))
    folder.chmod(0o755)  # PostgreSQL may run as another user
    postgres = cleanup.enter_context(EmbeddedPostgres(folder / "postgres", {"checkpoint_timeout": "30min"}))
    org = cleanup.enter_context(start_org(folder / "org", seed=f"Contact={rows}", patience_seconds=3600))
    env = {
        "DATABASE_URL": postgres.url,
        "REDIS_URL": "redis://127.0.0.1:1/0",  # not needed: the bench drives the steps itself
        "ENCRYPTION_KEY": base64.urlsafe_b64encode(os.urandom(32)).decode(),
        "SALESFORCE_LOGIN_URL": org.url,
        "SALESFORCE_ALLOWED_HOSTS": org.url,
        "SALESFORCE_CLIENT_ID": org.client_id,
        "SALESFORCE_CLIENT_SECRET": org.client_secret,
        "SALESFORCE_API_VERSION": VERSION,
        "SFSYNC_DATA_FOLDER": str(folder / "data"),
        "SFSYNC_BULK_PAGE_ROWS": str(PAGE_ROWS),
        "SFSYNC_BULK_THRESHOLD_ROWS": str(max(1, changed // 2)),
        "SFSYNC_LOG_LEVEL": "WARNING",
    }
    upgrade(postgres.url)
    bench = Bench(org, postgres.url, env, folder, rows)
    bench.sfsync("connect", "--user-id", USER, "--client-credentials")
    return bench


def rounds(count: int, title: str, one: Callable[[], tuple[Cost, Cost]]) -> list[tuple[Cost, Cost]]:
    """`count` rounds, with a word on each."""
    results = []
    for number in range(1, count + 1):
        ours, plain = one()
        results.append((ours, plain))
        print(f"{title}, round {number}: ours {ours.seconds:.2f} s, plain {plain.seconds:.2f} s", file=sys.stderr)
    return results


def show(rows: int, changed: int, loads: list[tuple[Cost, Cost]], refreshes: list[tuple[Cost, Cost]]) -> None:
    """The table: medians over the rounds."""
    table = Table(title=f"medians of {len(loads)} rounds on {os.cpu_count()} cores", title_justify="left")
    for column in ("what", "ours s", "plain s", "plain / ours", "rows/s", "ours CPU s", "plain CPU s", "peak MiB"):
        table.add_column(column, justify="left" if column == "what" else "right")
    for name, count, results in (
        (f"first load, {rows:,} rows", rows, loads),
        (f"refresh, {changed:,} rows", changed, refreshes),
    ):
        ours, plain = [one for one, _ in results], [other for _, other in results]
        seconds = median(cost.seconds for cost in ours)
        ratio = median(other.seconds / one.seconds for one, other in results)
        table.add_row(
            name,
            f"{seconds:.2f}",
            f"{median(cost.seconds for cost in plain):.2f}",
            f"{ratio:.2f}",
            f"{count / seconds:,.0f}",
            f"{median(cost.cpu_seconds for cost in ours):.2f}",
            f"{median(cost.cpu_seconds for cost in plain):.2f}",
            f"{median(cost.peak_mib for cost in ours):.0f}",
        )
    Console(width=130).print(table)


if __name__ == "__main__":
    main()
