"""The fresh reader: everything stamped since a little before the cursor, deleted records too, merged with the cursor.

Stages: begin → read (REST) → done; or, when the first answer counts too many rows, ask → wait → pages → loaded (Bulk),
or ask → paged → loaded (REST, where Bulk does not serve the object).
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import func
from sqlalchemy.orm import Session

from worker.errors import SyncError
from worker.log import get_logger
from worker.mirror import bulk_read, load, poll, reading, store
from worker.mirror.cursor import window_start, young_since
from worker.mirror.damage import mend
from worker.mirror.describing import describe, is_due
from worker.mirror.poll import Asked, Reader
from worker.mirror.reading import Answer
from worker.mirror.work import NOW, Work
from worker.steps import Done, Step

log = get_logger(__name__)


def begin(work: Work) -> Step | None:
    """Describe now and then; set the window. An object without a stamp is read whole each time."""
    if work.mirror.state != "live" or work.mirror.fresh_cursor is None:
        return work.end("failed", f"{work.mirror.object} is not loaded yet: ask for a load")
    if (ended := mend(work)) is not None:
        return ended
    look(work)
    spec = work.spec
    if spec.stamp is None:
        load.prepare(work)
        return None
    start, end = window(work)
    work.advance("read", columns=list(spec.fields), window_start=start, window_end=end)
    return None


def look(work: Work) -> None:
    """Describe the object, now and then."""
    if is_due(work, work.deps.database.now()):
        describe(work)


def window(work: Work) -> tuple[datetime, datetime | None]:
    """From a little before the cursor, up to now."""
    assert work.mirror.fresh_cursor is not None
    return window_start(work.mirror.fresh_cursor, timedelta(seconds=work.deps.settings.overlap_seconds)), None


def read(work: Work) -> Step | None:
    """Ask by REST, in one call with other mirrors that are due; the first answer's count decides whether to go on so."""
    return poll.read(work, Reader(window, _ask, _alone, prepare=look))


def _alone(work: Work) -> Step | None:
    try:
        found: Answer | SyncError = reading.ask_window(work)
    except SyncError as error:
        found = error
    return take(work, found)


def _ask(work: Work) -> Asked:
    number, asked = reading.number(work), reading.questions(work)

    def taken(bodies: Sequence[Any], began: datetime) -> Step | None:
        return take(work, reading.answered(work, number, bodies, began))

    return Asked(reading.parts(asked), taken)


def take(work: Work, found: Answer | SyncError) -> Step | None:
    """Merge what the first call brought and what follows it, or leave it to a larger read."""
    if isinstance(found, SyncError):
        if not reading.is_too_large(found):
            raise found
        reading.by_bulk(work, work.spec.fields)
        return None
    rows = None if reading.is_large(work, found) else reading.gather(work, found)
    if rows is None:
        reading.by_bulk(work, work.spec.fields)
        return None
    with work.deps.database.transaction() as session:
        counters = reading.merge(session, work, rows)
        move_cursor(session, work, found.began, changed=bool(counters["rows_changed"] + counters["rows_deleted"]))
        work.finish(session, read_number=found.number, read_started_at=found.began, **counters)
    log.info("mirror.refreshed", object=work.mirror.object, **counters)
    return Done()


def loaded(work: Work) -> Step | None:
    """Merge what Bulk brought."""
    if work.run.window_start is None:
        load.merge_staged(work)
        return None
    target = work.target()
    assert target.staging is not None
    with work.deps.database.transaction() as session:
        bulk_read.check_staged(session, work)
        merged = store.merge(session, target, target.staging, young=young_since(work.began))
        move_cursor(session, work, work.began, changed=bool(merged.changed + merged.deleted))
        work.finish(session, rows_changed=merged.changed, rows_deleted=merged.deleted)
    log.info("mirror.refreshed", object=work.mirror.object, rows=work.run.rows_read, changed=merged.changed)
    return Done()


def move_cursor(session: Session, work: Work, began: datetime, *, changed: bool) -> None:
    """The cursor moves in the transaction that made it true. Changes bring the settle reader sooner."""
    settings = work.deps.settings
    work.move_cursors(session, fresh=began)
    work.set_mirror(
        session,
        refreshed_at=began,
        next_refresh_at=NOW + timedelta(seconds=work.mirror.effective_seconds or work.mirror.refresh_seconds),
    )
    if changed:
        soon = NOW + timedelta(seconds=settings.settle_seconds * work.mirror.stretch)
        work.set_mirror(session, next_settle_at=func.least(type(work.mirror).next_settle_at, soon))
    work.note_skew(session)
