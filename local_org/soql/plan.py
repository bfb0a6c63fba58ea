"""What a translated query is: SQL to run, and how a row of its result becomes a record."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from local_org.catalogue import Field, ObjectType
from local_org.soql.sql import NOTHING, Sql, joined


@dataclass(frozen=True, slots=True)
class Leaf:
    """A value: column `index` of the row. `formatted`: FORMAT() was asked for; `function`: of an aggregate."""

    key: str
    field: Field
    index: int
    formatted: bool = False
    function: str | None = None


@dataclass(frozen=True, slots=True)
class Compound:
    """An address or a location, from its parts."""

    key: str
    field: Field
    parts: tuple[Leaf, ...]


@dataclass(frozen=True, slots=True)
class ParentRecord:
    """A parent; None where column `id_index` is null. `kind` is its object; `type_index` tells it where
    the reference is polymorphic, whose records carry the vendor's type "Name".
    """

    key: str
    id_index: int
    kind: str
    outputs: "tuple[Output, ...]"
    type_index: int | None = None


@dataclass(frozen=True, slots=True)
class TypedParent:
    """TYPEOF: the outputs depend on the object that the reference points to."""

    key: str
    id_index: int
    type_index: int
    branches: "dict[str, tuple[Output, ...]]"
    otherwise: "tuple[Output, ...]"


@dataclass(frozen=True, slots=True)
class ChildRecords:
    """A child query, run once for each record, linked by its first bound value."""

    key: str
    plan: "Plan"


_GROUPING = "GROUPING "


def grouping_sql(expression: str) -> str:
    """What stands for GROUPING() of an expression among a plan's columns."""
    return _GROUPING + expression


Output = Leaf | Compound | ParentRecord | TypedParent | ChildRecords
Kind = Literal["records", "groups", "count"]


@dataclass(frozen=True, slots=True)
class Column:
    """A selected value for CSV: its path, its type and its SQL."""

    path: str
    field: Field
    sql: str


@dataclass(frozen=True, slots=True)
class Plan:
    """A translated query. For kind "records" the row's id is column 0.

    `sets`: of ROLLUP and CUBE, the expressions that are grouped by together, set by set; the first set has them all.
    """

    kind: Kind
    item: ObjectType
    row: str
    columns: tuple[str, ...]
    outputs: tuple[Output, ...]
    from_sql: str
    where: Sql
    visible: Sql
    order: Sql = NOTHING
    group: Sql = NOTHING
    limit: int | None = None
    offset: int | None = None
    flat: tuple[Column, ...] = field(default=())
    having: Sql = NOTHING
    sets: tuple[tuple[str, ...], ...] = ()

    def _select(self, columns: str) -> Sql:
        where = " WHERE " + self.where if self.where else NOTHING
        return Sql(f"SELECT {columns} FROM {self.from_sql}") + where

    def _tail(self) -> Sql:
        tail = self.group + self.having + (" ORDER BY " + self.order if self.order else NOTHING)
        if self.limit is not None or self.offset is not None:
            tail += Sql(" LIMIT ? OFFSET ?", (-1 if self.limit is None else self.limit, self.offset or 0))
        return tail

    def rows(self) -> Sql:
        """All records or groups."""
        if self.sets:
            return self._rows_of_sets()
        return self._select(", ".join(self.columns)) + self._tail()

    def _rows_of_sets(self) -> Sql:
        """SQLite has no grouping sets: one grouping for each, put together. Columns are called c0, c1, …."""
        parts = []
        for kept in self.sets:
            columns = (f"{self._in_set(column, kept)} AS c{n}" for n, column in enumerate(self.columns))
            group = Sql(f" GROUP BY {', '.join(kept) or 'NULL'}")
            parts.append(self._select(", ".join(columns)) + group + self.having)
        whole = "SELECT * FROM (" + joined(" UNION ALL ", parts) + ")"
        return whole + replace(self, group=NOTHING, having=NOTHING)._tail()

    def _in_set(self, column: str, kept: tuple[str, ...]) -> str:
        """A column where only `kept` is grouped by: what is not is null, and GROUPING() of it is 1."""
        for expression in set(self.sets[0]) - set(kept):
            if column == expression:
                return "NULL"
            if column == grouping_sql(expression):
                return "1"
        return "0" if column.startswith(_GROUPING) else column

    def of(self, expression: str) -> Sql:
        """One expression for each record."""
        return self._select(expression) + self._tail()

    def ids(self) -> Sql:
        return self.of(f'{self.row}."Id"')

    def count(self) -> Sql:
        return Sql("SELECT count(*) FROM (") + self.of("1") + ")"

    def page(self, ids: Sequence[str]) -> Sql:
        """The records with these ids, in this order, as they are now; those that are gone are left out."""
        text = f"SELECT {', '.join(self.columns)} FROM json_each(?) AS page CROSS JOIN {self.from_sql}"
        visible = f" AND {self.visible.text}" if self.visible else ""
        where = f' WHERE {self.row}."Id" = page.value{visible} ORDER BY page.key'
        return Sql(text + where, (json.dumps(list(ids)), *self.visible.values))
