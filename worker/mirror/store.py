"""Merge staged rows into a mirror, in the caller's transaction; the rules are in merge.py."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import psycopg
from psycopg import sql
from sqlalchemy.orm import Session

from worker.db import raw
from worker.errors import OrgComplaint, SchemaChangedError
from worker.mirror import child_reads
from worker.mirror import merge as statements
from worker.mirror.names import Names
from worker.mirror.schema import TableSpec
from worker.mirror.tables import LOCKS

INVISIBLE, FILTERED = "invisible", "filtered"  # why a read did not show a record
LOOK = sql.Identifier("_look")  # a temporary table: rows of a read that are here (intake.look)


@dataclass(frozen=True, slots=True)
class Target:
    """Where rows go: the mirror itself (`staging` None) or a staging table. `columns` are those that must come."""

    spec: TableSpec
    schema: str
    staging: sql.Identifier | None
    columns: tuple[str, ...]
    mirror_id: int
    read: int

    @property
    def mirror(self) -> sql.Identifier:
        """The mirror table, or the view in its place where it is kept in parts."""
        return sql.Identifier(self.schema, self.spec.table)

    @property
    def table(self) -> sql.Identifier:
        """The table that COPY fills."""
        return self.staging or self.mirror


@dataclass(frozen=True, slots=True)
class Merged:
    """What a merge changed."""

    changed: int
    deleted: int


def lock_mirror(session: Session, mirror_id: int) -> None:
    """Merges of one mirror wait for each other: a row and its tombstone must not be written past one another."""
    raw(session).execute("SELECT pg_advisory_xact_lock(%s, %s)", (LOCKS, mirror_id))


def check_columns(session: Session, target: Target) -> None:
    """Refuse a read that was planned before a column came: it would leave that column empty, unseen by its back-fill."""
    query = "SELECT columns <@ %s::text[] FROM sfsync.mirrors WHERE id = %s"
    row = raw(session).execute(query, (list(target.columns), target.mirror_id)).fetchone()
    if row is not None and row[0] is False:
        message = f"{target.spec.object} got other fields while it was read"
        raise SchemaChangedError(200, (OrgComplaint("INVALID_FIELD", message),))


def _begin(session: Session, mirror_id: int) -> psycopg.Connection[Any]:
    lock_mirror(session, mirror_id)
    connection = raw(session)
    connection.execute(statements.KEEP_MOVED)
    return connection


def merge(session: Session, target: Target, staging: sql.Identifier, *, young: datetime | None) -> Merged:
    """Merge staged rows into the mirror; `young`: see cursor.young_since (None: no row is)."""
    connection = _begin(session, target.mirror_id)
    check_columns(session, target)
    names = Names.of(target.spec, target.schema, staging, target.columns)
    values = {"object": target.spec.object, "read": target.read, "young": young or "infinity"}
    counts: dict[str, int] = {}
    for what, statement in statements.merge(names).items():
        if what == "confirmed" and counts["changed"] == _living(connection, names):
            continue  # every row was written just now
        counts[what] = connection.execute(statement, values).rowcount
    child_reads.follow(session, target.mirror_id)
    return Merged(changed=counts["changed"], deleted=counts.get("deleted", 0))


def _living(connection: psycopg.Connection[Any], names: Names) -> int:
    row = connection.execute(statements.living(names)).fetchone()
    return int(row[0]) if row else 0


def fill(session: Session, target: Target, columns: Sequence[str], *, young: datetime) -> int:
    """Fill `columns` from a staged read of them alone; how many rows changed. What it leaves out: comparison.to_look_at."""
    assert target.staging is not None
    lock_mirror(session, target.mirror_id)
    names = Names.of(target.spec, target.schema, target.staging, target.columns)
    values = {"read": target.read, "young": young}
    return max(raw(session).execute(one, values).rowcount for one in statements.fill(names, columns))


def leave(session: Session, target: Target, ids: Sequence[str], began: datetime, *, cause: str = INVISIBLE) -> int:
    """Take out the records that a read, begun at `began`, did not show; how many were here."""
    if not ids:
        return 0
    connection = _begin(session, target.mirror_id)
    names = Names.of(target.spec, target.schema, LOOK, target.columns)
    values = {"object": target.spec.object, "read": target.read, "began": began, "ids": list(ids), "cause": cause}
    (gone,) = connection.execute(statements.leave(names), values).fetchone() or (0,)
    child_reads.follow(session, target.mirror_id)
    return int(gone)


def held(session: Session, target: Target, ids: Sequence[str]) -> list[str]:
    """Which of `ids` are in the mirror as a read before `target.read` brought them."""
    names = Names.of(target.spec, target.schema, LOOK, target.columns)
    values = {"ids": list(ids), "read": target.read}
    return [row[0] for row in raw(session).execute(statements.held(names), values).fetchall()]


def forget(session: Session, target: Target, ids: Sequence[str]) -> None:
    """Let go of what we hold on these records, unless a later read wrote it: what comes next is taken whatever its stamp."""
    lock_mirror(session, target.mirror_id)
    names = Names.of(target.spec, target.schema, LOOK, target.columns)
    values = {"object": target.spec.object, "read": target.read, "ids": list(ids)}
    for statement in statements.forget(names):
        raw(session).execute(statement, values)
