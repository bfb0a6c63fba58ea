"""What a mirror table looks like, from what the org says about its object. Pure.

Types are Postgres's own names as `format_type` prints them, so that a table can be compared with its specification.
Sources: REST API Developer Guide, "sObject Describe"; Object Reference, "Field Types" and "System Fields".
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from worker.salesforce.describe import FieldDescribe, ObjectDescribe

TEXT = "text"
NUMERIC = "numeric"
BIGINT = "bigint"
TYPES = {  # every other type, also one that does not exist yet, is kept as text
    "boolean": "boolean",
    "int": BIGINT,
    "long": BIGINT,
    "double": NUMERIC,  # exact: the org prints more digits than a float keeps
    "currency": NUMERIC,
    "percent": NUMERIC,
    "date": "date",
    "datetime": "timestamp with time zone",
    "time": "time without time zone",
}
COMPOUND = {"address", "location"}  # kept by their parts
BINARY = {"base64"}  # not kept, and said so
IDS = {"id", "reference"}
STAMPS = ("SystemModstamp", "LastModifiedDate", "CreatedDate", "LoginTime")  # the first that an object has
ALWAYS = {"Id", "IsDeleted", "MasterRecordId", "IsArchived", *STAMPS}  # also where columns were chosen
UNSTAMPED = {"LastActivityDate", "HasOpenActivity", "HasOverdueTask"}  # follow tasks and events, which stamp nothing
WHO = {"CreatedById", "LastModifiedById"}  # lookups that nobody joins by: no index
READ = "_read"  # number of the read that wrote a row; no field's name begins with an underscore
NAME_BYTES = 63
# A row must fit into a page of 8,160 bytes. Postgres moves values out of line, but none that is shorter than 25 bytes.
PART_BYTES = 7_900
PART_START = 260  # the row's header, its null bitmap and `_read`
TEXT_COST = 24
COSTS = {NUMERIC: 20, BIGINT: 15, "timestamp with time zone": 15, "time without time zone": 15, "date": 7, "boolean": 1}
SIZES = ("length", "precision", "scale", "digits")
MOST_DETAIL = 500  # characters of one entry of the drift log


class UnfitObjectError(ValueError):
    """The object cannot be mirrored as it is; the message says why."""


@dataclass(frozen=True, slots=True)
class Column:
    """One field and its column. `id_like`: holds record ids, compared byte by byte (COLLATE "C")."""

    field: str
    name: str
    type: str
    id_like: bool = False
    indexed: bool = False
    calculated: bool = False  # a formula, a roll-up, or what follows others' records: it moves without a stamp
    part: int = 1  # of a table that is kept in parts
    loose: bool = False  # of any type (the values of history objects)


@dataclass(frozen=True, slots=True)
class TableSpec:
    """The table of one object: columns in describe's order, the id first. `stamp` is the field that orders versions.

    `parts`: how many tables hold the columns: more than one where a filled row would not fit into a page of Postgres.
    `row_filter`: a SOQL condition; records that do not meet it are not kept. `replicateable`: getUpdated knows the object.
    `retrieveable`: its records can be had by Id without a query.
    """

    object: str
    table: str
    columns: tuple[Column, ...]
    skipped: tuple[str, ...]  # fields that are not kept: their values are not data of a row
    stamp: str | None
    parts: int = 1
    row_filter: str | None = None
    replicateable: bool = False
    retrieveable: bool = True

    def part(self, number: int, names: Collection[str] | None = None) -> tuple[str, ...]:
        """Names of the columns in one part; of all columns, or of those in `names`."""
        return tuple(
            column.name for column in self.columns if column.part == number and (names is None or column.name in names)
        )

    @property
    def fields(self) -> tuple[str, ...]:
        """Fields to ask for, in the columns' order."""
        return tuple(column.field for column in self.columns)

    @property
    def names(self) -> tuple[str, ...]:
        """Column names."""
        return tuple(column.name for column in self.columns)

    @property
    def calculated(self) -> tuple[str, ...]:
        """Fields that the org works out from others: they move without a stamp."""
        return tuple(column.field for column in self.columns if column.calculated)

    @property
    def loose(self) -> frozenset[str]:
        """Fields whose values may be of any type, each in the words of the API that brings it; see rows.to_csv."""
        return frozenset(column.field for column in self.columns if column.loose)

    def has(self, field: str) -> bool:
        """Whether `field` is kept."""
        return field in self.fields

    def columns_of(self, fields: Collection[str]) -> tuple[str, ...]:
        """Column names of those of `fields` that are kept, in the table's order."""
        wanted = {field.lower() for field in fields}
        return tuple(name for name in self.names if name in wanted)


def table_name(object_name: str) -> str:
    """`My_Thing__c` → `my_thing__c`."""
    return object_name.lower()


def arrange(columns: Sequence[Column], layout: Mapping[str, int]) -> list[Column]:
    """Spread columns over parts so that a row of each part fits into a page of Postgres, whatever its values.

    `layout`: column → part of those that have a place already; also of columns that are no longer asked for.
    """
    used = {1: PART_START}
    costs = {column.name: COSTS.get(column.type, TEXT_COST) for column in columns}
    for name, number in layout.items():
        used[number] = used.get(number, PART_START) + costs.get(name, TEXT_COST)
    placed: dict[str, int] = {}
    for column in sorted(columns, key=lambda one: not (one.field in ALWAYS or one.id_like)):  # what joins goes first
        if column.name in layout:
            continue
        number = max(used)
        if used[number] + costs[column.name] > PART_BYTES:
            number += 1
        used[number] = used.get(number, PART_START) + costs[column.name]
        placed[column.name] = number
    return [replace(column, part=layout.get(column.name) or placed[column.name]) for column in columns]


def table_spec(
    describe: ObjectDescribe,
    *,
    chosen: Collection[str] | None = None,
    table: str | None = None,
    layout: Mapping[str, int] | None = None,
    row_filter: str | None = None,
) -> TableSpec:
    """The table of `describe`, narrowed to the fields `chosen` (any case; None: all) and those that a mirror needs.

    `table`: its name, where the object has been renamed since the table was made. `layout`: see arrange.

    Raises UnfitObjectError when the object cannot be queried or has no Id.
    """
    if not describe.queryable:
        raise UnfitObjectError(f"{describe.name} cannot be queried")
    narrowed = None if chosen is None else {name.lower() for name in (*chosen, *ALWAYS)}
    columns, skipped = [], []
    for field in describe.fields:
        if field.type in COMPOUND or (narrowed is not None and field.name.lower() not in narrowed):
            continue
        if field.type in BINARY:
            skipped.append(field.name)
            continue
        column = Column(
            field=field.name,
            name=field.name.lower(),
            type=TYPES.get(field.type, TEXT),
            id_like=field.type in IDS,
            indexed=field.type == "reference" and field.name not in WHO,
            loose=field.type == "anyType",
            calculated=field.calculated or field.name in UNSTAMPED,
        )
        columns.append(column)
    columns.sort(key=lambda column: column.field != "Id")
    names = {column.field for column in columns}
    if "Id" not in names:
        raise UnfitObjectError(f"{describe.name} has no Id")
    usable = {field.name for field in describe.fields if field.filterable and field.sortable}
    stamp = next((name for name in STAMPS if name in names & usable), None)
    arranged = tuple(arrange(columns, layout or {}))
    parts = max([column.part for column in arranged] + list((layout or {}).values()))
    return TableSpec(
        describe.name,
        table or table_name(describe.name),
        arranged,
        tuple(skipped),
        stamp,
        parts,
        row_filter or None,
        describe.replicateable,
        describe.retrieveable,
    )


@dataclass(frozen=True, slots=True)
class Change:
    """One entry of the drift log.

    `change` of a field: added, removed (or no longer permitted: describe does not tell the two apart), returned, retyped,
    resized, picklist, restored (its column was gone here). With an empty `field`: object lost, object returned, object
    renamed, table rebuilt, key restored.
    """

    field: str
    change: str
    detail: str = ""

    @property
    def needs_values(self) -> bool:
        """Whether the column must be filled: such a change does not stamp the records that have the field."""
        return self.change in ("added", "returned", "retyped", "restored")


def changes(before: TableSpec, after: TableSpec, *, lost: Collection[str] = ()) -> list[Change]:
    """What differs between two describes of an object, as far as its columns are concerned.

    `lost`: fields that were removed earlier; their columns are still there.
    """
    old = {column.field: column for column in before.columns}
    new = {column.field: column for column in after.columns}
    added = [
        Change(field, "returned" if field in lost else "added", new[field].type) for field in new if field not in old
    ]
    removed = [Change(field, "removed", old[field].type) for field in old if field not in new]
    retyped = [
        Change(field, "retyped", f"{old[field].type} → {new[field].type}")
        for field in new
        if field in old and old[field].type != new[field].type
    ]
    return added + removed + retyped


def meanings(before: ObjectDescribe, after: ObjectDescribe) -> list[Change]:
    """What changed in the values that fields may have: picklists and sizes. No column changes by it."""
    pairs = [(old, new) for new in after.fields if (old := before.field(new.name)) is not None]
    return [change for old, new in pairs for change in (_picklist(old, new), _size(old, new)) if change is not None]


def _picklist(old: FieldDescribe, new: FieldDescribe) -> Change | None:
    was = {value.value for value in old.picklist if value.active}
    now = {value.value for value in new.picklist if value.active}
    parts = [f"+ {value}" for value in sorted(now - was)] + [f"− {value}" for value in sorted(was - now)]
    return Change(new.name, "picklist", _shortened("; ".join(parts))) if parts else None


def _size(old: FieldDescribe, new: FieldDescribe) -> Change | None:
    sizes = [
        f"{name} {getattr(old, name)} → {getattr(new, name)}"
        for name in SIZES
        if getattr(old, name) != getattr(new, name)
    ]
    return Change(new.name, "resized", ", ".join(sizes)) if sizes and old.type == new.type else None


def _shortened(text: str) -> str:
    return text if len(text) <= MOST_DETAIL else f"{text[: MOST_DETAIL - 1]}…"
