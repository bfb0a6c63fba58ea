"""What a run asks the org for: everything, or one window of stamps. Pure.

A run without a window reads everything. A mirror with a row filter asks twice for a window: for the ids of all records
that changed, then for those of them that meet the filter. The order matters: what is in the first answer and not in the
second does not meet the filter when the second is given.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from worker.mirror.schema import TableSpec
from worker.salesforce import soql


@dataclass(frozen=True, slots=True)
class Window:
    """A span of stamps, start <= stamp < end; `end` None: up to now. Aware UTC, the org's time."""

    start: datetime
    end: datetime | None = None

    def condition(self, stamp: str) -> str:
        """As SOQL."""
        start = f"{stamp} >= {soql.instant(self.start)}"
        return start if self.end is None else f"{start} AND {stamp} < {soql.instant(self.end)}"


@dataclass(frozen=True, slots=True)
class Question:
    """One query of a read. `order`: fields that give its records one order, to go on from any of them; may be empty.

    `all_rows`: deleted and archived records are asked for, too.
    """

    object: str
    fields: tuple[str, ...]
    where: str | None
    order: tuple[str, ...]
    all_rows: bool

    def soql(self, *, after: Sequence[Any] | None = None, ordered: bool = True, limit: int | None = None) -> str:
        """The query; `after`: only what comes behind these values of the order's fields."""
        where = soql.all_of(self.where, _behind(self.order, after) if after is not None else None)
        return soql.select(self.object, self.fields, where=where, order_by=self.order if ordered else (), limit=limit)


def _behind(order: Sequence[str], values: Sequence[Any]) -> str:
    """`A > a`, or `A > a OR (A = a AND B > b)`: many records share one stamp."""
    first, last = soql.name(order[0]), soql.literal(values[0])
    if len(order) == 1:
        return f"{first} > {last}"
    return f"{first} > {last} OR ({first} = {last} AND {_behind(order[1:], values[1:])})"


def everything(spec: TableSpec, fields: Sequence[str]) -> Question:
    """All records that are not deleted and meet the filter, archived ones included."""
    archived = spec.has("IsArchived") and spec.has("IsDeleted")
    where = soql.all_of(spec.row_filter, "IsDeleted = false" if archived else None)
    return Question(spec.object, tuple(fields), where, ("Id",), archived)


def changes(spec: TableSpec, fields: Sequence[str], window: Window) -> Question:
    """What is stamped within the window and meets the filter, deleted records among it."""
    assert spec.stamp is not None
    where = soql.all_of(window.condition(spec.stamp), spec.row_filter)
    return Question(spec.object, tuple(fields), where, (spec.stamp, "Id"), spec.has("IsDeleted"))


def changed_ids(spec: TableSpec, window: Window) -> Question:
    """Ids of everything that is stamped within the window, whether it meets the filter or not."""
    assert spec.stamp is not None
    fields = ("Id", spec.stamp, *(["IsDeleted"] if spec.has("IsDeleted") else []))
    return Question(spec.object, fields, window.condition(spec.stamp), (spec.stamp, "Id"), spec.has("IsDeleted"))


def by_ids(spec: TableSpec, fields: Sequence[str], ids: Sequence[str], *, filtered: bool) -> Question:
    """These records, deleted ones among them; `filtered`: only those that meet the filter."""
    return by_parents(spec, fields, "Id", ids, filtered=filtered)


def by_parents(
    spec: TableSpec, fields: Sequence[str], lookup: str, parents: Sequence[str], *, filtered: bool = True
) -> Question:
    """The records whose field `lookup` is one of `parents`, deleted ones among them."""
    where = soql.all_of(soql.in_list(lookup, parents), spec.row_filter if filtered else None)
    return Question(spec.object, tuple(fields), where, ("Id",), spec.has("IsDeleted"))
