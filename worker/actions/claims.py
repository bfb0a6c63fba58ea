"""Claiming what is to be sent, and what is in doubt; record.py writes down what came of it, under the claim that is still valid.

The actions of a batch share one claim: a token that only grows, an expiry on Postgres's clock. There is no renewal: a batch
is sent only if its claim outlasts the request's whole deadline, so a claim that expired had no answer and is in doubt.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import Row, text
from sqlalchemy.orm import Session

from worker import exact
from worker.actions.batching import MERGED_AT_ONCE, MERGED_UPDATES, Head, Pending, kind_of, pick, way_of
from worker.actions.queues import ALONG_THE_INDEX, Queue
from worker.db import owner, uuid_array
from worker.errors import FencedError
from worker.salesforce.limits import COLLECTION_RECORDS
from worker.steps import no_pause


@dataclass(frozen=True, slots=True)
class Batch:
    """Actions of one kind under one claim: of their own (`token`), or of the Bulk job that they went by (`job`)."""

    queue: Queue
    token: int
    state: str  # sending or in_doubt: what they must still be in when their outcome is written
    actions: tuple[Pending, ...]
    way: str = "collection"  # how they are sent
    job: int | None = None


LOOK_AHEAD = 2  # batches' worth of heads that are looked at to fill one batch of one kind where kinds are mixed
FOLLOW_SECONDS = 1.0  # so long a call under way is waited for by what came after it, so that it fills the next batch
SIBLINGS_SECONDS = 10.0  # so long what is under way keeps others of the same parent back

# What is sent of an action, in the order of Pending; after a claim `way` is the one by which it goes.
SENT = """a.id, a.operation, a.record_id, a.external_id_field, a.external_id, CAST(a.fields AS text) AS fields, a.order_key,
       a.attempts, a.doubt_until IS NOT NULL AS doubted, a.ticket, a.way, a.mergeable, a.if_unmodified_since,
       octet_length(CAST(a.fields AS text)) AS size"""
COLUMNS = Pending._fields.index("parents")  # so many are of Pending

# The kind is not asked for here: what it would keep is hard to guess for the planner, which then reads and sorts everything
# that is ready instead of walking along the index (8 ms instead of 1 at 10,000 rows, and growing with them).
READY = """
SELECT a.id, a.operation, a.external_id_field, a.attempts + 1, a.doubt_until IS NOT NULL, a.way, a.mergeable,
       a.if_unmodified_since, octet_length(CAST(a.fields AS text)), {parents}
  FROM sfsync.actions a
 WHERE a.connection_id = :connection AND a.object = :object AND a.state = 'ready' AND a.due_at <= :now
 ORDER BY a.priority DESC, a.created_at LIMIT :limit FOR UPDATE SKIP LOCKED
"""
MORE_READY = """
SELECT EXISTS (SELECT 1 FROM sfsync.actions
                WHERE connection_id = :connection AND object = :object AND state = 'ready' AND due_at <= :now
                {ordered} OFFSET :count)
""".replace("{ordered}", ALONG_THE_INDEX)
PARENTS = (
    "ARRAY(SELECT a.fields ->> name FROM unnest(CAST(:parents AS text[])) AS name WHERE a.fields ->> name IS NOT NULL)"
)
NO_PARENTS = "CAST('{}' AS text[])"
WHOLE = "SELECT {sent} FROM sfsync.actions a WHERE a.id = ANY(:ids)".replace("{sent}", SENT)
# What waits behind mergeable heads, as long as all of it may be merged: the first that may not ends the run of its line.
FOLLOWERS = """
SELECT a.id, a.order_key FROM sfsync.actions h
 CROSS JOIN LATERAL (
       SELECT * FROM (
              SELECT f.*, bool_and(f.mergeable AND f.checked AND f.state = 'waiting' AND f.record_id = h.record_id AND NOT EXISTS (
                                   SELECT 1 FROM sfsync.action_parents p WHERE p.action_id = f.id))
                          OVER (ORDER BY f.ticket) AS joins
                FROM (SELECT * FROM sfsync.actions w
                       WHERE w.connection_id = h.connection_id AND w.object = h.object AND w.order_key = h.order_key
                         AND w.ticket <> 0 AND w.ticket > h.ticket AND w.state IN ('waiting', 'ready', 'sending', 'in_doubt')
                       ORDER BY w.ticket LIMIT :limit) AS f) AS run
        WHERE run.joins) AS a
 WHERE h.id = ANY(:ids)
 ORDER BY a.ticket
"""
STILL_WAITING = "SELECT id FROM sfsync.actions WHERE id = ANY(:ids) AND state = 'waiting' FOR UPDATE SKIP LOCKED"
TAKE = """
WITH claim AS MATERIALIZED (SELECT nextval('sfsync.claim_tokens') AS token)
UPDATE sfsync.actions a SET state = 'sending', claim_token = claim.token, claim_owner = :owner, attempts = attempts + 1,
       claim_until = clock_timestamp() + :ttl, way = :way, ingest_job_id = NULL,
       sent_at = CASE WHEN a.doubt_until IS NULL THEN :sent_at ELSE a.sent_at END  -- what an earlier sending made is as old as that
  FROM claim
 WHERE a.id = ANY(CAST(:ids AS uuid[]))
RETURNING {sent}, a.claim_token
""".replace("{sent}", SENT)
UNDER_WAY = """
WITH others AS MATERIALIZED (
  SELECT claim_until > statement_timestamp() + :ttl - make_interval(secs => :follow) AS young,
         CASE WHEN cardinality(CAST(:parents AS text[])) > 0 THEN fields END AS fields
    FROM sfsync.actions
   WHERE connection_id = :connection AND object = :object AND state = 'sending'
     AND claim_until > statement_timestamp() + :ttl - make_interval(secs => :siblings))
SELECT coalesce((SELECT bool_or(young) FROM others), false) AS young, ARRAY(
       SELECT DISTINCT fields ->> name FROM others CROSS JOIN unnest(CAST(:parents AS text[])) AS name
        WHERE fields ->> name IS NOT NULL) AS parents
"""
DOUBTFUL = """
SELECT {sent}, a.sent_at, a.doubt_until, a.error FROM sfsync.actions a
 WHERE a.connection_id = :connection AND a.object = :object AND a.state = 'in_doubt' AND a.due_at <= :now
   AND (a.claim_until IS NULL OR a.claim_until < statement_timestamp())
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
                 AND claim_until < statement_timestamp() FOR UPDATE SKIP LOCKED) RETURNING id)
INSERT INTO sfsync.action_attempts (action_id, way, state, code, message)
SELECT id, 'expired', 'in_doubt', 'NO_ANSWER', 'the claim ran out: the worker that sent it died or hangs' FROM expired
"""


def expire(session: Session, queue: Queue, *, now: datetime, settling: timedelta) -> None:
    """Put what was sent and never answered in doubt."""
    session.execute(text(EXPIRE), {**_of(queue), "now": now, "settling": settling})


def look(
    session: Session, queue: Queue, *, now: datetime, parents: Collection[str] = (), limit: int = COLLECTION_RECORDS
) -> list[Head]:
    """The most urgent heads that are ready, locked until the transaction ends: a batch's worth, more where kinds are mixed.

    `parents`: fields that name records which the org locks.
    """
    query = text(READY.replace("{parents}", PARENTS if parents else NO_PARENTS))
    values = {**_of(queue), "now": now, "parents": list(parents)}
    heads = [Head(*row) for row in session.execute(query, {**values, "limit": limit})]
    if len(heads) < limit or len({kind_of(one) for one in heads}) == 1:
        return heads
    return [Head(*row) for row in session.execute(query, {**values, "limit": limit * LOOK_AHEAD})]


def whole(session: Session, heads: Collection[Head]) -> list[Pending]:
    """The same actions with all that is sent of them."""
    rows = session.execute(text(WHOLE), {"ids": [one.id for one in heads]}).all()
    return pendings(rows, sending=True)


def more_ready_than(session: Session, queue: Queue, count: int, *, now: datetime) -> bool:
    """Whether more than `count` actions can be sent now."""
    return bool(session.scalar(text(MORE_READY), {**_of(queue), "now": now, "count": count}))


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
    row = session.execute(text(UNDER_WAY), values).one()
    return UnderWay(row.young, frozenset(row.parents))


def claim_batch(
    session: Session,
    queue: Queue,
    *,
    now: datetime,
    sent_at: datetime,
    ttl: timedelta,
    window: Sequence[Head] | None = None,
    busy: Collection[str] = (),
    way: str | None = None,
    limit: int = COLLECTION_RECORDS,
) -> Batch | None:
    """Claim ready heads of one kind for sending; None when nothing is due. `sent_at`: the org's time, never ahead of it.

    `window`: what `look` found in this transaction. `busy`: parents that others lock now.
    """
    chosen = pick(look(session, queue, now=now, limit=limit) if window is None else window, busy)[:limit]
    if not chosen:
        return None
    ids = [*(one.id for one in chosen), *_followers(session, chosen)]
    way = way or way_of(chosen[0])
    values = {"owner": owner(), "ttl": ttl, "sent_at": sent_at, "way": way, "ids": uuid_array(ids)}
    rows = session.execute(text(TAKE), values).all()
    taken = {one.id: one for one in pendings(rows)}
    return Batch(queue, rows[0].claim_token, "sending", tuple(taken[one] for one in ids), way)


def _followers(session: Session, heads: Sequence[Head]) -> list[UUID]:
    """The waiting updates that may ride with these heads, without a gap in any line."""
    ids = [one.id for one in heads if one.mergeable]
    if not ids:
        return []
    limit = min(MERGED_UPDATES, max(1, MERGED_AT_ONCE // len(ids)))
    rows = session.execute(text(FOLLOWERS), {"ids": ids, "limit": limit}).all()
    free = set(session.scalars(text(STILL_WAITING), {"ids": [row.id for row in rows]})) if rows else set()
    ended: set[str] = set()  # lines in which somebody holds one: nothing behind it may overtake it
    found = []
    for row in rows:
        if row.id not in free:
            ended.add(row.order_key)
        if row.order_key not in ended:
            found.append(row.id)
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
    rows = session.execute(text(DOUBTFUL), {**_of(queue), "now": now, "limit": COLLECTION_RECORDS}).all()
    if not rows:
        return None
    token = _token(session)
    session.execute(text(HOLD), {"token": token, "owner": owner(), "ttl": ttl, "ids": [row.id for row in rows]})
    return Doubt(
        Batch(queue, token, "in_doubt", tuple(pendings(rows))),
        {row.id: row.sent_at for row in rows},
        {row.id: row.doubt_until for row in rows},
        {row.id: row.error or {} for row in rows},
    )


def prolong(session: Session, batch: Batch, actions: Collection[Pending], ttl: timedelta) -> None:
    """Renew the claim of some of a batch before they are sent apart. FencedError when it is no longer ours."""
    query = (
        "UPDATE sfsync.actions SET claim_until = clock_timestamp() + :ttl"
        " WHERE id = ANY(:ids) AND claim_token = :token AND state = :state RETURNING id"
    )
    values = {"ttl": ttl, "ids": [one.id for one in actions], "token": batch.token, "state": batch.state}
    if len(session.execute(text(query), values).all()) != len(actions):
        raise fenced(batch)


def pendings(rows: Sequence[Row[Any]], *, sending: bool = False, pause: Callable[[], None] = no_pause) -> list[Pending]:
    """Rows that begin with `SENT` as actions; `sending`: with the sending that is to come counted."""
    found: list[Pending] = []
    for start in range(0, len(rows), COLLECTION_RECORDS):
        some = rows[start : start + COLLECTION_RECORDS]
        fields = exact.loads(f"[{','.join([row.fields for row in some])}]")  # at once, in half the time
        found += [
            Pending(*row[:COLUMNS])._replace(fields=given, attempts=row.attempts + sending)
            for row, given in zip(some, fields, strict=True)
        ]
        pause()
    return found


def _of(queue: Queue) -> dict[str, Any]:
    return {"connection": queue.connection_id, "object": queue.object}


def _token(session: Session) -> int:
    return int(session.scalar(text("SELECT nextval('sfsync.claim_tokens')")))


def fenced(batch: Batch) -> FencedError:
    """For who finds that a batch is somebody else's by now."""
    return FencedError(f"actions of {batch.queue.object} under claim {batch.token} are no longer ours")
