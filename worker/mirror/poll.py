"""Mirrors of one connection that are due together share one Composite call, which counts once.

Whoever reads first takes the others along: it claims their runs as any worker would, asks for all in one call, and
merges each by its own claim. The shared call is booked under all their names; what one of them asks for after it, under its own. What one of them meets stops none of the others: that run is given back, to be read alone.
"""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from datetime import timedelta
from time import monotonic

from sqlalchemy import Interval, func, or_, select

from models.mirror import Mirror, Run
from worker import db
from worker.attribution import attributed
from worker.db import Claim, Keeper
from worker.errors import FencedError, SyncError
from worker.log import bound, get_logger
from worker.mirror import reading
from worker.mirror.cursor import DESCRIBE_AT_LEAST, DESCRIBE_EVERY, DESCRIBE_REFRESHES, read_began, window_start
from worker.mirror.reading import Answer
from worker.mirror.work import NOW, Work
from worker.salesforce import rest
from worker.salesforce.limits import COMPOSITE_QUERIES
from worker.steps import Step

log = get_logger(__name__)

# As cursor.describe_every. A mirror whose describe is older reads alone, and describes first.
_STRETCH = func.greatest(1.0, func.coalesce(Mirror.effective_seconds, 0.0) / Mirror.refresh_seconds)
_SHORTEST = func.least(DESCRIBE_EVERY.total_seconds(), Mirror.refresh_seconds * DESCRIBE_REFRESHES)
_GOOD_SECONDS = func.least(_SHORTEST * _STRETCH, DESCRIBE_AT_LEAST.total_seconds())
_GOOD_FOR = func.make_interval(0, 0, 0, 0, 0, 0, _GOOD_SECONDS, type_=Interval)

FIRST_STAGES = ("begin", "read")  # of a refresh that has asked for nothing yet

Take = Callable[[Work, Answer | Exception], Step | None]


def read(work: Work, take: Take) -> Step | None:
    """Read the run's window, and those of its companions."""
    with ExitStack() as stack:
        companions = [] if work.run.options.get("alone") else _companions(work, stack)
        if not companions:
            return take(work, _alone(work))
        answers = _together([work, *companions])
        for companion, found in zip(companions, answers[1:], strict=True):
            before = work.client.calls
            companion.counted_elsewhere(companion.uncounted)  # the shared call is the leader's
            _finish(companion, found, take)
            work.counted_elsewhere(work.client.calls - before)
        work.keeper.check()
        return take(work, answers[0])


def _alone(work: Work) -> Answer | Exception:
    try:
        return reading.ask_window(work)
    except SyncError as error:
        return error


def _together(works: Sequence[Work]) -> list[Answer | Exception]:
    client = works[0].client
    asked = [reading.questions(work) for work in works]
    numbers = [reading.number(work) for work in works]
    start = monotonic()
    with attributed(object="+".join(sorted(work.mirror.object for work in works))):
        bodies = iter(rest.together(client, [part for some in asked for part in reading.parts(some)]))
    began = read_began(rest.org_now(client), timedelta(seconds=monotonic() - start))
    answers: list[Answer | Exception] = []
    for number, some in zip(numbers, asked, strict=True):
        found = [next(bodies) for _ in some]
        try:
            answers.append(reading.answer(number, [rest.part_page(client, body) for body in found], began))
        except SyncError as error:
            answers.append(error)
    log.info("mirror.polled", objects=[work.mirror.object for work in works])
    return answers


def _finish(work: Work, found: Answer | Exception, take: Take) -> None:
    """Merge a companion's answer; whatever goes wrong is met again, and dealt with, when it is read alone."""
    cause = f"{work.run.kind}/{work.run.cause}"
    with bound(run=work.run.id, object=work.mirror.object), attributed(object=work.mirror.object, cause=cause):
        try:
            work.keeper.check()
            if isinstance(found, Exception):
                raise found
            if take(work, found) is None:  # a larger read: somebody's next step
                work.again()
        except FencedError:
            log.info("run.fenced")
        except Exception as error:
            log.info("run.left_alone", error=str(error), kind=type(error).__name__)
            _give_back(work)


def _give_back(work: Work) -> None:
    try:
        work.again(options=work.option(alone=True))
    except FencedError:
        log.info("run.fenced")


def _companions(work: Work, stack: ExitStack) -> list[Work]:
    """Other runs of the connection that are due and only need a call, claimed."""
    room = COMPOSITE_QUERIES - len(reading.questions(work))
    if room < 1:
        return []
    ttl = work.deps.settings.claim_ttl
    with work.deps.database.transaction() as session:
        query = (
            select(Run, Mirror)
            .join(Mirror, Mirror.id == Run.mirror_id)
            .where(
                Mirror.connection_id == work.connection.id,
                Mirror.state == "live",
                Mirror.stamp_field.is_not(None),
                Mirror.lost_since.is_(None),
            )
            .where(Mirror.described_at > NOW - _GOOD_FOR)
            .where(Run.kind == "refresh", Run.state == "ready", Run.cause != "manual")
            .where(Run.stage.in_(FIRST_STAGES), Run.due_at <= NOW, Run.options["alone"].is_(None))
            .where(Run.options["describe"].astext.is_distinct_from("true"), Run.attempts == 0)
            .where(or_(Run.claim_until.is_(None), Run.claim_until < NOW), Run.id != work.run.id)
            .order_by(Run.due_at)
            .limit(room)
        )
        taken: list[tuple[Claim, Run, Mirror]] = []
        for run, mirror in session.execute(query).all():
            needed = 1 if mirror.row_filter is None else 2
            if needed <= room and (claim := db.take(session, "runs", run.id, ttl)) is not None:
                session.refresh(run)
                if run.stage not in FIRST_STAGES:  # somebody took it further before we had it
                    db.release(session, claim, progress=True)
                    continue
                room -= needed
                taken.append((claim, run, mirror))
    prepared = [_prepare(work, claim, run, mirror, stack) for claim, run, mirror in taken]
    return [one for one in prepared if one is not None]


def _prepare(leader: Work, claim: Claim, run: Run, mirror: Mirror, stack: ExitStack) -> Work | None:
    """The companion's run in hand; None when it was taken from us again (its mirror may be being removed)."""
    keeper = stack.enter_context(Keeper(leader.deps.database, claim, leader.deps.settings.claim_ttl))
    work = replace(leader, claim=claim, keeper=keeper, run=run, mirror=mirror)
    assert mirror.fresh_cursor is not None
    overlap = timedelta(seconds=leader.deps.settings.overlap_seconds)
    start = window_start(mirror.fresh_cursor, overlap)
    try:
        work.advance("read", columns=list(work.spec.fields), window_start=start, window_end=None)
        work.reload()
    except FencedError:
        log.info("run.fenced", companion=run.id)
        return None
    return work
