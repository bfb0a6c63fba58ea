"""Firing: what is due becomes rows, each row's work is started once, and its end is noted. Asking twice is asking once.

A due time and the next one change in one transaction under the trigger's row lock, and (trigger, due time) is unique. The row is the work:
whoever starts it claims it, and what it starts carries keys made of the row's id. Killed anywhere, the next look goes on.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, cast

from sqlalchemy import CursorResult, func, select, text, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from models.connection import Connection
from models.trigger import Firing, Trigger
from worker import db, exact
from worker.attribution import attributed
from worker.db import Claim, Keeper
from worker.errors import DisconnectedError, FencedError, SyncError, TransientError
from worker.log import bound, get_logger
from worker.steps import Again, Busy, Done, Step
from worker.triggers import store
from worker.triggers.deps import FIRE, Started, TriggerDeps
from worker.triggers.schedule import Due, Plan, Policy, plan, states, zone
from worker.triggers.work import WorkError, built_in, fill

log = get_logger(__name__)

AT_ONCE = 1_000  # triggers of one look
MOST_ATTEMPTS = 8  # starts that ended in a bug or a death
PAUSE = timedelta(seconds=15)  # before a start that failed for now is tried again
KEY_CHARACTERS = 255
RESULT_CHARACTERS = 100_000
OVERLAPS = "overlap: earlier work of this trigger was unfinished"
NOW = func.clock_timestamp()
THIS_MOMENT = func.statement_timestamp()  # to compare with: see db.py
UNFINISHED = Firing.state.in_(("waiting", "ready", "running"))


class KeyReusedError(SyncError):
    """The idempotency key was used before with other parameters: nothing was fired."""


class NotEnabledError(SyncError):
    """The trigger is switched off: nothing was fired."""


@dataclass(frozen=True, slots=True)
class Fired:
    """A firing that is stored; `repeated`: it was before, under the same idempotency key."""

    id: int
    repeated: bool


# -- due times become rows


def fire_due(deps: TriggerDeps, now: datetime) -> int:
    """Store a firing for every due time that has come, by each trigger's policies; how many triggers were due.

    Triggers of connections that are not active rest: what they miss is missed, and their policy says what becomes of it.
    """
    with deps.database.transaction() as session:
        found = (
            select(Trigger.id)
            .join(Connection, Connection.id == Trigger.connection_id)
            .where(Trigger.next_due_at <= now, Connection.state == "active")
            .order_by(Trigger.next_due_at)
            .limit(AT_ONCE)
        )
        due = list(session.scalars(found))
    for trigger_id in due:
        try:
            ready = _fire_one(deps, trigger_id, now)
        except Exception:  # one bad trigger must not stop the others
            log.exception("trigger.failed", trigger=trigger_id)
            continue
        for firing_id in ready:
            deps.wake(FIRE, firing_id)
    return len(due)


def _fire_one(deps: TriggerDeps, trigger_id: int, now: datetime) -> list[int]:
    """Firings of one trigger that can start. Somebody else's lock on it means that it is being dealt with."""
    with deps.database.transaction() as session:
        still_due = select(Trigger).where(Trigger.id == trigger_id, Trigger.next_due_at <= now)
        row = session.scalar(still_due.with_for_update(skip_locked=True, key_share=True))
        if row is None or row.next_due_at is None:
            return []
        policy = Policy(row.missed, row.missed_limit, timedelta(seconds=row.grace_seconds))
        decided = plan(store.schedule_of(row), policy, row.next_due_at, now)
        ready = _insert_due(session, row, decided)
        row.next_due_at = decided.next_due_at
    log.info("trigger.fired", trigger=trigger_id, firings=len(decided.fire), skipped=decided.skipped)
    return ready


def _insert_due(session: Session, row: Trigger, decided: Plan) -> list[int]:
    work = _work(session, row.id)
    if decided.skipped_until is not None:
        reason = f"missed: nobody looked in time, and the policy is {row.missed}"
        _insert(session, row, work, "skipped", due=Due(decided.skipped_until, decided.skipped - 1), reason=reason)
    ready = []
    for due, state in zip(decided.fire, _begin(session, row, len(decided.fire)), strict=True):
        filled = fill(work, {}, built_in(due.at, zone(row.time_zone)))
        made = _insert(session, row, filled, state, due=due)
        ready += [made] if made is not None and state == "ready" else []
    return ready


def _begin(session: Session, row: Trigger, count: int) -> list[str]:
    """How new firings of a locked trigger begin, by its overlap policy."""
    of_state = (
        select(Firing.state, func.count().label("number"))
        .where(Firing.trigger_id == row.id, UNFINISHED)
        .group_by(Firing.state)
    )
    found = {row.state: int(row.number) for row in session.execute(of_state)}
    return states(row.overlap, count, unfinished=sum(found.values()), waiting=found.get("waiting", 0))


def _work(session: Session, trigger_id: int) -> dict[str, Any]:
    """The trigger's work with exact numbers."""
    found = session.scalar(text("SELECT work::text FROM sfsync.triggers WHERE id = :id"), {"id": trigger_id})
    work: dict[str, Any] = exact.loads(found or "{}")
    return work


def _insert(
    session: Session,
    row: Trigger,
    work: Mapping[str, Any],
    state: str,
    *,
    due: Due | None = None,
    reason: str = OVERLAPS,
    key: str | None = None,
    parameters: Mapping[str, Any] | None = None,
) -> int | None:
    """A firing's row; its id, or None when this due time or key has one."""
    values = {
        "trigger_id": row.id,
        "cause": "manual" if due is None else "schedule",
        "due_at": due.at if due else None,
        "missed": due.missed if due else 0,
        "idempotency_key": key,
        "state": state,
        "reason": reason if state == "skipped" else None,
        "finished_at": NOW if state == "skipped" else None,
        "work": text("CAST(:exact_work AS jsonb)").bindparams(exact_work=exact.dumps(work)),
        "parameters": text("CAST(:exact_parameters AS jsonb)").bindparams(
            exact_parameters=exact.dumps(dict(parameters or {}))
        ),
    }
    return session.scalar(insert(Firing).values(**values).on_conflict_do_nothing().returning(Firing.id))


# -- a caller fires


def fire(
    deps: TriggerDeps, trigger_id: int, parameters: Mapping[str, Any], key: str | None, now: datetime
) -> Fired | None:
    """Fire a trigger by hand, once per idempotency key; None when there is no such trigger.

    Raises FaultyTriggerError (parameters), KeyReusedError, NotEnabledError. The overlap policy holds here too: look at the state.
    """
    if key is not None and not (0 < len(key) <= KEY_CHARACTERS and key.isprintable()):
        raise store.FaultyTriggerError(f"an idempotency key has 1 to {KEY_CHARACTERS} printable characters")
    with deps.database.transaction() as session:
        row = session.scalar(select(Trigger).where(Trigger.id == trigger_id).with_for_update(key_share=True))
        if row is None:
            return None
        if key is not None and (known := _known(session, row, key, parameters)) is not None:
            return known
        if not row.enabled:
            raise NotEnabledError(f"the trigger {row.name!r} is disabled; enable it first")
        try:
            filled = fill(_work(session, row.id), parameters, built_in(now, zone(row.time_zone)))
        except WorkError as error:
            raise store.FaultyTriggerError(str(error)) from None
        state = _begin(session, row, 1)[0]
        made = _insert(session, row, filled, state, key=key, parameters=parameters)
        assert made is not None, "the trigger is locked: nobody else takes the key"
    if state == "ready":
        deps.wake(FIRE, made)
    return Fired(made, repeated=False)


def _known(session: Session, row: Trigger, key: str, parameters: Mapping[str, Any]) -> Fired | None:
    same = text(
        "SELECT id, parameters = CAST(:given AS jsonb) FROM sfsync.firings WHERE trigger_id = :id AND idempotency_key = :key"
    )
    values = {"given": exact.dumps(dict(parameters)), "id": row.id, "key": key}
    found = session.execute(same, values).one_or_none()
    if found is not None and not found[1]:
        raise KeyReusedError(f"the idempotency key {key!r} was used before with other parameters")
    return None if found is None else Fired(int(found[0]), repeated=True)


# -- a firing's work is started


def due_firings(session: Session, limit: int) -> list[int]:
    """Firings whose work can be started now, oldest first."""
    query = (
        select(Firing.id)
        .join(Trigger, Trigger.id == Firing.trigger_id)
        .join(Connection, Connection.id == Trigger.connection_id)
        .where(Firing.state == "ready", Firing.look_at <= THIS_MOMENT, Connection.state == "active")
        .where((Firing.claim_until.is_(None)) | (Firing.claim_until < THIS_MOMENT))
        .order_by(Firing.id)
        .limit(limit)
    )
    return list(session.scalars(query))


def step(deps: TriggerDeps, firing_id: int) -> Step:
    """Start the work of one firing. The message that asks may be lost, late or doubled: the firing is claimed first."""
    ttl = deps.settings.claim_ttl
    with deps.database.transaction() as session:
        claim = db.take(session, "firings", firing_id, ttl)
        row = session.get(Firing, firing_id) if claim is not None else None
    if claim is None or row is None:
        return Busy()
    with (
        bound(trigger=row.trigger_id, firing=firing_id),
        attributed(lane="upkeep", cause="trigger"),
        Keeper(deps.database, claim, ttl),
    ):
        if row.attempts > MOST_ATTEMPTS:
            return _fail(deps, claim, f"gave up: {MOST_ATTEMPTS} workers died of it")
        try:
            return _start(deps, claim, row)
        except FencedError:
            raise
        except (TransientError, DisconnectedError) as error:
            return _put_off(deps, claim, error)
        except SyncError as error:
            return _fail(deps, claim, str(error))
        except Exception as error:
            if row.attempts >= MOST_ATTEMPTS:
                _fail(deps, claim, f"gave up after {row.attempts} attempts ({type(error).__name__})")
            raise


def _start(deps: TriggerDeps, claim: Claim, row: Firing) -> Step:
    with deps.database.transaction() as session:
        found = session.execute(
            select(Trigger.connection_id, Connection.state)
            .join(Connection, Connection.id == Trigger.connection_id)
            .where(Trigger.id == row.trigger_id)
        ).one_or_none()
        work = session.scalar(text("SELECT work::text FROM sfsync.firings WHERE id = :id"), {"id": row.id})
    if found is None:
        raise FencedError(f"the trigger of firing {row.id} was removed")
    connection_id, state = found
    if state != "active":
        raise DisconnectedError(f"the connection is {state}")
    asked = exact.loads(work or "{}")
    if "objects" in asked:
        return _start_refresh(deps, claim, connection_id, asked["objects"])
    key = f"firing:{row.id}"
    if "actions" in asked:
        started = Started(action_ids=deps.write(connection_id, asked["actions"], key=key))
    else:
        started = deps.execute(connection_id, asked["capability"], asked["parameters"], key=key)
    with deps.database.transaction() as session:
        _note_started(session, claim, started)
    return Done()


def _start_refresh(deps: TriggerDeps, claim: Claim, connection_id: int, objects: list[str]) -> Step:
    """The runs and the note that they were asked for are one transaction."""
    with deps.database.transaction() as session:
        run_ids, wake_ups = deps.refresh(session, connection_id, objects)
        _note_started(session, claim, Started(run_ids=run_ids))
    for wake_up in wake_ups:
        deps.wake(*wake_up)
    return Done()


def _note_started(session: Session, claim: Claim, started: Started) -> None:
    """Last in its transaction. Work that is nothing but an answer is done with it."""
    working = bool(started.action_ids or started.run_ids)
    result = None if started.result is None else exact.dumps({"data": started.result})
    if result is not None and len(result) > RESULT_CHARACTERS:
        result = json.dumps({"too_large": len(result)})
    _write(
        session,
        claim,
        state="running" if working else "done",
        finished_at=None if working else NOW,
        run_ids=list(started.run_ids),
        action_ids=list(started.action_ids),
        result=text("CAST(:exact_result AS jsonb)").bindparams(exact_result=result),
        reason=None,
        look_at=NOW,
    )


def _put_off(deps: TriggerDeps, claim: Claim, error: TransientError | DisconnectedError) -> Step:
    """What may pass never fails a firing, and costs no attempt."""
    pause = getattr(error, "retry_after", None) or PAUSE
    with deps.database.transaction() as session:
        _write(session, claim, reason=str(error), look_at=NOW + pause, attempts=0)
    return Again()


def _fail(deps: TriggerDeps, claim: Claim, reason: str) -> Step:
    with deps.database.transaction() as session:
        _write(session, claim, state="failed", reason=reason, finished_at=NOW)
    log.warning("firing.failed", reason=reason)
    return Done()


def _write(session: Session, claim: Claim, **values: Any) -> None:
    """Change the claimed firing and give the claim back; FencedError when it is no longer ours."""
    mine = (Firing.id == claim.id, Firing.claim_token == claim.token, Firing.state == "ready")
    changed = session.execute(update(Firing).where(*mine).values(claim_until=None, claim_owner=None, **values))
    if cast(CursorResult[Any], changed).rowcount != 1:
        raise FencedError(f"firing {claim.id} is no longer ours")


# -- its end is noted, and the next one begins

# What was looked at and goes on is looked at again later, the older it is the later: many unfinished ones cost little.
SETTLE = """
WITH looked AS (
  SELECT f.id, f.run_ids, f.action_ids, f.fired_at FROM sfsync.firings f
   WHERE f.state = 'running' AND f.look_at <= statement_timestamp()
   ORDER BY f.look_at LIMIT 200 FOR UPDATE SKIP LOCKED),
counted AS (
  SELECT l.id, l.fired_at, r.open AS open_runs, r.bad AS bad_runs, a.open AS open_actions, a.bad AS bad_actions
    FROM looked l,
  LATERAL (SELECT count(*) FILTER (WHERE state = 'ready') AS open, count(*) FILTER (WHERE state IN ('failed', 'parked')) AS bad
             FROM sfsync.runs WHERE id = ANY(l.run_ids)) r,
  LATERAL (SELECT count(*) FILTER (WHERE state IN ('waiting', 'ready', 'sending', 'in_doubt')) AS open,
                  count(*) FILTER (WHERE state NOT IN ('waiting', 'ready', 'sending', 'in_doubt', 'delivered')) AS bad
             FROM sfsync.actions WHERE id = ANY(l.action_ids)) a)
UPDATE sfsync.firings f
   SET state = CASE WHEN open_runs + open_actions > 0 THEN 'running' WHEN bad_runs + bad_actions > 0 THEN 'failed' ELSE 'done' END,
       finished_at = CASE WHEN open_runs + open_actions = 0 THEN clock_timestamp() END,
       reason = CASE WHEN open_runs + open_actions = 0 AND bad_runs + bad_actions > 0
                     THEN concat_ws(', ', CASE bad_runs WHEN 0 THEN NULL WHEN 1 THEN '1 run did not succeed'
                                                        ELSE bad_runs || ' runs did not succeed' END,
                                          CASE bad_actions WHEN 0 THEN NULL WHEN 1 THEN '1 action was not delivered'
                                                           ELSE bad_actions || ' actions were not delivered' END) END,
       look_at = clock_timestamp() + least(interval '1 minute', greatest(interval '1 second', (clock_timestamp() - c.fired_at) / 10))
  FROM counted c WHERE f.id = c.id
"""

PROMOTE = """
UPDATE sfsync.firings SET state = 'ready', look_at = clock_timestamp()
 WHERE state = 'waiting' AND id IN (
   SELECT min(f.id) FROM sfsync.firings f
    WHERE f.state = 'waiting'
      AND NOT EXISTS (SELECT 1 FROM sfsync.firings g
                       WHERE g.trigger_id = f.trigger_id AND g.state IN ('ready', 'running'))
    GROUP BY f.trigger_id)
RETURNING id
"""


def settle(deps: TriggerDeps) -> None:
    """Note which firings' runs and actions have ended; let the next of each trigger begin. Harmless to repeat."""
    with deps.database.transaction() as session:
        session.execute(text(SETTLE))
        ready = list(session.scalars(text(PROMOTE)))
    for firing_id in ready:
        deps.wake(FIRE, firing_id)
