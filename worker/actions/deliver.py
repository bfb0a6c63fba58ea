"""Delivering actions: one step sends one batch, moves one Bulk job, or settles what is in doubt, and remembers what was delivered.

Killed before the batch is committed as sending: nothing happened. Killed after: the claim runs out and the batch is in doubt,
which is settled by looking (see resolve.py). Killed after the outcome: the mirror is told by the next step, or by upkeep.
"""

import random
import time
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from uuid import uuid4

from sqlalchemy import text

from worker.actions import claims, ingest, outcome, queues
from worker.actions.batching import ASSIGNED, KEYED, Head, Pending, Row, halves, most, owned_apart, pick
from worker.actions.changes import changes_for
from worker.actions.claims import Batch
from worker.actions.deps import ActionDeps
from worker.actions.describes import describe_of
from worker.actions.outcome import Problem, TryAgain, Verdict, Waits
from worker.actions.queues import Queue, Todo
from worker.actions.record import record
from worker.actions.resolve import resolve
from worker.actions.sending import send
from worker.actions.vetting import vet
from worker.attribution import attributed
from worker.db import uuid_array
from worker.errors import DisconnectedError, RejectedError, SettingsError, SyncError, TransientError
from worker.log import bound, get_logger
from worker.salesforce import ui_records
from worker.salesforce.client import OrgClient
from worker.salesforce.limits import COLLECTION_RETRIEVE_IDS
from worker.steps import Again, Busy, Done, Step

log = get_logger(__name__)

NO_TIME = timedelta(0)
GRACE_SECONDS = 30.0  # at most, between the claim and the sending; and for writing the outcome down
UNREACHABLE = timedelta(seconds=5)  # before the org is tried again
NEEDS_A_PERSON = timedelta(minutes=1)  # … which refuses the API or the session, or does not serve our version of it
REMEMBER_AGAIN = timedelta(seconds=15)  # after the mirror could not be told
REMEMBER_SOON = timedelta(seconds=1)  # what was delivered while it was told of earlier records
REMEMBER_AFTER_SECONDS = 2.0  # a busy queue tells the mirror of several batches together, but not later than this
TURN_SECONDS = 5.0  # how long one queue is served before others get their turn
COUNT_AGAIN_SECONDS = 1.0  # least time between two counts of whether enough is ready for a Bulk job
KEYS_TAKEN_FOR = timedelta(days=7)  # before the org is asked again whether it heeds idempotency keys
KEYS_NOT_TAKEN_FOR = timedelta(days=1)
KEYS_NOT_TOLD_FOR = timedelta(minutes=5)  # … when it could not say


def serve(deps: ActionDeps, queue_id: int) -> Step:
    """Steps of one queue for a few seconds, or until it has nothing to do."""
    begun = counted = time.monotonic()
    found = step(deps, queue_id)
    while isinstance(found, Again) and (now := time.monotonic()) < begun + TURN_SECONDS and not deps.crowded():
        few = now < counted + COUNT_AGAIN_SECONDS
        counted = counted if few else now
        found = step(deps, queue_id, further=True, few=few)
    return found


def step(
    deps: ActionDeps,
    queue_id: int,
    *,
    now: datetime | None = None,
    chance: Callable[[], float] = random.random,
    further: bool = False,
    few: bool = False,
) -> Step:
    """Move one queue one step. May run at the same time as others on the same queue: each claims what it sends.

    `further`: in the same turn as the step before. `few`: a moment ago less was ready than a Bulk job is for.
    """
    deps.give_way()
    with deps.database.alone() as session:
        found = queues.look(session, queue_id, now=now, serve=not further)
    if found is None:
        return Busy()
    queue, todo = found
    with (
        bound(connection=queue.connection_id, object=queue.object),
        attributed(object=queue.object, lane="actions", cause="deliver"),
    ):
        try:
            worked = _work(deps, queue, todo, chance=chance, few=few)
        except _PausedError as paused:
            _postpone(deps, queue, paused.after)
            return Done()
        except (TransientError, RejectedError, DisconnectedError, SettingsError) as error:
            pause = UNREACHABLE if isinstance(error, TransientError) else NEEDS_A_PERSON
            _postpone(deps, queue, getattr(error, "retry_after", None) or pause)
            raise
        told = remember_delivered(deps, queue, worked=worked)
        if worked is None:
            return Busy()
        if worked:
            return Again()
        with deps.database.transaction() as session:
            queues.rest_queue(session, queue, recheck=REMEMBER_SOON if told else REMEMBER_AGAIN)
        return Done()


def _work(deps: ActionDeps, queue: Queue, todo: Todo, *, chance: Callable[[], float], few: bool) -> bool | None:
    """One piece of everything that there is to do; whether there was any, None when what is ready waits for others' calls.

    All of it in each step, and sending last: where there is always something to check or to look for, as there is while
    thousands are in doubt, what is ready still goes.
    """
    now = todo.now
    if todo.expire:
        with deps.database.transaction() as session:
            claims.expire(session, queue, now=now, settling=timedelta(seconds=deps.settings.settling_seconds))
    vetted = todo.vet and vet(deps, queue)
    resolved = (todo.resolve or todo.expire) and resolve(deps, queue, now=now)
    advanced = todo.advance and ingest.advance(deps, queue, now=now, chance=chance)
    sent = todo.deliver and deliver(deps, queue, now=now, chance=chance, few=few)
    return vetted or resolved or advanced or sent


class _PausedError(Exception):
    """The org asked to be left alone for a while: nothing more of this queue is sent now."""

    def __init__(self, after: timedelta) -> None:
        self.after = after


def _postpone(deps: ActionDeps, queue: Queue, after: timedelta) -> None:
    with deps.database.transaction() as session:
        queues.postpone(session, queue, after)


def deliver(
    deps: ActionDeps, queue: Queue, *, now: datetime, chance: Callable[[], float], few: bool = False
) -> bool | None:
    """Send one batch of what is ready; False when nothing is, None when what is ready waits for others' calls to end."""
    client = deps.client(queue.connection_id)
    client.meter.check()  # what must wait is better not claimed
    sent_at = deps.clocks.now(queue.connection_id, client)
    parents = _locking_fields(deps, queue)
    deps.give_way()
    claimed = time.monotonic()
    with deps.database.transaction() as session:
        window = claims.look(session, queue, now=now, parents=parents)
        if not window:
            return False
        others = claims.under_way(session, queue, ttl=_ttl(deps), parents=parents)
        chosen = pick(window, others.parents)
        if not chosen or (others.young and len(chosen) < most(chosen[0])):
            return None
        asks = _may_take_key(deps, queue, chosen) and queue.takes_keys is None
        kind = None if asks else ingest.kind_for_job(session, deps, queue, chosen, window, now=now, few=few)
        batch = None
        if not asks and kind is None:
            way = KEYED if _may_take_key(deps, queue, chosen) and queue.takes_keys else None
            batch = claims.claim_batch(
                session, queue, now=now, sent_at=sent_at, ttl=_ttl(deps), window=window, busy=others.parents, way=way
            )
    if asks:
        _ask_for_keys(deps, queue, client)
        return True
    if kind is not None:
        return ingest.begin(deps, queue, client, kind, now=now, sent_at=sent_at, chance=chance)
    if batch is None:
        return None
    _send(deps, client, batch, _rows(batch), claimed, chance)
    return True


def _locking_fields(deps: ActionDeps, queue: Queue) -> tuple[str, ...]:
    """Fields whose records the org locks while it writes this object: lookups, but for those to users and the like."""
    try:
        describe = describe_of(deps, queue.connection_id, queue.object)
    except SyncError:
        return ()
    free = {"User", "Group", "RecordType", "Profile", "BusinessHours", "Calendar"}
    return tuple(one.name for one in describe.fields if one.type == "reference" and not free & set(one.reference_to))


def _may_take_key(deps: ActionDeps, queue: Queue, chosen: Sequence[Head]) -> bool:
    """Whether this is a single create that nothing but an idempotency key could make safe to send twice."""
    (first, *others) = chosen
    fresh = first.operation == "create" and first.external_id_field is None and first.attempts == 1
    fitting = fresh and not others and first.id.version == ui_records.KEY_VERSION
    return fitting and deps.settings.idempotency_keys and queue.object.lower() not in ASSIGNED


def _ask_for_keys(deps: ActionDeps, queue: Queue, client: OrgClient) -> None:
    """Learn once whether the org heeds idempotency keys for this object, and keep it. Nothing waits for an API that is away."""
    try:
        takes = ui_records.takes_keys(client, queue.object, uuid4())
        lasts = KEYS_TAKEN_FOR if takes else KEYS_NOT_TAKEN_FOR
    except TransientError as error:
        log.info("actions.keys_not_told", error=str(error))
        takes, lasts = False, KEYS_NOT_TOLD_FOR
    with deps.database.transaction() as session:
        queues.keep_keys_taken(session, queue, takes=takes, lasts=lasts)
    log.info("actions.keys_asked_for", takes=takes)


def _rows(batch: Batch) -> list[Row]:
    """The batch's actions by record: those of one line go together, in the order of their acceptance."""
    rows: dict[str, list[Pending]] = {}
    for one in sorted(batch.actions, key=lambda action: action.ticket):
        rows.setdefault(one.order_key, []).append(one)
    return [tuple(rows[key]) for key in dict.fromkeys(one.order_key for one in batch.actions)]


def _grace(deps: ActionDeps) -> float:
    return min(GRACE_SECONDS, deps.settings.request_seconds / 2)


def _ttl(deps: ActionDeps) -> timedelta:
    """A claim outlasts the time before the sending, the call's whole deadline, and the time to write its outcome down."""
    return timedelta(seconds=deps.settings.request_seconds + 2 * _grace(deps))


def _send(
    deps: ActionDeps,
    client: OrgClient,
    batch: Batch,
    rows: Sequence[Row],
    claimed: float,
    chance: Callable[[], float],
) -> None:
    """Send rows of a claimed batch and write down what came of each.

    What the org refuses as a whole is halved until the one that is to blame is alone, so that it blocks no other.
    """
    if len(parts := owned_apart(batch.queue.object, rows)) > 1:
        return _send_apart(deps, client, batch, parts, chance)
    if time.monotonic() - claimed > _grace(deps):
        late = TryAgain(Problem("LATE", "the worker was held up before it could send"))
        return _write(deps, batch, rows, [late] * len(rows), chance)
    try:
        verdicts = send(client, batch.queue.object, batch.way, rows, seconds=deps.settings.request_seconds)
    except RejectedError as error:
        if len(rows) > 1 and error.status == 400:
            return _send_apart(deps, client, batch, halves(rows), chance)
        verdicts = [outcome.of_error(error)] * len(rows)
    except SyncError as error:
        verdict = outcome.of_error(error)
        _write(deps, batch, rows, [verdict] * len(rows), chance)
        if isinstance(error, DisconnectedError):
            raise
        if isinstance(verdict, Waits):
            raise _PausedError(verdict.after) from None
        return None
    finally:
        deps.clocks.note(batch.queue.connection_id, client)
    return _write(deps, batch, rows, verdicts, chance)


def _send_apart(
    deps: ActionDeps, client: OrgClient, batch: Batch, parts: Sequence[Sequence[Row]], chance: Callable[[], float]
) -> None:
    """Send parts of a claimed batch one after the other, each under a claim that is long enough for it.

    Where one of them tells that the org is to be left alone, the others go back as they were.
    """
    for place, part in enumerate(parts, start=1):
        moment = time.monotonic()
        with deps.database.transaction() as session:
            claims.prolong(session, batch, [one for row in part for one in row], _ttl(deps))
        try:
            _send(deps, client, batch, part, moment, chance)
        except (_PausedError, DisconnectedError) as error:
            left = [row for later in parts[place:] for row in later]
            waits = Waits(Problem("NOT_SENT", "the org is to be left alone for now"), getattr(error, "after", NO_TIME))
            _write(deps, batch, left, [waits] * len(left), chance)
            raise


def _write(
    deps: ActionDeps,
    batch: Batch,
    rows: Sequence[Row],
    verdicts: Sequence[Verdict],
    chance: Callable[[], float],
) -> None:
    settling = timedelta(seconds=deps.settings.settling_seconds)
    changes = [
        change
        for row, verdict in zip(rows, verdicts, strict=True)
        for change in changes_for(row, verdict, settling=settling, chance=chance())
    ]
    deps.give_way()
    record(deps, batch, changes)
    counts = Counter(one.state for one in changes)
    log.info("actions.sent", operation=rows[0][0].operation, way=batch.way, sent=len(changes), **counts)


# How many there are, the age of the oldest, and whether more is ready to be sent: asked after each batch.
MANY = """
SELECT count(*) AS number, extract(epoch FROM clock_timestamp() - min(finished_at)) AS age,
       EXISTS (SELECT 1 FROM sfsync.actions WHERE connection_id = :connection AND object = :object
                  AND state = 'ready' AND due_at <= statement_timestamp() {ordered} OFFSET 0) AS more
  FROM (
  SELECT finished_at FROM sfsync.actions
   WHERE connection_id = :connection AND object = :object AND state = 'delivered' AND remembered_at IS NULL
   ORDER BY finished_at LIMIT :limit) AS oldest
""".replace("{ordered}", queues.ALONG_THE_INDEX)
UNREMEMBERED = """
SELECT id, record_id FROM sfsync.actions
 WHERE connection_id = :connection AND object = :object AND state = 'delivered' AND remembered_at IS NULL
 ORDER BY finished_at LIMIT :limit
"""
REMEMBERED = "UPDATE sfsync.actions SET remembered_at = clock_timestamp() WHERE id = ANY(CAST(:ids AS uuid[]))"


def remember_delivered(deps: ActionDeps, queue: Queue, *, worked: bool | None = False) -> bool:
    """Put the delivered records into the mirror. A busy queue waits until there are many, or the oldest waits too long.

    `worked`: what the step did (see `_work`). The outcome was committed before: what fails here is done again by the next step.
    One thread of all does it at a time. False when the mirror could not be told.
    """
    values = {"connection": queue.connection_id, "object": queue.object, "limit": COLLECTION_RETRIEVE_IDS}
    deps.give_way()
    with deps.database.alone() as session:
        many = session.execute(text(MANY), values).one()
    busy = worked is None or (worked and many.more)
    if many.number == 0 or (busy and many.number < COLLECTION_RETRIEVE_IDS and many.age < REMEMBER_AFTER_SECONDS):
        return True
    with deps.database.transaction() as session:
        if not queues.take_remembering(session, queue, timedelta(seconds=deps.settings.request_seconds)):
            return True
        rows = session.execute(text(UNREMEMBERED), values).all()  # none where somebody told the mirror just now
    done = False
    try:
        deps.remember(queue.connection_id, queue.object, sorted({row.record_id for row in rows}))
        done = True
    except RejectedError as error:  # the refresh will see to it
        log.warning("actions.not_remembered", error=str(error))
        done = True
    except SyncError as error:
        log.info("actions.remembered_later", error=type(error).__name__)
    with deps.database.transaction() as session:
        if done:
            session.execute(text(REMEMBERED), {"ids": uuid_array(row.id for row in rows)})
        queues.leave_remembering(session, queue)
    return done
