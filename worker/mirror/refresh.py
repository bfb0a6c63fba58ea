"""The fresh reader: everything stamped since a little before the cursor, deleted records too, merged with the cursor.

Stages: begin → read (REST) → done, or, when the first answer counts too many rows, ask → wait → pages → loaded (Bulk).
"""

from datetime import datetime, timedelta
from time import monotonic

from sqlalchemy.orm import Session

from worker.log import get_logger
from worker.mirror import bulk_read, intake, load, store, tables
from worker.mirror.cursor import read_began, window_start, young_since
from worker.mirror.damage import mend
from worker.mirror.describing import describe, is_due
from worker.mirror.rows import to_csv
from worker.mirror.work import NOW, Work, keep_rejects
from worker.salesforce import rest, soql
from worker.salesforce.rest import QueryPage
from worker.steps import Done, Step

log = get_logger(__name__)


def begin(work: Work) -> Step | None:
    """Describe now and then; set the window. An object without a stamp is read whole each time."""
    if work.mirror.state != "live" or work.mirror.fresh_cursor is None:
        return work.end("failed", f"{work.mirror.object} is not loaded yet: ask for a load")
    if (ended := mend(work)) is not None:
        return ended
    if is_due(work, work.deps.database.now()):
        describe(work)
    spec = work.spec
    if spec.stamp is None:
        load.prepare(work)
        return None
    overlap = timedelta(seconds=work.deps.settings.overlap_seconds)
    start = window_start(work.mirror.fresh_cursor, overlap)
    work.advance("read", columns=list(spec.fields), window_start=start)
    return None


def _query(work: Work, *, ordered: bool) -> str:
    """The window's records. Bulk goes without an order: ordering keeps the org from reading in parallel."""
    spec = work.spec
    assert spec.stamp is not None
    assert work.run.window_start is not None
    where = f"{spec.stamp} >= {soql.instant(work.run.window_start)}"
    return soql.select(spec.object, work.run.columns or (), where=where, order_by=(spec.stamp, "Id") if ordered else ())


def read(work: Work) -> Step | None:
    """Ask by REST; the first answer says how many rows there are, and so whether to go on or to ask Bulk."""
    with work.deps.database.transaction() as session:
        number = work.number_read(session)
    start = monotonic()
    page = rest.query(work.client, _query(work, ordered=True), all_rows=work.spec.has("IsDeleted"))
    began = read_began(page.org_time, timedelta(seconds=monotonic() - start))
    if page.total_size > work.deps.settings.bulk_threshold_rows:
        _by_bulk(work)
        return None
    data, rows = _all_pages(work, page)
    with work.deps.database.transaction() as session:
        counters = _merge_read(session, work, number, data, began) if rows else {}
        move_cursor(session, work, began)
        work.finish(session, read_number=number, read_started_at=began, rows_read=rows, **counters)
    log.info("mirror.refreshed", object=work.mirror.object, rows=rows, **counters)
    return Done()


def _all_pages(work: Work, page: QueryPage) -> tuple[list[bytes], int]:
    """Every page as CSV. At most `bulk_threshold_rows` rows: this is what bounds the memory of a refresh."""
    fields = work.run.columns or ()
    data, rows = [to_csv(page.records, fields)], len(page.records)
    while page.next_url is not None:
        work.keeper.check()
        page = rest.more(work.client, page.next_url)
        data.append(to_csv(page.records, fields, with_header=False))
        rows += len(page.records)
    return data, rows


def _merge_read(session: Session, work: Work, number: int, data: list[bytes], began: datetime) -> dict[str, int]:
    target = work.target_numbered(number)
    staged, taken = intake.look(session, target, data)
    assert staged.staging is not None
    merged = store.merge(session, target, staged.staging, young=young_since(began))
    keep_rejects(session, work.mirror.id, work.run.id, taken)
    return {
        "rows_changed": merged.changed,
        "rows_deleted": merged.deleted,
        "rows_rejected": len(taken.rejects),
        "nul_bytes": taken.nul_bytes,
    }


def _by_bulk(work: Work) -> None:
    staging = f"_staging_{work.run.id}"
    with work.deps.database.transaction() as session:
        tables.make_staging(session, work.spec, work.schema, staging)
        work.set(session, stage="ask", staging=staging)


def ask(work: Work) -> Step | None:
    """Ask Bulk for the window."""
    if work.spec.stamp is None:
        return load.ask(work)
    bulk_read.ask(work, _query(work, ordered=False), all_rows=work.spec.has("IsDeleted"))
    return None


def loaded(work: Work) -> Step | None:
    """Merge what Bulk brought."""
    if work.spec.stamp is None:
        load.merge_staged(work)
        return None
    target = work.target()
    assert target.staging is not None
    with work.deps.database.transaction() as session:
        bulk_read.check_staged(session, work)
        merged = store.merge(session, target, target.staging, young=young_since(work.began))
        move_cursor(session, work, work.began)
        work.finish(session, rows_changed=merged.changed, rows_deleted=merged.deleted)
    log.info("mirror.refreshed", object=work.mirror.object, rows=work.run.rows_read, changed=merged.changed)
    return Done()


def move_cursor(session: Session, work: Work, began: datetime) -> None:
    """The cursor moves in the transaction that made it true, and never back."""
    assert work.mirror.fresh_cursor is not None
    due = NOW + timedelta(seconds=work.mirror.effective_seconds or work.mirror.refresh_seconds)
    work.set_mirror(session, fresh_cursor=max(work.mirror.fresh_cursor, began), refreshed_at=began, next_refresh_at=due)
