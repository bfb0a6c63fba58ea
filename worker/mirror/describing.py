"""Describe an object again, follow what changed in it, and say so in the drift log. Never drops a column.

A field that came or changed does not stamp the records that have it, so its column waits for a back-fill
(`unfilled_fields`); every read that is merged from then on must bring it (store.merge refuses others), so a back-fill
and the refreshes beside it together leave no record out.
"""

import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from models.mirror import Drift, Mirror
from worker.errors import NotFoundError, SchemaChangedError
from worker.log import get_logger
from worker.mirror import tables
from worker.mirror.cursor import SHORTEST_OVERLAP, describe_every
from worker.mirror.requests import request_run
from worker.mirror.schema import (
    ALWAYS,
    Change,
    TableSpec,
    UnfitObjectError,
    changes,
    meanings,
    table_name,
    table_spec,
)
from worker.mirror.work import NOW, LostObjectError, Work, spec_of
from worker.salesforce import rest
from worker.salesforce.describe import ObjectDescribe, parse
from worker.salesforce.rest import Describe

log = get_logger(__name__)

REFUSED = "_refused"  # in a stored describe: fields that the org describes and does not let us read
NO_COLUMN = re.compile(r"No such column '(\w+)'")
LOOK_FOR_LOST = timedelta(minutes=15)  # between two looks for an object that the org does not show


def is_due(work: Work, now: datetime) -> bool:
    """Whether a run should ask the org for its describe: the timetable asks only now and then, each asking is a call.

    A person who asks for a refresh means the object as it is now.
    """
    known = work.mirror.described_at
    forced = bool(work.run.options.get("describe")) or work.mirror.lost_since is not None or work.run.cause == "manual"
    good = describe_every(work.mirror.refresh_seconds, work.mirror.stretch)
    return forced or known is None or now - known > good


def describe(work: Work) -> None:
    """Bring the mirror's description and its table up to date.

    Raises LostObjectError when a mirror that is live has lost its object.
    """
    while not _describe(work):
        work.keeper.check()
    work.reload()


def _describe(work: Work) -> bool:
    """Ask and follow; False where another run stored what it was told while we asked, which may be later than our answer."""
    asked = work.deps.database.now()
    forced = bool(work.run.options.get("describe")) or _wants_all(work)
    modified = None if forced or work.mirror.describe_modified is None else _instant(work.mirror.describe_modified)
    answer = _ask(work, modified)
    with work.deps.database.transaction() as session:
        work.lock_mirror(session)
        if answer is not None and work.mirror.described_at is not None and work.mirror.described_at > asked:
            return False
        if answer is not None:
            told = _without_refused(work, answer.json)
            now = parse(told)
            spec = _spec(session, work, now)
            lost = _follow(session, work, now, spec)
            work.set_mirror(
                session,
                object=spec.object,
                describe=told,
                describe_modified=_settled(answer.last_modified, rest.org_now(work.client)),
                skipped_fields=list(spec.skipped),
                stamp_field=spec.stamp,
                lost_fields=lost,
            )
            tables.ensure_table(session, spec, work.schema)
            work.set_mirror(session, layout=tables.layout(session, work.schema, spec.table))
            tables.mark_lost(session, spec, work.schema, lost)
        else:
            spec = work.spec
            tables.ensure_table(session, spec, work.schema)
        if work.mirror.unfilled_fields and work.run.kind != "backfill":
            request_run(session, work.mirror.id, "backfill", "drift")  # an earlier one may have ended badly
        _found_again(session, work)
        work.set_mirror(session, described_at=NOW, columns=list(spec.names))
        work.note_skew(session)
        work.set(session, options=work.option(describe=False))
    return True


def refuse(work: Work, error: SchemaChangedError) -> None:
    """Leave a field out that a query may not name though a describe of a moment ago shows it: the rest must go on.

    The next load tries it again.
    """
    found = NO_COLUMN.search(str(error))
    if found is None or work.mirror.describe is None or not work.run.options.get("restarts"):
        return
    field = parse(work.mirror.describe).field(found[1])
    if field is None or field.name in ALWAYS:
        return
    with work.deps.database.transaction() as session:
        known = work.mirror.describe.get(REFUSED) or []
        work.set_mirror(session, describe={**work.mirror.describe, REFUSED: [*known, field.name]})
        work.set(session)
    work.reload()
    log.warning("mirror.field_refused", object=work.mirror.object, field=field.name, error=str(error))


def _without_refused(work: Work, answer: Mapping[str, Any]) -> dict[str, Any]:
    """The answer without the fields that the org does not let us read."""
    again = work.run.kind == "load" and not work.run.options.get("restarts")
    refused = [] if again else (work.mirror.describe or {}).get(REFUSED) or []
    if not refused:
        return dict(answer)
    fields = [field for field in answer.get("fields") or () if field.get("name") not in refused]
    return {**answer, "fields": fields, REFUSED: refused}


def _wants_all(work: Work) -> bool:
    """Whether to ask without If-Modified-Since: it costs the same call, and a permission that came back may count as no
    modification. So where something is out of sight, and once in each hour."""
    mirror = work.mirror
    if mirror.describe is None or mirror.described_at is None or mirror.lost_since is not None or mirror.lost_fields:
        return True
    return mirror.described_at.hour != work.deps.database.now().hour


def note(session: Session, work: Work, found: Iterable[Change]) -> None:
    """Write changes into the drift log."""
    for change in found:
        session.add(Drift(mirror_id=work.mirror.id, field=change.field, change=change.change, detail=change.detail))
        log.info("mirror.drift", object=work.mirror.object, field=change.field, change=change.change)


def ask_for_values(session: Session, work: Work, fields: Iterable[str]) -> None:
    """Have the columns of `fields` filled; every read that is merged from now on must bring them.

    A mirror that is not live is about to be read whole anyway, and one without a stamp is at each refresh.
    """
    work.lock_mirror(session)
    wanted = list(dict.fromkeys([*work.mirror.unfilled_fields, *fields]))
    if work.mirror.state != "live" or not wanted:
        return
    work.set_mirror(session, unfilled_fields=wanted, unfilled_number=work.number_read(session))
    request_run(session, work.mirror.id, "backfill", "drift")


def lose(work: Work, reason: str) -> None:
    """The object is no longer there for us: the records stay as they were, and we look again now and then."""
    with work.deps.database.transaction() as session:
        if work.mirror.lost_since is None:
            note(session, work, [Change("", "object lost", reason)])
            work.set_mirror(session, lost_since=NOW)
        pause = max(timedelta(seconds=work.mirror.refresh_seconds), LOOK_FOR_LOST)
        work.set_mirror(session, next_refresh_at=NOW + pause)
        work.set(session)


def _found_again(session: Session, work: Work) -> None:
    """What happened while the object was out of sight is read by an audit, as soon as possible."""
    if work.mirror.lost_since is not None:
        note(session, work, [Change("", "object returned", f"lost since {work.mirror.lost_since:%Y-%m-%d %H:%M:%S}")])
        work.set_mirror(session, lost_since=None, next_audit_at=NOW)


def _ask(work: Work, modified: datetime | None) -> Describe | None:
    try:
        return rest.describe(work.client, work.mirror.object, if_modified_since=modified)
    except NotFoundError as error:
        if work.mirror.state != "live":
            raise
        name = _new_name(work)
        if name is None:
            raise LostObjectError(f"the org no longer shows {work.mirror.object}: {error}") from error
        return rest.describe(work.client, name)


def _new_name(work: Work) -> str | None:
    """Another object that bears our object's key prefix, which no two objects share: ours, renamed."""
    assert work.mirror.describe is not None
    prefix = parse(work.mirror.describe).key_prefix
    if not prefix:
        return None
    names = [entry.get("name") for entry in rest.describe_global(work.client) if entry.get("keyPrefix") == prefix]
    others = [str(name) for name in names if name and name != work.mirror.object]
    with work.deps.database.transaction() as session:
        mirrored = select(func.count()).where(Mirror.connection_id == work.connection.id, Mirror.object.in_(others))
        taken = bool(session.scalar(mirrored))
    return others[0] if len(others) == 1 and not taken else None


def _spec(session: Session, work: Work, now: ObjectDescribe) -> TableSpec:
    table = work.mirror.table_name if work.mirror.describe is not None else table_name(now.name)
    places = tables.layout(session, work.schema, table)
    try:
        return table_spec(now, chosen=work.mirror.fields, table=table, layout=places, row_filter=work.mirror.row_filter)
    except UnfitObjectError as error:
        if work.mirror.state != "live":
            raise
        raise LostObjectError(str(error)) from error


def _follow(session: Session, work: Work, now: ObjectDescribe, spec: TableSpec) -> list[str]:
    """Log what changed and ask for the values that it takes; the fields whose columns stand still now."""
    if work.mirror.describe is None:
        return []
    before, lost = spec_of(work.mirror), work.mirror.lost_fields
    found = changes(before, spec, lost=lost)
    if spec.object != before.object:
        tables.rename_tombstones(session, work.schema, before.object, spec.object)
        detail = f"{before.object} → {spec.object}; the table keeps its name, {spec.table}"
        found.append(Change("", "object renamed", detail))
    note(session, work, [*found, *meanings(parse(work.mirror.describe), now)])
    if found:  # merges before this one need not bring the new columns, later ones must
        ask_for_values(session, work, [change.field for change in found if change.needs_values])
    removed = [change.field for change in found if change.change == "removed"]
    return list(dict.fromkeys(field for field in [*lost, *removed] if not spec.has(field)))


def _settled(modified: datetime | None, now: datetime) -> str | None:
    """What to ask with next time. HTTP dates have whole seconds: within one, a second change would go unseen."""
    if modified is None or now - modified < SHORTEST_OVERLAP:
        return None
    return modified.isoformat()


def _instant(text: str) -> datetime:
    return datetime.fromisoformat(text).astimezone(UTC)
