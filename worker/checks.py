"""What is wrong and what to do: the checks of `sfsync doctor` and of health, made of the numbers of `monitoring`."""

from dataclasses import dataclass
from typing import Any

import psycopg
import redis
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from models.action import UNFINISHED
from worker import monitoring
from worker.db import Database
from worker.monitoring import Status
from worker.settings import Settings
from worker.tokens.vault import kept_by_key, key_id

OTHER_VERSION = (
    psycopg.errors.UndefinedTable,
    psycopg.errors.UndefinedColumn,
    psycopg.errors.UndefinedFunction,
    psycopg.errors.InvalidSchemaName,
)
SOMEBODYS = ("connection ", "mirror ", "allowance ", "trigger ", "callbacks ")  # checks whose name says whose
BULK_SHORT = 0.9  # of a Bulk allowance: from here on it is said
OVERDUE_SECONDS = 60.0  # a due time that nobody dealt with for this long


@dataclass(frozen=True, slots=True)
class Check:
    """One part's health: "healthy", "degraded" or "unhealthy", why, and what to do about it (empty when healthy)."""

    name: str
    status: str
    message: str
    remedy: str = ""


def look(database: Database, settings: Settings) -> list[Check]:
    """Database, broker, workers, beat, keys, connections, allowances, mirrors, actions, triggers and callbacks, each looked at for real."""
    try:
        seen = monitoring.status(database, settings, counted=False)
        with database.transaction() as session:
            more = [*_key_checks(session, settings), *_callback_checks(session)]
    except (psycopg.Error, SQLAlchemyError) as error:
        return [_database_check(error)]
    return [*checks_of(seen, settings), *more]


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


def _database_check(error: Exception) -> Check:
    """What a failure of the first queries means."""
    told = (
        error.__cause__ if isinstance(error.__cause__, psycopg.Error) else error
    )  # SQLAlchemy wraps what the driver says
    reason = str(told).strip().splitlines()[0] if str(told).strip() else type(told).__name__
    if isinstance(told, OTHER_VERSION):
        return Check("database", "unhealthy", f"its tables are not of this version: {reason}", "sfsync migrate")
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


def _key_checks(session: Session, settings: Settings) -> list[Check]:
    """Whether the keys of ENCRYPTION_KEY open everything that is kept; nothing is said while nothing is."""
    kept = kept_by_key(session)
    known = [key_id(key) for key in settings.keys]
    strange = sum(count for key, count in kept.items() if key not in known)
    if strange:
        said = f"{strange:,} stored secrets were encrypted with a key that ENCRYPTION_KEY does not hold"
        return [
            Check("keys", "unhealthy", said, "add the former key to ENCRYPTION_KEY, after the first; or connect again")
        ]
    former = sum(count for key, count in kept.items() if key != known[0])
    if former:
        return [Check("keys", "degraded", f"{former:,} stored secrets wait for the first key", "sfsync keys rotate")]
    return [Check("keys", "healthy", f"{kept.total():,} stored secrets, all with the first key")] if kept else []


CALLBACKS = """
SELECT c.user_id, e.url, e.disabled_at, e.disabled_reason, e.failures,
       (SELECT extract(epoch FROM clock_timestamp() - min(m.created_at))::float8 FROM sfsync.callbacks m
         WHERE m.endpoint_id = e.id AND m.state = 'waiting') AS oldest
  FROM sfsync.callback_endpoints e JOIN salesforce_oauth_tokens c ON c.id = e.connection_id
 WHERE e.disabled_at IS NOT NULL OR e.failures > 2 ORDER BY c.user_id, e.url LIMIT 100
"""


def _callback_checks(session: Session) -> list[Check]:
    found = []
    for row in session.execute(text(CALLBACKS)):
        name, remedy = f"callbacks {row.user_id}", f"sfsync callbacks endpoints --user-id {row.user_id}"
        if row.disabled_at is not None:
            said = f"{row.url} is told nothing any more: {row.disabled_reason}"
            found.append(Check(name, "degraded", said, f"{remedy}, then: sfsync callbacks enable"))
        elif row.oldest is not None:
            said = f"{row.url} failed {row.failures} times in a row; the oldest message waits for {row.oldest:,.0f} s"
            found.append(Check(name, "degraded", said, remedy))
    return found


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


BULK = {
    "query_jobs": "Bulk query jobs",
    "result_mb": "MB of Bulk results",
    "ingest_batches": "Bulk batches",
    "ingest_rows": "Bulk ingest rows",
}


def _allowance_check(org: dict[str, Any], settings: Settings) -> Check:
    name = f"allowance {org['organization_id']}"
    used = f"{org['used']:,} of {org['max']:,} API calls of 24 hours are used"
    spent_on = "sfsync status --usage shows what for; fewer mirrors, longer intervals or more calls help"
    if until := org["blocked_until"]:
        text = f"the org takes no calls now and is asked again at {until:%H:%M} UTC; all its work waits; by our count {used}"
        return Check(name, "unhealthy", text, spent_on)
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
    bulk = org["bulk"]
    for kind, what in BULK.items():
        if bulk[kind] >= BULK_SHORT * bulk[f"{kind}_max"]:
            text = f"{bulk[kind]:,} of {bulk[f'{kind}_max']:,} {what} of 24 hours are used; larger reads and writes wait soon"
            return Check(name, "degraded", text, spent_on)
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
    oldest = max(waiting, key=lambda row: row["oldest_seconds"], default=None)
    count = sum(row["count"] for row in waiting)
    if oldest is not None and oldest["oldest_seconds"] > settings.alert_undelivered_seconds:
        which = "the undelivered action" if count == 1 else f"the oldest of {count:,} undelivered actions"
        text = f"{which} waits for {oldest['oldest_seconds']:,.0f} s"
        remedy = (
            f"see that `sfsync worker actions` runs; sfsync actions list --state {oldest['state']} says why each waits"
        )
        found.append(Check("actions", "degraded", text, remedy))
    else:
        found.append(Check("actions", "healthy", f"{count:,} undelivered"))
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


def is_somebodys(check: Check) -> bool:
    """Whether a check tells of one user's or org's business: not for everybody's eyes."""
    return check.name.startswith(SOMEBODYS)


def overall(found: list[Check]) -> str:
    """The worst of the checks."""
    order = ("healthy", "degraded", "unhealthy")
    return max((check.status for check in found), key=order.index, default="healthy")
