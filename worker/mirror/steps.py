"""Move one run one step forward, or load one page. The step claims its row first; asking twice, or late, is harmless.

What a stage answers: None, go on with the next stage; a value, the step is over and the row holds what comes next.
"""

from collections.abc import Callable
from datetime import timedelta
from functools import partial

import psycopg
from sqlalchemy import func, update
from sqlalchemy.exc import DBAPIError, OperationalError

from models.connection import Connection
from models.mirror import Mirror, Run
from worker import db
from worker.attribution import attributed
from worker.db import Claim, Keeper
from worker.errors import (
    DisconnectedError,
    FencedError,
    NotFoundError,
    OverBudgetError,
    RejectedError,
    SchemaChangedError,
    SettingsError,
    TransientError,
)
from worker.log import bound, get_logger
from worker.mirror import backfill, bulk_read, children, load, paged, reading, refresh, settle, sweep
from worker.mirror.cursor import next_pause
from worker.mirror.deps import MirrorDeps
from worker.mirror.describing import lose, refuse
from worker.mirror.guard import MassRemovalError, hold
from worker.mirror.pages import load_page
from worker.mirror.schema import UnfitObjectError
from worker.mirror.work import LostObjectError, StartOverError, Work
from worker.steps import Busy, Step

__all__ = ["load_page", "step"]

log = get_logger(__name__)

MOST_ATTEMPTS = 8  # without progress; then the run is parked with its error
ALLOWANCE_PAUSE = timedelta(minutes=15)  # between looks while the org's daily allowance is spent
RECONNECT_PAUSE = timedelta(minutes=1)
SETTINGS_PAUSE = timedelta(minutes=5)  # until a person has mended what a setting says

Stage = Callable[[Work], Step | None]
BULK: dict[str, Stage] = {"wait": bulk_read.look, "pages": bulk_read.pages, "lost": bulk_read.lost}
READ: dict[str, Stage] = {**BULK, "ask": reading.ask, "paged": paged.pages}
STAGES: dict[str, dict[str, Stage]] = {
    "load": {**READ, "begin": load.begin, "loaded": load.loaded, "look": load.look},
    "backfill": {**READ, "begin": backfill.begin, "loaded": backfill.loaded, "look": backfill.look},
    "refresh": {
        **READ,
        "begin": refresh.begin,
        "read": refresh.read,
        "loaded": refresh.loaded,
        "look": load.look,
    },
    "settle": {
        **READ,
        "begin": settle.begin,
        "read": settle.read,
        "loaded": settle.loaded,
        "look": settle.look,
    },
    "children": {"begin": children.begin, "read": children.read},
    "verify": {
        **READ,
        "begin": sweep.begin,
        "loaded": sweep.loaded,
        "refresh": sweep.refresh,
        "confirm": sweep.confirm,
        "report": sweep.report,
    },
}


def step(deps: MirrorDeps, run_id: int) -> Step:
    """Move a run forward until it must wait or is finished."""
    with deps.database.transaction() as session:
        claim = db.take(session, "runs", run_id, deps.settings.claim_ttl)
        if claim is None:
            return Busy()
        run = session.get_one(Run, run_id)
        mirror = session.get_one(Mirror, run.mirror_id)
        connection = session.get_one(Connection, mirror.connection_id)
        if connection.state != "active":
            db.release(session, claim, progress=True)  # comes up again when a person has reconnected
            return Busy()
        session.execute(
            update(Run).where(Run.id == run_id).values(started_at=func.coalesce(Run.started_at, func.clock_timestamp()))
        )
    with (
        bound(run=run_id, object=mirror.object),
        attributed(object=mirror.object, lane=run.lane, cause=f"{run.kind}/{run.cause}"),
        Keeper(deps.database, claim, deps.settings.claim_ttl) as keeper,
    ):
        try:
            return _with_client(deps, claim, keeper, run, mirror, connection)
        except FencedError:
            log.info("run.fenced")
            return Busy()


def _with_client(
    deps: MirrorDeps, claim: Claim, keeper: Keeper, run: Run, mirror: Mirror, connection: Connection
) -> Step:
    try:
        client = deps.client(connection.id)
    except (DisconnectedError, TransientError) as error:
        return _without_client(deps, claim, run, error)
    keeper.on_lost(client.close)
    work = Work(deps, claim, keeper, client, run, mirror, connection, partial(step, deps))
    try:
        return _walk(work)
    finally:
        client.close()


def _without_client(deps: MirrorDeps, claim: Claim, run: Run, error: Exception) -> Step:
    log.warning("run.no_client", error=str(error))
    with deps.database.transaction() as session:
        now = session.scalar(func.clock_timestamp())
        assert now is not None
        db.release(session, claim, due_at=now + RECONNECT_PAUSE, progress=isinstance(error, DisconnectedError))
        session.execute(update(Run).where(Run.id == run.id).values(error=str(error)))
    return Busy()


def _walk(work: Work) -> Step:
    if work.run.attempts > MOST_ATTEMPTS:
        return work.end("parked", work.run.error or f"{MOST_ATTEMPTS} attempts without progress")
    while True:
        try:
            answer = STAGES[work.run.kind][work.run.stage](work)
        except FencedError:
            raise
        except Exception as error:
            answer = after(work, error)
        if answer is not None:
            return answer
        work.keeper.check()
        work.reload()


def after(work: Work, error: Exception) -> Step | None:
    """What comes next after a failure: one place where errors become rows."""
    text = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    log.warning("run.failed_step", stage=work.run.stage, error=text, kind=type(error).__name__)
    work.keeper.check()
    match error:
        case MassRemovalError():
            return hold(work, error)
        case StartOverError():
            return work.restart(text, describe=error.describe)
        case SchemaChangedError():
            refuse(work, error)
            return work.restart(text, describe=True)
        case NotFoundError() if work.run.job_id is not None and work.run.stage == "wait":
            return work.restart(f"the org no longer knows the Bulk job: {text}")
        case LostObjectError():
            lose(work, text)
            return work.end("failed", text)
        case DisconnectedError():
            return _put_off(work, RECONNECT_PAUSE, text, counted=False)
        case SettingsError():
            return _put_off(work, SETTINGS_PAUSE, text, counted=False)
        case OverBudgetError():
            return _put_off(work, error.retry_after or ALLOWANCE_PAUSE, text, counted=False)
        case TransientError() | psycopg.OperationalError() | OperationalError():
            advice = error.retry_after if isinstance(error, TransientError) else None
            return _put_off(work, advice, text, counted=False)
        case RejectedError() | UnfitObjectError():
            return work.end("parked", text)
        case (
            psycopg.errors.UndefinedTable() | psycopg.errors.UndefinedColumn() | psycopg.errors.InvalidColumnReference()
        ):
            return work.restart(f"the mirror's table is not what it was: {text}", describe=True)  # begin mends it
        case psycopg.Error() | DBAPIError():
            return _put_off(work, None, text, counted=True)
        case _:
            log.exception("run.bug")
            return _put_off(work, None, text, counted=True)


def _put_off(work: Work, pause: timedelta | None, text: str, *, counted: bool) -> Step:
    """Try again later: after the org's own advice, else 1, 2, 4, … seconds, from 1 again once it had come further. What may
    pass by itself counts no attempt."""
    run = work.run
    place = f"{run.stage} {run.rows_read} {run.rows_changed} {run.rows_deleted}"
    seconds = next_pause(float(run.options["pause"]) if run.options.get("paused_at") == place else 0.0)
    with work.deps.database.transaction() as session:
        work.set_mirror(session, state_reason=text)
        work.set(session, error=text)
    options = work.option(pause=seconds, paused_at=place)
    return work.again(pause or timedelta(seconds=seconds), progress=not counted, options=options)
