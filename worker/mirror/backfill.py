"""Fill columns that came to a live mirror: read these fields of every record, and nothing else.

Stages: begin → ask → wait → pages → loaded → (look →) done.

Refreshes go on meanwhile and bring the columns too; a row that one of them wrote after our read was numbered is newer than
ours and stays. Rows stamped shortly before the read are read again whole by Id: within one second a stamp does not say
which of two values is the later one.
"""

from sqlalchemy.orm import Session

from models.mirror import Mirror
from worker.log import get_logger
from worker.mirror import bulk_read, load, store, suspects, tables
from worker.mirror.cursor import young_since
from worker.mirror.damage import mend
from worker.mirror.describing import describe
from worker.mirror.requests import request_run
from worker.mirror.work import Work
from worker.steps import Done, Step

log = get_logger(__name__)


def begin(work: Work) -> Step | None:
    """Describe; stage a table for the columns that wait."""
    if work.mirror.state != "live":
        return work.end("failed", f"{work.mirror.object} is not loaded yet: a load brings all columns")
    if (ended := mend(work)) is not None:
        return ended
    describe(work)
    spec, waiting = work.spec, set(work.mirror.unfilled_fields)
    fields = [field for field in spec.fields if field in waiting]
    if not fields or spec.stamp is None:  # without a stamp each refresh reads everything anyway
        with work.deps.database.transaction() as session:
            work.set_mirror(session, unfilled_fields=[])
            work.finish(session)
        return Done()
    staging = f"_staging_{work.run.id}"
    with work.deps.database.transaction() as session:
        tables.make_staging(session, spec, work.schema, staging)
        columns = list(dict.fromkeys(["Id", spec.stamp, *fields]))
        work.set(session, stage="ask", columns=columns, staging=staging, options=work.option(fields=fields))
    return None


def loaded(work: Work) -> Step | None:
    """Fill the columns; what must be looked at again becomes a suspect."""
    target, columns = work.target(), _columns(work)
    assert target.staging is not None
    young = young_since(work.began)
    with work.deps.database.transaction() as session:
        bulk_read.check_staged(session, work)
        found = suspects.make_unfilled(session, target, work.suspects, columns, young=young)
        changed = store.fill(session, target, columns, young=young)
        tables.drop_table(session, work.schema, work.run.staging)
        work.set(session, stage="look", options=work.option(suspects=found), rows_changed=changed, attempts=0)
    return None


def look(work: Work) -> Step | None:
    """Read those records again; then the columns are filled."""
    load.look_at_all(work, work.spec.fields)
    with work.deps.database.transaction() as session:
        bulk_read.check_suspects(session, work)
        tables.narrow(session, work.spec, work.schema, _columns(work))
        _filled(session, work)
    log.info("mirror.filled", object=work.mirror.object, fields=work.run.options["fields"], rows=work.run.rows_changed)
    return Done()


def _columns(work: Work) -> tuple[str, ...]:
    return tuple(field.lower() for field in work.run.options["fields"])


def _filled(session: Session, work: Work) -> None:
    """These columns wait no longer, unless they changed again since our read was numbered; the others get their turn."""
    mirror = session.get_one(Mirror, work.mirror.id, with_for_update=True, populate_existing=True)
    assert work.run.read_number is not None
    current = (mirror.unfilled_number or 0) < work.run.read_number
    filled = set(work.run.options["fields"]) if current else set()
    mirror.unfilled_fields = [field for field in mirror.unfilled_fields if field not in filled]
    work.finish(session)
    if mirror.unfilled_fields:
        request_run(session, mirror.id, "backfill", "drift")
