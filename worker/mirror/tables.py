"""Mirror and staging tables in Postgres: make, widen, empty, finish, drop. In the caller's transaction."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import psycopg
from psycopg import sql
from psycopg.errors import DependentObjectsStillExist, FeatureNotSupported
from sqlalchemy.orm import Session

from worker.db import raw
from worker.log import get_logger
from worker.mirror import ddl, wide
from worker.mirror import merge as statements
from worker.mirror.names import Names
from worker.mirror.parts import part_of
from worker.mirror.schema import READ, TableSpec

log = get_logger(__name__)

LOCKS = 0x5F5F  # our family of advisory locks
LOST = "The org no longer shows this field: its values stand still. See sfsync drift."
COMMENTS = """
SELECT a.attname, col_description(a.attrelid, a.attnum) FROM pg_attribute a
 WHERE a.attrelid = to_regclass(format('%%I.%%I', %s::text, %s::text)) AND a.attnum > 0 AND NOT a.attisdropped
"""
DDL_LOCK = -1  # in that family; mirrors' locks are their ids


def existing(session: Session, schema: str, table: str) -> dict[str, str] | None:
    """Column → type of a table as it stands; None when there is none."""
    return wide.columns(raw(session), sql.Identifier(schema, table)) or None


def layout(session: Session, schema: str, table: str) -> dict[str, int]:
    """Column → part of a table as it stands; see schema.arrange."""
    return wide.layout(raw(session), sql.Identifier(schema, table))


def ensure_table(session: Session, spec: TableSpec, schema: str) -> None:
    """Make or complete the mirror table, its schema and the tombstones. Two makers at once wait for each other."""
    connection = raw(session)
    connection.execute("SELECT pg_advisory_xact_lock(%s, %s)", (LOCKS, DDL_LOCK))
    for statement in ddl.create_schema(schema):
        connection.execute(statement)
    _widen_causes(connection, schema)
    if spec.parts > 1:
        wide.ensure(connection, spec, sql.Identifier(schema, spec.table))
        return
    for statement in ddl.plan(spec, existing(session, schema, spec.table), schema=schema):
        connection.execute(statement)


def mark_lost(session: Session, spec: TableSpec, schema: str, lost: Sequence[str]) -> None:
    """Say at each column that stands still why it does, for whoever looks at the table; and take the mark off again."""
    connection, table = raw(session), sql.Identifier(schema, spec.table)
    marked = {field.lower() for field in lost}
    for name, comment in connection.execute(COMMENTS, (schema, spec.table)).fetchall():
        if (name in marked and comment is None) or (name not in marked and comment == LOST):
            says = sql.Literal(LOST) if name in marked else sql.SQL("NULL")
            column = sql.Identifier(name)
            connection.execute(sql.SQL("COMMENT ON COLUMN {}.{} IS {}").format(table, column, says))


def rename_tombstones(session: Session, schema: str, before: str, after: str) -> None:
    """The object has another name now: so have its tombstones."""
    table = sql.Identifier(schema, ddl.TOMBSTONES)
    raw(session).execute(sql.SQL("UPDATE {} SET object = %s WHERE object = %s").format(table), (after, before))


def _widen_causes(connection: psycopg.Connection[Any], schema: str) -> None:
    """Tombstones of an older version may refuse a cause that it did not know."""
    row = connection.execute(
        "SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE conrelid = to_regclass(format('%%I.%%I', %s::text, %s::text))"
        " AND conname = '_tombstones_cause_check'",
        (schema, ddl.TOMBSTONES),
    ).fetchone()
    if row is not None and all(f"'{cause}'" in row[0] for cause in ddl.CAUSES):
        return
    for statement in ddl.cause_check(schema):
        connection.execute(statement)


def empty_table(session: Session, spec: TableSpec, schema: str) -> None:
    """Before a first load: no rows of an earlier attempt, no tombstones of an earlier mirror."""
    connection = raw(session)
    tombstones = sql.Identifier(schema, ddl.TOMBSTONES)
    connection.execute(sql.SQL("TRUNCATE {}").format(sql.SQL(", ").join(holding(spec, schema))))
    connection.execute(sql.SQL("DELETE FROM {} WHERE object = %s").format(tombstones), (spec.object,))


def stands(session: Session, table: sql.Identifier) -> bool:
    """Whether there is such a table."""
    return bool(wide.columns(raw(session), table))


def holding(spec: TableSpec, schema: str) -> list[sql.Identifier]:
    """The tables that hold a mirror's rows."""
    table = sql.Identifier(schema, spec.table)
    return [table] if spec.parts == 1 else [part_of(table, number) for number in range(1, spec.parts + 1)]


def number_rows(session: Session, spec: TableSpec, schema: str, read: int | None) -> None:
    """Give rows that COPY brings the number of their read; None: rows must bring it themselves again."""
    value = sql.SQL("DROP DEFAULT") if read is None else sql.SQL("SET DEFAULT {}").format(sql.Literal(read))
    table = sql.Identifier(schema, spec.table)
    raw(session).execute(sql.SQL("ALTER TABLE {} ALTER COLUMN {} {}").format(table, sql.Identifier(READ), value))


def make_staging(session: Session, spec: TableSpec, schema: str, staging: str) -> None:
    """An unlogged table shaped as the mirror stands, without its key: a Bulk result may repeat a record."""
    connection, name = raw(session), sql.Identifier(schema, staging)
    drop_table(session, schema, staging)
    if spec.parts > 1:
        wide.make_staging(connection, name, sql.Identifier(schema, spec.table))
        return
    mirror = sql.Identifier(schema, spec.table)
    connection.execute(sql.SQL("CREATE UNLOGGED TABLE {} (LIKE {})").format(name, mirror))
    _default_read(connection, name)


def make_temporary(session: Session, spec: TableSpec, schema: str, name: sql.Identifier) -> None:
    """A table shaped as the mirror stands, for this transaction."""
    connection = raw(session)
    if spec.parts > 1:
        wide.make_staging(connection, name, sql.Identifier(schema, spec.table))
        return
    mirror = sql.Identifier(schema, spec.table)
    connection.execute(sql.SQL("CREATE TEMPORARY TABLE {} (LIKE {}) ON COMMIT DROP").format(name, mirror))
    _default_read(connection, name)


def _default_read(connection: psycopg.Connection[Any], table: sql.Identifier) -> None:
    connection.execute(sql.SQL("ALTER TABLE {} ALTER COLUMN {} SET DEFAULT 0").format(table, sql.Identifier(READ)))


def drop_temporary(session: Session, name: sql.Identifier) -> None:
    """Drop what make_temporary made, before its transaction ends."""
    connection = raw(session)
    if not wide.drop(connection, name):
        connection.execute(sql.SQL("DROP TABLE {}").format(name))


def retype(
    session: Session,
    spec: TableSpec,
    table: sql.Identifier,
    column: str,
    change: Callable[[sql.Identifier], sql.Composed],
) -> None:
    """Change the type of a column of a mirror or staging table; `change` makes the statement (ddl.widen, ddl.narrow)."""
    if spec.parts > 1:
        wide.retype(raw(session), table, column, change)
    else:
        raw(session).execute(change(table))


def narrow(session: Session, spec: TableSpec, schema: str, columns: Sequence[str]) -> None:
    """Give columns that were widened the type that they should have, where all their values fit it.

    Where that fails (a view may depend on the column) they stay as they are: wide columns hold everything, too.
    """
    connection, table = raw(session), sql.Identifier(schema, spec.table)
    types = existing(session, schema, spec.table) or {}
    for column in spec.columns:
        if column.name not in columns or types.get(column.name) in (None, column.type):
            continue
        query = sql.SQL("SELECT coalesce(bool_and(pg_input_is_valid({}::text, {})), true) FROM {}")
        fits = connection.execute(query.format(sql.Identifier(column.name), sql.Literal(column.type), table)).fetchone()
        if fits is None or not fits[0]:
            continue
        try:
            with session.begin_nested():
                narrower = partial(ddl.narrow, column=column.name, target=column.type)
                retype(session, spec, table, column.name, narrower)
        except (FeatureNotSupported, DependentObjectsStillExist) as error:
            log.warning("mirror.not_narrowed", table=spec.table, column=column.name, error=str(error).splitlines()[0])


def drop_table(session: Session, schema: str, table: str | None) -> None:
    """Drop a staging or suspects table, if there is one."""
    if table is None:
        return
    connection, name = raw(session), sql.Identifier(schema, table)
    if not wide.drop(connection, name):
        connection.execute(sql.SQL("DROP TABLE IF EXISTS {}").format(name))


def count(session: Session, schema: str, table: str) -> int:
    """Rows of a table. After a crash of the server an unlogged table is empty: who staged rows counts them before use."""
    row = raw(session).execute(sql.SQL("SELECT count(*) FROM {}").format(sql.Identifier(schema, table))).fetchone()
    return int(row[0]) if row else 0


def has_rows(session: Session, spec: TableSpec, schema: str) -> bool:
    """Whether a mirror holds any record."""
    first = holding(spec, schema)[0]
    row = raw(session).execute(sql.SQL("SELECT EXISTS (SELECT FROM {})").format(first)).fetchone()
    return bool(row and row[0])


def estimate(session: Session, spec: TableSpec, schema: str) -> int:
    """About how many rows a mirror has: as Postgres last counted, or as counted now where it never did."""
    first = holding(spec, schema)[0]
    query = "SELECT reltuples::bigint FROM pg_class WHERE oid = to_regclass(%s)"
    row = raw(session).execute(query, (first.as_string(None),)).fetchone()
    if row is not None and row[0] >= 0:
        return int(row[0])
    counted = raw(session).execute(sql.SQL("SELECT count(*) FROM {}").format(first)).fetchone()
    return int(counted[0]) if counted else 0


def finish_table(session: Session, spec: TableSpec, schema: str) -> None:
    """After a first load: what left meanwhile, the secondary indexes, statistics."""
    connection = raw(session)
    names = Names.of(spec, schema, sql.Identifier("_none"), spec.names)
    connection.execute(statements.drop_buried(names), {"object": spec.object})
    number_rows(session, spec, schema, None)
    for statement in ddl.index_plan(spec, schema=schema):
        connection.execute(statement)
    connection.execute(sql.SQL("ANALYZE {}").format(sql.SQL(", ").join(holding(spec, schema))))
