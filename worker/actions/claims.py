"""Claiming what is to be sent, and writing down what came of it: only under the claim that is still valid.

The actions of a batch share one claim: a token that only grows, an expiry on Postgres's clock. There is no renewal: a batch
is sent only if its claim outlasts the request's whole deadline, so a claim that expired had no answer and is in doubt.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import RowMapping, text
from sqlalchemy.orm import Session

from worker import exact
from worker.actions import family, store
from worker.actions.batching import MERGED_UPDATES, Pending, pick, way_of
from worker.actions.changes import Change
from worker.actions.lifecycle import FINISHED, PASSED
from worker.db import owner
from worker.errors import FencedError
from worker.salesforce.limits import COLLECTION_RECORDS


@dataclass(frozen=True, slots=True)
class Queue:
    """One (connection, object) that may have work. `takes_keys`: whether the org heeds idempotency keys for it, None: ask."""

    id: int
    connection_id: int
    object: str
    may_bulk: bool = False
    takes_keys: bool | None = False


@dataclass(frozen=True, slots=True)
class Batch:
    """Actions of one kind under one claim: of their own (`token`), or of the Bulk job that they went by (`job`)."""

    queue: Queue
    token: int
    state: str  # sending or in_doubt: what they must still be in when their outcome is written
    actions: tuple[Pending, ...]
    way: str = "collection"  # how they are sent
    job: int | None = None


LOOK_AHEAD = 2  # batches' worth of heads that are looked at to fill one batch of one kind
FOLLOW_SECONDS = 1.0  # so long a call under way is waited for by what came after it, so that it fills the next batch
SIBLINGS_SECONDS = 10.0  # so long what is under way keeps others of the same parent back

SENT = """a.id, a.operation, a.record_id, a.external_id_field, a.external_id, CAST(a.fields AS text) AS fields, a.order_key,
       a.attempts, a.doubt_until IS NOT NULL AS doubted, a.ticket, a.way, a.mergeable, a.if_unmodified_since, a.sent_at,
       octet_length(CAST(a.fields AS text)) AS size"""

# The kind is not asked for here: what it would keep is hard to guess for the planner, which then reads and sorts everything
# that is ready instead of walking along the index (8 ms instead of 1 at 10,000 rows, and growing with them).
READY = """
SELECT {sent} FROM sfsync.actions a
 WHERE a.connection_id = :connection AND a.object = :object AND a.state = 'ready' AND a.due_at <= :now
 ORDER BY a.priority DESC, a.created_at LIMIT :limit FOR UPDATE SKIP LOCKED
""".replace("{sent}", SENT)
# What waits behind mergeable heads, as long as all of it may be merged: the first that may not ends the run of its line.
FOLLOWERS = """
SELECT {sent} FROM sfsync.actions h
 CROSS JOIN LATERAL (
       SELECT * FROM (
              SELECT f.*, bool_and(f.mergeable AND f.checked AND f.state = 'waiting' AND f.record_id = h.record_id AND NOT EXISTS (
                                   SELECT 1 FROM sfsync.action_parents p WHERE p.action_id = f.id))
                          OVER (ORDER BY f.ticket) AS joins
                FROM (SELECT * FROM sfsync.actions w
                       WHERE w.connection_id = h.connection_id AND w.object = h.object AND w.order_key = h.order_key
                         AND w.ticket > h.ticket AND w.state IN ('waiting', 'ready', 'sending', 'in_doubt')
                       ORDER BY w.ticket LIMIT :limit) AS f) AS run
        WHERE run.joins) AS a
 WHERE h.id = ANY(:ids)
 ORDER BY a.ticket
""".replace("{sent}", SENT)
STILL_WAITING = "SELECT id FROM sfsync.actions WHERE id = ANY(:ids) AND state = 'waiting' FOR UPDATE SKIP LOCKED"
TAKE = """
UPDATE sfsync.actions SET state = 'sending', claim_token = :token, claim_owner = :owner, attempts = attempts + 1,
       claim_until = clock_timestamp() + :ttl, sent_at = :sent_at, way = :way, ingest_job_id = NULL
 WHERE id = ANY(:ids)
"""
UNDER_WAY = """
SELECT claim_until > clock_timestamp() + :ttl - make_interval(secs => :follow) AS young, ARRAY(
       SELECT fields ->> name FROM unnest(CAST(:parents AS text[])) AS name WHERE fields ->> name IS NOT NULL) AS parents
  FROM sfsync.actions
 WHERE connection_id = :connection AND object = :object AND state = 'sending'
   AND claim_until > clock_timestamp() + :ttl - make_interval(secs => :siblings)
"""
DOUBTFUL = """
SELECT {sent}, a.doubt_until, a.error FROM sfsync.actions a
 WHERE a.connection_id = :connection AND a.object = :object AND a.state = 'in_doubt' AND a.due_at <= :now
   AND (a.claim_until IS NULL OR a.claim_until < clock_timestamp())
 ORDER BY a.sent_at LIMIT :limit FOR UPDATE SKIP LOCKED
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
# Of actions that were sent together for one record only the first is ready or held afterwards: the others wait behind it.
CHANGE = """
UPDATE sfsync.actions a
   SET state = CASE WHEN n.behind THEN 'waiting' ELSE n.state END, outcome = n.outcome,
       error = CASE WHEN n.state = 'delivered' THEN NULL ELSE coalesce(n.error, a.error) END,
       record_id = coalesce(n.record_id, a.record_id), attempts = greatest(a.attempts - n.attempt_back, 0),
       due_at = clock_timestamp() + make_interval(secs => n.after), mergeable = a.mergeable AND NOT n.alone,
       doubt_until = CASE WHEN NOT n.certain THEN greatest(a.doubt_until, clock_timestamp() + make_interval(secs => n.doubt)) END,
       claim_token = NULL, claim_owner = NULL, claim_until = NULL,
       finished_at = CASE WHEN n.finished THEN clock_timestamp() END
  FROM (SELECT c.*, c.state IN ('ready', 'held') AND EXISTS (
                    SELECT 1 FROM sfsync.actions m JOIN sfsync.actions b
                        ON b.connection_id = m.connection_id AND b.object = m.object AND b.order_key = m.order_key
                     WHERE c.shared AND m.id = c.id AND b.ticket < m.ticket
                       AND b.state IN ('waiting', 'ready', 'sending', 'in_doubt')) AS behind
          FROM jsonb_to_recordset(CAST(:changes AS jsonb)) AS c(
               id uuid, state text, outcome jsonb, error jsonb, record_id text, attempt_back int, after float8, doubt float8,
               certain bool, finished bool, alone bool, shared bool)) AS n
 WHERE a.id = n.id AND a.state = :state AND (a.claim_token = :token OR a.ingest_job_id = :job)
RETURNING a.id, a.object, a.order_key, a.record_id, a.state, a.doubt_until > clock_timestamp() AS may_land, a.doubt_until
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
    row = session.execute(text(FIND), {"id": queue_id}).first()
    if row is None:
        return None
    # Several threads may serve one queue: none waits for another only to say that it is here.
    served = """
        UPDATE sfsync.action_queues SET last_served_at = clock_timestamp()
         WHERE id = (SELECT id FROM sfsync.action_queues WHERE id = :id FOR UPDATE SKIP LOCKED)
    """
    session.execute(text(served), {"id": queue_id})
    return Queue(row.id, row.connection_id, row.object, row.may_bulk, row.takes_keys)


FIND = """
SELECT q.id, q.connection_id, q.object, coalesce(q.bulk_after <= clock_timestamp(), true) AS may_bulk,
       CASE WHEN q.takes_keys_until > clock_timestamp() THEN q.takes_keys END AS takes_keys
  FROM sfsync.action_queues q JOIN public.salesforce_oauth_tokens c ON c.id = q.connection_id AND c.state = 'active'
 WHERE q.id = :id
"""


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


def look(session: Session, queue: Queue, *, now: datetime, parents: Collection[str] = ()) -> list[Pending]:
    """The most urgent heads that are ready, locked until the transaction ends; `parents`: fields that name locked records."""
    values = {**_of(queue), "now": now, "limit": COLLECTION_RECORDS * LOOK_AHEAD}
    rows = session.execute(text(READY), values).mappings().all()
    return [pending(row, attempts=row["attempts"] + 1, parents=parents) for row in rows]


def more_ready_than(session: Session, queue: Queue, count: int, *, now: datetime) -> bool:
    """Whether more than `count` actions can be sent now."""
    query = """
        SELECT EXISTS (SELECT 1 FROM sfsync.actions
                        WHERE connection_id = :connection AND object = :object AND state = 'ready' AND due_at <= :now
                       OFFSET :count)
    """
    return bool(session.scalar(text(query), {**_of(queue), "now": now, "count": count}))


@dataclass(frozen=True, slots=True)
class UnderWay:
    """Calls of a queue that are under way. `young`: one began a moment ago. `parents`: ids that those of late lock."""

    young: bool
    parents: frozenset[str]


def under_way(session: Session, queue: Queue, *, ttl: timedelta, parents: Collection[str] = ()) -> UnderWay:
    """What other threads and processes are sending of this queue."""
    values = {
        **_of(queue),
        "ttl": ttl,
        "parents": list(parents),
        "follow": FOLLOW_SECONDS,
        "siblings": SIBLINGS_SECONDS,
    }
    rows = session.execute(text(UNDER_WAY), values).all()
    return UnderWay(any(row.young for row in rows), frozenset(one for row in rows for one in row.parents))


def claim_batch(
    session: Session,
    queue: Queue,
    *,
    now: datetime,
    sent_at: datetime,
    ttl: timedelta,
    window: Sequence[Pending] | None = None,
    busy: Collection[str] = (),
    way: str | None = None,
    limit: int = COLLECTION_RECORDS,
) -> Batch | None:
    """Claim ready heads of one kind for sending; None when nothing is due. `sent_at`: the org's time, never ahead of it.

    `window`: what `look` found in this transaction. `busy`: parents that others lock now.
    """
    chosen = pick(look(session, queue, now=now) if window is None else window, busy)[:limit]
    if not chosen:
        return None
    chosen += _followers(session, chosen)
    token = _token(session)
    way = way or way_of(chosen[0])
    values = {"token": token, "owner": owner(), "ttl": ttl, "sent_at": sent_at, "way": way}
    session.execute(text(TAKE), {**values, "ids": [one.id for one in chosen]})
    return Batch(queue, token, "sending", tuple(chosen), way)


def _followers(session: Session, heads: Sequence[Pending]) -> list[Pending]:
    """The waiting updates that may ride with these heads, without a gap in any line."""
    ids = [one.id for one in heads if one.mergeable]
    if not ids:
        return []
    rows = session.execute(text(FOLLOWERS), {"ids": ids, "limit": MERGED_UPDATES}).mappings().all()
    free = set(session.scalars(text(STILL_WAITING), {"ids": [row["id"] for row in rows]})) if rows else set()
    ended: set[str] = set()  # lines in which somebody holds one: nothing behind it may overtake it
    found = []
    for row in rows:
        if row["id"] not in free:
            ended.add(row["order_key"])
        if row["order_key"] not in ended:
            found.append(pending(row, attempts=row["attempts"] + 1))
    return found


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
    batch = Batch(queue, token, "in_doubt", tuple(pending(row, attempts=row["attempts"]) for row in rows))
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


def write(session: Session, batch: Batch, changes: Sequence[Change]) -> list[int]:
    """Write what became of claimed actions, and let go on what waited for it. All or nothing.

    The ids of other queues that have work because of it, to be woken after the commit. FencedError when one of the actions is no
    longer under this claim: somebody else decides about it now.
    """
    connection_id, object_name = batch.queue.connection_id, batch.queue.object
    orders = {one.id: one.order_key for one in batch.actions}
    updates = {one.id for one in batch.actions if one.operation == "update"}
    ending = [one.id for one in changes if one.state in PASSED]
    lines = {(object_name, key) for one in changes for key in (orders[one.id], one.record_id) if key}
    lines |= family.lines_of_children(session, ending)
    store.lock_lines(session, connection_id, lines)
    values = {
        "changes": exact.dumps([_row(one, shared=one.id in updates) for one in changes]),
        "token": batch.token,
        "state": batch.state,
        "job": batch.job,
    }
    rows = session.execute(text(CHANGE), values).all()
    if len(rows) != len(changes):
        raise _fenced(batch)
    session.execute(text(LOG), {**values, "way": "look" if batch.state == "in_doubt" else batch.way})
    ended = {row.id for row in rows if row.state in PASSED}
    _keep_quiet(session, connection_id, [row for row in rows if row.id in ended and row.may_land])
    waiting = {(object_name, row.order_key) for row in rows if row.id in ended or row.state == "waiting"}
    settled = family.settle(session, connection_id, ended, waiting)
    return [store.awaken(session, connection_id, one) for one in sorted(settled.objects - {object_name})]


def _keep_quiet(session: Session, connection_id: int, rows: Sequence[Any]) -> None:
    if rows:
        keys = {(row.object, key): row.doubt_until for row in rows for key in (row.order_key, row.record_id) if key}
        held = [{"object": obj, "order_key": key, "until": until.isoformat()} for (obj, key), until in keys.items()]
        session.execute(text(QUIET), {"connection": connection_id, "lines": exact.dumps(held)})


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


def _row(change: Change, *, shared: bool) -> dict[str, Any]:
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
        "alone": change.alone,
        "shared": shared,
    }


def pending(row: RowMapping, *, attempts: int, parents: Collection[str] = ()) -> Pending:
    """A row of `SENT` as an action; `parents`: fields that name records which the org locks with it."""
    fields = exact.loads(row["fields"])
    return Pending(
        id=row["id"],
        operation=row["operation"],
        record_id=row["record_id"],
        external_id_field=row["external_id_field"],
        external_id=row["external_id"],
        fields=fields,
        order_key=row["order_key"],
        attempts=attempts,
        doubted=row["doubted"],
        ticket=row["ticket"],
        way=row["way"],
        mergeable=row["mergeable"],
        if_unmodified_since=row["if_unmodified_since"],
        sent_at=row["sent_at"],
        size=row["size"],
        parents=frozenset(str(fields[name]) for name in parents if isinstance(fields.get(name), str)),
    )


def _of(queue: Queue) -> dict[str, Any]:
    return {"connection": queue.connection_id, "object": queue.object}


def _token(session: Session) -> int:
    return int(session.scalar(text("SELECT nextval('sfsync.claim_tokens')")))


def _fenced(batch: Batch) -> FencedError:
    return FencedError(f"actions of {batch.queue.object} under claim {batch.token} are no longer ours")
