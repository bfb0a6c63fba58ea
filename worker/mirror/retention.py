"""Forgetting runs that ended long ago. Most found nothing: there is one a minute for each mirror.

Those are looked for among the runs that became a day old within the last hour, so that a look does not grow with what is
kept. What no worker was there to forget in its hour goes with the others.
"""

from datetime import timedelta

from sqlalchemy import text
from sqlalchemy.orm import Session

QUIET_KEPT = timedelta(days=1)
AT_ONCE = 5_000  # of each kind: small, so that nobody waits for it

OLD = """
DELETE FROM sfsync.runs WHERE id IN (
  SELECT id FROM sfsync.runs WHERE finished_at < statement_timestamp() - CAST(:age AS interval) ORDER BY finished_at LIMIT :limit)
"""
QUIET = """
DELETE FROM sfsync.runs WHERE id IN (
  SELECT id FROM sfsync.runs
   WHERE finished_at < statement_timestamp() - CAST(:age AS interval)
     AND finished_at > statement_timestamp() - CAST(:age AS interval) - interval '1 hour'
     AND state = 'done' AND cause = 'timetable' AND kind IN ('refresh', 'settle')
     AND rows_changed + rows_deleted + rows_rejected = 0
   ORDER BY finished_at LIMIT :limit)
"""


def forget_old(session: Session, keep: timedelta) -> None:
    """Drop some of the runs that finished longer ago than `keep`, and of those that found nothing a day ago."""
    session.execute(text(OLD), {"age": keep, "limit": AT_ONCE})
    session.execute(text(QUIET), {"age": min(keep, QUIET_KEPT), "limit": AT_ONCE})
