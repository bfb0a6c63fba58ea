"""Delivering actions: one step sends one batch, or settles what is in doubt, and remembers what was delivered.

Killed before the batch is committed as sending: nothing happened. Killed after: the claim runs out and the batch is in doubt,
which is settled by looking (see resolve.py). Killed after the outcome: the mirror is told by the next step, or by upkeep.
"""

import random
import time
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta

from sqlalchemy import text

from worker.actions import claims, outcome
from worker.actions.batching import Pending, body, halves
from worker.actions.claims import Batch, Change, Queue
from worker.actions.deps import ActionDeps
from worker.actions.lifecycle import is_exhausted, pause
from worker.actions.outcome import Delivered, InDoubt, Problem, Rejected, TryAgain, Verdict, Waits
from worker.actions.resolve import REFUSED, resolve
from worker.attribution import attributed
from worker.errors import DisconnectedError, RejectedError, SyncError, TransientError
from worker.log import bound, get_logger
from worker.salesforce import composite
from worker.salesforce.client import OrgClient
from worker.salesforce.limits import COLLECTION_RETRIEVE_IDS
from worker.salesforce.transport import Deadline
from worker.steps import Again, Busy, Done, Step

log = get_logger(__name__)

GRACE_SECONDS = 30.0  # between the claim and the sending; and for writing the outcome down
UNREACHABLE = timedelta(seconds=5)  # before the org is tried again
REMEMBER_AGAIN = timedelta(seconds=15)  # after the mirror could not be told
REMEMBER_AFTER_SECONDS = 2.0  # a busy queue tells the mirror of several batches together, but not later than this
TURN_SECONDS = 5.0  # how long one queue is served before others get their turn


def serve(deps: ActionDeps, queue_id: int) -> Step:
    """Steps of one queue for a few seconds, or until it has nothing to do."""
    ends = time.monotonic() + TURN_SECONDS
    while isinstance(found := step(deps, queue_id), Again) and time.monotonic() < ends:
        pass
    return found


def step(
    deps: ActionDeps, queue_id: int, *, now: datetime | None = None, chance: Callable[[], float] = random.random
) -> Step:
    """Move one queue one step. May run at the same time as others on the same queue: each claims what it sends."""
    now = now or deps.database.now()
    settling = timedelta(seconds=deps.settings.settling_seconds)
    with deps.database.transaction() as session:
        queue = claims.find_queue(session, queue_id)
        if queue is None:
            return Busy()
        claims.expire(session, queue, now=now, settling=settling)
    with (
        bound(connection=queue.connection_id, object=queue.object),
        attributed(object=queue.object, lane="actions", cause="deliver"),
    ):
        try:
            worked = resolve(deps, queue, now=now) or deliver(deps, queue, now=now, chance=chance)
        except (TransientError, DisconnectedError) as error:
            with deps.database.transaction() as session:
                claims.postpone(session, queue, getattr(error, "retry_after", None) or UNREACHABLE)
            raise
        remember_delivered(deps, queue, busy=worked and _has_ready(deps, queue))
        if worked:
            return Again()
        with deps.database.transaction() as session:
            claims.rest_queue(session, queue, recheck=REMEMBER_AGAIN)
        return Done()


def _has_ready(deps: ActionDeps, queue: Queue) -> bool:
    now = deps.database.now()
    with deps.database.transaction() as session:
        return claims.has_ready(session, queue, now=now)


def deliver(deps: ActionDeps, queue: Queue, *, now: datetime, chance: Callable[[], float]) -> bool:
    """Send one batch of what is ready; False when nothing is."""
    with deps.database.transaction() as session:
        if not claims.has_ready(session, queue, now=now):
            return False
    client = deps.client(queue.connection_id)
    sent_at = deps.clocks.now(queue.connection_id, client)
    ttl = _ttl(deps)
    claimed = time.monotonic()
    with deps.database.transaction() as session:
        batch = claims.claim_batch(session, queue, now=now, sent_at=sent_at, ttl=ttl)
    if batch is None:
        return False
    _send(deps, client, batch, batch.actions, claimed, chance)
    return True


def _ttl(deps: ActionDeps) -> timedelta:
    return timedelta(seconds=deps.settings.request_seconds + 2 * GRACE_SECONDS)


def _send(
    deps: ActionDeps,
    client: OrgClient,
    batch: Batch,
    actions: Sequence[Pending],
    claimed: float,
    chance: Callable[[], float],
) -> None:
    """Send actions of a claimed batch and write down what came of each.

    What the org refuses as a whole is halved until the one that is to blame is alone, so that it blocks no other.
    """
    if time.monotonic() - claimed > GRACE_SECONDS:
        verdicts: Sequence[Verdict] = [TryAgain(Problem("LATE", "the worker was held up before it could send"))] * len(
            actions
        )
        return _write(deps, batch, actions, verdicts, chance)
    try:
        verdicts = _call(deps, client, actions, batch.queue.object)
    except RejectedError as error:
        if len(actions) > 1 and error.status == 400:
            for part in halves(actions):
                moment = time.monotonic()
                with deps.database.transaction() as session:
                    claims.prolong(session, batch, part, _ttl(deps))
                _send(deps, client, batch, part, moment, chance)
            return None
        verdicts = [outcome.of_error(error)] * len(actions)
    except SyncError as error:
        verdicts = [outcome.of_error(error)] * len(actions)
        if isinstance(error, DisconnectedError):
            _write(deps, batch, actions, verdicts, chance)
            raise
    finally:
        deps.clocks.note(batch.queue.connection_id, client)
    return _write(deps, batch, actions, verdicts, chance)


def _call(deps: ActionDeps, client: OrgClient, actions: Sequence[Pending], object_name: str) -> list[Verdict]:
    """One Collections call; a verdict per action, in order."""
    deadline = Deadline.after(deps.settings.request_seconds)
    kind = actions[0]
    records = [body(one) for one in actions]
    if kind.operation == "delete":
        results = composite.delete(client, [str(one.record_id) for one in actions], deadline=deadline)
    elif kind.operation == "update":
        results = composite.update(client, object_name, records, deadline=deadline)
    elif kind.external_id_field is not None:
        results = composite.upsert(client, object_name, kind.external_id_field, records, deadline=deadline)
    else:
        results = composite.create(client, object_name, records, deadline=deadline)
    return [
        outcome.judge(one.operation, one.record_id, result, doubted=one.doubted)
        for one, result in zip(actions, results, strict=True)
    ]


def _write(
    deps: ActionDeps,
    batch: Batch,
    actions: Sequence[Pending],
    verdicts: Sequence[Verdict],
    chance: Callable[[], float],
) -> None:
    settling = timedelta(seconds=deps.settings.settling_seconds)
    changes = [
        change_for(one, verdict, settling=settling, chance=chance())
        for one, verdict in zip(actions, verdicts, strict=True)
    ]
    with deps.database.transaction() as session:
        claims.write(session, batch, changes)
    counts = {state: sum(one.state == state for one in changes) for state in {one.state for one in changes}}
    log.info("actions.sent", operation=actions[0].operation, sent=len(actions), **counts)


def change_for(action: Pending, verdict: Verdict, *, settling: timedelta, chance: float) -> Change:
    """What a verdict makes of a sent action."""
    match verdict:
        case Delivered():
            return Change(action.id, "delivered", outcome=verdict.as_json(), record_id=verdict.record_id)
        case Rejected():
            if action.doubted and action.operation == "create":  # the unanswered sending may be there, or come yet
                return Change(action.id, "in_doubt", problem=verdict.problem, details={REFUSED: True})
            return Change(action.id, "rejected", problem=verdict.problem)
        case Waits():
            return Change(action.id, "ready", after=verdict.after, problem=verdict.problem, attempt_back=True)
        case InDoubt():
            return Change(action.id, "in_doubt", problem=verdict.problem, doubt=settling)
        case TryAgain():
            if is_exhausted(action.attempts):
                return Change(action.id, "held", problem=verdict.problem)
            after = max(pause(action.attempts, chance), verdict.after or timedelta(0))
            return Change(action.id, "ready", after=after, problem=verdict.problem)


UNREMEMBERED = """
SELECT id, record_id, extract(epoch FROM clock_timestamp() - finished_at) AS age FROM sfsync.actions
 WHERE connection_id = :connection AND object = :object AND state = 'delivered' AND remembered_at IS NULL
 ORDER BY finished_at LIMIT :limit
"""


def remember_delivered(deps: ActionDeps, queue: Queue, *, busy: bool = False) -> None:
    """Put the delivered records into the mirror. A busy queue waits until there are many, or the oldest waits too long.

    The outcome was committed before: what fails here is done again by the next step.
    """
    values = {"connection": queue.connection_id, "object": queue.object, "limit": COLLECTION_RETRIEVE_IDS}
    with deps.database.transaction() as session:
        rows = session.execute(text(UNREMEMBERED), values).all()
    if not rows or (busy and len(rows) < COLLECTION_RETRIEVE_IDS and rows[0].age < REMEMBER_AFTER_SECONDS):
        return
    try:
        deps.remember(queue.connection_id, queue.object, sorted({row.record_id for row in rows}))
    except RejectedError as error:  # the refresh will see to it
        log.warning("actions.not_remembered", error=str(error))
    except SyncError as error:
        log.info("actions.remembered_later", error=type(error).__name__)
        return
    with deps.database.transaction() as session:
        done = "UPDATE sfsync.actions SET remembered_at = clock_timestamp() WHERE id = ANY(:ids)"
        session.execute(text(done), {"ids": [row.id for row in rows]})
