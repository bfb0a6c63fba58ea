"""What is due: the poller asks this every second. Cheap: partial indexes hold only what is unfinished."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import func, select, text
from sqlalchemy.orm import Session

from models.connection import Connection
from models.mirror import IDLE_SETTLES, Mirror, Run, RunPage
from worker.mirror import child_reads
from worker.mirror.pages import FREE
from worker.mirror.poll import FIRST_STAGES, SHARING
from worker.salesforce.limits import COMPOSITE_QUERIES

# A refresh that waits for a person: another would only ask the same. Nor do others come early because of it.
HELD = """EXISTS (SELECT FROM sfsync.runs h WHERE h.mirror_id = m.id AND h.kind = 'refresh' AND h.state = 'parked'
                        AND h.options ->> 'held' IS NOT NULL)"""

# Mirrors of one connection share a call: those that are due within a quarter of their interval come along; where calls
# are not short, within 15 s at most.
SCHEDULE = f"""
WITH due AS (
  SELECT m.connection_id FROM sfsync.mirrors m JOIN salesforce_oauth_tokens c ON c.id = m.connection_id AND c.state = 'active'
   WHERE m.state = 'live' AND m.next_refresh_at <= :now AND NOT {HELD}
   ORDER BY m.next_refresh_at LIMIT 1000),
chosen AS (
  SELECT m.id FROM sfsync.mirrors m
   WHERE m.state = 'live' AND m.connection_id IN (SELECT connection_id FROM due)
     AND m.next_refresh_at <= :now + make_interval(secs => coalesce(m.effective_seconds / 4, least(m.refresh_seconds / 4, 15)))
     AND NOT {HELD}
     FOR UPDATE OF m SKIP LOCKED),
moved AS (
  UPDATE sfsync.mirrors m SET next_refresh_at = :now + make_interval(secs => coalesce(m.effective_seconds, m.refresh_seconds))
    FROM chosen WHERE m.id = chosen.id RETURNING m.id)
INSERT INTO sfsync.runs (mirror_id, kind, lane, cause) SELECT id, 'refresh', 'refresh', 'timetable' FROM moved
ON CONFLICT (mirror_id, kind) WHERE state = 'ready' DO NOTHING
RETURNING id
"""  # noqa: S608 - our own words

# The next one is a while away, unless a fresh read brings changes from now on: then that read moves it. Those of a connection that
# come within a quarter of it come along, for they share its call.
SCHEDULE_SETTLES = """
WITH due AS (
  SELECT m.connection_id FROM sfsync.mirrors m JOIN salesforce_oauth_tokens c ON c.id = m.connection_id AND c.state = 'active'
   WHERE m.state = 'live' AND m.next_settle_at <= :now
   ORDER BY m.next_settle_at LIMIT 1000),
chosen AS (
  SELECT m.id FROM sfsync.mirrors m
   WHERE m.state = 'live' AND m.connection_id IN (SELECT connection_id FROM due)
     AND m.next_settle_at <= :now + make_interval(secs => :pause / 4 * greatest(1, coalesce(m.effective_seconds, 0) / m.refresh_seconds))
     FOR UPDATE OF m SKIP LOCKED),
moved AS (
  UPDATE sfsync.mirrors m
     SET next_settle_at = :now + make_interval(secs => :pause * greatest(1, coalesce(m.effective_seconds, 0) / m.refresh_seconds))
    FROM chosen WHERE m.id = chosen.id RETURNING m.id)
INSERT INTO sfsync.runs (mirror_id, kind, lane, cause) SELECT id, 'settle', 'refresh', 'timetable' FROM moved
ON CONFLICT (mirror_id, kind) WHERE state = 'ready' DO NOTHING
RETURNING id
"""


# Orgs take turns: what an org has in hand counts as turns that it had. Within an org, what waits longest comes first. Of runs that
# may share a call (see poll), one of each call is enough: it takes the others along, which would else begin beside it, each with
# a call of its own. What it did not take comes with the next look.
RUNS = """
WITH ready AS (
  SELECT r.id, r.due_at, coalesce(c.organization_id, 'connection:' || c.id) AS org,
         coalesce(r.claim_until >= statement_timestamp(), false) AS held,
         CASE WHEN r.kind = ANY(:sharing) AND r.stage = ANY(:stages) AND r.cause <> 'manual' AND r.attempts = 0
                   AND r.options ->> 'alone' IS NULL THEN concat(r.kind, ' ', m.connection_id) END AS call
    FROM sfsync.runs r JOIN sfsync.mirrors m ON m.id = r.mirror_id
    JOIN salesforce_oauth_tokens c ON c.id = m.connection_id AND c.state = 'active'
   WHERE r.lane = :lane AND r.state = 'ready' AND r.due_at <= statement_timestamp()),
placed AS (SELECT *, row_number() OVER (PARTITION BY call, held ORDER BY due_at, id) AS place FROM ready),
turns AS (
  SELECT id, org, due_at, held,
         row_number() OVER (PARTITION BY org, held ORDER BY due_at, id) + count(*) FILTER (WHERE held) OVER (PARTITION BY org) AS turn
    FROM placed WHERE held OR call IS NULL OR place % :together = 1)
SELECT id, org FROM turns WHERE NOT held ORDER BY turn, due_at, id LIMIT :limit
"""

# The same for wake-ups of new runs.
FIRST = """
SELECT id FROM (
  SELECT r.id, r.kind = ANY(:sharing) AS shares, row_number() OVER (PARTITION BY m.connection_id, r.kind ORDER BY r.id) AS place
    FROM sfsync.runs r JOIN sfsync.mirrors m ON m.id = r.mirror_id WHERE r.id = ANY(:ids)) placed
 WHERE NOT shares OR place % :together = 1 ORDER BY id
"""


def due_runs(session: Session, lane: str, limit: int) -> Sequence[Any]:
    """Runs of a lane that are due and that nobody holds, in the order of their orgs' turns: rows of id, org."""
    sharing = {"sharing": list(SHARING), "stages": list(FIRST_STAGES), "together": COMPOSITE_QUERIES}
    return session.execute(text(RUNS), {"lane": lane, "limit": limit, **sharing}).all()


def first_of_calls(session: Session, run_ids: Sequence[int]) -> list[int]:
    """Of new runs, those that are worth a wake-up: each takes along what it may share a call with."""
    values = {"ids": list(run_ids), "sharing": list(SHARING), "together": COMPOSITE_QUERIES}
    return list(session.scalars(text(FIRST), values)) if run_ids else []


def due_pages(session: Session, lane: str | None = None, limit: int = 100) -> Sequence[Any]:
    """Pages that nobody holds, of runs that are loading pages, of one lane or of all: rows of id, org."""
    query = (
        select(
            RunPage.id,
            func.coalesce(Connection.organization_id, func.concat("connection:", Connection.id)).label("org"),
        )
        .join(Run, Run.id == RunPage.run_id)
        .join(Mirror, Mirror.id == Run.mirror_id)
        .join(Connection, Connection.id == Mirror.connection_id)
        .where(RunPage.state == "ready", FREE, Run.state == "ready", Run.stage == "pages")
        .where(Connection.state == "active")
        .order_by(RunPage.id)
        .limit(limit)
    )
    return session.execute(query if lane is None else query.where(Run.lane == lane)).all()


def schedule_refreshes(session: Session, settle_seconds: float, now: datetime | None = None) -> list[int]:
    """Ask for the fresh and settle reads of every live mirror whose time has come, and for children that wait; ids of the
    new runs. A missed interval is not made up for."""
    moment = now or session.scalar(func.clock_timestamp())
    runs = list(session.scalars(text(SCHEDULE), {"now": moment}))
    runs += session.scalars(text(SCHEDULE_SETTLES), {"now": moment, "pause": float(settle_seconds * IDLE_SETTLES)})
    return runs + child_reads.start(session)
