"""Verify a mirror: read everything again, compare inside Postgres, and look twice at each suspect before it counts.

Stages: begin → ask → wait → pages → loaded → (suspects: refresh → confirm →) report → done.

A comparison with an org that moves meanwhile yields only suspects. Then a refresh and a read by Id, both begun after
it, decide: what is equal by now or was changed since has moved; the rest are differences. `repair` takes the org's word.
"""

from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from models.mirror import Run, Verification
from worker.errors import TransientError
from worker.log import get_logger
from worker.mirror import bulk_read, by_id, guard, intake, reading, store, suspects, tables
from worker.mirror.cursor import young_since
from worker.mirror.damage import mend
from worker.mirror.describing import describe
from worker.mirror.requests import request_run
from worker.mirror.schema import TableSpec
from worker.mirror.store import Target
from worker.mirror.work import NOW, Work
from worker.salesforce.limits import COLLECTION_RETRIEVE_IDS
from worker.steps import Done, Step

log = get_logger(__name__)

PER_USER = {"LastViewedDate", "LastReferencedDate"}  # of the reading user, and moved by reading: no data of the record
DIFFERENT = ("different", "calculated")
AUDIT_SAMPLE = 1000  # records of a large mirror of which an audit compares every field
WHOLE_AUDIT_VALUES = 2_000_000  # records × fields: up to here an audit compares everything, which is about one page
DETAILS = 20  # differences that are kept with their values


def begin(work: Work) -> Step | None:
    """Describe; stage a copy beside the mirror. `quick` reads ids and stamps only."""
    if work.mirror.state != "live":
        return work.end("failed", f"{work.mirror.object} is not loaded yet: there is nothing to verify")
    if (ended := mend(work)) is not None:
        return ended
    describe(work)
    if work.mirror.unfilled_fields:
        return _fill_first(work)
    spec, staging = work.spec, f"_staging_{work.run.id}"
    with work.deps.database.transaction() as session:
        options = _depth(session, work)
        tables.make_staging(session, spec, work.schema, staging)
        work.set(session, stage="ask", columns=_columns(spec, options), staging=staging, options=options)
    return None


def _depth(session: Session, work: Work) -> dict[str, Any]:
    """The run's options with its depth decided: an audit of a small mirror compares everything."""
    options = dict(work.run.options)
    if options.get("audit"):
        values = tables.estimate(session, work.spec, work.schema) * len(work.spec.fields)
        options["sample"] = 0 if values <= WHOLE_AUDIT_VALUES else AUDIT_SAMPLE
    return options


def _columns(spec: TableSpec, options: dict[str, Any]) -> list[str]:
    """Fields to read of every record: all, or with `quick` what tells versions apart, or with `sample` also what moves
    without a stamp."""
    versions = [name for name in ("Id", spec.stamp) if name]
    if options.get("quick"):
        return versions
    return list(dict.fromkeys([*versions, *spec.calculated])) if options.get("sample") else list(spec.fields)


def _fill_first(work: Work) -> Step | None:
    """Columns that wait for their back-fill would only be found to differ: move it along where nobody else does."""
    with work.deps.database.transaction() as session:
        run_id = request_run(session, work.mirror.id, "backfill", "drift")
    work.step(run_id)
    work.reload()
    if not work.mirror.unfilled_fields:
        return None
    with work.deps.database.transaction() as session:
        other = session.get_one(Run, run_id)
    if other.state in ("failed", "parked"):
        raise TransientError(f"the back-fill before the verification did not succeed: {other.error}")
    return work.again(bulk_read.PAGES_PAUSE)


ask = reading.ask  # every record that is not deleted, archived ones included


def compared(work: Work) -> list[str]:
    """Names of the columns that are compared of every record."""
    return [name.lower() for name in work.run.columns or () if name not in PER_USER]


def _judged(work: Work) -> list[str]:
    """Names of the columns that decide about a suspect: with a sample, whatever the record has."""
    if not work.run.options.get("sample"):
        return compared(work)
    return [name.lower() for name in work.spec.fields if name not in PER_USER]


def loaded(work: Work) -> Step | None:
    """Compare the two copies."""
    target = work.target()
    with work.deps.database.transaction() as session:
        bulk_read.check_staged(session, work)
        found = suspects.make(session, target, work.suspects, compared=compared(work))
        sampled = suspects.add_sample(session, target, work.suspects, int(work.run.options.get("sample") or 0))
        assert work.run.staging is not None
        records = tables.count(session, work.schema, work.run.staging)
        tables.drop_table(session, work.schema, work.run.staging)
        options = work.option(suspects=found + sampled, records=records, after=work.number_read(session))
        work.set(session, stage="refresh" if found + sampled else "report", options=options, attempts=0)
    log.info("mirror.compared", object=work.mirror.object, records=records, suspects=found)
    return None


def refresh(work: Work) -> Step | None:
    """See that a refresh whose read began after the comparison is done; move it along ourselves where nobody else does."""
    if _refreshed(work):
        work.advance("confirm")
        return None
    with work.deps.database.transaction() as session:
        run_id = request_run(session, work.mirror.id, "refresh", "verify")
    work.step(run_id)
    if not _refreshed(work):
        with work.deps.database.transaction() as session:
            other = session.get_one(Run, run_id)
        if other.state in ("failed", "parked"):
            raise TransientError(f"the refresh before the second look did not succeed: {other.error}")
        return work.again(bulk_read.PAGES_PAUSE)
    return None


def _refreshed(work: Work) -> bool:
    later = (Run.mirror_id == work.mirror.id, Run.kind == "refresh", Run.state == "done")
    query = select(func.count()).select_from(Run).where(*later, Run.read_number > work.run.options["after"])
    with work.deps.database.transaction() as session:
        return bool(session.scalar(query))


def confirm(work: Work) -> Step | None:
    """Read every suspect again by Id and judge it against the mirror as it is now."""
    while _confirm_some(work):
        work.keeper.check()
        work.reload()
    work.advance("report")
    return None


def _confirm_some(work: Work) -> bool:
    repairing = bool(work.run.options.get("repair"))
    spec = work.spec
    whole = repairing or bool(work.run.options.get("sample"))
    fields = list(spec.fields) if whole else list(dict.fromkeys([*(work.run.columns or ()), *_deleted_flag(work)]))
    with work.deps.database.transaction() as session:
        ids = suspects.unjudged(session, work.schema, work.suspects, COLLECTION_RETRIEVE_IDS)
        number = work.number_read(session)
    if not ids:
        return False
    columns = tuple(field.lower() for field in fields)
    target = Target(spec, work.schema, None, columns, work.mirror.id, number)
    found = by_id.read(work.client, spec, ids, fields)
    assert work.mirror.fresh_cursor is not None
    with work.deps.database.transaction() as session:
        staged, _ = intake.look(session, target, found.data)
        suspects.judge(session, staged, work.suspects, ids, compared=_judged(work), since=work.mirror.fresh_cursor)
        wrong = suspects.judged(session, work.schema, work.suspects, ids)
        details = _details(session, work, staged, wrong)
        options = work.option(details=details)
        if repairing:
            options |= guard.check(session, work, found, len(ids))
            options["details"] = details
            options["repaired"] = options.get("repaired", 0) + _repair(session, target, staged, wrong, found)
        work.set(session, options=options, attempts=0)
    return True


def _deleted_flag(work: Work) -> list[str]:
    return ["IsDeleted"] if work.spec.has("IsDeleted") else []


def _details(session: Session, work: Work, staged: Target, wrong: dict[str, str]) -> list[dict[str, Any]]:
    """The first differences of the run: {"id", "kind", "fields"}."""
    details: list[dict[str, Any]] = list(work.run.options.get("details", []))
    for record_id, kind in list(wrong.items())[: DETAILS - len(details)]:
        fields = suspects.differing(session, staged, record_id, _judged(work)) if kind in DIFFERENT else []
        details.append({"id": record_id, "kind": kind, "fields": fields})
    return details


def _repair(session: Session, target: Target, staged: Target, wrong: dict[str, str], found: by_id.Found) -> int:
    assert staged.staging is not None
    for ids, cause in ((found.gone, store.INVISIBLE), (found.filtered, store.FILTERED)):
        store.leave(session, target, [one for one in ids if one in wrong], found.began, cause=cause)
    absent = {*found.gone, *found.filtered}
    store.forget(session, target, [one for one in wrong if one not in absent])
    store.merge(session, target, staged.staging, young=young_since(found.began))
    return len(wrong)


def report(work: Work) -> Step | None:
    """Write what was found."""
    options = work.run.options
    with work.deps.database.transaction() as session:
        counts = bulk_read.check_suspects(session, work)
        missing, surplus = counts.get("missing", 0) + work.run.rows_rejected, counts.get("surplus", 0)
        calculated = counts.get("calculated", 0)
        differences = missing + surplus + calculated + counts.get("different", 0)
        session.add(
            Verification(
                mirror_id=work.mirror.id,
                run_id=work.run.id,
                depth="quick" if options.get("quick") else "sample" if options.get("sample") else "full",
                started_at=work.run.started_at or work.run.created_at,
                finished_at=NOW,
                records=options["records"] + work.run.rows_rejected,
                fields=len(compared(work)),
                differences=differences,
                missing=missing,
                surplus=surplus,
                moved=counts.get("moved", 0),
                repaired=options.get("repaired", 0),
                calls=work.run.calls + work.uncounted,
                calculated=calculated,
                rejected=work.run.rows_rejected,
                nul_bytes=work.run.nul_bytes,
                cause=work.run.cause,
                details=options.get("details", []),
            )
        )
        rows = tables.has_rows(session, work.spec, work.schema)
        work.set_mirror(session, verified_at=work.began, has_rows=rows)
        work.finish(session)
    log.info("mirror.verified", object=work.mirror.object, records=options["records"], differences=differences)
    return Done()
