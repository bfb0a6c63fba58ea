"""Telling callers: one step serves one URL for a few seconds, one message after the other.

Killed before a call: nothing happened. Killed after it: the claim runs out and the message goes again, under the same
webhook-id, by which the receiver knows it. A URL that fails is left alone for longer and longer; a message is tried for a day.
"""

import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta

from worker import exact
from worker.callbacks import signing, store
from worker.callbacks.calling import Answer, Caller
from worker.callbacks.store import Endpoint, Message
from worker.db import Database
from worker.log import get_logger
from worker.steps import Again, Busy, Done, Step

log = get_logger(__name__)

DELIVER = "callbacks.deliver"  # task name: carries an endpoint's id
REVOKED = "connection.revoked"  # the operator's own event, signed with the operator's secret alone
TRIED_FOR = timedelta(days=1)
FIRST_PAUSE_SECONDS = 5.0
LONGEST_PAUSE_SECONDS = 3600.0
TURN_SECONDS = 5.0
GRACE_SECONDS = 15.0  # beyond the call's deadline, for the rest of a step under one claim
SLOTS = 2  # calls of one process at a time: slow receivers must not take the threads of everything else
KEEP = timedelta(days=7)
GONE = 410
PRUNE_ROWS = 5_000


@dataclass(frozen=True)
class CallbackDeps:
    """`decrypt`: ciphertext and its row's id → secret. `operator_secret` signs where a caller has none of its own."""

    database: Database
    caller: Caller
    decrypt: Callable[[str, str], str]
    operator_secret: str = ""
    slots: threading.BoundedSemaphore = field(default_factory=lambda: threading.BoundedSemaphore(SLOTS))


def step(deps: CallbackDeps, endpoint_id: int, *, chance: Callable[[], float] = random.random) -> Step:
    """Tell one URL what is due, for a few seconds at most."""
    if not deps.slots.acquire(blocking=False):
        return Busy()
    try:
        return _serve(deps, endpoint_id, chance)
    finally:
        deps.slots.release()


def _serve(deps: CallbackDeps, endpoint_id: int, chance: Callable[[], float]) -> Step:
    ttl = timedelta(seconds=deps.caller.deadline_seconds + GRACE_SECONDS)
    with deps.database.transaction() as session:
        endpoint = store.take(session, endpoint_id, ttl)
    if endpoint is None:
        return Busy()
    ends = time.monotonic() + TURN_SECONDS
    pause, told, failures = timedelta(0), 0, endpoint.failures
    while time.monotonic() < ends:
        with deps.database.transaction() as session:
            if not store.renew(session, endpoint, ttl):
                return Busy()
            message = store.next_message(session, endpoint)
            operators = message is not None and message.kind == REVOKED
            secrets = [] if operators else store.secrets(session, endpoint.connection_id, deps.decrypt)
        if message is None:
            break
        answer = _call(deps, endpoint, message, secrets)
        told += 1
        failures = 0 if answer.error is None else failures + 1
        pause = _write(deps, endpoint, message, answer, failures, chance())
        if pause:
            break
    with deps.database.transaction() as session:
        store.release(session, endpoint, pause=pause, look_again=bool(told))
    return Again() if told and not pause else Done()


def _call(deps: CallbackDeps, endpoint: Endpoint, message: Message, secrets: list[str]) -> Answer:
    keys = [signing.key_of(one) for one in secrets or [deps.operator_secret] if one]
    if not keys:
        return Answer(None, "there is no secret to sign with: sfsync callbacks add-secret makes one", 0.0)
    body = exact.dumps(
        {"type": message.kind, "timestamp": message.created_at.isoformat(), "data": dict(message.payload)}
    ).encode()
    return deps.caller.call(
        endpoint.url, body, signing.headers(f"msg_{message.message_id.hex}", int(time.time()), body, keys)
    )


def _write(
    deps: CallbackDeps, endpoint: Endpoint, message: Message, answer: Answer, failures: int, chance: float
) -> timedelta:
    """Write down what came of it; for how long the URL is to be left alone now."""
    now = deps.database.now()
    good = answer.error is None
    after = timedelta(0) if good else pause_of(message.attempts + 1, answer, chance)
    over = good or answer.status == GONE or now + after > message.created_at + TRIED_FOR
    state = "delivered" if good else "failed" if over else "waiting"
    with deps.database.transaction() as session:
        if not store.write(session, endpoint, message, answer, state=state, after=after, failures=failures):
            return after
        if answer.status == GONE:
            store.disable(session, endpoint, "it answered 410 Gone")
    log.info("callback.called", callback=message.id, kind=message.kind, state=state, status=answer.status)
    return min(after, pause_of(failures, answer, chance)) if not good else after


def pause_of(failures: int, answer: Answer, chance: float) -> timedelta:
    """How long to wait after the `failures`-th failure in a row: about 5 s, 10 s, 20 s … an hour, or what the answer asks for."""
    seconds = min(FIRST_PAUSE_SECONDS * 2.0 ** min(failures - 1, 20), LONGEST_PAUSE_SECONDS) * (0.75 + chance / 2)
    return timedelta(seconds=max(seconds, min(answer.retry_after or 0.0, LONGEST_PAUSE_SECONDS)))


def upkeep(deps: CallbackDeps, *, keep: timedelta = KEEP) -> None:
    """Wake what a lost hint left asleep, and forget what ended long ago, in small batches."""
    forgotten = PRUNE_ROWS
    while forgotten == PRUNE_ROWS:
        with deps.database.transaction() as session:
            forgotten = store.upkeep(session, tried_for=TRIED_FOR, keep=keep, limit=PRUNE_ROWS)
