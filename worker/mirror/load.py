"""First load: everything by Bulk, straight into the mirror table. Again later (`--full`): into staging, then merged.

Stages: begin → ask → wait → pages → loaded → (staged: look →) done.
"""

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any

from sqlalchemy.orm import Session

from worker.log import get_logger
from worker.mirror import bulk_read, by_id, guard, store, suspects, tables
from worker.mirror.cursor import settled, young_since
from worker.mirror.describing import describe
from worker.mirror.work import NOW, Work, keep_rejects
from worker.salesforce.limits import COLLECTION_RETRIEVE_IDS
from worker.steps import Done, Step

log = get_logger(__name__)


def begin(work: Work) -> Step | None:
    """Describe, make the table, decide where the pages go."""
    describe(work)
    prepare(work)
    return None


def prepare(work: Work) -> None:
    """A mirror that is not live is filled directly, from empty; a live one through staging."""
    with work.deps.database.transaction() as session:
        work.lock_mirror(session)  # nobody's copy that went live meanwhile is emptied
        spec = work.spec
        staging = f"_staging_{work.run.id}" if work.mirror.state == "live" else None
        if staging is None:
            tables.drop_table(session, work.schema, work.run.staging)  # begun while the mirror was live
            tables.empty_table(session, spec, work.schema)
            work.set_mirror(session, state="loading")
        else:
            tables.make_staging(session, spec, work.schema, staging)
        work.set(session, stage="ask", columns=list(spec.fields), staging=staging, window_start=None)


def loaded(work: Work) -> Step | None:
    """All pages are here: finish the table, or merge what was staged."""
    if work.run.staging is not None:
        merge_staged(work)
        return None
    with work.deps.database.transaction() as session:
        tables.finish_table(session, work.spec, work.schema)
        go_live(session, work, rows_changed=work.run.rows_read - work.run.rows_rejected)
    log.info("mirror.loaded", object=work.mirror.object, rows=work.run.rows_read)
    return Done()


def go_live(session: Session, work: Work, **counters: int) -> None:
    """The mirror holds all that was stamped before the run's job was created; later changes are the fresh reader's."""
    final = settled(covered=work.covered, began=work.began, read_to=work.began)
    soon: dict[str, Any] = {}
    if work.mirror.state != "live":
        pause = timedelta(seconds=work.deps.settings.settle_seconds)
        soon = {"next_refresh_at": NOW, "next_settle_at": NOW + pause}
    soon["has_rows"] = tables.has_rows(session, work.spec, work.schema)
    work.move_cursors(session, fresh=work.began, settled=final)
    work.set_mirror(session, state="live", refreshed_at=work.began, **soon)
    work.note_skew(session)
    work.finish(session, **counters)


def merge_staged(work: Work) -> None:
    """Merge a full read; records here that it did not bring become suspects."""
    target = work.target()
    assert target.staging is not None
    with work.deps.database.transaction() as session:
        bulk_read.check_staged(session, work)
        found = suspects.make(session, target, work.suspects, compared=None)
        merged = store.merge(session, target, target.staging, young=young_since(work.began))
        tables.drop_table(session, work.schema, work.run.staging)
        counters = {"rows_changed": merged.changed, "rows_deleted": merged.deleted}
        work.set(session, stage="look", options=work.option(suspects=found), **counters)


def look(work: Work) -> Step | None:
    """Read the suspects again by Id: only what the org itself no longer shows leaves the mirror."""
    look_at_all(work, work.spec.fields)
    with work.deps.database.transaction() as session:
        bulk_read.check_suspects(session, work)
        go_live(session, work)
    return Done()


def look_at_all(work: Work, fields: Sequence[str]) -> None:
    """Read every suspect again by Id and merge it; what the org does not show any more is buried."""
    while _look_at_some(work, fields):
        work.keeper.check()
        work.reload()


def _look_at_some(work: Work, fields: Sequence[str]) -> bool:
    columns = tuple(field.lower() for field in fields)
    with work.deps.database.transaction() as session:
        ids = suspects.unjudged(session, work.schema, work.suspects, COLLECTION_RETRIEVE_IDS)
        target = replace(work.target_numbered(work.number_read(session)), columns=columns)
    if not ids:
        return False
    found = by_id.read(work.client, work.spec, ids, fields)
    with work.deps.database.transaction() as session:
        options = guard.check(session, work, found, len(ids))
        merged, taken = by_id.merge(session, target, found)
        keep_rejects(session, work.mirror.id, work.run.id, taken)
        suspects.close(session, work.schema, work.suspects, ids, "looked")
        deleted, changed = work.run.rows_deleted + merged.deleted, work.run.rows_changed + merged.changed
        work.set(session, rows_deleted=deleted, rows_changed=changed, options=options, attempts=0)
    return True
