"""Mirrors of one connection that are due together share one Composite call, which counts once: fresh reads, and settle reads.

Whoever reads first takes the others of its kind along: it claims their runs as any worker would, asks for all in one call, and
merges each by its own claim. The shared call is booked under all their names; what one of them asks for after it, under its own.
What one of them meets stops none of the others: that run is given back, to be read alone. What the call itself meets concerns
all of them: they are given back at once, and may share the next one.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import partial
from time import monotonic
from typing import Any

from sqlalchemy import func, or_, select

from models.mirror import Mirror, Run
from worker import db
from worker.attribution import attributed
from worker.db import Claim, Keeper
from worker.errors import FencedError, TransientError
from worker.log import bound, get_logger
from worker.mirror import reading
from worker.mirror.cursor import read_began
from worker.mirror.work import NOW, Work
from worker.salesforce import rest
from worker.salesforce.limits import COMPOSITE_QUERIES
from worker.salesforce.rest import Part
from worker.steps import Step

log = get_logger(__name__)

FIRST_PAUSE_SECONDS = 1.0  # where the org advises nothing
SHARING = ("refresh", "settle")  # kinds of runs whose reads share calls
FIRST_STAGES = ("begin", "read")  # of a run that has asked for nothing yet


@dataclass(frozen=True, slots=True)
class Asked:
    """What one run asks for, numbered before it is sent. `take` is given a body (or its error) for each part, and the org's time
    when they were asked for."""

    parts: Sequence[Part]
    take: Callable[[Sequence[Any], datetime], Step | None]


@dataclass(frozen=True, slots=True)
class Reader:
    """How a kind of run reads: the `window` of a mirror's next read, what it asks for in a shared call, and how it reads `alone`.

    `prepare`: what comes before the window; it may ask the org.
    """

    window: Callable[[Work], tuple[datetime, datetime | None]]
    ask: Callable[[Work], Asked]
    alone: Callable[[Work], Step | None]
    prepare: Callable[[Work], None] = lambda _: None


def read(work: Work, reader: Reader) -> Step | None:
    """Read the run's window, and those of its companions."""
    with ExitStack() as stack:
        companions = [] if work.run.options.get("alone") else _companions(work, reader, stack)
        if not companions:
            return reader.alone(work)
        try:
            taken = _together([work, *companions], reader)
        except Exception as error:
            for companion in companions:
                companion.counted_elsewhere(companion.uncounted)
                _leave(companion, error)
            raise
        share = 1 / len(taken)  # booked as the leader's; but each would be planned as if it led always, or never
        work.shared = share - 1
        for companion, take in zip(companions, taken[1:], strict=True):
            companion.shared = share
            before = work.client.calls
            companion.counted_elsewhere(companion.uncounted)  # the shared call is the leader's
            _finish(companion, take)
            work.counted_elsewhere(work.client.calls - before)
        work.keeper.check()
        return taken[0]()


def ask_alone(work: Work, ask: Callable[[Work], Asked]) -> Step | None:
    """One run's parts in a call of its own."""
    asked, start = ask(work), monotonic()
    bodies = rest.together(work.client, asked.parts)
    return asked.take(bodies, read_began(rest.org_now(work.client), timedelta(seconds=monotonic() - start)))


def _together(works: Sequence[Work], reader: Reader) -> list[Callable[[], Step | None]]:
    """Ask for all in one call; for each run what is left to do: to take what it brought."""
    client = works[0].client
    asked = [reader.ask(work) for work in works]
    start = monotonic()
    with attributed(object="+".join(sorted(work.mirror.object for work in works))):
        bodies = iter(rest.together(client, [part for some in asked for part in some.parts]))
    began = read_began(rest.org_now(client), timedelta(seconds=monotonic() - start))
    log.info("mirror.polled", kind=works[0].run.kind, objects=[work.mirror.object for work in works])
    return [partial(some.take, [next(bodies) for _ in some.parts], began) for some in asked]


def _finish(work: Work, take: Callable[[], Step | None]) -> None:
    """Merge a companion's answer; whatever goes wrong is met again, and dealt with, when it is read alone."""
    with _named(work):
        try:
            work.keeper.check()
            if take() is None:  # a larger read: somebody's next step
                work.again()
        except FencedError:
            log.info("run.fenced")
        except Exception as error:
            log.info("run.left_alone", error=str(error), kind=type(error).__name__)
            _give_back(work, options=work.option(alone=True))


def _leave(work: Work, error: Exception) -> None:
    """Give back a companion that could not ask: for as long as the org advises, if it may pass; else to be read alone."""
    log.info("run.left", companion=work.run.id, error=str(error), kind=type(error).__name__)
    if isinstance(error, TransientError):
        _give_back(work, error.retry_after or timedelta(seconds=FIRST_PAUSE_SECONDS), error=str(error))
    else:
        _give_back(work, options=work.option(alone=True))


def _give_back(work: Work, after: timedelta = timedelta(0), **values: Any) -> None:
    try:
        work.again(after, **values)
    except FencedError:
        log.info("run.fenced")


def _companions(work: Work, reader: Reader, stack: ExitStack) -> list[Work]:
    """Other runs of its kind and connection that are due and only need a call, claimed."""
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
            .where(Run.kind == work.run.kind, Run.state == "ready", Run.cause != "manual")
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
    prepared = [_prepare(work, reader, claim, run, mirror, stack) for claim, run, mirror in taken]
    return [one for one in prepared if one is not None]


def _prepare(leader: Work, reader: Reader, claim: Claim, run: Run, mirror: Mirror, stack: ExitStack) -> Work | None:
    """The companion's run in hand; None when it was taken from us again (its mirror may be being removed), or given back."""
    keeper = stack.enter_context(Keeper(leader.deps.database, claim, leader.deps.settings.claim_ttl))
    work = replace(leader, claim=claim, keeper=keeper, run=run, mirror=mirror)
    work.counted_elsewhere(work.uncounted)
    before = leader.client.calls
    with _named(work):
        try:
            reader.prepare(work)
            if work.spec.stamp is None:  # it had one when it was chosen
                _give_back(work, options=work.option(alone=True))
                return None
            start, end = reader.window(work)
            begun = func.coalesce(Run.started_at, NOW)
            work.advance("read", columns=list(work.spec.fields), window_start=start, window_end=end, started_at=begun)
            work.reload()
        except FencedError:
            log.info("run.fenced")
            return None
        except Exception as error:
            _leave(work, error)
            return None
        finally:
            leader.counted_elsewhere(leader.client.calls - before)
    return work


@contextmanager
def _named(work: Work) -> Iterator[None]:
    """Logs and calls under a companion's own name."""
    cause = f"{work.run.kind}/{work.run.cause}"
    with bound(run=work.run.id, object=work.mirror.object), attributed(object=work.mirror.object, cause=cause):
        yield
