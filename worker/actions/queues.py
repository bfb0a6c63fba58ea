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
    found_at: datetime | None = None  # Postgres's time


# Nothing is lost with this transaction that the next look would not do again: its commit need not wait for the disk.
FIND = """
SELECT set_config('synchronous_commit', 'off', true), clock_timestamp() AS now, q.id, q.connection_id, q.object, coalesce(q.bulk_after <= clock_timestamp(), true) AS may_bulk,
       CASE WHEN q.takes_keys_until > clock_timestamp() THEN q.takes_keys END AS takes_keys
  FROM sfsync.action_queues q JOIN public.salesforce_oauth_tokens c ON c.id = q.connection_id AND c.state = 'active'
 WHERE q.id = :id
"""


# What is ready is looked for in the order of its index, so that the index is read: where much is ready Postgres takes it to
# be everywhere, and reads the table from its beginning, past everything that has ended since the last ANALYZE (40 ms at 30,000).
ALONG_THE_INDEX = "ORDER BY priority DESC, created_at"
TODO = """
SELECT EXISTS (SELECT 1 FROM sfsync.actions WHERE connection_id = :connection AND object = :object
                  AND NOT checked AND state = 'waiting') AS vet,
       EXISTS (SELECT 1 FROM sfsync.actions WHERE connection_id = :connection AND object = :object
                  AND state = 'in_doubt' AND due_at <= :now) AS resolve,
       EXISTS (SELECT 1 FROM sfsync.ingest_jobs WHERE connection_id = :connection AND object = :object
                  AND state = 'ready' AND due_at <= :now) AS advance,
       EXISTS (SELECT 1 FROM sfsync.actions WHERE connection_id = :connection AND object = :object
                  AND state = 'ready' AND due_at <= :now {ordered} OFFSET 0) AS deliver
""".replace("{ordered}", ALONG_THE_INDEX)


@dataclass(frozen=True, slots=True)
class Todo:
    """What a queue may have to do now: each kind is looked at only if so."""

    vet: bool
    resolve: bool
    advance: bool
    deliver: bool


def todo(session: Session, queue: Queue, *, now: datetime) -> Todo:
    """What there is to do, in one look."""
    return Todo(**session.execute(text(TODO), {**_of(queue), "now": now}).mappings().one())


def find_queue(session: Session, queue_id: int) -> Queue | None:
    """The queue, marked as served now; None when it is gone or its connection waits for a person."""
    row = session.execute(text(FIND), {"id": queue_id}).first()
    if row is None:
        return None
    # Several threads may serve one queue: none waits for another only to say that it is here.
    served = """
        UPDATE sfsync.action_queues SET last_served_at = clock_timestamp()
         WHERE id = (SELECT id FROM sfsync.action_queues WHERE id = :id FOR UPDATE SKIP LOCKED)
    """
    session.execute(text(served), {"id": queue_id})
    return Queue(row.id, row.connection_id, row.object, row.may_bulk, row.takes_keys, row.now)


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
