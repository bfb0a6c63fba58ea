"""Delivery by Bulk 2.0 ingest jobs: for creates that nothing else makes safe to send twice, and for thousands of anything.

A job is a row that is claimed, moved a stage, and released with what comes next; nobody waits for the org. Its id is committed
before data is uploaded, data can be uploaded once, closing can be asked again, and the results tell of every row: so wherever a
worker dies the same job goes on, and no row is in doubt. Only the creation of a job can be repeated. What the lost answer to one
left in the org is an open job without data, which does nothing and is aborted.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from sqlalchemy import text
from sqlalchemy.orm import Session

from worker import db
from worker.actions import claims, ingest_rows, jobs, outcome, queues
from worker.actions.batching import ASSIGNED, BULK, COLLECTION, UPSERT, Head, Pending, kind_of, way_of
from worker.actions.changes import Change, change_for
from worker.actions.claims import Batch
from worker.actions.deps import DELIVER, ActionDeps
from worker.actions.jobs import Job
from worker.actions.lifecycle import is_exhausted, pause
from worker.actions.outcome import Problem
from worker.actions.queues import Queue
from worker.actions.record import write
from worker.db import Claim, Keeper
from worker.errors import (
    DisconnectedError,
    FencedError,
    NotFoundError,
    OverBudgetError,
    RejectedError,
    SyncError,
    TransientError,
    UnknownOutcomeError,
)
from worker.log import get_logger
from worker.salesforce import ingest
from worker.salesforce.client import OrgClient
from worker.salesforce.limits import COLLECTION_RECORDS, INGEST_JOB_HOURS
from worker.salesforce.transport import Deadline
from worker.steps import paced

log = get_logger(__name__)

OPERATIONS = {"create": "insert", "update": "update", "upsert": "upsert", "delete": "delete"}
FIRST_LOOK = timedelta(seconds=1)
NOT_TAKEN = timedelta(hours=1)  # before Bulk is tried again for an object that the org refuses it for
NOT_DONE = timedelta(minutes=15)  # … after a job that failed as a whole, or the day's jobs were spent
NOT_NOW = timedelta(seconds=30)  # … when it could not be asked
TRIES = 6  # of one stage, after which the job is given up as far as that is safe


@dataclass(slots=True)
class Moving:
    """A job in hand."""

    deps: ActionDeps
    queue: Queue
    job: Job
    claim: Claim
    client: OrgClient
    chance: Callable[[], float]

    @property
    def job_id(self) -> str:
        """The org's id of the job."""
        assert self.job.job_id is not None
        return self.job.job_id

    @property
    def settling(self) -> timedelta:
        """How long the org may take to carry out what was asked."""
        return timedelta(seconds=self.deps.settings.settling_seconds)

    def to(self, stage: str, *, job_id: str | None = None, after: timedelta | None = None) -> str:
        """Commit the next stage."""
        with self.deps.database.transaction() as session:
            jobs.move(session, self.claim, stage, job_id=job_id, after=after)
        self.job = replace(self.job, stage=stage, job_id=job_id or self.job.job_id, attempts=0)
        return stage

    def carried(self) -> list[Pending]:
        """The actions that have no outcome of the job yet."""
        with self.deps.database.transaction() as session:
            return jobs.carried(session, self.job, self.deps.give_way)


# -- which actions go by a job


def kind_for_job(
    session: Session,
    deps: ActionDeps,
    queue: Queue,
    chosen: Sequence[Head],
    window: Sequence[Head],
    *,
    now: datetime,
    few: bool = False,
) -> Head | None:
    """An action of the kind that is to go by a job now; None where calls are the better way.

    Creates without a key go from `bulk_create_rows` on; of everything else more than `bulk_ingest_rows` must wait. `few`: a
    moment ago they were not that many.
    """
    first = chosen[0]
    if not queue.may_bulk or first.attempts > 1 or way_of(first) not in (COLLECTION, UPSERT):
        return None
    if first.operation in ("create", "upsert") and queue.object.lower() in ASSIGNED:
        return None
    keyless = first.operation == "create" and first.external_id_field is None
    limit = deps.settings.bulk_create_rows - 1 if keyless else deps.settings.bulk_ingest_rows
    if few and not keyless:
        return None
    same = [one for one in window if kind_of(one) == kind_of(first)]
    unseen = len(same) == len(window) >= COLLECTION_RECORDS  # there may be more of them than we looked at
    if len(same) <= limit and not (unseen and claims.more_ready_than(session, queue, limit, now=now)):
        return None
    if not jobs.may_open(session, queue):
        return None
    fitting = sum(ingest_rows.cells(one) is not None for one in claims.whole(session, same))
    if fitting < len(same) and fitting <= limit:  # where all of what we saw fits, so does enough of the rest
        return None
    return first


def begin(
    deps: ActionDeps,
    queue: Queue,
    client: OrgClient,
    kind: Head,
    *,
    now: datetime,
    sent_at: datetime,
    chance: Callable[[], float],
) -> bool:
    """Put what is ready of this kind into a job of its own, and move it as far as it goes; False when somebody took it all."""
    with deps.database.transaction() as session:
        if not jobs.may_open(session, queue):
            return True  # somebody opened one since we looked: the next look goes by a call
        actions = jobs.heads(session, queue, kind, now=now, pause=deps.give_way)
        if not actions:
            return False
        job = jobs.open_job(session, queue, actions, sent_at=sent_at)
        claim = db.take(session, "ingest_jobs", job.id, deps.settings.claim_ttl)
        assert claim is not None, "nobody else knows of it yet"
    log.info("ingest.begun", job=job.id, operation=job.operation, rows=job.rows)
    _move(Moving(deps, queue, job, claim, client, chance), fresh=True)
    return True


def advance(deps: ActionDeps, queue: Queue, *, now: datetime, chance: Callable[[], float]) -> bool:
    """Move a job that is due, if there is one."""
    with deps.database.transaction() as session:
        job = jobs.due(session, queue, now=now)
        claim = db.take(session, "ingest_jobs", job.id, deps.settings.claim_ttl) if job else None
    if job is None or claim is None:
        return False
    _move(Moving(deps, queue, job, claim, deps.client(queue.connection_id), chance), fresh=False)
    return True


# -- moving one


def _move(moving: Moving, *, fresh: bool) -> None:
    """Stage after stage, until the org must be waited for. Each stage is committed before the next begins."""
    deps, claim = moving.deps, moving.claim
    with Keeper(deps.database, claim, deps.settings.claim_ttl) as keeper:
        keeper.on_lost(moving.client.close)
        try:
            if moving.job.stage == "create" and not fresh:
                _give_back(moving, "its worker died before the org had made the job", lost=True)
                return
            stage: str | None = moving.job.stage
            while stage is not None:
                keeper.check()
                deps.give_way()
                stage = _STAGES[stage](moving)
        except FencedError:
            log.info("ingest.fenced", job=moving.job.id)
        except DisconnectedError as error:
            _put_off(moving, error)
            raise
        except (TransientError, RejectedError) as error:
            _put_off(moving, error)


def _put_off(moving: Moving, error: SyncError) -> None:
    after = max(pause(moving.job.attempts + 1, moving.chance()), getattr(error, "retry_after", None) or timedelta(0))
    with moving.deps.database.transaction() as session:
        jobs.put_off(session, moving.claim, after, error=str(error))
    log.info("ingest.put_off", job=moving.job.id, stage=moving.job.stage, error=str(error))


def _tried_enough(moving: Moving) -> bool:
    return moving.job.attempts + 1 >= TRIES


def _operation(job: Job) -> str:
    return "upsert" if job.operation == "create" and job.external_id_field else OPERATIONS[job.operation]


def _create(moving: Moving) -> str | None:
    """Open the org's job. Nothing is uploaded yet, so whatever goes wrong the actions go back as they were."""
    job, queue = moving.job, moving.queue
    deadline = Deadline.after(moving.deps.settings.request_seconds)
    try:
        made = ingest.create(moving.client, queue.object, _operation(job), job.external_id_field, deadline=deadline)
    except UnknownOutcomeError as error:
        return _give_back(moving, str(error), lost=True)
    except OverBudgetError as error:
        return _give_back(moving, str(error), no_bulk=error.retry_after or NOT_DONE)
    except RejectedError as error:
        return _give_back(moving, str(error), no_bulk=NOT_TAKEN)
    except SyncError as error:
        _give_back(moving, str(error), no_bulk=getattr(error, "retry_after", None) or NOT_NOW)
        if isinstance(error, DisconnectedError):
            raise
        return None
    try:
        return moving.to("upload", job_id=made.id)
    except FencedError:
        ingest.abort(moving.client, made.id)  # somebody gave the actions back: this job is nobody's
        raise


def _upload(moving: Moving) -> str | None:
    """Bring the data, the same whoever brings it. A job that has data takes no more."""
    columns, rows = ingest_rows.table(moving.carried(), moving.deps.give_way)
    data = ingest.to_csv(columns, paced(rows, moving.deps.give_way))
    deadline = Deadline.after(moving.deps.settings.request_seconds)
    try:
        ingest.upload(moving.client, moving.job_id, data, rows=moving.job.rows, deadline=deadline)
    except NotFoundError as error:
        return _give_back(moving, str(error))
    except RejectedError as error:
        if error.code != ingest.WRONG_STATE:
            ingest.abort(moving.client, moving.job_id)
            return _give_back(moving, str(error), no_bulk=NOT_TAKEN)
    except UnknownOutcomeError:
        if not _tried_enough(moving):
            raise
        ingest.abort(moving.client, moving.job_id)  # it was never closed: nothing of it was done
        return _give_back(moving, "its data could not be uploaded", no_bulk=NOT_DONE)
    return moving.to("close")


def _close(moving: Moving) -> str | None:
    """Let the org begin."""
    _ask_to_begin(moving)
    moving.to("wait", after=min(FIRST_LOOK, _longest_pause(moving)))
    return None


def _ask_to_begin(moving: Moving) -> None:
    """That it has begun already is as good; whatever else is wrong the next look will tell."""
    try:
        ingest.close(moving.client, moving.job_id)
    except RejectedError as error:
        log.info("ingest.not_closed", job=moving.job.id, error=str(error))


def _longest_pause(moving: Moving) -> timedelta:
    return timedelta(seconds=moving.deps.settings.bulk_poll_seconds)


def _wait(moving: Moving) -> str | None:
    """Look once; read the results when they are there."""
    try:
        found = ingest.get(moving.client, moving.job_id)
    except NotFoundError as error:
        return _doubt_all(moving, str(error))
    if found.over:
        return _finish(moving, found)
    age = moving.deps.database.now() - moving.job.created_at
    if age > timedelta(hours=INGEST_JOB_HOURS):  # also where the org never let it begin
        ingest.abort(moving.client, moving.job_id)
    elif found.state == ingest.OPEN:
        _ask_to_begin(moving)
    moving.to("wait", after=min(_longest_pause(moving), max(FIRST_LOOK, age / 2)))
    return None


def _finish(moving: Moving, found: ingest.IngestJob) -> str | None:
    """Write every row's outcome, and with them that the job is over."""
    try:
        results = ingest.results(moving.client, found, moving.job.rows, moving.deps.give_way)
    except RejectedError as error:
        if not _tried_enough(moving):
            raise
        log.warning("ingest.no_results", job=moving.job.id, error=str(error))
        results = ingest.Results([], [], whole=False)
    if not results.whole and not _tried_enough(moving):
        raise TransientError(f"the results of job {found.id} are not whole", code="RESULTS_NOT_WHOLE")
    actions = moving.carried()
    assigned = ingest_rows.assign(actions, results, moving.deps.give_way)
    changes = [_change(moving, one, assigned, found) for one in paced(actions, moving.deps.give_way)]
    well = found.state == "JobComplete"
    _end(moving, actions, changes, error=found.error or "", no_bulk=None if well else NOT_DONE)
    counts = Counter(one.state for one in changes)
    log.info("ingest.over", job=moving.job.id, job_state=found.state, error=found.error, **counts)
    return None


def _change(moving: Moving, action: Pending, assigned: ingest_rows.Assigned, found: ingest.IngestJob) -> Change:
    row = assigned.results.get(action.id)
    if row is not None:
        verdict = outcome.judge(action.operation, action.record_id, row, doubted=action.doubted)
        return change_for(action, verdict, settling=moving.settling, chance=moving.chance())
    why = found.error or f"job {found.id} ended as {found.state}"
    if action.id in assigned.untried:
        state = "held" if is_exhausted(action.attempts) else "ready"
        return Change(action.id, state, problem=Problem("NOT_PROCESSED", why))
    problem = Problem("NO_RESULT", f"{why}: nothing is told of this row")
    return Change(action.id, "in_doubt", problem=problem, doubt=moving.settling)


def _lost(moving: Moving) -> None:
    """Abort what a creation whose answer was lost left: the one open job of ours from that time that no row names."""
    job = moving.job
    with moving.deps.database.transaction() as session:
        user = session.scalar(text(USER), {"connection": moving.queue.connection_id})
    ours = (_operation(job), moving.queue.object.lower(), user)
    begin = job.sent_at - timedelta(seconds=5)
    end = job.sent_at + timedelta(seconds=moving.deps.settings.request_seconds)
    open_ones = [one for one in ingest.listed(moving.client) if one.state == ingest.OPEN and one.created_at is not None]
    fitting = [
        one.id
        for one in open_ones
        if (one.operation, one.object.lower(), one.created_by) == ours and begin <= (one.created_at or end) <= end
    ]
    with moving.deps.database.transaction() as session:
        orphans = set(fitting) - jobs.known(session, fitting)
    if len(orphans) == 1:  # of several one may be somebody else's
        ingest.abort(moving.client, *orphans)
        log.info("ingest.orphan_aborted", job=job.id, orphan=min(orphans))
    moving.to("over")


USER = "SELECT salesforce_user_id FROM public.salesforce_oauth_tokens WHERE id = :connection"
_STAGES: dict[str, Callable[[Moving], str | None]] = {
    "create": _create,
    "upload": _upload,
    "close": _close,
    "wait": _wait,
    "lost": _lost,
}


# -- ends


def _give_back(moving: Moving, why: str, *, lost: bool = False, no_bulk: timedelta | None = None) -> str | None:
    """Nothing of the job was done: its actions are ready again, as if it had never been."""
    actions = moving.carried()
    problem = Problem("NOT_SENT", why)
    changes = [Change(one.id, "ready", problem=problem, attempt_back=True) for one in actions]
    _end(moving, actions, changes, error=why, lost=lost, no_bulk=no_bulk)
    log.info("ingest.given_back", job=moving.job.id, why=why, rows=len(actions))
    return None


def _doubt_all(moving: Moving, why: str) -> str | None:
    """The job is gone, and with it the account of what it did."""
    actions = moving.carried()
    problem = Problem("NO_RESULT", f"the Bulk job is gone: {why}")
    changes = [Change(one.id, "in_doubt", problem=problem, doubt=moving.settling) for one in actions]
    _end(moving, actions, changes, error=why)
    return None


def _end(
    moving: Moving,
    actions: Sequence[Pending],
    changes: Sequence[Change],
    *,
    error: str,
    lost: bool = False,
    no_bulk: timedelta | None = None,
) -> None:
    """One transaction: the outcomes and the end of the job. `no_bulk`: for how long no other is begun."""
    database = moving.deps.database
    if no_bulk is not None:
        with database.transaction() as session:
            queues.no_bulk(session, moving.queue, no_bulk)
    batch = Batch(moving.queue, 0, "sending", tuple(actions), BULK, moving.job.id)
    moving.deps.give_way()
    with database.transaction() as session:
        db.guard(session, moving.claim)
        woken = write(session, batch, changes) if changes else []
        after = moving.settling if lost else None
        jobs.move(session, moving.claim, "lost" if lost else "over", after=after, error=error)
    for queue_id in woken:
        moving.deps.wake(DELIVER, queue_id)
