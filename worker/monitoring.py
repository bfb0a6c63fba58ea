"""How fresh, how busy, how healthy: the numbers behind status, doctor, health and metrics. Everything is read from Postgres.

Lags are in seconds. `fresh_lag`: since the org's time up to which changes were read. `settled_lag`: since the time up to
which the mirror is known complete (None until a settling read has run).
"""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, cast

import psycopg
import redis
from psycopg import sql
from sqlalchemy import text
from sqlalchemy.orm import Session

from models.action import UNFINISHED
from models.base import one_of
from worker.budget import report
from worker.db import Database, raw
from worker.settings import Settings

OVERDUE_SECONDS = 60.0  # a due time that nobody dealt with for this long
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
         WHERE finished_at > clock_timestamp() - interval '1 hour' GROUP BY 1, 2) a
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
  FROM sfsync.processes WHERE seen_at > clock_timestamp() - interval '1 hour' ORDER BY role, name
"""


@dataclass(frozen=True, slots=True)
class Check:
    """One part's health: "healthy", "degraded" or "unhealthy", why, and what to do about it (empty when healthy)."""

    name: str
    status: str
    message: str
    remedy: str = ""


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


def checks(database: Database, settings: Settings) -> list[Check]:
    """Database, broker, workers, beat, connections, allowances, mirrors and actions, each looked at for real."""
    try:
        seen = status(database, settings, counted=False)
    except psycopg.Error as error:
        return [_database_down(error)]
    except Exception as error:  # SQLAlchemy wraps what the driver says
        if isinstance(error.__cause__, psycopg.Error):
            return [_database_down(error.__cause__)]
        raise
    return checks_of(seen, settings)


def checks_of(seen: Status, settings: Settings) -> list[Check]:
    """The checks of what was seen; the broker is pinged now."""
    return [
        Check("database", "healthy", "PostgreSQL answers"),
        broker_check(settings.redis_url.get_secret_value()),
        *_worker_checks(seen),
        _beat_check(seen),
        *_connection_checks(seen),
        *_allowance_checks(seen, settings),
        *_mirror_checks(seen, settings),
        *_action_checks(seen, settings),
        *_trigger_checks(seen),
    ]


def _database_down(error: psycopg.Error) -> Check:
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return Check("database", "unhealthy", f"PostgreSQL does not answer: {reason}", "start it, or mend DATABASE_URL")


def broker_check(redis_url: str) -> Check:
    """Ping Redis with short time-outs. Without it work goes on, a little later."""
    client = redis.Redis.from_url(redis_url, socket_connect_timeout=1, socket_timeout=1)
    try:
        client.ping()
    except redis.RedisError as error:
        message = f"Redis does not answer ({type(error).__name__}): work goes on, up to a second later"
        return Check("broker", "degraded", message, "start it, or mend REDIS_URL")
    finally:
        client.close()
    return Check("broker", "healthy", "Redis answers")


def _worker_checks(seen: Status) -> list[Check]:
    found = []
    for lane in ("actions", "refresh", "backfill"):
        alive = [p for p in seen.processes if p["role"] == "worker" and p["alive"] and lane in p["lanes"].split()]
        if alive:
            steps = [p["step_seconds"] for p in alive if p["step_seconds"] is not None]
            last = f", last step {min(steps):,.0f} s ago" if steps else ", no step yet"
            found.append(Check(f"worker {lane}", "healthy", f"{len(alive)} at work{last}"))
        else:
            found.append(
                Check(f"worker {lane}", "degraded", "no such worker was seen", f"start one: sfsync worker {lane}")
            )
    return found


def _beat_check(seen: Status) -> Check:
    if any(process["role"] == "beat" and process["alive"] for process in seen.processes):
        return Check("beat", "healthy", "ticks")
    return Check("beat", "degraded", "no tick was seen lately", "start it: sfsync beat")


def _connection_checks(seen: Status) -> list[Check]:
    if not seen.connections:
        return [Check("connections", "degraded", "there is none yet", "sfsync connect --user-id YOU")]
    return [
        Check(f"connection {row['user_id']}", "healthy", f"{row['username'] or row['instance_url']}")
        if row["state"] == "active"
        else Check(
            f"connection {row['user_id']}",
            "unhealthy",
            f"{row['state']}: {row['state_reason'] or 'no reason given'}; its work waits",
            f"sfsync connect --user-id {row['user_id']}",
        )
        for row in seen.connections
    ]


def _allowance_checks(seen: Status, settings: Settings) -> list[Check]:
    return [_allowance_check(org, settings) for org in seen.orgs if org["max"]]


def _allowance_check(org: dict[str, Any], settings: Settings) -> Check:
    name = f"allowance {org['organization_id']}"
    used = f"{org['used']:,} of {org['max']:,} API calls of 24 hours are used"
    spent_on = "sfsync status --usage shows what for; fewer mirrors, longer intervals or more calls help"
    if org["blocked_until"]:
        return Check(name, "unhealthy", f"the org takes no calls now: {used}; all its work waits", spent_on)
    if org["mirrors_paused"]:
        return Check(
            name, "unhealthy", f"refreshes pause: {used}, {org['reserve_left']:,} are kept for actions", spent_on
        )
    if org["left"] < org["max"] * settings.alert_allowance_share:
        return Check(name, "degraded", f"{used}", spent_on)
    if org["runs_out_at"]:
        return Check(
            name, "degraded", f"{used}; at this rate the rest ends at {org['runs_out_at']:%H:%M} UTC", spent_on
        )
    if org["mirrors_stretched"]:
        text = f"{used}; {org['mirrors_stretched']} mirrors are refreshed less often than wanted"
        return Check(name, "degraded", text, spent_on)
    return Check(name, "healthy", used)


def _mirror_checks(seen: Status, settings: Settings) -> list[Check]:
    return [_mirror_check(row, settings) for row in seen.mirrors]


def _mirror_check(row: dict[str, Any], settings: Settings) -> Check:
    name = f"mirror {row['user_id']}/{row['object']}"
    again = f"sfsync mirror --user-id {row['user_id']} --object {row['object']}"
    behind = row["fresh_lag"]
    late = row["state"] == "live" and behind > max(settings.alert_lag_seconds, 2 * row["effective_seconds"])
    if row["state"] == "paused":
        return Check(name, "unhealthy", f"paused: {row['state_reason']}", again)
    if row["run_held"]:
        remedy = f"sfsync removals list, then confirm or refuse {row['run_id']}"
        return Check(name, "degraded", f"{row['run_error']}: a person must decide", remedy)
    if row["run_state"] == "parked":
        return Check(name, "unhealthy", f"its {row['run_kind']} was given up: {row['run_error']}", again)
    if row["lost_since"] is not None:
        text = f"the org no longer shows the object (since {row['lost_since']:%Y-%m-%d %H:%M}); its records stand still"
        remedy = f"see sfsync drift --user-id {row['user_id']}; it goes on by itself when the object is back"
        return Check(name, "degraded", text, remedy)
    if (row["differences"] or 0) > (row["repaired"] or 0):
        text = f"{row['differences']} records differed"
        return Check(name, "degraded", text, f"sfsync verify --user-id {row['user_id']} --repair")
    if late and row["connection_state"] == "active":
        why = row["state_reason"] or row["effective_reason"] or "no reason is known"
        remedy = f"see that `sfsync worker refresh` runs, then: {again}"
        return Check(name, "degraded", f"{behind:,.0f} s behind: {why}", remedy)
    if row["effective_reason"]:
        text = (
            f"{behind:,.0f} s behind; every {row['effective_seconds']:,.0f} s instead of {row['wanted_seconds']:,.0f}"
        )
        return Check(name, "healthy", text)
    return Check(name, "healthy", row["state"] + ("" if behind is None else f", {behind:.0f} s behind"))


def _action_checks(seen: Status, settings: Settings) -> list[Check]:
    found = [
        Check(
            "actions held", "degraded", f"{row['count']} held: a person must decide", "sfsync actions list --state held"
        )
        for row in seen.actions
        if row["state"] == "held"
    ]
    waiting = [row for row in seen.actions if row["state"] in UNFINISHED and row["state"] != "held"]
    oldest = max((row["oldest_seconds"] for row in waiting), default=0.0)
    if oldest > settings.alert_undelivered_seconds:
        text = f"the oldest of {sum(row['count'] for row in waiting):,} undelivered actions waits for {oldest:,.0f} s"
        remedy = "see that `sfsync worker actions` runs; sfsync actions list --state ready says why each waits"
        found.append(Check("actions", "degraded", text, remedy))
    else:
        found.append(Check("actions", "healthy", f"{sum(row['count'] for row in waiting):,} undelivered"))
    return found


def _trigger_checks(seen: Status) -> list[Check]:
    enabled = [row for row in seen.triggers if row["enabled"]]
    overdue = [row for row in enabled if (row["overdue_seconds"] or 0) > OVERDUE_SECONDS]
    failed = [row for row in enabled if row["failed"]]
    found = []
    if overdue:
        longest = max(row["overdue_seconds"] for row in overdue)
        message = f"{len(overdue)} are overdue, one by {longest:.0f} s: nobody fires them"
        found.append(Check("triggers", "degraded", message, "start a worker: sfsync worker refresh"))
    for row in failed:
        name = f"trigger {row['user_id']}/{row['name']}"
        found.append(Check(name, "degraded", f"it failed last: {row['reason']}", f"sfsync triggers show {row['id']}"))
    return found or ([Check("triggers", "healthy", f"{len(enabled)} enabled")] if enabled else [])


def overall(found: list[Check]) -> str:
    """The worst of the checks."""
    order = ("healthy", "degraded", "unhealthy")
    return max((check.status for check in found), key=order.index, default="healthy")


def timestamp() -> str:
    """This moment for people and health answers, ISO 8601 UTC."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
