"""Records through the UI API, with Idempotency-Key.

Source: UI API Developer Guide, "Create a Record", "Prevent Record Duplication with Idempotent Record Writes".
"""

import uuid
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from local_org import deletion, dml
from local_org.catalogue import COMPOUND_TYPES, ObjectType
from local_org.context import Answer, Context, an_object
from local_org.errors import ApiError, not_found, unknown_type
from local_org.rows import check_unmodified, chosen_fields, fetch, path_id, visible
from local_org.values import to_json

KEPT_MS = 30 * 86_400_000


def create(ctx: Context) -> Answer:
    """A new record; a key that was used before answers with the first result instead."""
    key = _key(ctx)
    body = ctx.json_object()
    item = ctx.catalogue.object(str(body.get("apiName", "")))
    if item is None or not item.layoutable:
        raise unknown_type(str(body.get("apiName", "")))
    with ctx.writing(assigns=False) as change:
        kept = _kept(ctx, change, key)
        if kept is not None:
            return kept
        record_id = dml.insert(change, item, an_object(body.get("fields"), "fields"))
        _keep(ctx, change, key, item, record_id)
    return Answer(201, _record(ctx, item, record_id))


def _keep(ctx: Context, change: dml.Change, key: str | None, item: ObjectType, record_id: str) -> None:
    if key is None:
        return
    values = (ctx.user, key, change.now_ms, item.name, record_id)
    sql = "INSERT OR REPLACE INTO _idempotent VALUES (?, ?, ?, ?, ?)"
    change.at_end.append(lambda: change.conn.execute(sql, values))


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


def _item(ctx: Context, record_id: str) -> ObjectType:
    item = ctx.catalogue.of_id(record_id)
    if item is None or not item.layoutable:
        raise not_found()
    return item


def get(ctx: Context, record_id: str) -> Answer:
    """GET ui-api/records/{id}?fields=Account.Name,…&optionalFields=…: fields of the record itself, or all of them."""
    item = _item(ctx, record_id)
    id18 = path_id(item, record_id)
    asked = [_own_field(item, name) for name in ctx.query.get("fields", "").split(",") if name]
    wished = [name.partition(".")[2] for name in ctx.query.get("optionalFields", "").split(",") if name]
    asked += [name for name in wished if item.field(name) is not None]
    _living(ctx, item, id18)
    return Answer(200, _record(ctx, item, id18, asked))


def _living(ctx: Context, item: ObjectType, id18: str) -> None:
    found = fetch(ctx, item, [id18], [item.fields["id"]]).get(id18)
    if found is None or found.deleted:
        raise not_found()


def _own_field(item: ObjectType, name: str) -> str:
    """Name of Account.Name. Fields of parents are not shown here."""
    object_name, _, field = name.strip().partition(".")
    if object_name.lower() != item.name.lower() or item.field(field) is None:
        raise ApiError(400, "INVALID_FIELD", f"Column {name} does not exist, or is not accessible to you.")
    return field


def change(ctx: Context, record_id: str) -> Answer:
    """PATCH ui-api/records/{id} {"fields": {…}}; If-Modified-Since refuses where the record changed since (412)."""
    item = _item(ctx, record_id)
    id18 = path_id(item, record_id)
    visible(ctx, item, id18)
    since = ctx.headers.get("if-modified-since")
    key = _key(ctx)
    with ctx.writing(assigns=False) as change_:
        kept = _kept(ctx, change_, key)
        if kept is not None:
            return replace(kept, status=200)
        if since is not None:
            stamp_ms = int(dml.living(change_, item, id18).get("SystemModstamp") or 0)
            check_unmodified(replace(ctx, headers={"if-unmodified-since": since}), stamp_ms)
        dml.update(change_, item, id18, an_object(ctx.json_object().get("fields"), "fields"))
        _keep(ctx, change_, key, item, id18)
    return Answer(200, _record(ctx, item, id18))


def remove(ctx: Context, record_id: str) -> Answer:
    """DELETE ui-api/records/{id}."""
    item = _item(ctx, record_id)
    visible(ctx, item, record_id)
    with ctx.writing(assigns=False) as change_:
        deletion.delete(change_, item, record_id)
    return Answer(204)


def _record(ctx: Context, item: ObjectType, record_id: str, names: Sequence[str] = ()) -> dict[str, Any]:
    """A record as the UI API shows it: each field with a value and what is displayed."""
    fields = [field for field in chosen_fields(item, ()) if field.type not in COMPOUND_TYPES]
    shown = {name.lower() for name in names or item.fields} - {"id"}
    found = fetch(ctx, item, [record_id], fields).get(record_id)
    values = found.record if found else {}
    return {
        "apiName": item.name,
        "childRelationships": {},
        "eTag": f"{found.stamp_ms:x}" if found else "",
        "fields": {
            field.name: {"displayValue": None, "value": values.get(field.name, to_json(field, None))}
            for field in fields
            if field.name.lower() in shown
        },
        "id": record_id,
        "lastModifiedById": values.get("LastModifiedById"),
        "lastModifiedDate": values.get("LastModifiedDate"),
        "recordTypeId": values.get("RecordTypeId"),
        "recordTypeInfo": None,
        "systemModstamp": values.get("SystemModstamp"),
    }
