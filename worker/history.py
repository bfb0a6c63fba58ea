"""What happened over the last hours, in equal spans: for the charts of the status page and for metrics. Read from Postgres.

Each query reads only the span it shows, by an index, however much has piled up before it.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import text
from sqlalchemy.orm import Session


@dataclass(frozen=True, slots=True)
class History:
    """Counts by (place of the span, name), oldest span first; `begins` are the spans' beginnings."""

    begins: list[datetime]
    counts: dict[tuple[int, str], int]


CALLS = """
SELECT date_bin(:span, hour, :origin) AS at, lane AS name, sum(calls) AS total FROM sfsync.usage
 WHERE hour >= :origin GROUP BY 1, 2
"""
ACTIONS = """
SELECT date_bin(:span, finished_at, :origin) AS at, state AS name, count(*) AS total FROM sfsync.actions
 WHERE finished_at >= :origin GROUP BY 1, 2
"""
ROWS = """
SELECT date_bin(:span, finished_at, :origin) AS at, kind AS name, sum(rows_changed + rows_deleted) AS total FROM sfsync.runs
 WHERE finished_at >= :origin AND state = 'done' GROUP BY 1, 2
"""

RUNS = """
SELECT r.id, c.user_id, m.object, r.kind, r.cause, r.state, r.stage, r.rows_read, r.rows_expected, r.rows_changed, r.rows_deleted,
       r.calls, r.error, r.created_at, r.started_at, r.finished_at,
       extract(epoch FROM coalesce(r.finished_at, clock_timestamp()) - r.started_at)::float8 AS seconds
  FROM (SELECT * FROM sfsync.runs ORDER BY id DESC LIMIT :looked_at) r
  JOIN sfsync.mirrors m ON m.id = r.mirror_id
  JOIN public.salesforce_oauth_tokens c ON c.id = m.connection_id
 WHERE NOT (r.state = 'done' AND r.cause IN ('timetable', 'trigger') AND r.rows_changed + r.rows_deleted = 0)
 ORDER BY (r.state = 'ready') DESC, r.id DESC LIMIT :limit
"""

DURATIONS = """
SELECT r.kind, count(*) AS runs, sum(r.rows_read) AS rows,
       percentile_cont(ARRAY[0.5, 0.95, 1.0]) WITHIN GROUP (ORDER BY extract(epoch FROM r.finished_at - r.started_at)) AS seconds
  FROM sfsync.runs r
 WHERE r.finished_at > statement_timestamp() - interval '1 hour' AND r.started_at IS NOT NULL AND r.state = 'done'
 GROUP BY r.kind ORDER BY r.kind
"""

RENEWALS = """
SELECT outcome, count(*) AS total FROM sfsync.renewals
 WHERE ended_at > statement_timestamp() - interval '1 day' GROUP BY outcome ORDER BY outcome
"""

LANES = """
SELECT lane, count(*) AS waiting, extract(epoch FROM clock_timestamp() - min(due_at))::float8 AS oldest_seconds
  FROM sfsync.runs WHERE state = 'ready' AND due_at <= statement_timestamp() AND (claim_until IS NULL OR claim_until < statement_timestamp())
 GROUP BY lane ORDER BY lane
"""


def calls_by_lane(session: Session, now: datetime, *, hours: int = 24) -> History:
    """API calls by lane, an hour a span."""
    return _history(session, CALLS, now, timedelta(hours=1), hours)


def actions_by_state(session: Session, now: datetime, *, spans: int = 36) -> History:
    """Finished actions by state, ten minutes a span."""
    return _history(session, ACTIONS, now, timedelta(minutes=10), spans)


def rows_by_kind(session: Session, now: datetime, *, spans: int = 36) -> History:
    """Records that runs changed in mirrors, by kind of run, ten minutes a span."""
    return _history(session, ROWS, now, timedelta(minutes=10), spans)


def _history(session: Session, statement: str, now: datetime, span: timedelta, spans: int) -> History:
    seconds = span.total_seconds()
    current = now - timedelta(seconds=now.timestamp() % seconds)
    origin = current - (spans - 1) * span
    rows = session.execute(text(statement), {"span": span, "origin": origin})
    counts = {(round((row.at - origin) / span), row.name): int(row.total or 0) for row in rows}
    return History([origin + place * span for place in range(spans)], counts)


def recent_runs(session: Session, *, limit: int = 15, looked_at: int = 3000) -> list[dict[str, Any]]:
    """The runs that are open or ended last, open ones first. `seconds`: since the run began, or how long it took.

    Without those of the timetable and of triggers that found nothing new: there may be one every few seconds, and they would push
    out all others.
    """
    return [dict(row) for row in session.execute(text(RUNS), {"limit": limit, "looked_at": looked_at}).mappings()]


def durations(session: Session) -> list[dict[str, Any]]:
    """By kind, the runs that were done within the last hour: how many, their rows, their median, 95th percentile and longest time."""
    return [dict(row) for row in session.execute(text(DURATIONS)).mappings()]


def renewals(session: Session) -> dict[str, int]:
    """Renewals of tokens within the last day, by outcome."""
    return {row.outcome: int(row.total) for row in session.execute(text(RENEWALS))}


def lanes(session: Session) -> list[dict[str, Any]]:
    """Runs that are due and that nobody has taken up, by lane, and for how long the oldest has been due."""
    return [dict(row) for row in session.execute(text(LANES)).mappings()]
