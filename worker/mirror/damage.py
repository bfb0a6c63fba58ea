"""See, before a run begins, that the mirror's table still stands as it should; mend what somebody dropped or damaged.

A column that is gone is added and filled again; a key that is gone is made again; a table that is gone, emptied or beyond
repair is loaded anew. All of it is in the drift log, and none of it needs a person.
"""

from psycopg import sql
from psycopg.errors import IntegrityError
from sqlalchemy.orm import Session

from worker.db import raw
from worker.log import get_logger
from worker.mirror import tables
from worker.mirror.describing import ask_for_values, note
from worker.mirror.requests import request_run
from worker.mirror.schema import READ, Change, TableSpec
from worker.mirror.work import Work
from worker.salesforce import rest, soql
from worker.steps import Step

log = get_logger(__name__)

HAS_KEY = "SELECT EXISTS (SELECT FROM pg_constraint WHERE conrelid = to_regclass(%s) AND contype = 'p')"


def mend(work: Work) -> Step | None:
    """None where the mirror can be read into (again); else the run's end: a load has been asked for."""
    if work.mirror.state != "live" or work.mirror.describe is None:
        return None
    spec = work.spec
    emptied = work.mirror.has_rows and _is_empty(work, spec)
    if emptied and not _has_records(work, spec):
        with work.deps.database.transaction() as session:  # the last record has left, as in the org
            work.set_mirror(session, has_rows=False)
            work.set(session)
        work.reload()
        emptied = False
    with work.deps.database.transaction() as session:
        ruin = _ruin(session, work, spec, emptied=emptied)
        if ruin is None:
            _mend_columns(session, work, spec)
            work.set(session)
    if ruin is None:
        work.reload()
        return None
    _rebuild(work, emptied=emptied)
    return work.end("failed", f"{ruin}: it is loaded anew")


def _rebuild(work: Work, *, emptied: bool) -> None:
    """Have the table loaded anew, unless another run was first: then its load may be under way."""
    with work.deps.database.transaction() as session:
        work.lock_mirror(session)
        spec = work.spec
        ruin = _ruin(session, work, spec, emptied=emptied) if work.mirror.state == "live" else None
        if ruin is not None:
            note(session, work, [Change("", "table rebuilt", ruin)])
            tables.drop_table(session, work.schema, spec.table)
            work.set_mirror(session, state="new", has_rows=False, unfilled_fields=[], layout={}, describe_modified=None)
            request_run(session, work.mirror.id, "load", "damage")
            log.warning("mirror.rebuilt", object=work.mirror.object, reason=ruin)
        work.set(session)


def _is_empty(work: Work, spec: TableSpec) -> bool:
    with work.deps.database.transaction() as session:
        return tables.stands(session, tables.holding(spec, work.schema)[0]) and not tables.has_rows(
            session, spec, work.schema
        )


def _has_records(work: Work, spec: TableSpec) -> bool:
    """Whether the org has any record of the object."""
    return rest.query(work.client, soql.count(spec.object)).total_size > 0


def _ruin(session: Session, work: Work, spec: TableSpec, *, emptied: bool) -> str | None:
    """Why the table cannot be used any more; None when it can (its key is made again where it can be). `emptied`: it was
    seen without records while the org has some; a record may have come since."""
    connection, first = raw(session), tables.holding(spec, work.schema)[0]
    held = tables.existing(session, work.schema, spec.table)
    if held is None or any(not tables.stands(session, one) for one in tables.holding(spec, work.schema)):
        return f"the table {spec.table} was dropped"
    if READ not in held or "id" not in held:
        return f"the table {spec.table} lost a column that a mirror cannot do without"
    has_key = connection.execute(HAS_KEY, (first.as_string(None),)).fetchone()
    if not (has_key and has_key[0]):
        try:
            with session.begin_nested():
                connection.execute(sql.SQL("ALTER TABLE {} ADD PRIMARY KEY (id)").format(first))
        except IntegrityError:
            return f"the table {spec.table} lost its key and holds a record twice"
        note(session, work, [Change("", "key restored")])
    if emptied and not tables.has_rows(session, spec, work.schema):
        return f"the table {spec.table} was emptied"
    return None


def _mend_columns(session: Session, work: Work, spec: TableSpec) -> None:
    held = tables.existing(session, work.schema, spec.table) or {}
    gone = [column.field for column in spec.columns if column.name not in held]
    if gone:
        work.lock_mirror(session)
        note(session, work, [Change(field, "restored") for field in gone])
        tables.ensure_table(session, spec, work.schema)
        ask_for_values(session, work, gone)
