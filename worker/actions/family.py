"""Actions whose fields name the record of another action, their parent: they wait for it, get its id, or learn that it failed.

A parent that is rejected, in conflict or held with `after_failure` go_on takes its children along: they cannot go without it,
so they are rejected (held where it is held) and say why. With `wait` they wait until a person retries or cancels it. The
children of a cancelled parent are rejected. The ids are put into the fields where a child becomes ready (store.PROMOTE).
"""

from collections.abc import Collection
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.orm import Session

from worker.actions import store
from worker.actions.store import Line
from worker.db import uuid_array

GENERATIONS = 100  # of children that fail one by the other, in one transaction

# Two statements: most actions have no children, and Postgres does not know of how few it is asked.
CHILDREN = "SELECT action_id FROM sfsync.action_parents WHERE parent_id = ANY(CAST(:parents AS uuid[]))"
LINES = "SELECT DISTINCT object, order_key FROM sfsync.actions WHERE id = ANY(:ids) AND state = 'waiting'"
# Whom it may concern is found first: asked for together with the states, Postgres reads all that has ever failed, or everything.
FAIL = """
WITH p AS MATERIALIZED (
     SELECT action_id, field, parent_id FROM sfsync.action_parents WHERE parent_id = ANY(CAST(:ids AS uuid[]))
      UNION
     SELECT action_id, field, parent_id FROM sfsync.action_parents WHERE action_id = ANY(CAST(:ids AS uuid[]))),
     failed AS (
     UPDATE sfsync.actions a
        SET state = CASE WHEN b.state = 'held' THEN 'held' ELSE 'rejected' END,
            finished_at = CASE WHEN b.state <> 'held' THEN clock_timestamp() END,
            error = jsonb_build_object(
                'code', 'PARENT_FAILED', 'fields', jsonb_build_array(p.field), 'parent', b.id, 'message',
                format('%s names the record of action %s, which is %s%s', p.field, b.id, b.state,
                       coalesce(': ' || (b.error ->> 'code') || ': ' || (b.error ->> 'message'), '.')))
       FROM p JOIN sfsync.actions b ON b.id = p.parent_id
      WHERE a.id = p.action_id AND a.state = 'waiting'
        AND (b.state = 'cancelled' OR b.state IN ('rejected', 'conflict', 'held') AND b.after_failure = 'go_on')
  RETURNING a.id, a.object, a.order_key, a.state, a.after_failure, a.error),
     logged AS (
     INSERT INTO sfsync.action_attempts (action_id, way, state, code, message)
     SELECT id, 'parent', state, error ->> 'code', error ->> 'message' FROM failed)
SELECT id, object, order_key, after_failure FROM failed
"""
BLOCK = """
UPDATE sfsync.action_lines l SET blocked_by = a.id
  FROM sfsync.actions a
 WHERE a.id = ANY(:ids) AND a.after_failure = 'wait' AND a.state IN ('rejected', 'conflict', 'held')
   AND l.connection_id = a.connection_id AND l.object = a.object AND l.order_key = a.order_key AND l.blocked_by IS NULL
"""


@dataclass(frozen=True, slots=True)
class Settled:
    """What followed from actions that ended: children that failed, and objects that have something ready now."""

    failed: tuple[UUID, ...]
    objects: frozenset[str]


def lines_of_children(session: Session, parents: Collection[UUID]) -> set[Line]:
    """The lines of what waits for these actions: to be locked with the parents' own, before anything is changed."""
    if not parents:
        return set()
    children = session.scalars(text(CHILDREN), {"parents": uuid_array(parents)}).all()
    if not children:
        return set()
    return {(row.object, row.order_key) for row in session.execute(text(LINES), {"ids": children})}


def settle(
    session: Session,
    connection_id: int,
    ended: Collection[UUID],
    lines: Collection[Line],
    *,
    well: Collection[UUID] = (),
) -> Settled:
    """Let go on what these actions, which ended a moment ago, let go on: their lines and their children.

    `well`: those that were delivered, which take no child along. The caller holds the locks of `lines`, which are theirs and their children's. Children that fail end, too, and so on.
    """
    failed: list[UUID] = []
    waiting = set(lines) | lines_of_children(session, ended)  # whoever was accepted meanwhile
    generation = sorted(set(ended) - set(well))
    for _ in range(GENERATIONS):
        if not generation:
            break
        session.execute(text(BLOCK), {"ids": generation})
        rows = session.execute(text(FAIL), {"ids": uuid_array(generation)}).all()
        generation = [row.id for row in rows]
        failed += generation
        more = {(row.object, row.order_key) for row in rows} | lines_of_children(session, generation)
        store.lock_lines(session, connection_id, more - waiting)
        waiting |= more
    return Settled(tuple(failed), frozenset(store.promote(session, connection_id, waiting)))
