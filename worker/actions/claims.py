"""Claiming what is to be sent, and writing down what came of it: only under the claim that is still valid.

The actions of a batch share one claim: a token that only grows, an expiry on Postgres's clock. There is no renewal: a batch
is sent only if its claim outlasts the request's whole deadline, so a claim that expired had no answer and is in doubt.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import RowMapping, text
from sqlalchemy.orm import Session

from worker.actions import exact, store
from worker.actions.batching import Pending, cut
from worker.actions.lifecycle import FINISHED, PASSED
from worker.actions.outcome import Problem
from worker.db import owner
from worker.errors import FencedError
from worker.salesforce.limits import COLLECTION_RECORDS


@dataclass(frozen=True, slots=True)
class Queue:
    """One (connection, object) that may have work."""

    id: int
    connection_id: int
    object: str


@dataclass(frozen=True, slots=True)
class Batch:
    """Actions of one kind under one claim."""

    queue: Queue
    token: int
    state: str  # sending or in_doubt: what they must still be in when their outcome is written
    actions: tuple[Pending, ...]
    way: str = "collections"  # how they are sent, for the log of their attempts


@dataclass(frozen=True, slots=True)
class Change:
    """What becomes of one claimed action. `doubt`: for how long an unanswered sending of it may still land."""

    id: UUID
    state: str
    after: timedelta = timedelta(0)
    outcome: Mapping[str, Any] | None = None
    problem: Problem | None = None
    details: Mapping[str, Any] | None = None  # added to the problem
    record_id: str | None = None
    attempt_back: bool = False
    doubt: timedelta | None = None
    certain: bool = False  # no earlier sending of it can land any more


LOOK_AHEAD = 2  # batches' worth of heads that are looked at to fill one batch of one kind

SENT = """id, operation, record_id, external_id_field, external_id, CAST(fields AS text) AS fields, order_key, attempts,
       doubt_until IS NOT NULL AS doubted"""

# The kind is not asked for here: what it would keep is hard to guess for the planner, which then reads and sorts everything
# that is ready instead of walking along the index (8 ms instead of 1 at 10,000 rows, and growing with them).
READY = """
SELECT {sent}, octet_length(CAST(fields AS text)) AS size FROM sfsync.actions
 WHERE connection_id = :connection AND object = :object AND state = 'ready' AND due_at <= :now
 ORDER BY priority DESC, created_at LIMIT :limit FOR UPDATE SKIP LOCKED
""".replace("{sent}", SENT)
TAKE = """
UPDATE sfsync.actions SET state = 'sending', claim_token = :token, claim_owner = :owner, attempts = attempts + 1,
       claim_until = clock_timestamp() + :ttl, sent_at = :sent_at
 WHERE id = ANY(:ids)
"""
DOUBTFUL = """
SELECT {sent}, sent_at, doubt_until, error FROM sfsync.actions
 WHERE connection_id = :connection AND object = :object AND state = 'in_doubt' AND due_at <= :now
   AND (claim_until IS NULL OR claim_until < clock_timestamp())
 ORDER BY sent_at LIMIT :limit FOR UPDATE SKIP LOCKED
""".replace("{sent}", SENT)
HOLD = """
UPDATE sfsync.actions SET claim_token = :token, claim_owner = :owner, claim_until = clock_timestamp() + :ttl
 WHERE id = ANY(:ids)
"""
# A claim that ran out under `sending`: its owner died or hangs, and nobody knows whether the org got it.
EXPIRE = """
WITH expired AS (UPDATE sfsync.actions SET state = 'in_doubt', due_at = :now, claim_token = NULL, claim_owner = NULL, claim_until = NULL,
       doubt_until = greatest(doubt_until, clock_timestamp() + :settling)
 WHERE id IN (SELECT id FROM sfsync.actions
               WHERE connection_id = :connection AND object = :object AND state = 'sending'
                 AND claim_until < clock_timestamp() FOR UPDATE SKIP LOCKED) RETURNING id)
INSERT INTO sfsync.action_attempts (action_id, way, state, code, message)
SELECT id, 'expired', 'in_doubt', 'NO_ANSWER', 'the claim ran out: the worker that sent it died or hangs' FROM expired
"""
CHANGE = """
UPDATE sfsync.actions a
   SET state = n.state, outcome = n.outcome, error = CASE WHEN n.state = 'delivered' THEN NULL ELSE coalesce(n.error, a.error) END,
       record_id = coalesce(n.record_id, a.record_id), attempts = a.attempts - n.attempt_back,
       due_at = clock_timestamp() + make_interval(secs => n.after),
       doubt_until = CASE WHEN NOT n.certain THEN greatest(a.doubt_until, clock_timestamp() + make_interval(secs => n.doubt)) END,
       claim_token = NULL, claim_owner = NULL, claim_until = NULL,
       finished_at = CASE WHEN n.finished THEN clock_timestamp() END
  FROM jsonb_to_recordset(CAST(:changes AS jsonb)) AS n(
       id uuid, state text, outcome jsonb, error jsonb, record_id text, attempt_back int, after float8, doubt float8, certain bool,
       finished bool)
 WHERE a.id = n.id AND a.claim_token = :token AND a.state = :state
RETURNING a.id, a.object, a.order_key, a.record_id, a.doubt_until > clock_timestamp() AS may_land, a.doubt_until
"""
LOG = """
INSERT INTO sfsync.action_attempts (action_id, way, state, code, message)
SELECT n.id, :way, n.state, n.error ->> 'code', n.error ->> 'message'
  FROM jsonb_to_recordset(CAST(:changes AS jsonb)) AS n(id uuid, state text, error jsonb)
 WHERE n.state <> 'in_doubt' OR :state <> 'in_doubt'  -- a look that found nothing is no news
"""
# What an unanswered sending could still overwrite waits until it can no longer land: the record's line is kept quiet.
QUIET = """
INSERT INTO sfsync.action_lines AS l (connection_id, object, order_key, quiet_until)
SELECT :connection, w.object, w.order_key, w.until
  FROM jsonb_to_recordset(CAST(:lines AS jsonb)) AS w(object text, order_key text, until timestamptz)
 ORDER BY w.object, w.order_key
    ON CONFLICT (connection_id, object, order_key) DO UPDATE SET quiet_until = greatest(l.quiet_until, EXCLUDED.quiet_until)
"""


def find_queue(session: Session, queue_id: int) -> Queue | None:
    """The queue, marked as served now; None when it is gone or its connection waits for a person."""
    row = session.execute(
        text(
            """
            UPDATE sfsync.action_queues q SET last_served_at = clock_timestamp()
              FROM public.salesforce_oauth_tokens c
             WHERE q.id = (SELECT id FROM sfsync.action_queues WHERE id = :id FOR UPDATE SKIP LOCKED)
               AND c.id = q.connection_id AND c.state = 'active'
            RETURNING q.id, q.connection_id, q.object
            """
        ),
        {"id": queue_id},
    ).first()
    return None if row is None else Queue(row.id, row.connection_id, row.object)


def expire(session: Session, queue: Queue, *, now: datetime, settling: timedelta) -> None:
    """Put what was sent and never answered in doubt."""
    session.execute(text(EXPIRE), {**_of(queue), "now": now, "settling": settling})


def has_ready(session: Session, queue: Queue, *, now: datetime) -> bool:
    """Whether something can be sent now."""
    query = (
        "SELECT EXISTS (SELECT 1 FROM sfsync.actions WHERE connection_id = :connection AND object = :object"
        " AND state = 'ready' AND due_at <= :now)"
    )
    return bool(session.scalar(text(query), {**_of(queue), "now": now}))


def claim_batch(
    session: Session, queue: Queue, *, now: datetime, sent_at: datetime, ttl: timedelta, limit: int = COLLECTION_RECORDS
) -> Batch | None:
    """Claim the ready heads of one kind for sending; None when nothing is due. `sent_at`: the org's time, never ahead of it."""
    found = session.execute(text(READY), {**_of(queue), "now": now, "limit": limit * LOOK_AHEAD}).mappings().all()
    rows = [row for row in found if _kind(row) == _kind(found[0])][:limit]
    if not rows:
        return None
    rows = rows[: cut([row["size"] for row in rows], records=limit)]
    token = _token(session)
    values = {"token": token, "owner": owner(), "ttl": ttl, "sent_at": sent_at, "ids": [row["id"] for row in rows]}
    session.execute(text(TAKE), values)
    return Batch(queue, token, "sending", tuple(_pending(row, attempts=row["attempts"] + 1) for row in rows))


@dataclass(frozen=True, slots=True)
class Doubt:
    """Actions in doubt under one claim; of each, when it was sent (the org's time), until when it may land (Postgres's), its error."""

    batch: Batch
    sent_at: dict[UUID, datetime]
    until: dict[UUID, datetime]
    errors: dict[UUID, dict[str, Any]]


def claim_doubt(session: Session, queue: Queue, *, now: datetime, ttl: timedelta) -> Doubt | None:
    """Claim actions in doubt that are due for a look; None when there are none."""
    rows = session.execute(text(DOUBTFUL), {**_of(queue), "now": now, "limit": COLLECTION_RECORDS}).mappings().all()
    if not rows:
        return None
    token = _token(session)
    session.execute(text(HOLD), {"token": token, "owner": owner(), "ttl": ttl, "ids": [row["id"] for row in rows]})
    batch = Batch(queue, token, "in_doubt", tuple(_pending(row, attempts=row["attempts"]) for row in rows))
    return Doubt(
        batch,
        {row["id"]: row["sent_at"] for row in rows},
        {row["id"]: row["doubt_until"] for row in rows},
        {row["id"]: row["error"] or {} for row in rows},
    )


def prolong(session: Session, batch: Batch, actions: Collection[Pending], ttl: timedelta) -> None:
    """Renew the claim of some of a batch before they are sent apart. FencedError when it is no longer ours."""
    query = (
        "UPDATE sfsync.actions SET claim_until = clock_timestamp() + :ttl"
        " WHERE id = ANY(:ids) AND claim_token = :token AND state = :state RETURNING id"
    )
    values = {"ttl": ttl, "ids": [one.id for one in actions], "token": batch.token, "state": batch.state}
    if len(session.execute(text(query), values).all()) != len(actions):
        raise _fenced(batch)


def write(session: Session, batch: Batch, changes: Sequence[Change]) -> None:
    """Write what became of claimed actions, and let the next of their lines go on. All or nothing.

    FencedError when one of them is no longer under this claim: somebody else decides about it now.
    """
    orders = {one.id: one.order_key for one in batch.actions}
    lines = {(batch.queue.object, key) for one in changes for key in (orders[one.id], one.record_id) if key}
    store.lock_lines(session, batch.queue.connection_id, lines)
    values = {"changes": exact.dumps([_row(one) for one in changes]), "token": batch.token, "state": batch.state}
    rows = session.execute(text(CHANGE), values).all()
    if len(rows) != len(changes):
        raise _fenced(batch)
    session.execute(text(LOG), {**values, "way": "look" if batch.state == "in_doubt" else batch.way})
    passed = {one.id for one in changes if one.state in PASSED}
    quiet = [row for row in rows if row.id in passed and row.may_land]
    if quiet:
        keys = {(row.object, key): row.doubt_until for row in quiet for key in (row.order_key, row.record_id) if key}
        held = [{"object": obj, "order_key": key, "until": until.isoformat()} for (obj, key), until in keys.items()]
        session.execute(text(QUIET), {"connection": batch.queue.connection_id, "lines": exact.dumps(held)})
    store.promote(session, batch.queue.connection_id, {(batch.queue.object, orders[one]) for one in passed})


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
                    SELECT min(CASE WHEN state = 'sending' THEN claim_until ELSE greatest(due_at, claim_until) END)
                      FROM sfsync.actions
                     WHERE connection_id = :connection AND object = :object AND state IN ('sending', 'in_doubt')
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


def postpone(session: Session, queue: Queue, after: timedelta) -> None:
    """The org cannot be reached: leave the queue alone for a while. What is accepted meanwhile wakes it."""
    query = "UPDATE sfsync.action_queues SET next_due_at = clock_timestamp() + :after WHERE id = :id"
    session.execute(text(query), {"id": queue.id, "after": after})


def _kind(row: RowMapping) -> tuple[str, str | None]:
    """What goes into one call together."""
    return row["operation"], row["external_id_field"]


def _row(change: Change) -> dict[str, Any]:
    problem = {**change.problem.as_json(), **(change.details or {})} if change.problem else None
    return {
        "id": str(change.id),
        "state": change.state,
        "outcome": change.outcome,
        "error": problem,
        "record_id": change.record_id,
        "attempt_back": int(change.attempt_back),
        "after": change.after.total_seconds(),
        "doubt": None if change.doubt is None else change.doubt.total_seconds(),
        "certain": change.certain,
        "finished": change.state in FINISHED,
    }


def _pending(row: RowMapping, *, attempts: int) -> Pending:
    return Pending(
        id=row["id"],
        operation=row["operation"],
        record_id=row["record_id"],
        external_id_field=row["external_id_field"],
        external_id=row["external_id"],
        fields=exact.loads(row["fields"]),
        order_key=row["order_key"],
        attempts=attempts,
        doubted=row["doubted"],
    )


def _of(queue: Queue) -> dict[str, Any]:
    return {"connection": queue.connection_id, "object": queue.object}


def _token(session: Session) -> int:
    return int(session.scalar(text("SELECT nextval('sfsync.claim_tokens')")))


def _fenced(batch: Batch) -> FencedError:
    return FencedError(f"actions of {batch.queue.object} under claim {batch.token} are no longer ours")
