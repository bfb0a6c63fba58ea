"""Forgetting actions that ended long ago, with their attempts, and lines that nothing stands in any more.

An idempotency key is remembered as long as its action is kept: `key_days` after it ended, and while it is unfinished or held
without any limit. Whoever repeats a request later than that asks for something new.
"""

from datetime import timedelta

from sqlalchemy import text
from sqlalchemy.orm import Session

from worker import exact
from worker.actions.deps import ActionDeps
from worker.log import get_logger

log = get_logger(__name__)

AT_ONCE = 1_000  # rows of one transaction: small, so that nobody waits for it
ROUNDS = 50  # of one visit

# Kept: what the mirror was not told yet, what a line waits for, and a parent that a child still names.
PRUNE = """
DELETE FROM sfsync.actions WHERE id IN (
    SELECT a.id FROM sfsync.actions a
     WHERE a.finished_at < statement_timestamp() - CAST(:shortest AS interval)
       AND a.finished_at < statement_timestamp() - CASE WHEN a.idempotency_key IS NULL THEN CAST(:unkeyed AS interval)
                                                    ELSE CAST(:keyed AS interval) END
       AND (a.state <> 'delivered' OR a.remembered_at IS NOT NULL)
       AND NOT EXISTS (SELECT 1 FROM sfsync.action_parents p WHERE p.parent_id = a.id)
       AND NOT EXISTS (SELECT 1 FROM sfsync.action_lines l WHERE l.blocked_by = a.id)
     ORDER BY a.finished_at LIMIT :limit FOR UPDATE SKIP LOCKED)
RETURNING connection_id, object, order_key
"""
# Locked before they are looked at, so that nobody takes a ticket meanwhile; the second statement sees what was there at the lock.
LOCK = """
SELECT l.connection_id, l.object, l.order_key FROM sfsync.action_lines l
  JOIN jsonb_to_recordset(CAST(:lines AS jsonb)) AS w(connection_id bigint, object text, order_key text)
    ON (l.connection_id, l.object, l.order_key) = (w.connection_id, w.object, w.order_key)
 ORDER BY 1, 2, 3 FOR UPDATE OF l SKIP LOCKED
"""
QUIET = """
SELECT connection_id, object, order_key FROM sfsync.action_lines
 WHERE quiet_until < statement_timestamp() ORDER BY quiet_until LIMIT :limit FOR UPDATE SKIP LOCKED
"""
EMPTY = """
DELETE FROM sfsync.action_lines l
 USING jsonb_to_recordset(CAST(:lines AS jsonb)) AS w(connection_id bigint, object text, order_key text)
 WHERE (l.connection_id, l.object, l.order_key) = (w.connection_id, w.object, w.order_key)
   AND coalesce(l.quiet_until < statement_timestamp(), true) AND l.blocked_by IS NULL
   AND NOT EXISTS (SELECT 1 FROM sfsync.actions a WHERE a.connection_id = l.connection_id AND a.object = l.object
                      AND a.order_key = l.order_key AND a.ticket <> 0)
"""
CALM = """
UPDATE sfsync.action_lines l SET quiet_until = NULL
  FROM jsonb_to_recordset(CAST(:lines AS jsonb)) AS w(connection_id bigint, object text, order_key text)
 WHERE (l.connection_id, l.object, l.order_key) = (w.connection_id, w.object, w.order_key)
   AND l.quiet_until < statement_timestamp()
"""


def prune(deps: ActionDeps) -> int:
    """Forget what is old enough, in small transactions; how many actions. What is left is for the next visit."""
    unkeyed, keyed = (timedelta(days=days) for days in (deps.settings.action_days, deps.settings.key_days))
    total = 0
    for _ in range(ROUNDS):
        with deps.database.transaction() as session:
            gone = _prune(session, unkeyed, keyed)
        total += gone
        if gone < AT_ONCE:
            break
    with deps.database.transaction() as session:
        lines = [dict(row) for row in session.execute(text(QUIET), {"limit": AT_ONCE}).mappings()]
        if lines:
            session.execute(text(EMPTY), {"lines": exact.dumps(lines)})
            session.execute(text(CALM), {"lines": exact.dumps(lines)})
    if total:
        log.info("actions.forgotten", actions=total)
    return total


def _prune(session: Session, unkeyed: timedelta, keyed: timedelta) -> int:
    ages = {"shortest": min(unkeyed, keyed), "unkeyed": unkeyed, "keyed": keyed}
    rows = session.execute(text(PRUNE), {**ages, "limit": AT_ONCE}).mappings().all()
    if rows:
        lines = exact.dumps([dict(row) for row in rows])
        locked = [dict(row) for row in session.execute(text(LOCK), {"lines": lines}).mappings()]
        session.execute(text(EMPTY), {"lines": exact.dumps(locked)})
    return len(rows)
