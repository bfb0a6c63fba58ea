"""Read again the children of parents that left, came back or were merged (see child_reads).

Stages: begin → read → done. Children of a parent that left are those that refer to it here; they are read by Id: each is
deleted, let go, or moved to another parent by now. Children of a parent that came back are asked for by look-up.
"""

import time
from datetime import timedelta
from time import monotonic

from psycopg import sql
from sqlalchemy.orm import Session

from worker.db import raw
from worker.log import get_logger
from worker.mirror import asking, by_id, child_reads, intake, rest_read, store
from worker.mirror.bulk_read import SLICE_SECONDS
from worker.mirror.child_reads import Batch
from worker.mirror.cursor import read_began, young_since
from worker.mirror.describing import describe, is_due
from worker.mirror.intake import Taken
from worker.mirror.rows import to_csv
from worker.mirror.store import Merged
from worker.mirror.work import Work, keep_rejects
from worker.salesforce.limits import COLLECTION_RETRIEVE_IDS
from worker.steps import Done, Step

log = get_logger(__name__)


def begin(work: Work) -> Step | None:
    """Describe if that is due."""
    if work.mirror.state != "live":
        return work.end("failed", f"{work.mirror.object} is not loaded yet: its load will bring the children")
    if is_due(work, work.deps.database.now()):
        describe(work)
    work.advance("read", columns=list(work.spec.fields))
    return None


def read(work: Work) -> Step | None:
    """Go through the list until nothing is on it or the step has had its time."""
    end = time.monotonic() + SLICE_SECONDS
    while time.monotonic() < end:
        work.keeper.check()
        work.reload()
        with work.deps.database.transaction() as session:
            batch = child_reads.next_batch(session, work.mirror.id)
            if batch is None:
                work.finish(session)
        if batch is None:
            log.info("mirror.children_read", object=work.mirror.object, rows=work.run.rows_read)
            return Done()
        _read_batch(work, batch)
    return work.again()


def _read_batch(work: Work, batch: Batch) -> None:
    """The rows come off the list in a last transaction: read twice, they change nothing."""
    kept = {column.field for column in work.spec.columns}
    if batch.field not in kept or batch.restored:
        _by_lookup(work, batch)
    else:
        for some in by_id.batches(_known_children(work, batch), COLLECTION_RETRIEVE_IDS):
            target = _number(work)
            found = by_id.read(work.client, work.spec, some, work.spec.fields)
            with work.deps.database.transaction() as session:
                merged, taken = by_id.merge(session, target, found)
                _count(work, session, merged, taken, len(some))
            work.reload()
    with work.deps.database.transaction() as session:
        child_reads.done(session, work.mirror.id, batch.ids)
        work.set(session, attempts=0)


def _known_children(work: Work, batch: Batch) -> list[str]:
    table, column = sql.Identifier(work.schema, work.spec.table), sql.Identifier(batch.field.lower())
    query = sql.SQL("SELECT id FROM {} WHERE {} = ANY(%s) ORDER BY id").format(table, column)
    with work.deps.database.transaction() as session:
        return [row[0] for row in raw(session).execute(query, (batch.parents,)).fetchall()]


def _by_lookup(work: Work, batch: Batch) -> None:
    question = asking.by_parents(work.spec, work.spec.fields, batch.field, batch.parents)
    target, start = _number(work), monotonic()
    for page in rest_read.pages(work.client, question):
        began = read_began(page.org_time, timedelta(seconds=monotonic() - start))
        with work.deps.database.transaction() as session:
            staged, taken = intake.look(session, target, [to_csv(page.records, question.fields, loose=work.spec.loose)])
            assert staged.staging is not None
            merged = store.merge(session, target, staged.staging, young=young_since(began))
            _count(work, session, merged, taken, len(page.records))
        work.keeper.check()
        work.reload()


def _number(work: Work) -> store.Target:
    with work.deps.database.transaction() as session:
        return work.target_numbered(work.number_read(session))


def _count(work: Work, session: Session, merged: Merged, taken: Taken, rows: int) -> None:
    keep_rejects(session, work.mirror.id, work.run.id, taken)
    run = work.run
    work.set(
        session,
        rows_read=run.rows_read + rows,
        rows_changed=run.rows_changed + merged.changed,
        rows_deleted=run.rows_deleted + merged.deleted,
        rows_rejected=run.rows_rejected + len(taken.rejects),
        nul_bytes=run.nul_bytes + taken.nul_bytes,
    )
