"""How fresh, how busy: the numbers behind status, doctor, health and metrics. Everything is read from Postgres.

Lags are in seconds. `fresh_lag`: since the org's time up to which changes were read. `settled_lag`: since the time up to
which the mirror is known complete (None until a settling read has run).
"""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, cast

from psycopg import sql
from sqlalchemy import text
from sqlalchemy.orm import Session

from models.action import UNFINISHED
from models.base import one_of
from worker.budget import report
from worker.db import Database, raw
from worker.settings import Settings

COUNTED_MIRRORS = 50  # up to so many, small mirrors are counted exactly
ALIVE_SECONDS = 10.0  # a process that was not seen for this long is taken for gone

CONNECTIONS = """
SELECT c.id, c.user_id, c.organization_id, c.username, c.environment, c.instance_url, c.grant_type, c.state, c.state_reason,
       c.schema_name, c.expires_at, o.api_used, o.api_max
  FROM salesforce_oauth_tokens c LEFT JOIN sfsync.orgs o USING (organization_id)
 WHERE CAST(:user_id AS text) IS NULL OR c.user_id = :user_id
 ORDER BY c.user_id
"""

MIRRORS = """
SELECT m.id, m.object, m.table_name, c.schema_name, c.user_id, m.state, m.state_reason, m.skipped_fields, m.verified_at,
       m.lost_fields, m.lost_since, m.unfilled_fields, m.fields AS chosen_fields, m.row_filter, m.refresh_seconds,
       m.refresh_seconds AS wanted_seconds, coalesce(m.effective_seconds, m.refresh_seconds) AS effective_seconds,
       m.effective_reason, m.change_rate, c.state AS connection_state,
       m.next_audit_at, v.finished_at AS verification_at, v.depth, v.cause AS verification_cause, v.calculated, v.missing,
       v.surplus, v.moved, v.rejected, v.repaired, v.nul_bytes, v.calls AS verification_calls,
       sfsync.lag(m.fresh_cursor, m.clock_skew_seconds) AS fresh_lag,
       sfsync.lag(m.settled_cursor, m.clock_skew_seconds) AS settled_lag,
       v.records AS verified_records, v.differences,
       r.id AS run_id, r.state AS run_state, r.kind AS run_kind, r.stage AS run_stage, r.rows_read, r.rows_expected, r.error AS run_error,
       CASE WHEN r.state = 'parked' THEN r.options ->> 'held' END AS run_held
  FROM sfsync.mirrors m
  JOIN salesforce_oauth_tokens c ON c.id = m.connection_id
  LEFT JOIN LATERAL (SELECT * FROM sfsync.verifications v
                      WHERE v.mirror_id = m.id ORDER BY id DESC LIMIT 1) v ON true
  LEFT JOIN LATERAL (SELECT * FROM sfsync.runs r
                      WHERE r.mirror_id = m.id AND r.state IN ('ready', 'parked') ORDER BY (r.state = 'ready') DESC, id DESC LIMIT 1) r ON true
 WHERE CAST(:user_id AS text) IS NULL OR c.user_id = :user_id
 ORDER BY c.user_id, m.object
"""

# What is unfinished is found by a partial index, however many have finished; of those, only the last hour's are counted.
ACTIONS = f"""
SELECT a.state, sum(a.count)::bigint AS count, extract(epoch FROM clock_timestamp() - min(a.oldest)) AS oldest_seconds
  FROM (SELECT connection_id, state, count(*) AS count, min(created_at) AS oldest FROM sfsync.actions
         WHERE {one_of("state", *UNFINISHED)} GROUP BY 1, 2
        UNION ALL
        SELECT connection_id, state, count(*), min(created_at) FROM sfsync.actions
         WHERE finished_at > statement_timestamp() - interval '1 hour' GROUP BY 1, 2) a
 WHERE CAST(:user_id AS text) IS NULL
    OR a.connection_id = (SELECT id FROM salesforce_oauth_tokens WHERE user_id = :user_id)
 GROUP BY a.state ORDER BY a.state
"""  # noqa: S608 - our own words

# A trigger of a connection that is not active rests: it is not overdue. `failed`: what fired last did not succeed.
TRIGGERS = """
SELECT t.id, t.name, c.user_id, t.enabled, t.next_due_at, f.state = 'failed' AS failed, f.reason,
       CASE WHEN c.state = 'active' THEN extract(epoch FROM clock_timestamp() - t.next_due_at) END AS overdue_seconds
  FROM sfsync.triggers t JOIN salesforce_oauth_tokens c ON c.id = t.connection_id
  LEFT JOIN LATERAL (SELECT state, reason FROM sfsync.firings f
                      WHERE f.trigger_id = t.id AND f.state IN ('done', 'failed') ORDER BY id DESC LIMIT 1) f ON true
 WHERE CAST(:user_id AS text) IS NULL OR c.user_id = :user_id
 ORDER BY c.user_id, t.name
"""

PROCESSES = """
SELECT name, role, lanes, pid, host, started_at, steps, extract(epoch FROM clock_timestamp() - seen_at) AS seen_seconds,
       extract(epoch FROM clock_timestamp() - last_step_at) AS step_seconds
  FROM sfsync.processes WHERE seen_at > statement_timestamp() - interval '1 hour' ORDER BY role, name
"""


@dataclass(frozen=True, slots=True)
class Status:
    """What `sfsync status` shows; each list holds plain dicts, ready for JSON.

    `actions`: by state, those that are not finished, and what finished within the last hour. `orgs`: see budget.report.
    `oldest_undelivered_seconds`: age of the oldest action that is not finished. `worst_lag_seconds`: of any live mirror.
    """

    at: datetime
    connections: list[dict[str, Any]]
    mirrors: list[dict[str, Any]]
    actions: list[dict[str, Any]]
    triggers: list[dict[str, Any]]
    oldest_undelivered_seconds: float | None
    worst_lag_seconds: float | None
    orgs: list[dict[str, Any]]
    processes: list[dict[str, Any]]


def now(session: Session) -> datetime:
    """Postgres's clock."""
    return cast(datetime, session.execute(text("SELECT clock_timestamp()")).scalar_one())


def status(database: Database, settings: Settings, user_id: str | None = None, *, counted: bool = True) -> Status:
    """Everything at one moment; of one user's connection, or of all. `counted`: with the mirrors' records."""
    with database.transaction() as session:
        at = now(session)
        actions = _rows(session, ACTIONS, user_id)
        ages = [float(row["oldest_seconds"]) for row in actions if row["state"] in UNFINISHED]
        mirrors = _rows(session, MIRRORS, user_id)
        lags = [mirror["fresh_lag"] for mirror in mirrors if mirror["state"] == "live"]
        if counted:
            _count(session, mirrors)
        processes = _rows(session, PROCESSES, user_id)
        for process in processes:
            process["alive"] = process["seen_seconds"] < ALIVE_SECONDS
        return Status(
            at=at,
            connections=_rows(session, CONNECTIONS, user_id),
            mirrors=mirrors,
            actions=actions,
            triggers=_rows(session, TRIGGERS, user_id),
            oldest_undelivered_seconds=max(ages, default=None),
            worst_lag_seconds=max(lags, default=None),
            orgs=report.orgs(session, settings, at, user_id=user_id),
            processes=processes,
        )


def _rows(session: Session, statement: str, user_id: str | None) -> list[dict[str, Any]]:
    values = {"user_id": user_id} if ":user_id" in statement else {}
    return [
        {
            key: float(value) if key.endswith(("_lag", "_seconds")) and value is not None else value
            for key, value in row.items()
        }
        for row in session.execute(text(statement), values).mappings()
    ]


def _count(session: Session, mirrors: list[dict[str, Any]]) -> None:
    """Add the mirrors' records: Postgres's own estimate, exact below 10,000 where mirrors are few; None where no table is."""
    connection = raw(session)
    schemas = sorted({mirror["schema_name"] for mirror in mirrors})
    found = connection.execute(
        "SELECT n.nspname, c.relname, c.reltuples::bigint FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
        " WHERE n.nspname = ANY(%s) AND c.relkind = 'r'",
        (schemas,),
    ).fetchall()
    estimates = {(schema, table): rows for schema, table, rows in found}
    for mirror in mirrors:
        name = mirror["schema_name"], mirror["table_name"]
        first = mirror["schema_name"], f"_{mirror['table_name']}_1"  # a wide table's rows are in its first part
        rows = estimates.get(name, estimates.get(first))
        if rows is not None and rows < 10_000 and len(mirrors) <= COUNTED_MIRRORS:
            count = connection.execute(sql.SQL("SELECT count(*) FROM {}").format(sql.Identifier(*name))).fetchone()
            assert count is not None
            rows = count[0]
        mirror["records"] = None if rows is None or rows < 0 else int(rows)


def timestamp() -> str:
    """This moment for people and health answers, ISO 8601 UTC."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
