"""What a row must fulfil to be saved: known and writable fields, types, lengths, picklists, references, keys.

Source: SOAP API Developer Guide, "Core Data Types", and Object Reference, "API Data Types".
"""

import json
import re
import sqlite3
from collections.abc import Container, Iterable, Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from local_org.catalogue import STRINGS, Catalogue, Field, ObjectType
from local_org.errors import ApiError, unknown_field
from local_org.schema import quoted
from local_org.values import Stored, from_json

if TYPE_CHECKING:
    from local_org.dml import Change

MAX_MATCHES = 100
_EMAIL = re.compile(r"[^@\s,;<>()\[\]]+@[^@\s,;<>()\[\]]+\.[^@\s.,;<>()\[\]]{1,63}")


def read_values(change: "Change", item: ObjectType, body: Mapping[str, Any], *, creating: bool) -> dict[str, Stored]:
    """The stored values of a request body, by canonical field name. Raises ApiError for what may not be set."""
    values: dict[str, Stored] = {}
    forbidden: list[str] = []
    for name, value in body.items():
        if name == "attributes":
            continue
        field = item.field(name)
        if field is None:
            field, value = _by_relationship(change.catalogue, change.conn, item, name, value)
        if not (field.createable if creating else field.updateable) or not field.stored:
            forbidden.append(field.name)
        else:
            values[field.name] = from_json(field, value)
    if forbidden:
        raise _not_writable(forbidden)
    return values


def _not_writable(names: list[str]) -> ApiError:
    text = (
        f"Unable to create/update fields: {', '.join(names)}. Please check the security settings of this field "
        "and verify that it is read/write for your profile or permission set."
    )
    return ApiError(400, "INVALID_FIELD_FOR_INSERT_UPDATE", text, names)


def _by_relationship(
    catalogue: Catalogue, conn: sqlite3.Connection, item: ObjectType, name: str, value: Any
) -> tuple[Field, Any]:
    """{"Account": {"Key__c": "A-1"}} as the reference field and the id of that account."""
    field = next(
        (f for f in item.fields.values() if f.reference_to and (f.relationship_name or "").lower() == name.lower()),
        None,
    )
    if field is None or not (value is None or isinstance(value, dict)):
        raise unknown_field(name, item.name)
    if value is None:
        return field, None
    keys = {key: val for key, val in value.items() if key != "attributes"}
    wanted = value.get("attributes", {}).get("type")
    if len(keys) != 1:
        text = "More than 1 field provided in an external foreign key reference in entity: "
        raise ApiError(400, "INVALID_FIELD", text + field.reference_to[0])
    ((key, key_value),) = keys.items()
    for target_name in field.reference_to:
        target = catalogue.object(target_name)
        if target is None or (wanted and wanted.lower() != target_name.lower()):
            continue
        return field, _referenced(conn, target, key, key_value)
    raise unknown_field(name, item.name)


def _referenced(conn: sqlite3.Connection, target: ObjectType, key: str, value: Any) -> str:
    field = target.field(key)
    if field is None or not (field.external_id or field.id_lookup):
        text = f"Field name provided, {key} is not an External ID or indexed field for {target.name}"
        raise ApiError(400, "INVALID_FIELD", text)
    found = find_by_key(conn, target, field, from_json(field, value))
    if not found:
        text = f"Foreign key external ID: {value} not found for field {field.name} in entity {target.name}"
        raise ApiError(400, "INVALID_FIELD", text)
    if len(found) > 1:
        text = f"Foreign key external ID: {value} matches more than one record"
        raise ApiError(400, "DUPLICATE_EXTERNAL_ID", text)
    return found[0]


def find_by_key(conn: sqlite3.Connection, item: ObjectType, field: Field, stored: Stored) -> list[str]:
    """Ids of the living rows with this value in a key field (at most MAX_MATCHES)."""
    sql = _by_key_sql(item.name, field.name, "isdeleted" in item.fields)
    return [row[0] for row in conn.execute(sql, (stored,))]


def find_all_by_key(
    conn: sqlite3.Connection, item: ObjectType, field: Field, values: Iterable[Stored]
) -> dict[Stored | bytes, list[str]]:
    """The same for many values: ids by the values in their `folded` form."""
    wanted = {folded(field, value): value for value in values if value is not None}
    found: dict[Stored | bytes, list[str]] = {form: [] for form in wanted}
    forms = list(wanted)
    sql = _by_keys_sql(item.name, field.name, "isdeleted" in item.fields)
    for place, record_id in conn.execute(sql, (json.dumps(list(wanted.values())),)):
        if len(found[forms[place]]) < MAX_MATCHES:
            found[forms[place]].append(record_id)
    return found


def folded(field: Field, value: Stored) -> Stored | bytes:
    """What is the same for values that are equal in this field's column: only the case of ASCII is ever ignored."""
    return (
        value.encode("utf-8", "surrogatepass").lower() if isinstance(value, str) and not field.case_sensitive else value
    )


@lru_cache(512)
def _by_key_sql(object_name: str, field_name: str, deletable: bool) -> str:
    alive = ' AND NOT "IsDeleted"' if deletable else ""
    return f'SELECT "Id" FROM {quoted(object_name)} WHERE {quoted(field_name)} = ?{alive} ORDER BY "Id" LIMIT {MAX_MATCHES}'


@lru_cache(512)
def _by_keys_sql(object_name: str, field_name: str, deletable: bool) -> str:
    alive = ' AND NOT t."IsDeleted"' if deletable else ""
    return (
        f'SELECT j.key, t."Id" FROM json_each(?) j CROSS JOIN {quoted(object_name)} t '
        f'WHERE t.{quoted(field_name)} = j.value{alive} ORDER BY t."Id"'
    )


def check_required(item: ObjectType, row: Mapping[str, Stored], names: Container[str]) -> None:
    """Every required field among `names` has a value."""
    missing = [field.name for field in item.required if row.get(field.name) is None and field.name in names]
    if missing:
        text = f"Required fields are missing: [{', '.join(missing)}]"
        raise ApiError(400, "REQUIRED_FIELD_MISSING", text, missing)


def check_values(item: ObjectType, values: Mapping[str, Stored]) -> None:
    """Lengths, addresses of mail, restricted picklists."""
    for name, stored in values.items():
        if stored is None:
            continue
        field = item.columns.get(name)
        if field is not None and field.type in STRINGS:
            _check_text(field, str(stored))


def _check_text(field: Field, text: str) -> None:
    if field.length and len(text) > field.length:
        message = f"{field.label}: data value too large: {text} (max length={field.length})"
        raise ApiError(400, "STRING_TOO_LONG", message, [field.name])
    if field.type == "email" and not _EMAIL.fullmatch(text):
        message = f"{field.label}: invalid email address: {text}"
        raise ApiError(400, "INVALID_EMAIL_ADDRESS", message, [field.name])
    if field.restricted_picklist:
        _check_choice(field, text)


def _check_choice(field: Field, text: str) -> None:
    known = {choice.lower() for choice in field.picklist}
    chosen = text.split(";") if field.type == "multipicklist" else [text]
    for choice in chosen:
        if choice.lower() not in known:
            message = f"{field.label}: bad value for restricted picklist field: {choice}"
            raise ApiError(400, "INVALID_OR_NULL_FOR_RESTRICTED_PICKLIST", message, [field.name])


Lasting = set[tuple[str, str, str]]  # object, field and id of references to rows that no transaction can delete


def check_references(change: "Change", item: ObjectType, values: Mapping[str, Stored]) -> None:
    """Each reference points to a living row of an object that the field may point to."""
    for field in item.references:
        stored = values.get(field.name)
        if isinstance(stored, str) and (item.name, field.name, stored) not in change.lasting:
            target = _check_reference(change.store.catalogue, change.conn, field, stored)
            if not target.deletable:
                change.lasting.add((item.name, field.name, stored))


def _check_reference(catalogue: Catalogue, conn: sqlite3.Connection, field: Field, record_id: str) -> ObjectType:
    target = catalogue.of_id(record_id)
    if target is None or target.name not in field.reference_to:
        if target is None and not any(catalogue.object(name) for name in field.reference_to):
            raise _dangling()
        text = f"{field.label}: id value of incorrect type: {record_id}"
        raise ApiError(400, "FIELD_INTEGRITY_EXCEPTION" if target else "MALFORMED_ID", text, [field.name])
    columns = '"IsDeleted"' if target.field("IsDeleted") else "0"
    row = conn.execute(f'SELECT {columns} FROM {quoted(target.name)} WHERE "Id" = ?', (record_id,)).fetchone()
    if row is None:
        raise _dangling()
    if row[0]:
        raise ApiError(400, "ENTITY_IS_DELETED", "entity is deleted", [])
    return target


def _dangling() -> ApiError:
    return ApiError(400, "INVALID_CROSS_REFERENCE_KEY", "invalid cross reference id", [])


def check_unique(
    change: "Change",
    item: ObjectType,
    values: Mapping[str, Stored],
    own_id: str | None,
    free: str | None = None,
) -> None:
    """No other living row has the same value in a unique field. Raises ApiError DUPLICATE_VALUE.

    `free`: a field whose value was looked for a moment ago, and not found.
    """
    for field in item.unique:
        stored = values.get(field.name)
        if stored is None or field.name == free:
            continue
        others = [found for found in find_by_key(change.conn, item, field, stored) if found != own_id]
        if others:
            text = f"duplicate value found: {field.name} duplicates value on record with id: {others[0]}"
            raise ApiError(400, "DUPLICATE_VALUE", text, [])
