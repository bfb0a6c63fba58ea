"""The list of parents whose children must be read again. In the caller's transaction.

Children are deleted, restored or let go together with their parent, perhaps without a stamp of their own. So whatever
takes a record out of a mirror or back into it adds, in the same transaction, one row for each look-up that leads to it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import text
from sqlalchemy.orm import Session

from worker.db import raw

PARENTS_AT_ONCE = 200
OF_NO_ACCOUNT = ("MasterRecordId", "CreatedById", "LastModifiedById")  # look-ups that hang nobody's life on the other

ADD = """
INSERT INTO sfsync.child_reads (mirror_id, field, parent_id, restored)
SELECT child.id, field ->> 'name', moved.id, moved.restored
  FROM sfsync.mirrors parent
  JOIN sfsync.mirrors child ON child.connection_id = parent.connection_id AND child.state IN ('loading', 'live')
 CROSS JOIN jsonb_array_elements(child.describe -> 'fields') AS field
 CROSS JOIN pg_temp._moved AS moved
 WHERE parent.id = %s AND field ->> 'type' = 'reference' AND field -> 'referenceTo' ? parent.object
   AND field ->> 'name' <> ALL (%s)
"""

NEXT = """
SELECT id, field, parent_id, restored FROM sfsync.child_reads q
 WHERE mirror_id = :mirror AND (field, restored) = (
       SELECT field, restored FROM sfsync.child_reads q WHERE mirror_id = :mirror AND {free} ORDER BY id LIMIT 1)
   AND {free}
 ORDER BY id LIMIT :limit
"""
FREE = "(q.after_run IS NULL OR NOT EXISTS (SELECT FROM sfsync.runs r WHERE r.id = q.after_run AND r.state = 'ready'))"

DONE = """
WITH loading AS (SELECT max(id) AS id FROM sfsync.runs WHERE mirror_id = :mirror AND kind = 'load' AND state = 'ready'),
kept AS (UPDATE sfsync.child_reads q SET after_run = loading.id FROM loading
          WHERE q.id = ANY(:ids) AND loading.id IS NOT NULL RETURNING q.id)
DELETE FROM sfsync.child_reads q WHERE q.id = ANY(:ids) AND q.id NOT IN (SELECT id FROM kept)
"""

START = f"""
INSERT INTO sfsync.runs (mirror_id, kind, lane, cause)
SELECT m.id, 'children', 'refresh', 'parent'
  FROM sfsync.mirrors m JOIN salesforce_oauth_tokens c ON c.id = m.connection_id AND c.state = 'active'
 WHERE m.state = 'live' AND EXISTS (SELECT FROM sfsync.child_reads q WHERE q.mirror_id = m.id AND {FREE})
   AND NOT EXISTS (SELECT FROM sfsync.runs p WHERE p.mirror_id = m.id AND p.kind = 'children' AND p.state = 'parked'
                      AND p.created_at > statement_timestamp() - interval '1 hour')
ON CONFLICT (mirror_id, kind) WHERE state = 'ready' DO NOTHING
RETURNING id
"""  # noqa: S608 - our own text


@dataclass(frozen=True, slots=True)
class Batch:
    """Parents of one look-up that all left, or all came back; `ids` are the list's rows."""

    ids: list[int]
    field: str
    parents: list[str]
    restored: bool


def follow(session: Session, mirror_id: int) -> None:
    """Put what this transaction noted in `_moved` on the lists of the children's mirrors."""
    connection = raw(session)
    if connection.execute("SELECT EXISTS (SELECT FROM pg_temp._moved)").fetchone() == (True,):
        connection.execute(ADD, (mirror_id, list(OF_NO_ACCOUNT)))
        connection.execute(b"DELETE FROM pg_temp._moved")


def next_batch(session: Session, mirror_id: int) -> Batch | None:
    """The oldest parents on a mirror's list; None when there is nothing to do now."""
    statement = NEXT.replace("{free}", FREE)
    rows = session.execute(text(statement), {"mirror": mirror_id, "limit": PARENTS_AT_ONCE}).all()
    if not rows:
        return None
    return Batch([row.id for row in rows], rows[0].field, list({row.parent_id for row in rows}), rows[0].restored)


def done(session: Session, mirror_id: int, ids: Sequence[int]) -> None:
    """Take these off the list; while a load is under way they stay until it has ended, to be read once more."""
    session.execute(text(DONE), {"mirror": mirror_id, "ids": list(ids)})


def start(session: Session) -> list[int]:
    """Start a run for each mirror that has something on its list; their ids. Cheap when all lists are empty."""
    return list(session.scalars(text(START)))
