"""Lanes and budget: `python -m bench.budget day|due|fair [--rows 10000000] [--flood 100000]`.

day   an org with 5,000 calls a day and five mirrors that want a minute: two simulated days, against the real ledger and planner
due   what a tick costs with 1,000 connections of three mirrors each, before and after `--rows` finished runs and actions are there
fair  a real worker: one org with `--flood` waiting actions beside one with an action each second; latencies of the latter
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from itertools import pairwise
from pathlib import Path
from statistics import mean, median
from typing import Any

import psycopg
from pydantic import SecretStr
from rich.console import Console
from rich.table import Table
from sqlalchemy import text
from sqlalchemy.orm import Session

from models.migrations import upgrade
from tests.day import START, Day, prepare
from tests.org import start_org
from worker import lanes, monitoring
from worker.actions.accept import accept
from worker.actions.intent import Intent
from worker.budget import plan as planning
from worker.db import Database
from worker.local_servers import EmbeddedPostgres, EmbeddedValkey
from worker.mirror.due import due_pages, due_runs, schedule_refreshes
from worker.runtime import Runtime
from worker.settings import Settings, load_settings
from worker.tokens.connect import Target, connect_with_client_credentials

KEY = "A" * 43
CONNECTIONS = 1_000
ROUNDS = 15


def main() -> None:
    """Run one of the three and print its table."""
    parser = argparse.ArgumentParser(prog="python -m bench.budget", description=__doc__)
    parser.add_argument("what", choices=("day", "due", "fair"))
    parser.add_argument(
        "--rows",
        type=int,
        nargs="+",
        default=[1_000_000, 10_000_000],
        help="due: finished runs, and as many actions; several, ascending",
    )
    parser.add_argument("--calls", type=int, default=5_000, help="day: what the org allows")
    parser.add_argument("--flood", type=int, default=100_000, help="fair: waiting actions of the busy org")
    parser.add_argument("--singles", type=int, default=30, help="fair: actions of the quiet org, one each second")
    options = parser.parse_args()
    with ExitStack() as cleanup:
        folder = Path(cleanup.enter_context(tempfile.TemporaryDirectory(prefix="sfsync-bench-")))
        folder.chmod(0o755)
        postgres = EmbeddedPostgres(folder / "postgres", {"checkpoint_timeout": "30min", "max_wal_size": "8GB"})
        url = cleanup.enter_context(postgres).url
        upgrade(url)
        if options.what == "day":
            day(url, options.calls)
        elif options.what == "due":
            due(url, options.rows)
        else:
            fair(cleanup, folder, url, options.flood, options.singles)


def settings_of(url: str, **given: Any) -> Settings:
    """Settings for a database."""
    return load_settings({"DATABASE_URL": url, "ENCRYPTION_KEY": KEY}, **given)


def day(url: str, calls: int) -> None:
    """Two days: the first begins with an unused window, the second with a full one. Refreshes share calls, as the product's do."""
    table = Table(title=f"{calls:,} calls a day, five mirrors that want 60 s", title_justify="left")
    for column in (
        "day",
        "calls",
        "limit passed",
        "fewest left to actions",
        "mean interval s",
        "longest s",
        "best possible s",
    ):
        table.add_column(column, justify="right")
    for figures in two_days(url, calls):
        table.add_row(*[f"{figure:,}" for figure in figures])
    Console(width=130).print(table)


def two_days(url: str, calls: int) -> Iterator[tuple[float, ...]]:
    """The figures of each day."""
    prepare(url)
    database = Database(url)
    one = Day(database, settings_of(url), calls, step=timedelta(minutes=1), shared=True)
    for number in (1, 2):
        one.fewest_left = one.allowed
        began = START + timedelta(days=number - 1)
        while one.now < began + timedelta(days=1):
            one.go_on()
        gaps = one.gaps(began + timedelta(hours=1))
        yield (
            number,
            one.used(),
            one.exceeded,
            one.fewest_left,
            round(mean(gaps), 1),
            round(max(gaps)),
            round(one.best(), 1),
        )
    database.close()


def due(url: str, sizes: list[int]) -> None:
    """Each query of a tick, median milliseconds, without and with so many finished rows."""
    rt = Runtime(settings_of(url))
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(CONNECTION_ROWS)
        connection.execute("VACUUM ANALYZE")
        found = [costs(rt)]
        for before, rows in pairwise([0, *sizes]):
            start = time.monotonic()
            fill(connection, before, rows)
            print(f"{rows:,} runs and {rows:,} actions in {time.monotonic() - start:.0f} s", file=sys.stderr)
            found.append(costs(rt))
    title = f"{CONNECTIONS:,} connections with three mirrors each, by finished runs and as many actions; median ms"
    table = Table(title=title, title_justify="left")
    for column in ("what", *(f"{size:,}" for size in [0, *sizes])):
        table.add_column(column, justify="left" if column == "what" else "right")
    for name in found[0]:
        table.add_row(name, *(f"{one[name]:.2f}" for one in found))
    Console(width=130).print(table)
    rt.close()


CONNECTION_ROWS = f"""
INSERT INTO salesforce_oauth_tokens (user_id, grant_type, login_url, schema_name, access_token, organization_id)
SELECT 'user' || n, 'refresh_token', 'https://login.salesforce.com', 's' || n, 'x', 'org' || n FROM generate_series(1, {CONNECTIONS}) n;
INSERT INTO sfsync.orgs (organization_id, api_used, api_max, reserve_left, limits_at)
SELECT 'org' || n, 100, 100000, 20000, clock_timestamp() FROM generate_series(1, {CONNECTIONS}) n;
INSERT INTO sfsync.mirrors (connection_id, object, table_name, state, fresh_cursor, refresh_seconds, next_refresh_at, next_audit_at)
SELECT id, o, lower(o), 'live', clock_timestamp(), 60, clock_timestamp() + interval '1 day', clock_timestamp() + interval '1 day'
  FROM salesforce_oauth_tokens, unnest(ARRAY['Account', 'Contact', 'Opportunity']) o;
INSERT INTO sfsync.action_queues (connection_id, object)
SELECT id, o FROM salesforce_oauth_tokens, unnest(ARRAY['Account', 'Contact', 'Opportunity']) o;
""".encode()

RUNS = """
INSERT INTO sfsync.runs (mirror_id, kind, lane, cause, state, finished_at, created_at, due_at)
SELECT m.id, 'refresh', 'refresh', 'timetable', 'done', clock_timestamp() - n * interval '1 min', clock_timestamp() - n * interval '1 min',
       clock_timestamp() - n * interval '1 min' FROM generate_series(%s::int, %s::int) n, sfsync.mirrors m
"""
ACTIONS = """
INSERT INTO sfsync.actions (id, connection_id, object, operation, record_id, fields, content_hash, order_key, ticket, state, source,
                            outcome, created_at, finished_at, remembered_at)
SELECT gen_random_uuid(), q.connection_id, q.object, 'update', '003000000000001AAA', '{"LastName": "Lovelace"}',
       decode(repeat('00', 32), 'hex'), (q.id * 100000 + n)::text, 1, 'delivered', 'http', '{"id": "003000000000001AAA", "success": true}',
       t, t, t FROM generate_series(%s::int, %s::int) n, sfsync.action_queues q, LATERAL (SELECT clock_timestamp() - n * interval '1 min' AS t) t
"""


def fill(connection: psycopg.Connection[Any], before: int, rows: int) -> None:
    """Finished runs and actions up to so many, spread evenly over mirrors and minutes. The indexes are made afterwards at one go."""
    connection.execute("SET session_replication_role = replica")  # no triggers: nobody is to be told of these
    first, last = (number // (3 * CONNECTIONS) for number in (before, rows))
    for table, statement in (("runs", RUNS), ("actions", ACTIONS)):
        relation = f"'sfsync.{table}'::regclass"
        with connection.transaction():
            connection.execute(f"UPDATE pg_index SET indisready = false WHERE indrelid = {relation}".encode())
            connection.execute(statement.encode(), (first + 1, last))
            connection.execute(f"UPDATE pg_index SET indisready = true WHERE indrelid = {relation}".encode())
        connection.execute(f"REINDEX TABLE sfsync.{table}".encode())
    connection.execute("VACUUM ANALYZE")


def costs(rt: Runtime) -> dict[str, float]:
    """Median milliseconds of what a tick and its housework do when nothing is due, and of what people ask."""

    def asked(query: Callable[..., Any], *values: Any) -> Callable[[], Any]:
        def run() -> None:
            with rt.database.transaction() as session:
                query(session, *values)

        return run

    work: dict[str, Callable[[], Any]] = {
        "tick: refreshes to schedule": asked(schedule_refreshes, rt.settings.settle_seconds),
        "tick: due runs": asked(due_runs, "refresh", 16),
        "tick: due pages": asked(due_pages, "backfill", 16),
        "tick: due queues": asked(lanes.due, "actions", 16),
        "tick: firings due": asked(lanes.due, "upkeep", 16),
        "tick: upkeep": lambda: lanes.upkeep(rt),
        "tick: triggers": lambda: lanes.fire_due(rt),
        "every 15 s: plan intervals": lambda: planning.plan(rt.database, rt.settings),
        "every 30 s: mend": lambda: lanes.mend(rt),
        "sfsync status": lambda: monitoring.status(rt.database, rt.settings),
        "status of one user": lambda: monitoring.status(rt.database, rt.settings, "user500"),
    }
    return {name: _median_ms(one) for name, one in work.items()} | _costs_of_finding(rt)


SOME_DUE = """
UPDATE sfsync.mirrors SET next_refresh_at = clock_timestamp() WHERE connection_id % 100 = 7;
UPDATE sfsync.action_queues SET next_due_at = clock_timestamp() WHERE connection_id % 100 = 7
"""


def _costs_of_finding(rt: Runtime) -> dict[str, float]:
    """The same of a look that finds 30 refreshes, the 10 runs that take the others along, and 30 queues; what it did is rolled back."""
    found: dict[str, list[float]] = {}
    for _ in range(ROUNDS + 1):
        with rt.database.engine.connect() as connection, Session(connection) as session:
            for statement in SOME_DUE.split(";"):
                session.execute(text(statement))
            for name, number, look in (
                ("finds 30: refreshes to schedule", 30, lambda s: schedule_refreshes(s, rt.settings.settle_seconds)),
                ("finds 30: due runs", 10, lambda s: due_runs(s, "refresh", 100)),
                ("finds 30: due queues", 30, lambda s: lanes.due(s, "actions", 100)),
            ):
                start = time.perf_counter()
                many = len(look(session))
                found.setdefault(name, []).append((time.perf_counter() - start) * 1000)
                assert many == number, f"{name}: {many}"
            session.rollback()
    return {name: median(times[1:]) for name, times in found.items()}


def _median_ms(work: Callable[[], Any]) -> float:
    def once() -> float:
        start = time.perf_counter()
        work()
        return (time.perf_counter() - start) * 1000

    once()
    return median(once() for _ in range(ROUNDS))


# As accepting leaves them, without the minute that it takes: the flood is there at once, and lasts. Like the first of them.
FLOOD = b"""
INSERT INTO sfsync.actions (id, connection_id, object, operation, external_id_field, external_id, fields, content_hash,
                            order_key, ticket, state, source)
SELECT i.id, f.connection_id, f.object, f.operation, f.external_id_field, CASE WHEN f.external_id IS NOT NULL THEN replace(i.id::text, '-', '') END,
       jsonb_build_object('Name', 'flood ' || n), f.content_hash, i.id::text, f.ticket, 'ready', f.source
  FROM sfsync.actions f, generate_series(1, %(count)s) n, LATERAL (SELECT gen_random_uuid() AS id WHERE n > 0) i
 WHERE f.connection_id = %(connection)s;
UPDATE sfsync.action_queues SET next_due_at = clock_timestamp() WHERE connection_id = %(connection)s
"""


def fair(cleanup: ExitStack, folder: Path, url: str, flood: int, singles: int) -> None:
    """The quiet org's latency, alone and beside the flood."""
    valkey = cleanup.enter_context(EmbeddedValkey(folder / "valkey"))
    rts: list[Runtime] = []
    hosts = []
    for name in ("busy", "quiet"):
        org = cleanup.enter_context(start_org(folder / name, seed="Account=10"))
        hosts.append(org.url)
        settings = Settings(
            database_url=SecretStr(url),
            redis_url=SecretStr(valkey.url),
            encryption_key=SecretStr(KEY),
            salesforce_client_id=org.client_id,
            salesforce_client_secret=SecretStr(org.client_secret),
            salesforce_login_url=org.url,
            salesforce_allowed_hosts=(org.url,),
            data_folder=folder / f"data-{name}",
        )
        rts.append(Runtime(settings, application="sfsync-cli"))
        connect_with_client_credentials(rts[-1].database, rts[-1].vault, settings, Target(name))
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("UPDATE salesforce_oauth_tokens SET organization_id = 'org-' || user_id")
        ids = dict(connection.execute("SELECT user_id, id FROM salesforce_oauth_tokens").fetchall())
    busy, quiet = rts
    with worker(busy.settings, hosts, folder / "worker.log"):
        send(quiet, ids["quiet"], 5, "warm")
        alone = latencies(url, ids["quiet"], lambda: send(quiet, ids["quiet"], singles, "alone"), "alone")
        accept(busy.actions, ids["busy"], [create("the first")], source="http")
        with psycopg.ClientCursor(psycopg.connect(url)) as cursor:
            cursor.execute(FLOOD, {"connection": ids["busy"], "count": flood})
            cursor.connection.commit()
        start, waiting = time.monotonic(), left(url, ids["busy"])
        beside = latencies(url, ids["quiet"], lambda: send(quiet, ids["quiet"], singles, "beside"), "beside")
        waiting_then = left(url, ids["busy"])
        rate = (waiting - waiting_then) / (time.monotonic() - start)
        if not waiting_then:
            print("the flood ended first: give more with --flood", file=sys.stderr)
    table = Table(title=f"accepted → outcome of one action a second ({singles} of them), ms", title_justify="left")
    for column in ("", "median", "90 %", "longest", "waiting of the busy org", "delivered of them a second"):
        table.add_column(column, justify="right")
    notes = (("0", "0"), (f"{waiting:,} … {waiting_then:,}", f"{rate:,.0f}"))
    for name, found, note in (("alone", alone, notes[0]), ("beside the flood", beside, notes[1])):
        figures = (median(found), sorted(found)[int(len(found) * 0.9)], max(found))
        table.add_row(name, *[f"{figure:,.0f}" for figure in figures], *note)
    Console(width=130).print(table)
    for rt in rts:
        rt.close()


@contextmanager
def worker(settings: Settings, hosts: list[str], log: Path) -> Iterator[None]:
    """A real `sfsync worker actions`."""
    environment = {
        **os.environ,
        "DATABASE_URL": settings.database_url.get_secret_value(),
        "REDIS_URL": settings.redis_url.get_secret_value(),
        "ENCRYPTION_KEY": KEY,
        "SALESFORCE_CLIENT_ID": settings.salesforce_client_id,
        "SALESFORCE_CLIENT_SECRET": settings.salesforce_client_secret.get_secret_value(),
        "SALESFORCE_LOGIN_URL": settings.salesforce_login_url,
        "SALESFORCE_ALLOWED_HOSTS": ",".join(hosts),
        "SFSYNC_DATA_FOLDER": str(settings.data_folder),
    }
    with log.open("wb") as output:
        command = [sys.executable, "-m", "worker.cli", "worker", "actions"]
        process = subprocess.Popen(command, env=environment, stdout=output, stderr=output)
    try:
        yield
    finally:
        process.terminate()
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()


def create(name: str) -> Intent:
    """One account to be created."""
    return Intent(object="Account", operation="create", fields={"Name": name})


def send(rt: Runtime, connection_id: int, count: int, mark: str) -> None:
    """One action each second; returns when all have their outcome."""
    for number in range(count):
        accept(rt.actions, connection_id, [create(f"{mark} {number}")], source="http")
        time.sleep(1)
    with rt.database.transaction() as session:
        query = "SELECT count(*) FROM sfsync.actions WHERE connection_id = :id AND finished_at IS NULL"
        ends = time.monotonic() + 300
        while session.scalar(text(query), {"id": connection_id}) and time.monotonic() < ends:
            time.sleep(0.5)


def latencies(url: str, connection_id: int, work: Callable[[], None], mark: str) -> list[float]:
    """Milliseconds from accepted to outcome of the actions that `work` sends."""
    work()
    with psycopg.connect(url) as connection:
        rows = connection.execute(
            "SELECT extract(epoch FROM coalesce(finished_at, clock_timestamp()) - created_at) * 1000 FROM sfsync.actions"
            " WHERE connection_id = %s AND fields ->> 'Name' LIKE %s",
            (connection_id, f"{mark} %"),
        ).fetchall()
    return [float(row[0]) for row in rows]


def left(url: str, connection_id: int) -> int:
    """Actions of a connection that are not finished."""
    with psycopg.connect(url) as connection:
        query = "SELECT count(*) FROM sfsync.actions WHERE connection_id = %s AND finished_at IS NULL"
        row = connection.execute(query, (connection_id,)).fetchone()
    return int(row[0]) if row else 0


if __name__ == "__main__":
    main()
