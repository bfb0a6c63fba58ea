"""Tables in parts, in Postgres: make, complete, stage, widen, drop. In the caller's transaction; the statements are in parts.py."""

from collections.abc import Callable, Mapping
from itertools import count
from typing import Any

import psycopg
from psycopg import sql

from worker.mirror import ddl, parts
from worker.mirror.parts import ROW, part_name, part_of
from worker.mirror.schema import READ, TableSpec

Types = dict[int, dict[str, str]]  # part → column → type

COLUMNS = """
SELECT a.attname, format_type(a.atttypid, a.atttypmod) FROM pg_attribute a
 WHERE a.attrelid = to_regclass(%s) AND a.attnum > 0 AND NOT a.attisdropped
 ORDER BY a.attnum
"""

Connection = psycopg.Connection[Any]


def columns(connection: Connection, relation: sql.Identifier) -> dict[str, str]:
    """Column → type of a relation as it stands, in its order; empty when there is none."""
    return dict(connection.execute(COLUMNS, (relation.as_string(connection),)).fetchall())


def is_table(connection: Connection, relation: sql.Identifier) -> bool:
    """Whether a plain table has this name, not the view over parts."""
    query = "SELECT relkind = 'r' FROM pg_class WHERE oid = to_regclass(%s)"
    row = connection.execute(query, (relation.as_string(connection),)).fetchone()
    return bool(row and row[0])


def standing(connection: Connection, relation: sql.Identifier) -> Types:
    """The parts as they stand: part → column → type; empty for a table that is not kept in parts."""
    found: Types = {}
    for number in count(1):
        held = columns(connection, part_of(relation, number))
        if not held:
            break
        found[number] = {name: kind for name, kind in held.items() if name not in ("id", READ, ROW)}
    return found


def layout(connection: Connection, relation: sql.Identifier) -> dict[str, int]:
    """Column → part of everything that has a place already."""
    parted = standing(connection, relation)
    if parted:
        return {"id": 1} | {name: number for number, held in parted.items() for name in held}
    return dict.fromkeys(columns(connection, relation).keys() - {READ}, 1)


def ensure(connection: Connection, spec: TableSpec, relation: sql.Identifier) -> None:
    """Make or complete the parts of a mirror table; a plain table that became too wide becomes the first of them."""
    was_plain = is_table(connection, relation)
    if was_plain:
        name = sql.Identifier(part_name(spec.table, 1))
        connection.execute(sql.SQL("ALTER TABLE {} RENAME TO {}").format(relation, name))
    held = standing(connection, relation)
    changed = was_plain or not columns(connection, relation)
    for number in range(1, spec.parts + 1):
        changed |= _ensure_part(connection, spec, relation, number, held.get(number))
    if changed:
        _show(connection, relation, "id", list(columns(connection, relation)))


def _ensure_part(
    connection: Connection, spec: TableSpec, relation: sql.Identifier, number: int, held: Mapping[str, str] | None
) -> bool:
    wanted = {column.name: column for column in spec.columns if column.part == number and column.name != "id"}
    part = part_of(relation, number)
    if held is None:
        kinds = {name: ddl.type_sql(column) for name, column in wanted.items()}
        connection.execute(parts.create(spec, relation, number, kinds))
        return True
    changed = False
    for name, column in wanted.items():
        if name not in held:
            statement = sql.SQL("ALTER TABLE {} ADD COLUMN {} {}")
            connection.execute(statement.format(part, sql.Identifier(name), ddl.type_sql(column)))
            changed = True
        elif (target := ddl.fitting(held[name], column.type)) != held[name]:
            connection.execute(sql.SQL("DROP VIEW IF EXISTS {}").format(relation))
            connection.execute(ddl.widen(part, name, target))
            changed = True
    return changed


def _show(connection: Connection, relation: sql.Identifier, key: str, order: list[str]) -> None:
    """The view over the parts as they stand, and how rows come in through it."""
    held = standing(connection, relation)
    connection.execute(parts.view(relation, held, order, key=key))
    for statement in parts.trigger(relation, held, key=key):
        connection.execute(statement)


def make_staging(connection: Connection, relation: sql.Identifier, mirror: sql.Identifier) -> None:
    """A table in parts shaped as the mirror stands, without its keys; a temporary one where the name has no schema."""
    for statement in parts.stage(relation, mirror, standing(connection, mirror)):
        connection.execute(statement)
    _show(connection, relation, ROW, [])


def retype(
    connection: Connection, relation: sql.Identifier, column: str, change: Callable[[sql.Identifier], sql.Composed]
) -> None:
    """Change the type of one column of a table in parts; `change` makes the statement for the part that has it."""
    held, order = standing(connection, relation), list(columns(connection, relation))
    home = next(number for number, names in held.items() if column in names)
    key = ROW if ROW in columns(connection, part_of(relation, 1)) else "id"
    connection.execute(sql.SQL("DROP VIEW IF EXISTS {}").format(relation))
    connection.execute(change(part_of(relation, home)))
    _show(connection, relation, key, order)


def drop(connection: Connection, relation: sql.Identifier) -> bool:
    """Drop a view with its parts and its function; False when there is no table in parts of this name."""
    held = standing(connection, relation)
    if not held:
        return False
    connection.execute(sql.SQL("DROP VIEW IF EXISTS {}").format(relation))
    for number in sorted(held, reverse=True):
        connection.execute(sql.SQL("DROP TABLE {}").format(part_of(relation, number)))
    connection.execute(sql.SQL("DROP FUNCTION IF EXISTS {}()").format(parts.function_of(relation)))
    return True
