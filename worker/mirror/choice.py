"""What is mirrored: objects, columns, row filter and intervals; chosen and changed while everything runs, and taken away.

What is asked for is checked against the org first, so that a misspelt name is answered at once, with the nearest one.
"""

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from psycopg import sql
from sqlalchemy import case, func, select, update
from sqlalchemy.orm import Session

from models.connection import Connection
from models.mirror import Drift, Mirror, Run, RunPage, claim_tokens, read_numbers
from worker.db import raw
from worker.errors import NotFoundError, RejectedError, SettingsError
from worker.mirror import ddl, tables
from worker.mirror.requests import request_run
from worker.mirror.schema import BINARY, COMPOUND, TableSpec, table_spec
from worker.mirror.store import lock_mirror
from worker.salesforce import rest, soql
from worker.salesforce.client import OrgClient
from worker.salesforce.describe import ObjectDescribe, parse

SHORTEST_INTERVAL = 1.0  # seconds
ALL: tuple[str, ...] = ()  # as a choice of fields: every field


@dataclass(frozen=True, slots=True)
class Choice:
    """What to change; None leaves it as it is. `fields`: ALL stands for every field; `row_filter`: "" for every record."""

    fields: Sequence[str] | None = None
    row_filter: str | None = None
    refresh_seconds: float | None = None
    audit_seconds: float | None = None


def described(client: OrgClient, name: str) -> ObjectDescribe:
    """The object of that name (any case). Raises SettingsError, with the nearest names, where the org shows none."""
    try:
        answer = rest.describe(client, soql.name(name))
    except ValueError as error:
        raise SettingsError(f"{error}; give an object's API name, such as Contact or Invoice__c") from None
    except NotFoundError:
        known = [str(entry.get("name")) for entry in rest.describe_global(client)]
        raise SettingsError(f"the org shows no object {name}{nearest(name, known)}") from None
    assert answer is not None  # only If-Modified-Since can be answered with nothing
    found = parse(answer.json)
    table_spec(found)  # UnfitObjectError where it cannot be mirrored
    return found


def nearest(name: str, known: Iterable[str]) -> str:
    """`; did you mean Contact?`, or nothing."""
    by_lower = {one.lower(): one for one in known}
    close = difflib.get_close_matches(name.lower(), by_lower, n=3, cutoff=0.6)
    return f"; did you mean {' or '.join(by_lower[one] for one in close)}?" if close else ""


def check(client: OrgClient, found: ObjectDescribe, choice: Choice) -> Choice:
    """The choice with names as the org spells them. Raises SettingsError that says what is wrong and what to do."""
    for what, seconds in (("interval", choice.refresh_seconds), ("interval of audits", choice.audit_seconds)):
        if seconds is not None and seconds < SHORTEST_INTERVAL and not (what != "interval" and seconds == 0):
            raise SettingsError(f"an {what} of {seconds:g} s is too short: give {SHORTEST_INTERVAL:g} or more")
    if choice.row_filter:
        try:
            rest.query(client, soql.count(found.name, where=choice.row_filter))
        except RejectedError as error:
            raise SettingsError(f"the org refuses the row filter {choice.row_filter!r}: {error}") from None
    if not choice.fields:
        return choice
    fields = [_field(found, name) for name in choice.fields]
    return Choice(fields, choice.row_filter, choice.refresh_seconds, choice.audit_seconds)


def _field(found: ObjectDescribe, name: str) -> str:
    field = found.field(name)
    if field is None:
        raise SettingsError(f"{found.name} has no field {name}{nearest(name, (one.name for one in found.fields))}")
    if field.type in COMPOUND:
        some = [one.name for one in found.fields if one.compound_field_name == field.name]
        raise SettingsError(f"{field.name} is kept by its parts: choose {', '.join(some)}")
    if field.type in BINARY:
        raise SettingsError(f"{field.name} is binary: such fields are not mirrored")
    return field.name


def apply(session: Session, mirror_id: int, choice: Choice) -> None:
    """Change a mirror. New columns are filled by a back-fill, another filter by a load; both are asked for here."""
    lock_mirror(session, mirror_id)
    mirror = session.get_one(Mirror, mirror_id, with_for_update={"key_share": True}, populate_existing=True)
    if choice.refresh_seconds is not None:
        mirror.refresh_seconds = choice.refresh_seconds
        mirror.next_refresh_at = None if mirror.state != "live" else session.scalar(select(func.clock_timestamp()))
    if choice.audit_seconds is not None:
        mirror.audit_seconds, mirror.next_audit_at = choice.audit_seconds, None
    if choice.fields is not None:
        _choose_fields(session, mirror, choice.fields)
    if choice.row_filter is not None and (choice.row_filter or None) != mirror.row_filter:
        mirror.row_filter = choice.row_filter or None
        session.flush()
        _begin_anew(session, mirror_id, "the row filter was changed")
        if mirror.state == "live":
            request_run(session, mirror_id, "load", "filter")


def _begin_anew(session: Session, mirror_id: int, why: str) -> None:
    """Take the runs under way out of their workers' hands and back to their beginning: they asked for something else.

    The last thing of its transaction: a worker that has locked a table may be waiting for its run.
    """
    free = {"claim_token": claim_tokens.next_value(), "claim_until": None, "claim_owner": None}
    stage = case((Run.kind == "children", "begin"), else_="lost")
    asked = (Run.mirror_id == mirror_id, Run.state == "ready", Run.stage != "begin")
    session.execute(update(Run).where(*asked).values(stage=stage, error=why, due_at=func.clock_timestamp(), **free))


def _choose_fields(session: Session, mirror: Mirror, fields: Sequence[str]) -> None:
    before = _spec(mirror)
    mirror.fields = list(fields) or None
    after = _spec(mirror)
    if before is None or after is None:
        return
    schema = session.get_one(Connection, mirror.connection_id).schema_name
    tables.ensure_table(session, after, schema)
    mirror.columns = list(after.names)
    mirror.layout = tables.layout(session, schema, after.table)
    came = [field for field in after.fields if not before.has(field)]
    session.add_all(Drift(mirror_id=mirror.id, field=field, change="chosen") for field in came)
    left = [field for field in before.fields if not after.has(field)]
    session.add_all(Drift(mirror_id=mirror.id, field=field, change="left out") for field in left)
    if came and mirror.state == "live":
        mirror.unfilled_fields = list(dict.fromkeys([*mirror.unfilled_fields, *came]))
        mirror.unfilled_number = session.scalar(select(read_numbers.next_value()))
        session.flush()
        request_run(session, mirror.id, "backfill", "fields")
    elif came:
        session.flush()
        _begin_anew(session, mirror.id, "other fields were chosen")


def _spec(mirror: Mirror) -> TableSpec | None:
    if mirror.describe is None:
        return None
    return table_spec(parse(mirror.describe), chosen=mirror.fields, table=mirror.table_name, layout=mirror.layout)


def stop(session: Session, mirror_id: int) -> None:
    """Before a removal, in a transaction of its own: no new runs, and those under way lose their claims, cut off their calls
    and let go of the table."""
    session.execute(
        update(Mirror).where(Mirror.id == mirror_id).values(state="paused", state_reason="it is being removed")
    )
    token = claim_tokens.next_value()
    ended = {"state": "failed", "error": "the mirror is being removed", "finished_at": func.clock_timestamp()}
    mine = select(Run.id).where(Run.mirror_id == mirror_id)
    session.execute(update(RunPage).where(RunPage.run_id.in_(mine)).values(claim_token=token))
    session.execute(
        update(Run).where(Run.mirror_id == mirror_id, Run.state == "ready").values(claim_token=token, **ended)
    )


def remove(session: Session, mirror_id: int, *, drop: bool) -> None:
    """Stop mirroring (see stop); with `drop`, the table, its tombstones and rejects go too. A run under way finds itself
    without a row to write to, and ends.

    Tables first, then rows: the order in which a page's transaction takes its locks, so neither can wait for the other.
    """
    mirror = session.get_one(Mirror, mirror_id)
    schema = session.get_one(Connection, mirror.connection_id).schema_name
    for run in session.scalars(select(Run).where(Run.mirror_id == mirror_id, Run.staging.is_not(None))).all():
        tables.drop_table(session, schema, run.staging)
        tables.drop_table(session, schema, f"_suspects_{run.id}")
    if drop:
        tables.drop_table(session, schema, mirror.table_name)
        tombstones = sql.Identifier(schema, ddl.TOMBSTONES)
        if tables.stands(session, tombstones):
            statement = sql.SQL("DELETE FROM {} WHERE object = %s").format(tombstones)
            raw(session).execute(statement, (mirror.object,))
    session.delete(mirror)
