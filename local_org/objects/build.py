"""Short words for declaring fields: each gives a Field with its type's usual flags."""

from collections.abc import Iterable
from typing import Any

from local_org.catalogue import Field, ObjectType

GEOCODE = ("Address", "NearAddress", "Block", "Street", "ExtendedZip", "Zip", "Neighborhood", "City", "County",
           "State", "Unknown")  # fmt: skip
LONG_TEXT = 255

_NOT_WRITABLE: dict[str, Any] = {"createable": False, "updateable": False}
_TYPE_FLAGS: dict[str, dict[str, Any]] = {
    "boolean": {"nillable": False, "defaulted_on_create": True, "aggregatable": False, "default": False},
    "datetime": {"groupable": False},
    "time": {"groupable": False},
    "double": {"groupable": False},
    "currency": {"groupable": False},
    "percent": {"groupable": False},
    "multipicklist": {"sortable": False, "groupable": False, "aggregatable": False},
    "encryptedstring": {"filterable": False, "sortable": False, "groupable": False, "aggregatable": False},
    "base64": {"filterable": False, "sortable": False, "groupable": False, "aggregatable": False},
    "address": {**_NOT_WRITABLE, "sortable": False, "groupable": False, "aggregatable": False},
    "location": {**_NOT_WRITABLE, "sortable": False, "groupable": False, "aggregatable": False},
    "id": {**_NOT_WRITABLE, "nillable": False, "defaulted_on_create": True, "id_lookup": True, "length": 18},
    "reference": {"length": 18},
    "textarea": {"extra_type_info": "plaintextarea"},
}
_UNSEARCHABLE: dict[str, Any] = {
    "filterable": False,
    "sortable": False,
    "groupable": False,
    "aggregatable": False,
}


def make(type: str, name: str, label: str, **flags: Any) -> Field:
    """A field with the usual flags of its type; `flags` win."""
    usual = dict(_TYPE_FLAGS.get(type, {}))
    if type == "textarea" and flags.get("length", 0) > LONG_TEXT:
        usual |= _UNSEARCHABLE
    merged = {"permissionable": flags.get("nillable", usual.get("nillable", True)), **usual, **flags}
    return Field(name=name, type=type, label=label, **merged)


def text(name: str, label: str, length: int, **flags: Any) -> Field:
    return make("string", name, label, length=length, **flags)


def area(name: str, label: str, length: int, **flags: Any) -> Field:
    return make("textarea", name, label, length=length, **flags)


def phone(name: str, label: str) -> Field:
    return make("phone", name, label, length=40)


def email(name: str, label: str, length: int = 80, **flags: Any) -> Field:
    return make("email", name, label, length=length, **flags)


def url(name: str, label: str, length: int = 255, **flags: Any) -> Field:
    return make("url", name, label, length=length, **flags)


def picklist(name: str, label: str, choices: Iterable[str], length: int = 255, **flags: Any) -> Field:
    return make("picklist", name, label, length=length, picklist=tuple(choices), **flags)


def boolean(name: str, label: str, **flags: Any) -> Field:
    return make("boolean", name, label, **flags)


def integer(name: str, label: str, **flags: Any) -> Field:
    return make("int", name, label, digits=8, **flags)


def number(name: str, label: str, precision: int = 18, scale: int = 0, **flags: Any) -> Field:
    return make("double", name, label, precision=precision, scale=scale, **flags)


def currency(name: str, label: str, scale: int = 2, **flags: Any) -> Field:
    return make("currency", name, label, precision=18, scale=scale, **flags)


def date(name: str, label: str, **flags: Any) -> Field:
    return make("date", name, label, **flags)


def moment(name: str, label: str, **flags: Any) -> Field:
    return make("datetime", name, label, **flags)


def lookup(name: str, label: str, *targets: str, children: str | None = None, **flags: Any) -> Field:
    """A reference. The relationship is named after the field without its Id, unless given."""
    relationship = flags.pop("relationship_name", name.removesuffix("Id"))
    return make(
        "reference",
        name,
        label,
        reference_to=targets,
        relationship_name=relationship,
        child_relationship=children,
        name_pointing=len(targets) > 1,
        **flags,
    )


def fixed(field: Field) -> Field:
    """The same field, not writable."""
    from dataclasses import replace

    return replace(field, createable=False, updateable=False, permissionable=False)


def address(prefix: str, label: str) -> list[Field]:
    """The parts of an address block and the compound field itself; no prefix on Lead and User."""
    compound = f"{prefix}Address"
    text_parts = (("City", "City", 40), ("State", "State/Province", 80),
                  ("PostalCode", "Zip/Postal Code", 20), ("Country", "Country", 80))  # fmt: skip
    lead = f"{label} " if label else ""
    degrees: dict[str, Any] = {"precision": 18, "scale": 15, "compound_name": compound}
    return [
        area(f"{prefix}Street", f"{lead}Street", 255, compound_name=compound),
        *(text(prefix + name, lead + what, size, compound_name=compound) for name, what, size in text_parts),
        make("double", f"{prefix}Latitude", f"{lead}Latitude", **degrees),
        make("double", f"{prefix}Longitude", f"{lead}Longitude", **degrees),
        picklist(
            f"{prefix}GeocodeAccuracy",
            f"{lead}Geocode Accuracy",
            GEOCODE,
            40,
            restricted_picklist=True,
            compound_name=compound,
        ),
        make("address", compound, f"{lead}Address", permissionable=True),
    ]


def person_name(compound: bool, *, required: bool = True) -> list[Field]:
    """LastName, FirstName, Salutation and the read-only Name made of them."""
    part: dict[str, Any] = {"compound_name": "Name", "extra_type_info": "personname", "permissionable": False}
    salutations = ("Mr.", "Ms.", "Mrs.", "Dr.", "Prof.", "Mx.")
    parts = [text("LastName", "Last Name", 80, nillable=not required, **part),
             text("FirstName", "First Name", 40, **part)]  # fmt: skip
    if compound:
        parts.append(picklist("Salutation", "Salutation", salutations, 40, **part))
    whole = text("Name", "Full Name", 121, nillable=False, name_field=True, extra_type_info="personname")
    return [*parts, fixed(whole)]


_SYSTEM = {
    "CreatedDate": fixed(moment("CreatedDate", "Created Date", nillable=False, defaulted_on_create=True)),
    "CreatedById": fixed(lookup("CreatedById", "Created By ID", "User", nillable=False, defaulted_on_create=True)),
    "LastModifiedDate": fixed(
        moment("LastModifiedDate", "Last Modified Date", nillable=False, defaulted_on_create=True)
    ),
    "LastModifiedById": fixed(
        lookup("LastModifiedById", "Last Modified By ID", "User", nillable=False, defaulted_on_create=True)
    ),
    "SystemModstamp": fixed(moment("SystemModstamp", "System Modstamp", nillable=False, defaulted_on_create=True)),
}
_VIEWED = (
    fixed(moment("LastViewedDate", "Last Viewed Date")),
    fixed(moment("LastReferencedDate", "Last Referenced Date")),
)


def system_fields() -> list[Field]:
    """CreatedDate to SystemModstamp, as every object has them."""
    return list(_SYSTEM.values())


def last_activity() -> Field:
    return fixed(date("LastActivityDate", "Last Activity"))


def viewed() -> tuple[Field, ...]:
    return _VIEWED


def record_id(label: str) -> Field:
    return make("id", "Id", f"{label} ID")


def is_deleted() -> Field:
    return fixed(boolean("IsDeleted", "Deleted"))


def owner(*targets: str) -> Field:
    return lookup("OwnerId", "Owner ID", *(targets or ("User",)), nillable=False, defaulted_on_create=True)


def master_record(object_name: str) -> Field:
    return fixed(lookup("MasterRecordId", "Master Record ID", object_name))


def external_key() -> Field:
    """The custom key that the local org gives its main objects, for upserts."""
    return text(
        "External_Key__c",
        "External Key",
        64,
        custom=True,
        external_id=True,
        unique=True,
        id_lookup=True,
    )


def build(name: str, prefix: str, plural: str, fields: Iterable[Field], **flags: Any) -> ObjectType:
    """An object type; the label is the name with its words apart unless given."""
    label = flags.pop("label", name)
    items = {field.name.lower(): field for field in fields}
    return ObjectType(name, prefix, label, plural, items, **flags)
