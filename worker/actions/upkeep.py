"""Upkeep of the actions: mends what a crash may leave behind, hints that were lost and lines whose head nobody made ready."""

from collections.abc import Sequence

from sqlalchemy import text
from sqlalchemy.orm import Session

from worker.actions import family, store
from worker.actions.deps import DELIVER, ActionDeps

LINES_AT_ONCE = 1_000
PAGES_LOOKED_AT = (
    200  # of a table, some 15,000 rows: chosen at random where it has more, so that a look costs the same at any size
)

# A sleeping queue that has work after all: reading one row of an index each, and there are few queues.
FORGOTTEN = """
UPDATE sfsync.action_queues q SET next_due_at = clock_timestamp()
 WHERE q.next_due_at IS NULL
   AND (EXISTS (SELECT 1 FROM sfsync.actions a WHERE a.connection_id = q.connection_id AND a.object = q.object
                   AND a.state = 'ready')
     OR EXISTS (SELECT 1 FROM sfsync.actions a WHERE a.connection_id = q.connection_id AND a.object = q.object
                   AND a.state IN ('sending', 'in_doubt'))
     OR EXISTS (SELECT 1 FROM sfsync.actions a WHERE a.connection_id = q.connection_id AND a.object = q.object
                   AND a.state = 'delivered' AND a.remembered_at IS NULL)
     OR EXISTS (SELECT 1 FROM sfsync.actions a WHERE a.connection_id = q.connection_id AND a.object = q.object
                   AND NOT a.checked AND a.state = 'waiting'))
RETURNING q.id
"""

# Line by line, never action by action: a line has one head, however many wait behind it.
HEADLESS = """
SELECT l.connection_id, l.object, l.order_key
  FROM sfsync.action_lines l TABLESAMPLE SYSTEM (:percent)
 CROSS JOIN LATERAL (SELECT b.id, b.state, b.checked FROM sfsync.actions b
                      WHERE b.connection_id = l.connection_id AND b.object = l.object AND b.order_key = l.order_key
                        AND b.ticket <> 0 AND b.state IN ('waiting', 'ready', 'sending', 'in_doubt')
                      ORDER BY b.ticket LIMIT 1) AS head
 WHERE l.blocked_by IS NULL AND head.state = 'waiting' AND head.checked
   AND NOT EXISTS (SELECT 1 FROM sfsync.action_parents p JOIN sfsync.actions b ON b.id = p.parent_id
                    WHERE p.action_id = head.id AND b.state <> 'delivered')
 LIMIT :limit
"""

# A child that was accepted in the moment in which its parent failed.
ORPHANS = """
SELECT DISTINCT a.connection_id, a.object, a.order_key, p.parent_id
  FROM sfsync.action_parents p TABLESAMPLE SYSTEM (:percent)
  JOIN sfsync.actions b ON b.id = p.parent_id JOIN sfsync.actions a ON a.id = p.action_id
 WHERE a.state = 'waiting'
   AND (b.state = 'cancelled' OR b.state IN ('rejected', 'conflict', 'held') AND b.after_failure = 'go_on')
 LIMIT :limit
"""

# The org forgets its jobs after a week. One that an action names is kept as long as the action.
OLD_JOBS = """
DELETE FROM sfsync.ingest_jobs j
 WHERE j.state = 'done' AND j.finished_at < statement_timestamp() - interval '7 days'
   AND NOT EXISTS (SELECT 1 FROM sfsync.actions a WHERE a.ingest_job_id = j.id)
"""


def upkeep(deps: ActionDeps) -> None:
    """Mend, and wake the queues that have work because of it. Harmless to repeat; cheap when there is nothing to mend."""
    with deps.database.transaction() as session:
        session.execute(text(OLD_JOBS))
        forgotten = session.scalars(text(FORGOTTEN)).all()
        queues = sorted({*forgotten, *_mend_lines(session, LINES_AT_ONCE), *_mend_families(session, LINES_AT_ONCE)})
    for queue_id in queues:
        deps.wake(DELIVER, queue_id)


def _share(session: Session, table: str) -> float:
    """The part of a table that is looked at in one turn, in per cent."""
    size = "SELECT pg_relation_size(CAST(:table AS regclass)) / CAST(current_setting('block_size') AS bigint)"
    return min(100.0, 100.0 * PAGES_LOOKED_AT / max(1, session.scalar(text(size), {"table": table}) or 0))


def _mend_lines(session: Session, limit: int) -> list[int]:
    rows: Sequence[tuple[int, str, str]] = [
        (row.connection_id, row.object, row.order_key)
        for row in session.execute(text(HEADLESS), {"limit": limit, "percent": _share(session, "sfsync.action_lines")})
    ]
    queues = []
    for connection_id in sorted({row[0] for row in rows}):
        lines = {(row[1], row[2]) for row in rows if row[0] == connection_id}
        store.lock_lines(session, connection_id, lines)
        promoted = store.promote(session, connection_id, lines)
        queues += [store.awaken(session, connection_id, one).id for one in sorted(promoted)]
    return queues


def _mend_families(session: Session, limit: int) -> list[int]:
    values = {"limit": limit, "percent": _share(session, "sfsync.action_parents")}
    rows = session.execute(text(ORPHANS), values).all()
    queues = []
    for connection_id in sorted({row.connection_id for row in rows}):
        lines = {(row.object, row.order_key) for row in rows if row.connection_id == connection_id}
        store.lock_lines(session, connection_id, lines)
        parents = {row.parent_id for row in rows if row.connection_id == connection_id}
        settled = family.settle(session, connection_id, parents, lines)
        queues += [store.awaken(session, connection_id, one).id for one in sorted(settled.objects)]
    return queues
