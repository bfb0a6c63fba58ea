"""Mirror and staging tables in Postgres: make, widen, empty, finish, drop. In the caller's transaction."""

from collections.abc import Sequence
from typing import Any

import psycopg
from psycopg import sql
from psycopg.errors import FeatureNotSupported
from sqlalchemy.orm import Session

from worker.db import raw
from worker.log import get_logger
from worker.mirror import ddl
from worker.mirror import merge as statements
from worker.mirror.merge import Names
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
    rows = (
        raw(session)
        .execute(
            """
        SELECT a.attname, format_type(a.atttypid, a.atttypmod) FROM pg_attribute a
         WHERE a.attrelid = to_regclass(format('%%I.%%I', %s::text, %s::text)) AND a.attnum > 0 AND NOT a.attisdropped
        """,
            (schema, table),
        )
        .fetchall()
    )
    return dict(rows) or None


def ensure_table(session: Session, spec: TableSpec, schema: str) -> None:
    """Make or complete the mirror table, its schema and the tombstones. Two makers at once wait for each other."""
    connection = raw(session)
    connection.execute("SELECT pg_advisory_xact_lock(%s, %s)", (LOCKS, DDL_LOCK))
    for statement in (
        *ddl.create_schema(schema),
        *ddl.plan(spec, existing(session, schema, spec.table), schema=schema),
    ):
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


def empty_table(session: Session, spec: TableSpec, schema: str) -> None:
    """Before a first load: no rows of an earlier attempt, no tombstones of an earlier mirror."""
    connection = raw(session)
    table, tombstones = sql.Identifier(schema, spec.table), sql.Identifier(schema, ddl.TOMBSTONES)
    connection.execute(sql.SQL("TRUNCATE {}").format(table))
    connection.execute(sql.SQL("DELETE FROM {} WHERE object = %s").format(tombstones), (spec.object,))


def number_rows(session: Session, spec: TableSpec, schema: str, read: int | None) -> None:
    """Give rows that COPY brings the number of their read; None: rows must bring it themselves again."""
    value = sql.SQL("DROP DEFAULT") if read is None else sql.SQL("SET DEFAULT {}").format(sql.Literal(read))
    table = sql.Identifier(schema, spec.table)
    raw(session).execute(sql.SQL("ALTER TABLE {} ALTER COLUMN {} {}").format(table, sql.Identifier(READ), value))


def make_staging(session: Session, spec: TableSpec, schema: str, staging: str) -> None:
    """An unlogged table shaped as the mirror stands, without its key: a Bulk result may repeat a record."""
    connection, name = raw(session), sql.Identifier(schema, staging)
    connection.execute(sql.SQL("DROP TABLE IF EXISTS {}").format(name))
    mirror = sql.Identifier(schema, spec.table)
    connection.execute(sql.SQL("CREATE UNLOGGED TABLE {} (LIKE {})").format(name, mirror))
    _default_read(connection, name)


def make_temporary(session: Session, like: sql.Identifier, name: sql.Identifier) -> None:
    """A table shaped as `like`, for this transaction."""
    connection = raw(session)
    connection.execute(sql.SQL("CREATE TEMPORARY TABLE {} (LIKE {}) ON COMMIT DROP").format(name, like))
    _default_read(connection, name)


def _default_read(connection: psycopg.Connection[Any], table: sql.Identifier) -> None:
    connection.execute(sql.SQL("ALTER TABLE {} ALTER COLUMN {} SET DEFAULT 0").format(table, sql.Identifier(READ)))


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
                connection.execute(ddl.narrow(table, column.name, column.type))
        except FeatureNotSupported as error:
            log.warning("mirror.not_narrowed", table=spec.table, column=column.name, error=str(error).splitlines()[0])


def drop_table(session: Session, schema: str, table: str | None) -> None:
    """Drop a staging or suspects table, if there is one."""
    if table is not None:
        raw(session).execute(sql.SQL("DROP TABLE IF EXISTS {}").format(sql.Identifier(schema, table)))


def count(session: Session, schema: str, table: str) -> int:
    """Rows of a table. After a crash of the server an unlogged table is empty: who staged rows counts them before use."""
    row = raw(session).execute(sql.SQL("SELECT count(*) FROM {}").format(sql.Identifier(schema, table))).fetchone()
    return int(row[0]) if row else 0


def finish_table(session: Session, spec: TableSpec, schema: str) -> None:
    """After a first load: what left meanwhile, the secondary indexes, statistics."""
    connection = raw(session)
    names = Names.of(spec, schema, sql.Identifier("_none"), spec.names)
    connection.execute(statements.drop_buried(names), {"object": spec.object})
    number_rows(session, spec, schema, None)
    for statement in ddl.index_plan(spec, schema=schema):
        connection.execute(statement)
    connection.execute(sql.SQL("ANALYZE {}").format(names.mirror))
