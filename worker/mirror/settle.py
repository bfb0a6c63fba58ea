"""The settle reader: what became visible after the fresh reader had passed its stamp.

A transaction stamps its records when it saves them and shows them when it commits, perhaps minutes later. So a window
is read a second time once the org calls it final: getUpdated says how far that is. One Composite call asks for it, for
what was deleted without a trace in queryAll, and for the window's records. A few of them are merged whole. Of many, Bulk
brings id, stamp and deletion; they are compared inside Postgres, and only what is missing here or older is read in full.

Stages: begin → read → done; or read → ask → wait → pages (or paged) → loaded → look → done.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from functools import partial
from typing import Any

from sqlalchemy.orm import Session

from worker.errors import RejectedError, SyncError
from worker.log import get_logger
from worker.mirror import bulk_read, by_id, finality, load, poll, reading, store, suspects, tables
from worker.mirror.asking import Window
from worker.mirror.cursor import LONGEST_TRANSACTION, settled
from worker.mirror.poll import Asked, Reader
from worker.mirror.reading import Answer, WindowRows
from worker.mirror.requests import request_run
from worker.mirror.work import Work, keep_rejects
from worker.salesforce import rest
from worker.salesforce.limits import COLLECTION_RETRIEVE_IDS, DELETED_DAYS
from worker.salesforce.rest import Part
from worker.steps import Done, Step

log = get_logger(__name__)

DELETED_LEAST = timedelta(minutes=3)  # getDeleted takes whole minutes, more than one apart
DELETED_MOST = timedelta(days=DELETED_DAYS - 1)


def begin(work: Work) -> Step | None:
    """Set the window. What has no stamp is read whole by the fresh reader."""
    mirror, spec = work.mirror, work.spec
    if mirror.state != "live" or mirror.fresh_cursor is None:
        return work.end("failed", f"{mirror.object} is not loaded yet: ask for a load")
    if spec.stamp is None:
        return _conclude(work, covered=None, began=mirror.fresh_cursor)
    start, end = window(work)
    work.advance("read", columns=list(spec.fields), window_start=start, window_end=end)
    return None


def window(work: Work) -> tuple[datetime, datetime | None]:
    """From the settled cursor to the fresh one."""
    fresh = work.mirror.fresh_cursor
    assert fresh is not None
    return work.mirror.settled_cursor or fresh - LONGEST_TRANSACTION, fresh


def read(work: Work) -> Step | None:
    """Ask what is final, what was deleted, and for the window, in one call, which other mirrors that are due share."""
    return poll.read(work, Reader(window, _ask, partial(poll.ask_alone, ask=_ask)))


def _ask(work: Work) -> Asked:
    number, asked, now = reading.number(work), reading.questions(work), work.org_now()
    asides = _asides(work, reading.window(work), now)

    def taken(bodies: Sequence[Any], began: datetime) -> Step | None:
        said, brought = bodies[: len(asides)], bodies[len(asides) :]
        covered = finality.covered(work, said[0], now) if asides else None
        deleted = _deleted_ids(work, said[1], reading.window(work), now) if len(asides) > 1 else []
        work.advance("read", options=work.option(covered=covered.isoformat() if covered else None))
        work.reload()
        return _read(work, reading.answered(work, number, brought, began), deleted, number)

    return Asked([*asides, *reading.parts(asked)], taken)


def _read(work: Work, found: Answer | SyncError, deleted: list[str], number: int) -> Step | None:
    """Merge a small window whole; of a large one, only ids and stamps are asked for."""
    if isinstance(found, SyncError) and not reading.is_too_large(found):
        raise found
    if deleted:
        _look_at_deleted(work, number, deleted)
    rows = None
    if not isinstance(found, SyncError) and not reading.is_large(work, found):
        rows = reading.gather(work, found)
    if rows is None:
        flags = [name for name in ("Id", work.spec.stamp, "IsDeleted") if name and work.spec.has(name)]
        reading.by_bulk(work, flags)
        return None
    return _take(work, rows)


def _asides(work: Work, window: Window, now: datetime) -> list[Part]:
    if not work.spec.replicateable:
        return []
    asides = [finality.part(work, now)]
    start = max(window.start, now - DELETED_MOST)
    if work.spec.has("IsDeleted") and now - start > DELETED_LEAST:
        asides.append(rest.deleted_part(work.spec.object, start, now))
    return asides


def _deleted_ids(work: Work, body: object, window: Window, now: datetime) -> list[str]:
    """Ids in the log of deletions. Where the log begins too late, a sweep must find what it no longer tells."""
    try:
        found = rest.part_deleted(body, now)
    except RejectedError as error:
        log.info("mirror.no_deleted_log", object=work.mirror.object, error=str(error))
        return []
    earliest = found.earliest_date_available
    if earliest is not None and earliest > max(window.start, now - DELETED_MOST):
        with work.deps.database.transaction() as session:
            request_run(session, work.mirror.id, "verify", "deleted log", {"quick": True, "repair": True})
    return [record_id for record_id, _ in found.records]


def _look_at_deleted(work: Work, number: int, ids: list[str]) -> None:
    """Records that the log calls deleted and that are still here: a purge leaves no row, a cascade perhaps no stamp."""
    with work.deps.database.transaction() as session:
        held = store.held(session, work.target_numbered(number), ids)
    for some in by_id.batches(held, COLLECTION_RETRIEVE_IDS):
        target = work.target_numbered(reading.number(work))  # columns: all, as `begin` chose
        found = by_id.read(work.client, work.spec, some, work.spec.fields)
        with work.deps.database.transaction() as session:
            _, taken = by_id.merge(session, target, found)
            keep_rejects(session, work.mirror.id, work.run.id, taken)
            work.set(session, attempts=0)


def _take(work: Work, rows: WindowRows) -> Step:
    with work.deps.database.transaction() as session:
        counters = reading.merge(session, work, rows)
        _move(session, work, work.covered, rows.began)
        work.finish(session, read_number=rows.number, read_started_at=rows.began, **counters)
    log.info("mirror.settled", object=work.mirror.object, **counters)
    return Done()


def loaded(work: Work) -> Step | None:
    """Compare what Bulk brought: only what is missing here or older is read in full."""
    if work.run.window_start is None:  # with a row filter everything was read
        load.merge_staged(work)
        return None
    target = work.target()
    with work.deps.database.transaction() as session:
        bulk_read.check_staged(session, work)
        found = suspects.make_behind(session, target, work.suspects)
        tables.drop_table(session, work.schema, work.run.staging)
        work.set(session, stage="look", options=work.option(suspects=found), attempts=0)
    return None


def look(work: Work) -> Step | None:
    """Read in full what was behind."""
    load.look_at_all(work, work.spec.fields)
    if work.run.window_start is None:
        with work.deps.database.transaction() as session:
            bulk_read.check_suspects(session, work)
            load.go_live(session, work)
        return Done()
    return _conclude(work, covered=work.covered, began=work.began, suspected=True)


def _conclude(work: Work, *, covered: datetime | None, began: datetime, suspected: bool = False) -> Step:
    with work.deps.database.transaction() as session:
        if suspected:
            bulk_read.check_suspects(session, work)
        _move(session, work, covered, began)
        work.finish(session)
    log.info("mirror.settled", object=work.mirror.object, rows=work.run.rows_read)
    return Done()


def _move(session: Session, work: Work, covered: datetime | None, began: datetime) -> None:
    """The settled cursor moves as far as the org's word and the window go."""
    end = work.run.window_end or work.mirror.fresh_cursor
    assert end is not None
    work.move_cursors(session, settled=settled(covered=covered, began=began, read_to=end))
    work.note_skew(session)
