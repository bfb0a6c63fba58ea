"""Forgetting runs, verifications and syncs that ended long ago. Most runs found nothing: there is one a minute for each mirror.

Those are looked for among the runs that became a day old within the last hour, so that a look does not grow with what is
kept. What no worker was there to forget in its hour goes with the others.

What is shown stays: of each mirror the newest verification of each depth, of each connection the newest sync; and the runs of
a sync as long as the sync itself, which would otherwise tell another story than before.
"""

from datetime import timedelta

from sqlalchemy import text
from sqlalchemy.orm import Session

QUIET_KEPT = timedelta(days=1)
AT_ONCE = 5_000  # of each kind: small, so that nobody waits for it

SYNCS = """
DELETE FROM sfsync.syncs WHERE id IN (
  SELECT s.id FROM sfsync.syncs s
   WHERE s.created_at < statement_timestamp() - CAST(:age AS interval)
     AND EXISTS (SELECT FROM sfsync.syncs n WHERE n.connection_id = s.connection_id AND n.created_at > s.created_at)
     AND NOT EXISTS (SELECT FROM sfsync.sync_runs p JOIN sfsync.runs r ON r.id = p.run_id
                      WHERE p.sync_id = s.id AND r.finished_at IS NULL)
   ORDER BY s.created_at LIMIT :limit)
"""
VERIFICATIONS = """
DELETE FROM sfsync.verifications WHERE id IN (
  SELECT v.id FROM sfsync.verifications v
   WHERE v.finished_at < statement_timestamp() - CAST(:age AS interval)
     AND EXISTS (SELECT FROM sfsync.verifications n WHERE n.mirror_id = v.mirror_id AND n.depth = v.depth AND n.id > v.id)
   ORDER BY v.finished_at LIMIT :limit)
"""
OLD = """
DELETE FROM sfsync.runs WHERE id IN (
  SELECT r.id FROM sfsync.runs r
   WHERE r.finished_at < statement_timestamp() - CAST(:age AS interval)
     AND NOT EXISTS (SELECT FROM sfsync.sync_runs p WHERE p.run_id = r.id)
   ORDER BY r.finished_at LIMIT :limit)
"""
QUIET = """
DELETE FROM sfsync.runs WHERE id IN (
  SELECT r.id FROM sfsync.runs r
   WHERE r.finished_at < statement_timestamp() - CAST(:age AS interval)
     AND r.finished_at > statement_timestamp() - CAST(:age AS interval) - interval '1 hour'
     AND r.state = 'done' AND r.cause = 'timetable' AND r.kind IN ('refresh', 'settle')
     AND r.rows_changed + r.rows_deleted + r.rows_rejected = 0
     AND NOT EXISTS (SELECT FROM sfsync.sync_runs p WHERE p.run_id = r.id)
   ORDER BY r.finished_at LIMIT :limit)
"""


def forget_old(session: Session, keep: timedelta) -> None:
    """Drop some of what ended longer ago than `keep`, and of the runs that found nothing those of a day ago."""
    for statement in (SYNCS, VERIFICATIONS, OLD):
        session.execute(text(statement), {"age": keep, "limit": AT_ONCE})
    session.execute(text(QUIET), {"age": min(keep, QUIET_KEPT), "limit": AT_ONCE})
