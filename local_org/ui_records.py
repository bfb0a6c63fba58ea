"""Records through the UI API, with Idempotency-Key.

Source: UI API Developer Guide, "Create a Record", "Prevent Record Duplication with Idempotent Record Writes".
"""

import uuid
from typing import Any

from local_org import dml
from local_org.catalogue import COMPOUND_TYPES, ObjectType
from local_org.context import Answer, Context
from local_org.errors import ApiError, unknown_type
from local_org.rows import chosen_fields, fetch, path_id
from local_org.values import to_json

KEPT_MS = 30 * 86_400_000


def create(ctx: Context) -> Answer:
    """A new record; a key that was used before answers with the first result instead."""
    key = _key(ctx)
    body = ctx.json_object()
    item = ctx.catalogue.object(str(body.get("apiName", "")))
    if item is None or not item.layoutable:
        raise unknown_type(str(body.get("apiName", "")))
    with ctx.writing() as change:
        kept = _kept(ctx, change, key)
        if kept is not None:
            return kept
        record_id = dml.insert(change, item, body.get("fields") or {})
        if key is not None:
            values = (ctx.user, key, change.now_ms, item.name, record_id)
            sql = "INSERT OR REPLACE INTO _idempotent VALUES (?, ?, ?, ?, ?)"
            change.at_end.append(lambda: change.conn.execute(sql, values))
    return Answer(201, _record(ctx, item, record_id))


def _key(ctx: Context) -> str | None:
    """The key of the call. Raises ApiError unless it is a version 4 UUID."""
    text = ctx.headers.get("idempotency-key")
    if text is None:
        return None
    try:
        key = uuid.UUID(text.strip().strip('"'))
    except ValueError:
        key = uuid.UUID(int=0)
    if key.version != 4:
        raise ApiError(400, "INVALID_INPUT", "The Idempotency-Key header must be a version 4 UUID")
    return str(key)


def _kept(ctx: Context, change: dml.Change, key: str | None) -> Answer | None:
    if key is None:
        return None
    row = change.conn.execute(
        "SELECT object, record_id FROM _idempotent WHERE user_id = ? AND key = ? AND at_ms > ?",
        (ctx.user, key, change.now_ms - KEPT_MS),
    ).fetchone()
    if row is None:
        return None
    return Answer(201, _record(ctx, ctx.object(row[0]), row[1]))


def get(ctx: Context, record_id: str) -> Answer:
    """GET ui-api/records/{id}?fields=Account.Name."""
    item = ctx.catalogue.of_id(record_id)
    if item is None:
        raise unknown_type(record_id[:3])
    return Answer(200, _record(ctx, item, path_id(item, record_id)))


def _record(ctx: Context, item: ObjectType, record_id: str) -> dict[str, Any]:
    """A record as the UI API shows it: each field with a value and what is displayed."""
    fields = [field for field in chosen_fields(item, ()) if field.type not in COMPOUND_TYPES]
    found = fetch(ctx, item, [record_id], fields).get(record_id)
    values = found.record if found else {}
    return {
        "apiName": item.name,
        "childRelationships": {},
        "eTag": f"{found.stamp_ms:x}" if found else "",
        "fields": {
            field.name: {"displayValue": None, "value": values.get(field.name, to_json(field, None))}
            for field in fields
            if field.name != "Id"
        },
        "id": record_id,
        "lastModifiedById": values.get("LastModifiedById"),
        "lastModifiedDate": values.get("LastModifiedDate"),
        "recordTypeId": values.get("RecordTypeId"),
        "recordTypeInfo": None,
        "systemModstamp": values.get("SystemModstamp"),
    }
