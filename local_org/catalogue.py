"""What the org knows about its objects and fields: the source of describe, of tables and of every check."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any

STRINGS = frozenset(
    {
        "string",
        "textarea",
        "picklist",
        "multipicklist",
        "combobox",
        "phone",
        "email",
        "url",
        "encryptedstring",
    }
)
COMPOUND_TYPES = frozenset({"address", "location"})
# Kept and shown as text; only some objects of the vendor have them.
TEXT_LIKE = frozenset({"anyType", "complexvalue", "json", "datacategorygroupreference", "byte", "masterrecord"})
FIELD_TYPES = (
    STRINGS
    | COMPOUND_TYPES
    | TEXT_LIKE
    | {
        "id",
        "reference",
        "boolean",
        "int",
        "long",
        "double",
        "currency",
        "percent",
        "date",
        "datetime",
        "time",
        "base64",
    }
)


@dataclass(frozen=True, slots=True)
class Field:
    """One field, in describe's words. `length` counts characters, `digits` is for integers."""

    name: str
    type: str
    label: str
    length: int = 0
    precision: int = 0
    scale: int = 0
    digits: int = 0
    nillable: bool = True
    createable: bool = True
    updateable: bool = True
    defaulted_on_create: bool = False
    calculated: bool = False
    formula: str | None = None
    rollup: tuple[str, str, str, str] | None = None  # child object, its reference, function, its field
    auto_number: str | None = None  # display format such as "C-{0000}"
    custom: bool = False
    external_id: bool = False
    unique: bool = False
    case_sensitive: bool = False
    id_lookup: bool = False
    name_field: bool = False
    name_pointing: bool = False
    reference_to: tuple[str, ...] = ()
    relationship_name: str | None = None
    child_relationship: str | None = None
    cascade_delete: bool = False
    restricted_delete: bool = False
    relationship_order: int | None = None
    compound_name: str | None = None
    picklist: tuple[str, ...] = ()
    restricted_picklist: bool = False
    default: str | bool | int | float | None = None
    filterable: bool = True
    sortable: bool = True
    groupable: bool = True
    aggregatable: bool = True
    permissionable: bool = False
    encrypted: bool = False
    html_formatted: bool = False
    extra_type_info: str | None = None

    def __hash__(self) -> int:
        return hash(self.name)  # names differ inside an object; hashing every flag would be slow

    @property
    def stored(self) -> bool:
        """Whether the field has a column: compound and formula fields have none."""
        return self.type not in COMPOUND_TYPES and self.formula is None

    @property
    def required(self) -> bool:
        return self.createable and not self.nillable and not self.defaulted_on_create


@dataclass(frozen=True, slots=True)
class ChildRelationship:
    """A reference field seen from the object that it points to. Without `name`, queries cannot use it."""

    name: str | None
    child_object: str
    field: str
    cascade_delete: bool
    restricted_delete: bool


@dataclass(frozen=True)
class ObjectType:
    """One object. `fields` maps the lower-case name to the field, in describe order."""

    name: str
    key_prefix: str
    label: str
    label_plural: str
    fields: Mapping[str, Field]
    custom: bool = False
    mergeable: bool = False
    undeletable: bool = True
    replicateable: bool = True
    queryable: bool = True
    retrieveable: bool = True
    searchable: bool = True
    createable: bool = True
    updateable: bool = True
    deletable: bool = True
    layoutable: bool = True
    triggerable: bool = True
    feed_enabled: bool = False
    bulk: bool = True

    def field(self, name: str) -> Field | None:
        return self.fields.get(name.lower())

    def with_fields(self, changed: Iterable[Field]) -> "ObjectType":
        merged = dict(self.fields) | {item.name.lower(): item for item in changed}
        return replace(self, fields=merged)

    def without_fields(self, names: Iterable[str]) -> "ObjectType":
        gone = {name.lower() for name in names}
        return replace(self, fields={key: item for key, item in self.fields.items() if key not in gone})

    @cached_property
    def stored(self) -> tuple[Field, ...]:
        """The fields that have a column, in describe order."""
        return tuple(item for item in self.fields.values() if item.stored)

    @cached_property
    def columns(self) -> Mapping[str, Field]:
        """The fields that have a column, by their exact names: for rows, whose names are never anything else."""
        return {item.name: item for item in self.stored}

    @cached_property
    def defaulted(self) -> tuple[Field, ...]:
        """The stored fields that have a value where nobody gives one: a boolean is never null."""
        return tuple(item for item in self.stored if item.default is not None or item.type == "boolean")

    @cached_property
    def required(self) -> tuple[Field, ...]:
        """The stored fields without which no row is saved."""
        return tuple(item for item in self.stored if item.required)

    @cached_property
    def unique(self) -> tuple[Field, ...]:
        return tuple(item for item in self.stored if item.unique)

    @cached_property
    def references(self) -> tuple[Field, ...]:
        return tuple(item for item in self.stored if item.type == "reference")

    @cached_property
    def cascading(self) -> tuple[Field, ...]:
        """The references to parents that take their children along when they are deleted."""
        return tuple(item for item in self.stored if item.cascade_delete)

    @cached_property
    def numbered(self) -> tuple[Field, ...]:
        """The fields that count the rows."""
        return tuple(item for item in self.stored if item.auto_number is not None)

    @cached_property
    def name_field(self) -> Field | None:
        return next((item for item in self.fields.values() if item.name_field), None)

    def parts_of(self, compound: str) -> tuple[Field, ...]:
        """The stored parts of a compound field, in describe order."""
        return tuple(item for item in self.stored if item.compound_name == compound)

    def to_data(self) -> dict[str, Any]:
        """A JSON-able form; `from_data` reads it back."""
        flat = {item.name: getattr(self, item.name) for item in fields(self) if item.name != "fields"}
        return {**flat, "fields": [_field_data(item) for item in self.fields.values()]}

    @staticmethod
    def from_data(data: dict[str, Any]) -> "ObjectType":
        items = [field_from_data(item) for item in data["fields"]]
        return ObjectType(**{**data, "fields": {item.name.lower(): item for item in items}})


_DEFAULTS = {item.name: item.default for item in fields(Field)}


def _field_data(item: Field) -> dict[str, Any]:
    return {key: value for key, usual in _DEFAULTS.items() if (value := getattr(item, key)) != usual}


def field_from_data(data: dict[str, Any]) -> Field:
    """A field from its JSON form: lists become tuples. Raises TypeError for unknown keys."""
    values: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in data.items()}
    return Field(**values)


class Catalogue:
    """All objects by name, whatever its case. Never changes: a changed org has another catalogue."""

    def __init__(self, objects: Iterable[ObjectType], version: int = 1, modified_ms: int = 0) -> None:
        self._objects = {item.name.lower(): item for item in objects}
        self._children: dict[str, tuple[ChildRelationship, ...]] = {}
        self.version = version
        self.modified_ms = modified_ms

    def object(self, name: str) -> ObjectType | None:
        return self._objects.get(name.lower())

    def objects(self) -> Iterator[ObjectType]:
        """Every object, by name."""
        return iter(sorted(self._objects.values(), key=lambda item: item.name))

    def of_id(self, record_id: str) -> ObjectType | None:
        """The object that an id belongs to, by its first three characters."""
        return self._by_prefix.get(record_id[:3])

    @cached_property
    def _by_prefix(self) -> dict[str, ObjectType]:
        return {item.key_prefix: item for item in self._objects.values()}

    def children(self, object_name: str) -> tuple[ChildRelationship, ...]:
        """Who refers to this object, sorted by child object and field."""
        known = self._children.get(object_name)
        if known is None:
            known = self._children[object_name] = tuple(self._find_children(object_name))
        return known

    def _find_children(self, object_name: str) -> Iterator[ChildRelationship]:
        for child in self.objects():
            for item in child.fields.values():
                if object_name in item.reference_to:
                    yield ChildRelationship(
                        item.child_relationship,
                        child.name,
                        item.name,
                        item.cascade_delete,
                        item.restricted_delete,
                    )

    def rollups(self, child_name: str) -> tuple[tuple[ObjectType, Field], ...]:
        """The roll-up fields that summarize an object, each with the object that has it."""
        return self._rollups.get(child_name, ())

    @cached_property
    def _rollups(self) -> dict[str, tuple[tuple[ObjectType, Field], ...]]:
        found: dict[str, tuple[tuple[ObjectType, Field], ...]] = {}
        for item in self.objects():
            for field in item.fields.values():
                if field.rollup is not None:
                    found[field.rollup[0]] = (*found.get(field.rollup[0], ()), (item, field))
        return found

    def changed(self, item: ObjectType, modified_ms: int) -> "Catalogue":
        """The catalogue with one object added or replaced."""
        merged = self._objects | {item.name.lower(): item}
        return Catalogue(merged.values(), self.version + 1, modified_ms)

    def hidden(self, objects: Iterable[str], object_fields: Mapping[str, Iterable[str]]) -> "Catalogue":
        """What a user sees from whom these objects and fields are hidden (lower-case object names)."""
        gone = {name.lower() for name in objects}
        seen = [
            item.without_fields(object_fields.get(key, ())) for key, item in self._objects.items() if key not in gone
        ]
        return Catalogue(seen, self.version, self.modified_ms)
