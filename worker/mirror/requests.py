"""Asking for mirrors and runs. The row is the work: commit it, then wake whoever may do it."""

from collections.abc import Sequence
from typing import Any, cast

from sqlalchemy import func, or_, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from models.mirror import ACTIVE_RUN, Mirror, Run
from worker.errors import SettingsError
from worker.mirror.schema import table_name
from worker.salesforce.soql import name

LANES = {
    "load": "backfill",
    "backfill": "backfill",
    "verify": "backfill",
    "refresh": "refresh",
    "settle": "refresh",
    "children": "refresh",
}


def ensure_mirror(
    session: Session,
    connection_id: int,
    object_name: str,
    *,
    fields: Sequence[str] | None = None,
    refresh_seconds: float = 60.0,
) -> int:
    """The mirror of one object (any case), made if it is not there; its id. `fields` narrow a new mirror; None: all."""
    try:
        name(object_name)
    except ValueError as error:
        raise SettingsError(f"{error}; give an object's API name, such as Contact or Invoice__c") from None
    table = table_name(object_name)
    known = (
        select(Mirror.id)
        .where(Mirror.connection_id == connection_id)
        .where(
            or_(Mirror.table_name == table, func.lower(Mirror.object) == table)
        )  # one that was renamed keeps its table
        .order_by(func.lower(Mirror.object) != table)
    )
    found = session.scalars(known).first()
    if found is not None:
        return found
    row = insert(Mirror).values(
        connection_id=connection_id,
        object=object_name,
        table_name=table,
        fields=list(fields) if fields is not None else None,
        refresh_seconds=refresh_seconds,
    )
    session.execute(row.on_conflict_do_nothing())
    return cast(int, session.scalars(known).first())


def request_run(session: Session, mirror_id: int, kind: str, cause: str, options: dict[str, Any] | None = None) -> int:
    """Ask for a run; the id of the one that is under way, if there is one of this kind."""
    row = insert(Run).values(mirror_id=mirror_id, kind=kind, lane=LANES[kind], cause=cause, options=options or {})
    made = session.scalar(
        row.on_conflict_do_nothing(index_elements=["mirror_id", "kind"], index_where=ACTIVE_RUN).returning(Run.id)
    )
    if made is not None:
        return int(made)
    active = select(Run.id).where(Run.mirror_id == mirror_id, Run.kind == kind, Run.state == "ready")
    found = session.scalar(active)
    if found is not None:
        return found
    return request_run(session, mirror_id, kind, cause, options)  # it ended between the two statements


def request_update(
    session: Session, connection_id: int, object_name: str, cause: str, *, refresh_seconds: float, full: bool = False
) -> tuple[int, str]:
    """Ask that an object be brought up to date: a refresh of what is live, a load of what is not (or with `full`).

    The run's id and its lane. The mirror is made if it is not there.
    """
    mirror_id = ensure_mirror(session, connection_id, object_name, refresh_seconds=refresh_seconds)
    live = session.get_one(Mirror, mirror_id).state == "live"
    kind = "refresh" if live and not full else "load"
    return request_run(session, mirror_id, kind, cause), LANES[kind]


def mirror_ids(session: Session, connection_id: int) -> dict[str, int]:
    """Object → mirror id of everything that a connection mirrors."""
    rows = session.execute(
        select(Mirror.object, Mirror.id)
        .where(Mirror.connection_id == connection_id)
        .order_by(func.lower(Mirror.object))
    )
    return {row.object: row.id for row in rows}
