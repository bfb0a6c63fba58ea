"""Asking for several mirrors to be brought up to date at once, and following what becomes of it; mirrors and runs as callers see them."""

import uuid
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import insert, text
from sqlalchemy.orm import Session

from models.mirror import Mirror, Sync, SyncRun
from worker.mirror.requests import LANES, ensure_mirror, request_run


@dataclass(frozen=True, slots=True)
class Asked:
    """One run that was asked for, or was under way. `lane`: who is to be woken for it."""

    run_id: int
    object: str
    kind: str
    lane: str


def ask(
    session: Session, connection_id: int, object_name: str, *, cause: str, refresh_seconds: float, full: bool = False
) -> Asked:
    """Ask for one object to be brought up to date: loaded where it is new (or `full`), refreshed where it is live."""
    mirror_id = ensure_mirror(session, connection_id, object_name, refresh_seconds=refresh_seconds)
    mirror = session.get_one(Mirror, mirror_id)
    kind = "refresh" if mirror.state == "live" and not full else "load"
    return Asked(request_run(session, mirror_id, kind, cause), mirror.object, kind, LANES[kind])


def begin_sync(
    session: Session,
    connection_id: int,
    objects: Sequence[str],
    *,
    cause: str,
    refresh_seconds: float,
    full: bool = False,
) -> tuple[UUID, list[Asked]]:
    """Ask for these objects together; the id under which they can be followed."""
    sync_id = uuid.uuid4()
    asked = [
        ask(session, connection_id, name, cause=cause, refresh_seconds=refresh_seconds, full=full) for name in objects
    ]
    session.add(Sync(id=sync_id, connection_id=connection_id))
    session.flush()
    for run_id in dict.fromkeys(one.run_id for one in asked):
        session.execute(insert(SyncRun).values(sync_id=sync_id, run_id=run_id))
    return sync_id, asked


RUN = """
SELECT r.id, c.user_id, m.object, r.kind, r.cause, r.state, r.stage, r.rows_expected, r.rows_read, r.rows_changed, r.rows_deleted,
       r.rows_rejected, r.calls, r.attempts, r.error, r.created_at, r.started_at, r.finished_at
  FROM sfsync.runs r JOIN sfsync.mirrors m ON m.id = r.mirror_id JOIN salesforce_oauth_tokens c ON c.id = m.connection_id
"""
MIRRORS = """
SELECT m.object, c.user_id, c.schema_name AS schema, m.table_name AS table, m.state, m.state_reason, m.row_filter, m.fields,
       m.skipped_fields, m.refresh_seconds, m.next_refresh_at, m.refreshed_at, m.verified_at,
       CAST(extract(epoch FROM clock_timestamp() - m.fresh_cursor) AS float) AS lag_seconds,
       CAST(extract(epoch FROM clock_timestamp() - m.settled_cursor) AS float) AS settled_lag_seconds
  FROM sfsync.mirrors m JOIN salesforce_oauth_tokens c ON c.id = m.connection_id
 WHERE (CAST(:users AS text[]) IS NULL OR c.user_id = ANY(CAST(:users AS text[])))
   AND (CAST(:object AS text) IS NULL OR lower(m.object) = lower(CAST(:object AS text)))
 ORDER BY c.user_id, m.object
"""


def find_mirrors(
    session: Session, *, user_ids: Collection[str] | None, object_name: str | None = None
) -> list[dict[str, Any]]:
    """Mirrors of these users (None: of all), with both lags in seconds."""
    values = {"users": None if user_ids is None else list(user_ids), "object": object_name}
    return [dict(row) for row in session.execute(text(MIRRORS), values).mappings()]


def find_runs(
    session: Session,
    *,
    user_ids: Collection[str] | None,
    object_name: str | None = None,
    states: Collection[str] = (),
    before: int | None = None,
    limit: int = 100,
) -> list[dict[str, Any]]:
    """Runs of these users (None: of all), newest first, with ids below `before`."""
    conditions = ["true"]
    conditions += ["c.user_id = ANY(:users)"] if user_ids is not None else []
    conditions += ["lower(m.object) = lower(:object)"] if object_name else []
    conditions += ["r.state = ANY(:states)"] if states else []
    conditions += ["r.id < :before"] if before is not None else []
    query = f"{RUN} WHERE {' AND '.join(conditions)} ORDER BY r.id DESC LIMIT :limit"
    values = {
        "users": list(user_ids or ()),
        "object": object_name,
        "states": list(states),
        "before": before,
        "limit": limit,
    }
    return [dict(row) for row in session.execute(text(query), values).mappings()]


def read_run(session: Session, run_id: int) -> dict[str, Any] | None:
    """One run; None when there is none."""
    row = session.execute(text(f"{RUN} WHERE r.id = :id"), {"id": run_id}).mappings().first()
    return None if row is None else dict(row)


def read_sync(session: Session, sync_id: UUID) -> dict[str, Any] | None:
    """A sync with its runs; None when there is none. status: running, failed (a run failed or is parked), or done."""
    owner = session.execute(
        text(
            "SELECT s.id, s.created_at, c.user_id FROM sfsync.syncs s"
            " JOIN salesforce_oauth_tokens c ON c.id = s.connection_id WHERE s.id = :id"
        ),
        {"id": sync_id},
    ).first()
    if owner is None:
        return None
    query = f"{RUN} JOIN sfsync.sync_runs s ON s.run_id = r.id WHERE s.sync_id = :id ORDER BY r.id"
    runs = [dict(row) for row in session.execute(text(query), {"id": sync_id}).mappings()]
    return {
        "sync_id": str(owner.id),
        "user_id": owner.user_id,
        "status": _status({run["state"] for run in runs}),
        "created_at": owner.created_at,
        "runs": runs,
    }


def latest_sync(session: Session, user_id: str) -> UUID | None:
    """The user's last sync."""
    found: UUID | None = session.scalar(
        text(
            "SELECT s.id FROM sfsync.syncs s JOIN salesforce_oauth_tokens c ON c.id = s.connection_id"
            " WHERE c.user_id = :user_id ORDER BY s.created_at DESC LIMIT 1"
        ),
        {"user_id": user_id},
    )
    return found


def _status(states: set[str]) -> str:
    if "ready" in states:
        return "running"
    return "failed" if states & {"failed", "parked"} else "done"
