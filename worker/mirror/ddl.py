"""The statements that close the gap between a TableSpec and what stands in Postgres. Pure; never drops a column.

Names come from the org, so they are composed with `psycopg.sql`, never formatted into a string.
"""

from collections.abc import Mapping

from psycopg import sql

from worker.mirror.parts import part_of, short
from worker.mirror.schema import BIGINT, NUMERIC, READ, TEXT, Column, TableSpec

TOMBSTONES = "_tombstones"
# Why a record left. invisible: neither query nor queryAll shows it: purged, or not shared now; filtered: it is there and
# does not meet the mirror's row filter.
CAUSES = ("deleted", "merged", "invisible", "filtered")


def type_sql(column: Column) -> sql.Composable:
    """The column's type as it stands in a CREATE TABLE."""
    kind = sql.SQL(column.type)  # one of schema.TYPES: ours, never input
    return kind + sql.SQL(' COLLATE "C"') if column.id_like else kind


def create_schema(schema: str) -> list[sql.Composed]:
    """The connection's schema and the table of its records that left."""
    causes = sql.SQL(", ").join(sql.Literal(cause) for cause in CAUSES)
    return [
        sql.SQL("CREATE SCHEMA IF NOT EXISTS {}").format(sql.Identifier(schema)),
        sql.SQL(
            """
            CREATE TABLE IF NOT EXISTS {} (
              object text NOT NULL, id text COLLATE "C" NOT NULL, deleted_at timestamptz, cause text NOT NULL
              CHECK (cause IN ({})), winner_id text COLLATE "C", systemmodstamp timestamptz, _read bigint NOT NULL,
              PRIMARY KEY (object, id))
            """
        ).format(sql.Identifier(schema, TOMBSTONES), causes),
    ]


def cause_check(schema: str) -> list[sql.Composed]:
    """Replace the tombstones' check by one that knows every cause."""
    table, causes = sql.Identifier(schema, TOMBSTONES), sql.SQL(", ").join(map(sql.Literal, CAUSES))
    name = sql.Identifier("_tombstones_cause_check")
    return [
        sql.SQL("ALTER TABLE {} DROP CONSTRAINT IF EXISTS {}").format(table, name),
        sql.SQL("ALTER TABLE {} ADD CONSTRAINT {} CHECK (cause IN ({}))").format(table, name, causes),
    ]


def plan(spec: TableSpec, existing: Mapping[str, str] | None, *, schema: str) -> list[sql.Composed]:
    """Statements that make `existing` (column → type; None: no table) hold every field of `spec`.

    Columns that `spec` does not name stay. A column that was widened stays wide; one that cannot hold the new type
    becomes text, which holds everything.
    """
    table = sql.Identifier(schema, spec.table)
    if existing is None:
        return [_create(spec, table)]
    statements = []
    for column in spec.columns:
        if column.name not in existing:
            statements.append(
                sql.SQL("ALTER TABLE {} ADD COLUMN {} {}").format(table, sql.Identifier(column.name), type_sql(column))
            )
        elif (target := fitting(existing[column.name], column.type)) != existing[column.name]:
            statements.append(widen(table, column.name, target))
    return statements


def _create(spec: TableSpec, table: sql.Identifier) -> sql.Composed:
    parts = [
        sql.SQL("{} {}{}").format(
            sql.Identifier(column.name),
            type_sql(column),
            sql.SQL(" PRIMARY KEY" if column.name == "id" else ""),
        )
        for column in spec.columns
    ]
    parts.append(sql.SQL("{} bigint NOT NULL").format(sql.Identifier(READ)))
    return sql.SQL("CREATE TABLE {} ({})").format(table, sql.SQL(", ").join(parts))


def fitting(existing: str, wanted: str) -> str:
    """The narrowest type that holds both what a column has and what it is to get."""
    if existing == wanted or (existing, wanted) == (NUMERIC, BIGINT):
        return existing
    return NUMERIC if (existing, wanted) == (BIGINT, NUMERIC) else TEXT


def widen(table: sql.Identifier, column: str, target: str) -> sql.Composed:
    """Change one column's type to one that holds all its values."""
    name, kind = sql.Identifier(column), sql.SQL(target)  # our own type names, never input
    return sql.SQL("ALTER TABLE {t} ALTER COLUMN {c} TYPE {k} USING {c}::{k}").format(t=table, c=name, k=kind)


def narrow(table: sql.Identifier, column: str, target: str) -> sql.Composed:
    """Change one column's type to one that its values are known to fit as text."""
    name, kind = sql.Identifier(column), sql.SQL(target)  # our own type names, never input
    return sql.SQL("ALTER TABLE {t} ALTER COLUMN {c} TYPE {k} USING {c}::text::{k}").format(t=table, c=name, k=kind)


def index_plan(spec: TableSpec, *, schema: str) -> list[sql.Composed]:
    """Indexes beside the key, made after the first load: (stamp, id), and one for each lookup."""
    wanted = [[column.name] for column in spec.columns if column.indexed]
    if spec.stamp is not None:
        wanted.insert(0, [spec.stamp.lower(), "id"])
    table, homes = sql.Identifier(schema, spec.table), {column.name: column.part for column in spec.columns}
    return [
        sql.SQL("CREATE INDEX IF NOT EXISTS {} ON {} ({})").format(
            sql.Identifier(index_name(spec.table, columns)),
            table if spec.parts == 1 else part_of(table, homes[columns[0]]),
            sql.SQL(", ").join(map(sql.Identifier, columns)),
        )
        for columns in wanted
    ]


def index_name(table: str, columns: list[str]) -> str:
    """A name that depends on nothing but table and columns, within Postgres's 63 bytes."""
    return short("_".join(["ix", table, *columns]))
