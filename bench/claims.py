"""A claim among a million waiting actions, 300,000 of them on one record: `python -m bench.claims [--actions 1000000]`.

Prints the median milliseconds of a transaction of each kind, as a worker makes them: claiming the head of the long line alone,
writing its outcome (which makes the next of the line ready), claiming a batch of 200 heads, one visit of upkeep.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

from rich.console import Console
from rich.table import Table
from sqlalchemy import text

from models.migrations import upgrade
from worker.actions import claims, queues, record
from worker.actions.changes import Change
from worker.actions.claims import Batch
from worker.actions.deps import ActionDeps
from worker.actions.outcome import Delivered
from worker.actions.queues import Queue
from worker.actions.upkeep import upkeep
from worker.db import Database
from worker.local_servers import EmbeddedPostgres
from worker.settings import load_settings

LONG = "003000000000001AAA"
TTL = timedelta(hours=1)
CONNECTION = """
INSERT INTO public.salesforce_oauth_tokens (user_id, grant_type, login_url, schema_name, access_token)
VALUES ('bench', 'refresh_token', 'https://login.salesforce.com', 'salesforce', 'x') RETURNING id
"""
# Every other record has two actions: one is ready, one waits behind it. The long line comes first.
FILL = """
INSERT INTO sfsync.actions (id, connection_id, object, operation, record_id, fields, content_hash, order_key, ticket, priority,
                            state, source, created_at)
SELECT gen_random_uuid(), :connection, 'Contact', 'update', r.record_id, '{"Title": "x"}', sha256(CAST(n AS text)::bytea), r.record_id,
       r.ticket, CASE WHEN r.record_id = :long THEN 1 ELSE 0 END, CASE WHEN r.ticket = 1 THEN 'ready' ELSE 'waiting' END, 'sql',
       clock_timestamp() - interval '1 hour' + n * interval '1 microsecond'
  FROM generate_series(1, :actions) AS n
 CROSS JOIN LATERAL (
       SELECT CASE WHEN n <= :long_actions THEN :long ELSE '0035' || lpad(CAST((n - :long_actions + 1) / 2 AS text), 11, '0') || 'AAA' END,
              CASE WHEN n <= :long_actions THEN n ELSE 1 + (n - :long_actions + 1) % 2 END) AS r(record_id, ticket)
"""
LINES = """
INSERT INTO sfsync.action_lines (connection_id, object, order_key, next_ticket)
SELECT connection_id, object, order_key, max(ticket) + 1 FROM sfsync.actions GROUP BY 1, 2, 3
"""


class Crowd:
    """A database with so many actions."""

    def __init__(self, database: Database, actions: int) -> None:
        self.database = database
        with database.transaction() as session:
            connection = session.scalar(text(CONNECTION))
            values = {"connection": connection, "long": LONG, "long_actions": actions * 3 // 10, "actions": actions}
            session.execute(text(FILL), values)
            session.execute(text(LINES))
            queue = session.scalar(
                text(
                    "INSERT INTO sfsync.action_queues (connection_id, object, next_due_at)"
                    " VALUES (:connection, 'Contact', clock_timestamp()) RETURNING id"
                ),
                {"connection": connection},
            )
        with database.transaction() as session:
            found = queues.look(session, int(queue or 0))
        assert found
        self.queue: Queue = found[0]

    def claim(self, limit: int) -> Batch:
        with self.database.transaction() as session:
            now = datetime.now(UTC)
            batch = claims.claim_batch(session, self.queue, now=now, sent_at=now, ttl=TTL, limit=limit)
        assert batch
        return batch

    def deliver(self, batch: Batch) -> None:
        outcome = Delivered(LONG).as_json()
        changes = [Change(one.id, "delivered", outcome=outcome, record_id=one.record_id) for one in batch.actions]
        with self.database.transaction() as session:
            record.write(session, batch, changes)


def milliseconds(work: Callable[[], object]) -> float:
    begin = time.perf_counter()
    work()
    return 1000 * (time.perf_counter() - begin)


def main() -> None:
    """Fill, measure, print."""
    parser = argparse.ArgumentParser(prog="python -m bench.claims", description=__doc__)
    parser.add_argument("--actions", type=int, default=1_000_000)
    parser.add_argument("--times", type=int, default=200)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="sfsync-claims-") as name:
        Path(name).chmod(0o755)  # PostgreSQL may run as another user
        with EmbeddedPostgres(Path(name) / "postgres", {}) as server:
            upgrade(server.url)
            settings = load_settings({"DATABASE_URL": server.url, "ENCRYPTION_KEY": "A" * 43})
            database = Database(server.url)
            show(
                options.actions, measure(database, ActionDeps(database, settings, _no_org, _nothing, _nothing), options)
            )
            database.close()


def measure(database: Database, deps: ActionDeps, options: argparse.Namespace) -> dict[str, list[float]]:
    """Milliseconds of each kind of transaction."""
    crowd = Crowd(database, options.actions)
    with database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("VACUUM ANALYZE"))
    took: dict[str, list[float]] = {"claim of the long line's head": [], "its outcome": []}
    for _ in range(options.times):
        batch: list[Batch] = []
        took["claim of the long line's head"].append(milliseconds(lambda: batch.append(crowd.claim(1))))  # noqa: B023
        assert batch[0].actions[0].record_id == LONG
        took["its outcome"].append(milliseconds(lambda: crowd.deliver(batch[0])))  # noqa: B023
    took["claim of 200 heads"] = [milliseconds(lambda: crowd.claim(200)) for _ in range(options.times // 4)]
    took["a visit of upkeep"] = [milliseconds(lambda: upkeep(deps)) for _ in range(5)]
    return took


def show(actions: int, took: dict[str, list[float]]) -> None:
    table = Table(title=f"among {actions:,} actions, {actions * 3 // 10:,} on one record", title_justify="left")
    for column in ("transaction", "median ms", "95 of 100 within", "times"):
        table.add_column(column)
    for kind, values in took.items():
        worst = sorted(values)[int(len(values) * 0.95)]
        table.add_row(kind, f"{statistics.median(values):.1f}", f"{worst:.1f}", str(len(values)))
    Console(width=120).print(table)


def _no_org(_connection_id: int) -> object:
    raise AssertionError("no org is asked")


def _nothing(*_: object, **__: object) -> None:
    return None


if __name__ == "__main__":
    main()
