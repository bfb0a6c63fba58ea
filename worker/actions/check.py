"""What can be known at the door to be wrong with an action. Pure; codes are the org's own for the same fault.

Only what the org would refuse for certain is refused here: it stays the judge of everything else.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import date, datetime, time
from decimal import Decimal, InvalidOperation
from typing import Any

from worker.salesforce.describe import FieldDescribe, ObjectDescribe
from worker.salesforce.ids import is_id

KEY_CHARACTERS = 32  # an action's id in hex
PERSON_OR_NOT = "switchablepersonname"  # Account.Name: of a person account the org composes it
KEYS_OF_OTHERS = frozenset({"externallookup", "indirectlookup"})  # look-ups that hold an external id and no record's
NUMBERS = frozenset({"double", "currency", "percent", "int", "long"})


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that is wrong. `position` is the action's place in what was asked, from 0."""

    code: str
    message: str
    fields: tuple[str, ...] = ()
    position: int = 0

    def as_json(self) -> dict[str, Any]:
        """For an answer."""
        return {"code": self.code, "message": self.message, "fields": list(self.fields), "position": self.position}


def key_field(describe: ObjectDescribe, chosen: str = "") -> str | None:
    """The field that carries an action's key, so that a create can be sent twice; None when the object has none.

    `chosen` names it (SFSYNC_EXTERNAL_KEY_FIELD); empty: the first unique external-id text field of 32 or more characters
    whose name contains "key". It must be writable both ways: the second sending is an update.
    """
    for field in describe.external_keys:
        fits = field.type == "string" and field.length >= KEY_CHARACTERS
        named = field.name.lower() == chosen.lower() if chosen else "key" in field.name.lower()
        if fits and named and field.createable and field.updateable:
            return field.name
    return None


def canonical(describe: ObjectDescribe, fields: Mapping[str, Any]) -> dict[str, Any]:
    """The fields under the names that describe gives them; unknown ones as they are."""
    return {_canonical(describe, name): value for name, value in fields.items()}


def _canonical(describe: ObjectDescribe, name: str) -> str:
    found = describe.field(name)
    return (
        found.name
        if found
        else next(
            (one.relationship_name for one in describe.fields if (one.relationship_name or "").lower() == name.lower()),
            name,
        )
        or name
    )


def faults(describe: ObjectDescribe, operation: str, fields: Mapping[str, Any]) -> list[Fault]:
    """Everything that is wrong with one action's fields."""
    creating = operation in ("create", "upsert")
    found = list(_object_faults(describe, operation))
    names = [name.lower() for name in fields]
    found += [_fault("DUPLICATE_VALUE", f"{name} is given twice", name) for name in set(names) if names.count(name) > 1]
    for name, value in fields.items():
        found += _field_faults(describe, name, value, creating=operation == "create", updating=operation == "update")
    if operation == "create":
        missing = [one.name for one in describe.required_on_create if _is_missing(one, fields)]
        if missing:
            found.append(
                _fault("REQUIRED_FIELD_MISSING", f"Required fields are missing: [{', '.join(missing)}]", *missing)
            )
    if not fields and (creating or operation == "update"):
        found.append(_fault("REQUIRED_FIELD_MISSING", "No fields are given."))
    return found


def _object_faults(describe: ObjectDescribe, operation: str) -> Iterator[Fault]:
    allowed = {
        "create": describe.createable,
        "update": describe.updateable,
        "upsert": describe.createable and describe.updateable,
        "delete": describe.deletable,
    }[operation]
    if not allowed:
        yield _fault(
            "CANNOT_INSERT_UPDATE_ACTIVATE_ENTITY", f"This connection may not {operation} {describe.name} records."
        )


def _is_missing(field: FieldDescribe, fields: Mapping[str, Any]) -> bool:
    given = {name.lower(): value for name, value in fields.items()}
    if field.relationship_name and isinstance(given.get(field.relationship_name.lower()), dict):
        return False
    if field.extra_type_info == PERSON_OR_NOT and given.get("lastname"):
        return False
    return given.get(field.name.lower()) in (None, "")


def _field_faults(describe: ObjectDescribe, name: str, value: Any, *, creating: bool, updating: bool) -> list[Fault]:
    if name.lower() in ("id", "attributes"):
        return [_fault("INVALID_FIELD", f"{name} does not belong into the fields.", name)]
    field = describe.field(name) or _by_relationship(describe, name, value)
    if field is None:
        return [_fault("INVALID_FIELD", f"No such column '{name}' on sobject of type {describe.name}", name)]
    if (creating and not field.createable) or (updating and not field.updateable):
        verb = "created" if creating else "updated"
        return [
            _fault("INVALID_FIELD_FOR_INSERT_UPDATE", f"{field.name} cannot be {verb} by this connection.", field.name)
        ]
    if isinstance(value, dict):
        return []
    if value is None:
        refused = updating and not field.nillable and field.type != "boolean"
        return [_fault("REQUIRED_FIELD_MISSING", f"{field.name} cannot be emptied.", field.name)] if refused else []
    wrong = value_fault(field, value)
    return [wrong] if wrong else []


def _by_relationship(describe: ObjectDescribe, name: str, value: Any) -> FieldDescribe | None:
    """`"Account": {"Ext__c": "A-1"}` names a parent by its external id."""
    if not isinstance(value, dict):
        return None
    return next((one for one in describe.fields if (one.relationship_name or "").lower() == name.lower()), None)


def value_fault(field: FieldDescribe, value: Any) -> Fault | None:
    """What is wrong with one value that is not null, as far as its field tells."""
    if isinstance(value, (list, dict)):
        return _mistyped(field, "a plain value")
    if field.type == "boolean":
        right = isinstance(value, bool) or str(value).lower() in ("true", "false", "1", "0")
        return None if right else _mistyped(field, "true or false")
    if field.type in NUMBERS:
        return _number_fault(field, value)
    if field.type in ("date", "datetime", "time"):
        return None if _is_moment(field.type, value) else _mistyped(field, f"a {field.type} in ISO 8601")
    if field.type in ("reference", "id") and field.extra_type_info not in KEYS_OF_OTHERS:
        return (
            None
            if isinstance(value, str) and (value == "" or is_id(value))
            else _fault("MALFORMED_ID", f"{field.name} is no record id.", field.name)
        )
    return _text_fault(field, value)


def _number_fault(field: FieldDescribe, value: Any) -> Fault | None:
    if isinstance(value, bool):
        return _mistyped(field, "a number")
    if value == "":
        return None
    try:
        number = Decimal(str(value))
    except InvalidOperation:
        return _mistyped(field, "a number")
    digits = field.digits or (field.precision - field.scale if field.precision else 18)
    if not number.is_finite() or abs(number) >= Decimal(10) ** digits:
        return _fault(
            "NUMBER_OUTSIDE_VALID_RANGE", f"{field.name} has more than {digits} digits before the point.", field.name
        )
    return None


def _is_moment(kind: str, value: Any) -> bool:
    if not isinstance(value, str):
        return False
    if value == "":
        return True
    try:
        if kind == "time":
            time.fromisoformat(value)
        elif kind == "date":
            date.fromisoformat(value[:10])
        else:
            datetime.fromisoformat(value)
    except ValueError:
        return False
    return True


def _text_fault(field: FieldDescribe, value: Any) -> Fault | None:
    text = str(value).strip()
    if "\x00" in text:
        return _mistyped(field, "text without NUL")
    if field.length and len(text) > field.length:
        return _fault("STRING_TOO_LONG", f"{field.name}: data value too large (max length={field.length})", field.name)
    allowed = {one.value.casefold() for one in field.picklist if one.active}
    if allowed and field.restricted_picklist and field.type in ("picklist", "multipicklist") and text:
        chosen = text.split(";") if field.type == "multipicklist" else [text]
        for one in chosen:
            if one.strip().casefold() not in allowed:
                message = f"{field.name}: bad value for restricted picklist field: {one}"
                return _fault("INVALID_OR_NULL_FOR_RESTRICTED_PICKLIST", message, field.name)
    return None


def _mistyped(field: FieldDescribe, wanted: str) -> Fault:
    return _fault("INVALID_TYPE_ON_FIELD_IN_RECORD", f"{field.name}: {wanted} is wanted.", field.name)


def _fault(code: str, message: str, *fields: str) -> Fault:
    return Fault(code, message, fields)
