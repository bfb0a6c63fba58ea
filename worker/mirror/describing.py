"""Describe an object again, follow what changed in it, and say so in the drift log. Never drops a column."""

from datetime import UTC, datetime

from sqlalchemy.orm import Session

from models.mirror import Drift
from worker.log import get_logger
from worker.mirror import tables
from worker.mirror.cursor import DESCRIBE_EVERY, SHORTEST_OVERLAP
from worker.mirror.requests import request_run
from worker.mirror.schema import Change, TableSpec, changes, table_spec
from worker.mirror.work import NOW, Work, spec_of
from worker.salesforce import rest
from worker.salesforce.describe import parse

log = get_logger(__name__)


def is_due(work: Work, now: datetime) -> bool:
    """Whether a run should ask the org for its describe: a fresh reader asks only now and then, each asking is a call."""
    known = work.mirror.described_at
    return bool(work.run.options.get("describe")) or known is None or now - known > DESCRIBE_EVERY


def describe(work: Work) -> None:
    """Bring the mirror's description and its table up to date."""
    forced = bool(work.run.options.get("describe")) or work.mirror.describe is None
    modified = None if forced or work.mirror.describe_modified is None else _instant(work.mirror.describe_modified)
    answer = rest.describe(work.client, work.mirror.object, if_modified_since=modified)
    with work.deps.database.transaction() as session:
        if answer is not None:
            spec = table_spec(parse(answer.json), chosen=work.mirror.fields)
            _follow(session, work, spec)
            work.set_mirror(
                session,
                object=spec.object,
                describe=answer.json,
                describe_modified=_settled(answer.last_modified, rest.org_now(work.client)),
                skipped_fields=list(spec.skipped),
                stamp_field=spec.stamp,
            )
        else:
            spec = work.spec
        tables.ensure_table(session, spec, work.schema)
        work.set_mirror(session, described_at=NOW)
        work.set(session, options=work.option(describe=False))
    work.reload()


def _follow(session: Session, work: Work, spec: TableSpec) -> None:
    if work.mirror.describe is None:
        return
    found = changes(spec_of(work.mirror), spec)
    for change in found:
        session.add(Drift(mirror_id=work.mirror.id, field=change.field, change=change.change, detail=change.detail))
        log.info("mirror.drift", object=spec.object, field=change.field, change=change.change)
    if work.mirror.state == "live" and any(map(_needs_values, found)):
        request_run(session, work.mirror.id, "load", "drift")


def _needs_values(change: Change) -> bool:
    """A new or retyped field did not stamp the records that have it: only reading them all brings its values."""
    return change.change in ("added", "retyped")


def _settled(modified: datetime | None, now: datetime) -> str | None:
    """What to ask with next time. HTTP dates have whole seconds: within one, a second change would go unseen."""
    if modified is None or now - modified < SHORTEST_OVERLAP:
        return None
    return modified.isoformat()


def _instant(text: str) -> datetime:
    return datetime.fromisoformat(text).astimezone(UTC)
