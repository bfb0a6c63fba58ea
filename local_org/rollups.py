"""Roll-up summary fields: kept on the parent, worked out again when a child is saved.

Source: Salesforce Help, "Roll-Up Summary Field". Saving a child saves its parent, too: the parent's SystemModstamp moves.
A recalculation of all (as after a change of the definition) does not touch it.
"""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from local_org.catalogue import Catalogue, Field, ObjectType
from local_org.schema import quoted

if TYPE_CHECKING:
    from local_org.dml import Change

FUNCTIONS = frozenset({"COUNT", "SUM", "MIN", "MAX"})


def value_sql(catalogue: Catalogue, parent: ObjectType, field: Field) -> str:
    """The SQL of a roll-up field for the row of its object's table. Raises ValueError for a wrong definition."""
    assert field.rollup is not None
    child_name, reference, function, summed = field.rollup
    child = catalogue.object(child_name)
    if child is None or child.field(reference) is None or function not in FUNCTIONS:
        raise ValueError(f"{parent.name}.{field.name} cannot roll up {field.rollup}")
    alive = 'AND NOT c."IsDeleted"' if child.field("IsDeleted") else ""
    where = f'FROM {quoted(child.name)} c WHERE c.{quoted(reference)} = {quoted(parent.name)}."Id" {alive}'
    if function == "COUNT":
        return f"(SELECT count(*) * {10**field.scale} {where})"
    source = child.field(summed)
    if source is None:
        raise ValueError(f"{child.name} has no field {summed}")
    factor = f"* {10 ** (field.scale - source.scale)}" if field.scale >= source.scale else ""
    value = f"(SELECT {function}(c.{quoted(source.name)}) {factor} {where})"
    return f"coalesce({value}, 0)" if function == "SUM" else value


def follow(change: "Change", child: ObjectType, *rows: Mapping[str, Any] | None) -> None:
    """Bring the parents of a saved child up to date; `rows` are the child before and after."""
    catalogue = change.store.catalogue
    for parent, field in catalogue.rollups(child.name):
        assert field.rollup is not None
        ids = {str(row[field.rollup[1]]) for row in rows if row and row.get(field.rollup[1])}
        _update(change, parent, field, ids)


def recalculate(change: "Change", parent: ObjectType) -> None:
    """Work out every roll-up field of an object again, for all rows, without stamping them."""
    for field in parent.stored:
        if field.rollup is not None:
            sql = value_sql(change.store.catalogue, parent, field)
            change.conn.execute(f"UPDATE {quoted(parent.name)} SET {quoted(field.name)} = {sql}")


def _update(change: "Change", parent: ObjectType, field: Field, ids: Iterable[str]) -> None:
    sql, column = value_sql(change.store.catalogue, parent, field), quoted(field.name)
    stamp = ', "SystemModstamp" = ?' if parent.field("SystemModstamp") else ""
    for parent_id in sorted(ids):
        values = (change.now_ms, parent_id) if stamp else (parent_id,)
        done = change.conn.execute(
            f'UPDATE {quoted(parent.name)} SET {column} = {sql}{stamp} WHERE "Id" = ? AND {column} IS NOT {sql}', values
        )
        if done.rowcount:
            change.journal(parent.name, parent_id, "rollup", {})
