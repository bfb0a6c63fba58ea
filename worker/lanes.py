"""What each lane does: which rows are due in it, and the step that moves each of them; and the upkeep of all.

Tasks and the poller come through here or call the same use cases: there is one way to move a row.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from types import MappingProxyType

from sqlalchemy import text
from sqlalchemy.orm import Session

from worker import events
from worker.actions import deliver
from worker.actions.deps import DELIVER
from worker.actions.due import due_queues
from worker.actions.retention import prune
from worker.actions.upkeep import upkeep as actions_upkeep
from worker.budget import plan as planning
from worker.callbacks import deliver as callbacks
from worker.callbacks.deliver import DELIVER as CALL_BACK
from worker.callbacks.store import due_endpoints
from worker.log import get_logger
from worker.mirror import retention, steps
from worker.mirror.audit import schedule_audits
from worker.mirror.deps import PAGE, STEP
from worker.mirror.due import due_pages, due_runs, first_of_calls, schedule_refreshes
from worker.runtime import Runtime
from worker.steps import Busy, Step
from worker.tokens.early import due_renewals, forget_attempts, renew_early
from worker.triggers import fire
from worker.triggers import store as trigger_store
from worker.triggers.deps import FIRE, FIRE_DUE

log = get_logger(__name__)

UPKEEP = "upkeep.tick"
KEEP_ALIVE = "tokens.keep_alive"
PLAN = "budget.plan"
LIMITS = "budget.limits"
RENEW = "tokens.renew"
MEND = "actions.mend"
HOUSEWORK: Mapping[str, float] = MappingProxyType(  # of the lane `upkeep` → least seconds between two times
    {UPKEEP: 0.0, FIRE_DUE: 0.0, PLAN: 15.0, MEND: 30.0, LIMITS: 60.0, KEEP_ALIVE: 3600.0}
)
SERVICES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {"actions": ("actions",), "refresh": ("refresh", "upkeep"), "backfill": ("backfill",)}
)
UPKEEP_LOCK = 0x5F5D  # an advisory lock: one upkeep at a time is enough
FORGET_AFTER = "1 day"
KEEP_ATTEMPTS = timedelta(days=30)  # of renewals, for people who look what happened
RENEWALS_OF_A_TICK = 100


@dataclass(frozen=True, slots=True)
class Due:
    """A row that is due: which task moves it, whose it is. `deep`: there is enough work for several steps at once."""

    name: str
    row_id: int
    org: str = ""
    deep: bool = False


def due(session: Session, lane: str, limit: int) -> list[Due]:
    """Rows that are due in a lane now, in the order of their orgs' turns, at most `limit`."""
    if lane == "upkeep":  # and see HOUSEWORK: most of its work is in no row
        firings = [Due(FIRE, row_id) for row_id in fire.due_firings(session, limit)]
        renewals = [Due(RENEW, row_id) for row_id in due_renewals(session, limit)]
        calls = [Due(CALL_BACK, row_id) for row_id in due_endpoints(session, limit)]
        return [*firings, *renewals, *calls][:limit]
    if lane == "actions":
        return [Due(DELIVER, row.id, row.org, row.deep) for row in due_queues(session, limit)]
    runs = [Due(STEP, row.id, row.org) for row in due_runs(session, lane, limit)]
    return [*runs, *(Due(PAGE, row.id, row.org) for row in due_pages(session, lane, limit))][:limit]


def upkeep(rt: Runtime) -> Step:
    """Start the refreshes whose time has come, and forget old marks. Harmless to repeat; cheap when there is nothing to do."""
    now = rt.now()
    with rt.database.transaction() as session:
        if not session.scalar(text("SELECT pg_try_advisory_xact_lock(:lock)"), {"lock": UPKEEP_LOCK}):
            return Busy()
        runs = first_of_calls(session, schedule_refreshes(session, rt.settings.settle_seconds, now))
        audit, sweep = rt.settings.audit_seconds, rt.settings.sweep_seconds
        audits = schedule_audits(session, now, audit_seconds=audit, sweep_seconds=sweep, may_spend=rt.may_spend)
        _forget(session)
    for run_id in runs:
        rt.wake(STEP, run_id, "refresh")
    for run_id in audits:
        rt.wake(STEP, run_id, "backfill")
    return Busy()  # never a reason to look again at once


def fire_due(rt: Runtime) -> Step:
    """Fire the triggers that are due by the clock, note which firings have ended, let those that waited begin."""
    fire.fire_due(rt.triggers, rt.now())
    fire.settle(rt.triggers)
    return Busy()


def mend(rt: Runtime) -> Step:
    """Mend what a dead worker left of the actions, and forget what is old. It may have to look at much, so it is done seldom."""
    actions_upkeep(rt.actions)
    prune(rt.actions)
    callbacks.upkeep(rt.callbacks)
    with rt.database.transaction() as session:
        retention.forget_old(session, timedelta(days=rt.settings.run_days))
        trigger_store.forget_old(session, timedelta(days=rt.settings.firing_days))
        planning.forget_old(session, timedelta(days=rt.settings.usage_days))
    return Busy()


def keep_tokens_alive(rt: Runtime) -> Step:
    """Renew the tokens whose time has come (the poller does the same, each by itself), and forget old attempts."""
    with rt.database.transaction() as session:
        forget_attempts(session, KEEP_ATTEMPTS)
        due = due_renewals(session, RENEWALS_OF_A_TICK)
    for connection_id in due:
        renew_early(rt.tokens(connection_id))
    return Busy()


def plan(rt: Runtime) -> Step:
    """Bring the intervals of mirrors to what the orgs' allowances permit."""
    planning.plan(rt.database, rt.settings)
    return Busy()


def ask_limits(rt: Runtime) -> Step:
    """Ask the orgs for their own count now and then."""
    planning.ask_limits(rt.database, rt.client)
    return Busy()


def _forget(session: Session) -> None:
    """Drop marks of processes that are long gone, authorizations that nobody finished, and old events."""
    for statement in (
        "DELETE FROM sfsync.processes WHERE seen_at < statement_timestamp() - CAST(:age AS interval)",
        "DELETE FROM sfsync.oauth_states WHERE created_at < statement_timestamp() - CAST(:age AS interval)",
    ):
        session.execute(text(statement), {"age": FORGET_AFTER})
    events.forget(session)


STEPS: Mapping[str, Callable[[Runtime, int], Step]] = MappingProxyType(
    {
        DELIVER: lambda rt, row_id: deliver.serve(rt.actions, row_id),
        STEP: lambda rt, row_id: steps.step(rt.mirrors, row_id),
        PAGE: lambda rt, row_id: steps.load_page(rt.mirrors, row_id),
        CALL_BACK: lambda rt, row_id: callbacks.step(rt.callbacks, row_id),
        FIRE: lambda rt, row_id: fire.step(rt.triggers, row_id),
        FIRE_DUE: lambda rt, _: fire_due(rt),
        UPKEEP: lambda rt, _: upkeep(rt),
        MEND: lambda rt, _: mend(rt),
        PLAN: lambda rt, _: plan(rt),
        LIMITS: lambda rt, _: ask_limits(rt),
        RENEW: lambda rt, row_id: renew_early(rt.tokens(row_id)),
        KEEP_ALIVE: lambda rt, _: keep_tokens_alive(rt),
    }
)
