"""What is due: the poller asks this every second. Cheap: partial indexes hold only what is unfinished."""

from datetime import datetime

from sqlalchemy import func, or_, select, text
from sqlalchemy.orm import Session

from models.connection import Connection
from models.mirror import Mirror, Run, RunPage
from worker.mirror.pages import FREE
from worker.mirror.work import NOW

SCHEDULE = """
WITH due AS (
  SELECT m.id FROM sfsync.mirrors m JOIN salesforce_oauth_tokens c ON c.id = m.connection_id AND c.state = 'active'
   WHERE m.state = 'live' AND m.next_refresh_at <= :now
   ORDER BY m.next_refresh_at LIMIT 1000 FOR UPDATE OF m SKIP LOCKED),
moved AS (
  UPDATE sfsync.mirrors m SET next_refresh_at = :now + make_interval(secs => m.refresh_seconds)
    FROM due WHERE m.id = due.id RETURNING m.id)
INSERT INTO sfsync.runs (mirror_id, kind, lane, cause) SELECT id, 'refresh', 'refresh', 'timetable' FROM moved
ON CONFLICT (mirror_id, kind) WHERE state = 'ready' DO NOTHING
RETURNING id
"""


def due_runs(session: Session, lane: str, limit: int) -> list[int]:
    """Runs of a lane that are due and that nobody holds; those that wait longest first."""
    query = (
        select(Run.id)
        .join(Mirror, Mirror.id == Run.mirror_id)
        .join(Connection, Connection.id == Mirror.connection_id)
        .where(Run.lane == lane, Run.state == "ready", Run.due_at <= NOW, Connection.state == "active")
        .where(or_(Run.claim_until.is_(None), Run.claim_until < NOW))
        .order_by(Run.due_at)
        .limit(limit)
    )
    return list(session.scalars(query))


def due_pages(session: Session, lane: str | None = None, limit: int = 100) -> list[int]:
    """Pages that nobody holds, of runs that are loading pages; of one lane or of all."""
    query = (
        select(RunPage.id)
        .join(Run, Run.id == RunPage.run_id)
        .join(Mirror, Mirror.id == Run.mirror_id)
        .join(Connection, Connection.id == Mirror.connection_id)
        .where(RunPage.state == "ready", FREE, Run.state == "ready", Run.stage == "pages")
        .where(Connection.state == "active")
        .order_by(RunPage.id)
        .limit(limit)
    )
    return list(session.scalars(query if lane is None else query.where(Run.lane == lane)))


def schedule_refreshes(session: Session, now: datetime | None = None) -> list[int]:
    """Ask for a refresh of every live mirror whose time has come; ids of the new runs. A missed interval is not made up for."""
    moment = now or session.scalar(func.clock_timestamp())
    return list(session.scalars(text(SCHEDULE), {"now": moment}))
