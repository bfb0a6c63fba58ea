"""Describe answers → ObjectDescribe and FieldDescribe. Pure; unknown keys are ignored, missing ones have safe defaults.

Source: REST API guide, "sObject Describe"; SOAP API guide, "DescribeSObjectResult".
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any


@dataclass(frozen=True, slots=True)
class PicklistValue:
    """One value of a picklist; an inactive one may still stand in old records."""

    value: str
    active: bool
    default: bool


@dataclass(frozen=True, slots=True)
class FieldDescribe:
    """One field as this user sees it. `length` counts characters; `precision`, `scale` and `digits` are 0 where they do not apply."""

    name: str
    type: str
    label: str = ""
    length: int = 0
    byte_length: int = 0
    precision: int = 0
    scale: int = 0
    digits: int = 0
    nillable: bool = True
    createable: bool = False
    updateable: bool = False
    defaulted_on_create: bool = False
    calculated: bool = False
    auto_number: bool = False
    custom: bool = False
    external_id: bool = False
    unique: bool = False
    id_lookup: bool = False
    name_field: bool = False
    case_sensitive: bool = False
    encrypted: bool = False
    compound_field_name: str | None = None
    extra_type_info: str | None = None
    reference_to: tuple[str, ...] = ()
    relationship_name: str | None = None
    cascade_delete: bool = False
    restricted_picklist: bool = False
    dependent_picklist: bool = False
    picklist: tuple[PicklistValue, ...] = ()
    default_value: Any = None
    filterable: bool = True
    sortable: bool = True
    groupable: bool = True

    @property
    def required_on_create(self) -> bool:
        """Whether a create without this field is refused."""
        return self.createable and not self.nillable and not self.defaulted_on_create and self.type != "boolean"


@dataclass(frozen=True, slots=True)
class ChildRelationship:
    """An object whose `field` looks up to the described one."""

    child_object: str
    field: str
    relationship_name: str | None
    cascade_delete: bool
    restricted_delete: bool


@dataclass(frozen=True)
class ObjectDescribe:
    """One object as this user sees it: hidden fields are absent."""

    name: str
    label: str
    key_prefix: str | None
    custom: bool
    queryable: bool
    retrieveable: bool
    createable: bool
    updateable: bool
    deletable: bool
    undeletable: bool
    mergeable: bool
    replicateable: bool
    fields: tuple[FieldDescribe, ...]
    children: tuple[ChildRelationship, ...]

    @cached_property
    def by_name(self) -> dict[str, FieldDescribe]:
        """Fields by lower-case name."""
        return {field.name.lower(): field for field in self.fields}

    @cached_property
    def required_on_create(self) -> tuple[FieldDescribe, ...]:
        """Fields without which a create is refused."""
        return tuple(field for field in self.fields if field.required_on_create)

    @cached_property
    def external_keys(self) -> tuple[FieldDescribe, ...]:
        """External-id fields whose values the org keeps unique."""
        return tuple(field for field in self.fields if field.external_id and field.unique)

    def field(self, name: str) -> FieldDescribe | None:
        """The field of that name, in any case."""
        return self.by_name.get(name.lower())


def parse(answer: Mapping[str, Any]) -> ObjectDescribe:
    """A describe answer; KeyError when it has no name."""
    return ObjectDescribe(
        name=answer["name"],
        label=answer.get("label") or answer["name"],
        key_prefix=answer.get("keyPrefix"),
        custom=bool(answer.get("custom", False)),
        queryable=bool(answer.get("queryable", True)),
        retrieveable=bool(answer.get("retrieveable", True)),
        createable=bool(answer.get("createable", False)),
        updateable=bool(answer.get("updateable", False)),
        deletable=bool(answer.get("deletable", False)),
        undeletable=bool(answer.get("undeletable", False)),
        mergeable=bool(answer.get("mergeable", False)),
        replicateable=bool(answer.get("replicateable", False)),
        fields=tuple(parse_field(field) for field in answer.get("fields") or ()),
        children=tuple(_child(child) for child in answer.get("childRelationships") or () if child.get("childSObject")),
    )


def parse_field(entry: Mapping[str, Any]) -> FieldDescribe:
    """One entry of `fields`; KeyError when it has no name or type."""
    numbers: dict[str, Any] = {name: int(entry.get(key) or 0) for name, key in _NUMBERS.items()}
    flags: dict[str, Any] = {name: bool(entry[key]) for name, key in _FLAGS.items() if entry.get(key) is not None}
    return FieldDescribe(
        name=entry["name"],
        type=entry["type"],
        label=entry.get("label") or entry["name"],
        extra_type_info=entry.get("extraTypeInfo"),
        compound_field_name=entry.get("compoundFieldName"),
        reference_to=tuple(entry.get("referenceTo") or ()),
        relationship_name=entry.get("relationshipName"),
        picklist=tuple(_picklist_value(value) for value in entry.get("picklistValues") or ()),
        default_value=entry.get("defaultValue"),
        **numbers,
        **flags,
    )


_NUMBERS = {
    "length": "length",
    "byte_length": "byteLength",
    "precision": "precision",
    "scale": "scale",
    "digits": "digits",
}
_FLAGS = {
    "nillable": "nillable",
    "createable": "createable",
    "updateable": "updateable",
    "defaulted_on_create": "defaultedOnCreate",
    "calculated": "calculated",
    "auto_number": "autoNumber",
    "custom": "custom",
    "external_id": "externalId",
    "unique": "unique",
    "id_lookup": "idLookup",
    "name_field": "nameField",
    "case_sensitive": "caseSensitive",
    "encrypted": "encrypted",
    "cascade_delete": "cascadeDelete",
    "restricted_picklist": "restrictedPicklist",
    "dependent_picklist": "dependentPicklist",
    "filterable": "filterable",
    "sortable": "sortable",
    "groupable": "groupable",
}


def _picklist_value(entry: Mapping[str, Any]) -> PicklistValue:
    return PicklistValue(
        value=str(entry.get("value") or ""),
        active=bool(entry.get("active", True)),
        default=bool(entry.get("defaultValue", False)),
    )


def _child(entry: Mapping[str, Any]) -> ChildRelationship:
    return ChildRelationship(
        child_object=entry["childSObject"],
        field=entry.get("field") or "",
        relationship_name=entry.get("relationshipName"),
        cascade_delete=bool(entry.get("cascadeDelete", False)),
        restricted_delete=bool(entry.get("restrictedDelete", False)),
    )
