"""Queues: which (connection, object) has work, when next, and what was learnt about it. A hint and a turn, never the work itself."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import text
from sqlalchemy.orm import Session


@dataclass(frozen=True, slots=True)
class Queue:
    """One (connection, object) that may have work. `takes_keys`: whether the org heeds idempotency keys for it, None: ask."""

    id: int
    connection_id: int
    object: str
    may_bulk: bool = False
    takes_keys: bool | None = False


# What is ready is looked for in the order of its index, so that the index is read: where much is ready Postgres takes it to
# be everywhere, and reads the table from its beginning, past everything that has ended since the last ANALYZE (40 ms at 30,000).
ALONG_THE_INDEX = "ORDER BY priority DESC, created_at"
# One statement for one round trip: a step of a single action is hardly anything but round trips.
_LOOK = """
q AS MATERIALIZED (
  SELECT q.id, q.connection_id, q.object, coalesce(q.bulk_after <= clock_timestamp(), true) AS may_bulk,
         CASE WHEN q.takes_keys_until > clock_timestamp() THEN q.takes_keys END AS takes_keys,
         coalesce(CAST(:now AS timestamptz), statement_timestamp()) AS now
    FROM sfsync.action_queues q JOIN public.salesforce_oauth_tokens c ON c.id = q.connection_id AND c.state = 'active'
   WHERE q.id = :id)
SELECT q.*, EXISTS (SELECT 1 FROM sfsync.actions WHERE connection_id = q.connection_id AND object = q.object
                       AND state = 'sending' AND claim_until < statement_timestamp()) AS expire,
       EXISTS (SELECT 1 FROM sfsync.actions WHERE connection_id = q.connection_id AND object = q.object
                  AND NOT checked AND state = 'waiting') AS vet,
       EXISTS (SELECT 1 FROM sfsync.actions WHERE connection_id = q.connection_id AND object = q.object
                  AND state = 'in_doubt' AND due_at <= q.now) AS resolve,
       EXISTS (SELECT 1 FROM sfsync.ingest_jobs WHERE connection_id = q.connection_id AND object = q.object
                  AND state = 'ready' AND due_at <= q.now) AS advance,
       EXISTS (SELECT 1 FROM sfsync.actions WHERE connection_id = q.connection_id AND object = q.object
                  AND state = 'ready' AND due_at <= q.now {ordered} OFFSET 0) AS deliver
  FROM q
""".replace("{ordered}", ALONG_THE_INDEX)
LOOK = "WITH " + _LOOK
# The same, and the queue is marked. Several threads may serve one queue: none waits for another only to say that it is here.
# Nor for the disk: what is lost with this transaction the next look does again.
SERVE = """
WITH unhurried AS MATERIALIZED (SELECT set_config('synchronous_commit', 'off', true)),
served AS (
  UPDATE sfsync.action_queues SET last_served_at = clock_timestamp() FROM unhurried
   WHERE id = (SELECT id FROM sfsync.action_queues WHERE id = :id FOR UPDATE SKIP LOCKED)),
{look}
""".replace("{look}", _LOOK)


@dataclass(frozen=True, slots=True)
class Todo:
    """What a queue may have to do at a time (Postgres's): each kind is looked at only if so."""

    now: datetime
    expire: bool  # something was sent and never answered
    vet: bool
    resolve: bool
    advance: bool
    deliver: bool


def look(
    session: Session, queue_id: int, *, now: datetime | None = None, serve: bool = False
) -> tuple[Queue, Todo] | None:
    """The queue and what there is to do; None when it is gone or its connection waits for a person.

    `now`: instead of Postgres's time. `serve`: mark the queue as served now.
    """
    row = session.execute(text(SERVE if serve else LOOK), {"id": queue_id, "now": now}).first()
    if row is None:
        return None
    queue = Queue(row.id, row.connection_id, row.object, row.may_bulk, row.takes_keys)
    return queue, Todo(row.now, row.expire, row.vet, row.resolve, row.advance, row.deliver)


def rest_queue(session: Session, queue: Queue, *, recheck: timedelta) -> bool:
    """Set when the queue has work next; False when somebody is adding to it, or is at the same, right now.

    The lock waits for no accept and lets none commit unseen: see `store.AWAKE`. `recheck`: for what was not remembered yet.
    """
    lock = "SELECT 1 FROM sfsync.action_queues WHERE id = :id FOR UPDATE SKIP LOCKED"
    if session.execute(text(lock), {"id": queue.id}).first() is None:
        return False
    session.execute(  # a statement of its own: its snapshot is taken behind the lock
        text(
            """
            UPDATE sfsync.action_queues SET next_due_at = (
                SELECT min(at) FROM (
                    SELECT min(due_at) AS at FROM sfsync.actions
                     WHERE connection_id = :connection AND object = :object AND state = 'ready'
                    UNION ALL
                    SELECT min(claim_until) FROM sfsync.actions
                     WHERE connection_id = :connection AND object = :object AND state = 'sending'
                    UNION ALL
                    SELECT min(greatest(due_at, claim_until)) FROM sfsync.actions
                     WHERE connection_id = :connection AND object = :object AND state = 'in_doubt'
                    UNION ALL
                    SELECT min(greatest(due_at, claim_until)) FROM sfsync.ingest_jobs
                     WHERE connection_id = :connection AND object = :object AND state = 'ready'
                    UNION ALL
                    SELECT min(created_at) FROM sfsync.actions
                     WHERE connection_id = :connection AND object = :object AND NOT checked AND state = 'waiting'
                    UNION ALL
                    SELECT clock_timestamp() + :recheck
                     WHERE EXISTS (SELECT 1 FROM sfsync.actions WHERE connection_id = :connection AND object = :object
                                      AND state = 'delivered' AND remembered_at IS NULL)) AS next)
             WHERE id = :id
            """
        ),
        {**_of(queue), "id": queue.id, "recheck": recheck},
    )
    return True


def keep_keys_taken(session: Session, queue: Queue, *, takes: bool, lasts: timedelta) -> None:
    """Whether the org heeds idempotency keys for the queue's object, and for how long that is believed."""
    query = "UPDATE sfsync.action_queues SET takes_keys = :takes, takes_keys_until = clock_timestamp() + :lasts WHERE id = :id"
    session.execute(text(query), {"id": queue.id, "takes": takes, "lasts": lasts})


def no_bulk(session: Session, queue: Queue, after: timedelta) -> None:
    """Leave Bulk jobs alone for a while: the org took none, or could not finish one."""
    query = "UPDATE sfsync.action_queues SET bulk_after = clock_timestamp() + :after WHERE id = :id"
    session.execute(text(query), {"id": queue.id, "after": after})


def take_remembering(session: Session, queue: Queue, ttl: timedelta) -> bool:
    """Whether we are the one to tell the mirror now."""
    query = """
        UPDATE sfsync.action_queues SET remembering_until = clock_timestamp() + :ttl
         WHERE id = :id AND coalesce(remembering_until < clock_timestamp(), true) RETURNING id
    """
    return session.execute(text(query), {"id": queue.id, "ttl": ttl}).first() is not None


def leave_remembering(session: Session, queue: Queue) -> None:
    """Let others tell the mirror."""
    session.execute(text("UPDATE sfsync.action_queues SET remembering_until = NULL WHERE id = :id"), {"id": queue.id})


def postpone(session: Session, queue: Queue, after: timedelta) -> None:
    """The org cannot be reached: leave the queue alone for a while. What is accepted meanwhile wakes it."""
    query = "UPDATE sfsync.action_queues SET next_due_at = clock_timestamp() + :after WHERE id = :id"
    session.execute(text(query), {"id": queue.id, "after": after})


def _of(queue: Queue) -> dict[str, Any]:
    return {"connection": queue.connection_id, "object": queue.object}
