"""What each lane does: which rows are due in it, and the step that moves each of them; and the upkeep of all.

Tasks and the poller come through here or call the same use cases: there is one way to move a row.
"""

from collections.abc import Callable, Mapping
from datetime import timedelta
from types import MappingProxyType

from sqlalchemy import text
from sqlalchemy.orm import Session

from worker.actions import deliver
from worker.actions.deps import DELIVER
from worker.actions.due import due_queues
from worker.actions.upkeep import upkeep as actions_upkeep
from worker.errors import SyncError
from worker.log import get_logger
from worker.mirror import steps
from worker.mirror.deps import PAGE, STEP
from worker.mirror.due import due_pages, due_runs, schedule_refreshes
from worker.runtime import Runtime
from worker.steps import Busy, Step
from worker.tokens.renew import idle_connections, keep_alive
from worker.triggers import fire
from worker.triggers import store as trigger_store
from worker.triggers.deps import FIRE, FIRE_DUE

log = get_logger(__name__)

UPKEEP = "upkeep.tick"
KEEP_ALIVE = "tokens.keep_alive"
MEND = "actions.mend"
HOUSEWORK: Mapping[str, float] = MappingProxyType(  # of the lane `upkeep` → least seconds between two times
    {UPKEEP: 0.0, FIRE_DUE: 0.0, MEND: 30.0, KEEP_ALIVE: 3600.0}
)
SERVICES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {"actions": ("actions",), "refresh": ("refresh", "upkeep"), "backfill": ("backfill",)}
)
UPKEEP_LOCK = 0x5F5D  # an advisory lock: one upkeep at a time is enough
FORGET_AFTER = "1 day"


def due(session: Session, lane: str, limit: int) -> list[tuple[str, int]]:
    """Rows that are due in a lane now, most urgent first: (task name, row id), at most `limit`."""
    if lane == "upkeep":  # and see HOUSEWORK: most of its work is in no row
        return [(FIRE, row_id) for row_id in fire.due_firings(session, limit)]
    if lane == "actions":
        return [(DELIVER, row_id) for row_id in due_queues(session, limit)]
    runs = [(STEP, row_id) for row_id in due_runs(session, lane, limit)]
    return [*runs, *((PAGE, row_id) for row_id in due_pages(session, lane, limit))][:limit]


def upkeep(rt: Runtime) -> Step:
    """Start the refreshes whose time has come, and forget old marks. Harmless to repeat; cheap when there is nothing to do."""
    now = rt.now()
    with rt.database.transaction() as session:
        if not session.scalar(text("SELECT pg_try_advisory_xact_lock(:lock)"), {"lock": UPKEEP_LOCK}):
            return Busy()
        runs = schedule_refreshes(session, now)
        _forget(session)
    for run_id in runs:
        rt.wake(STEP, run_id, "refresh")
    return Busy()  # never a reason to look again at once


def fire_due(rt: Runtime) -> Step:
    """Fire the triggers that are due by the clock, note which firings have ended, let those that waited begin."""
    fire.fire_due(rt.triggers, rt.now())
    fire.settle(rt.triggers)
    return Busy()


def mend(rt: Runtime) -> Step:
    """Mend what a dead worker left of the actions, and forget what is old. It may have to look at much, so it is done seldom."""
    actions_upkeep(rt.actions)
    with rt.database.transaction() as session:
        trigger_store.forget_old(session, timedelta(days=rt.settings.firing_days))
    return Busy()


def keep_tokens_alive(rt: Runtime) -> Step:
    """Use the refresh tokens that nobody used for long, before the org ends them."""
    with rt.database.transaction() as session:
        idle = idle_connections(session)
    for connection_id in idle:
        try:
            keep_alive(rt.database, rt.vault, rt.settings, connection_id)
        except SyncError as error:
            log.warning("token.not_kept_alive", connection=connection_id, error=str(error))
    return Busy()


def _forget(session: Session) -> None:
    """Drop marks of processes that are long gone, and authorizations that nobody finished."""
    for statement in (
        "DELETE FROM sfsync.processes WHERE seen_at < clock_timestamp() - CAST(:age AS interval)",
        "DELETE FROM sfsync.oauth_states WHERE created_at < clock_timestamp() - CAST(:age AS interval)",
    ):
        session.execute(text(statement), {"age": FORGET_AFTER})


STEPS: Mapping[str, Callable[[Runtime, int], Step]] = MappingProxyType(
    {
        DELIVER: lambda rt, row_id: deliver.serve(rt.actions, row_id),
        STEP: lambda rt, row_id: steps.step(rt.mirrors, row_id),
        PAGE: lambda rt, row_id: steps.load_page(rt.mirrors, row_id),
        FIRE: lambda rt, row_id: fire.step(rt.triggers, row_id),
        FIRE_DUE: lambda rt, _: fire_due(rt),
        UPKEEP: lambda rt, _: upkeep(rt),
        MEND: lambda rt, _: mend(rt),
        KEEP_ALIVE: lambda rt, _: keep_tokens_alive(rt),
    }
)
