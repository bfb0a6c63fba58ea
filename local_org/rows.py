"""sObject Rows: one record per call. Source: REST API Developer Guide, "sObject Rows", "… by External ID"."""

import base64
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from functools import lru_cache
from typing import Any

from starlette.responses import Response

from local_org import deletion, dml, record_text
from local_org.catalogue import COMPOUND_TYPES, Catalogue, ChildRelationship, Field, ObjectType
from local_org.context import Answer, Context, Result
from local_org.errors import ApiError, deleted, not_found, unknown_field
from local_org.ids import to_18
from local_org.metadata import http_date, unmodified
from local_org.query import query
from local_org.records import part_key
from local_org.rules import find_by_key
from local_org.schema import column_sql, quoted
from local_org.values import Json, from_json, shower, to_json

UPSERT_ANSWERS_200_SINCE = 46.0
Record = dict[str, Any]


# -- reading


@dataclass(frozen=True, slots=True)
class Found:
    """A row that exists and that the user may see. `stamp_ms` is 0 for objects without SystemModstamp."""

    record: Record
    stamp_ms: int
    deleted: bool


def chosen_fields(item: ObjectType, names: Sequence[str]) -> list[Field]:
    """The fields of these names, every field for none. Raises ApiError INVALID_FIELD."""
    asked = [name for name in names if name]
    if not asked:
        return list(item.fields.values())
    chosen = []
    for name in asked:
        found = item.field(name.strip())
        if found is None:
            raise unknown_field(name.strip(), item.name)
        chosen.append(found)
    return chosen


def fetch(ctx: Context, item: ObjectType, ids: Sequence[str], fields: Sequence[Field]) -> dict[str, Found]:
    """The rows with these ids (18 characters), by id. The fields are the item's."""
    reading, rows = _read(ctx, item, ids, fields)
    base = ctx.url(f"sobjects/{item.name}/")
    return {row[0]: Found(reading.record(item.name, base, row), row[1] or 0, bool(row[2])) for row in rows}


def living_texts(ctx: Context, item: ObjectType, ids: Sequence[str], fields: Sequence[Field]) -> dict[str, Json]:
    """The rows with these ids that are not deleted, by id, as the JSON of their records."""
    reading, rows = _read(ctx, item, ids, fields)
    alive = [row for row in rows if not row[2]]
    base = ctx.url(f"sobjects/{item.name}/")
    texts = record_text.texts(item.name, base, reading.steps, reading.blobs, alive)
    return {row[0]: text for row, text in zip(alive, texts, strict=True)}


def _read(
    ctx: Context, item: ObjectType, ids: Sequence[str], fields: Sequence[Field]
) -> tuple["_Reading", list[Sequence[Any]]]:
    reading = _reading(ctx.store.catalogue, ctx.catalogue, item.name, tuple([field.name for field in fields]))
    hidden = ctx.row_filter(item.name, "t")
    sql = f'{reading.sql} WHERE t."Id" IN ({", ".join("?" * len(ids))}){" AND " + hidden if hidden else ""}'
    with ctx.store.read() as conn:
        return reading, conn.execute(sql, tuple(ids)).fetchall()


Show = Callable[[Any], Any]


@dataclass(frozen=True, slots=True)
class _Reading:
    """How rows of an object are read. `sql` selects id, stamp, deletion mark and columns; `steps` are the fields to
    show: a name, and a column with what makes a value of it, or (-1) what makes a value of the whole row; `blobs` names
    those that show a URL instead."""

    sql: str
    steps: tuple[tuple[str, int, Show | None], ...]
    blobs: tuple[str, ...]

    def record(self, object_name: str, base: str, row: Sequence[Any]) -> Record:
        """A record with its attributes; compound fields are put together."""
        url = base + row[0]
        record: Record = {"attributes": {"type": object_name, "url": url}}
        for name, index, show in self.steps:
            stored = row if index < 0 else row[index]
            record[name] = stored if show is None else show(stored)
        for name in self.blobs:
            record[name] = None if record[name] is None else f"{url}/{name}"
        return record


@lru_cache(512)
def _reading(whole: Catalogue, seen: Catalogue, object_name: str, names: tuple[str, ...]) -> _Reading:
    item, visible_item = whole.object(object_name), seen.object(object_name)
    assert item is not None
    assert visible_item is not None
    fields = [visible_item.fields[name.lower()] for name in names]
    parts = [visible_item.parts_of(f.name) if f.type in COMPOUND_TYPES else (f,) for f in fields]
    columns = list(dict.fromkeys(part for group in parts for part in group))
    selected = [f't."{name}"' if item.field(name) else "0" for name in ("Id", "SystemModstamp", "IsDeleted")]
    index = {column: at for at, column in enumerate(columns, len(selected))}
    selected += [column_sql(whole, item, f, "t") for f in columns]
    steps = tuple(_step(field, group, index) for field, group in zip(fields, parts, strict=True))
    blobs = tuple(field.name for field in fields if field.type == "base64")
    return _Reading(f"SELECT {', '.join(selected)} FROM {quoted(item.name)} t", steps, blobs)


def _step(field: Field, parts: Sequence[Field], index: Mapping[Field, int]) -> tuple[str, int, Show | None]:
    if field.type in COMPOUND_TYPES:
        places = sorted((part_key(field, part), index[part], part) for part in parts)
        return field.name, -1, lambda row: _compound(row, places)
    return field.name, index[field], shower(field)


def _compound(row: Sequence[Any], places: Sequence[tuple[str, int, Field]]) -> Record | None:
    """An address or a location as an object, None if every part is null."""
    for _, at, _ in places:
        if row[at] is not None:
            return {key: to_json(part, row[at]) for key, at, part in places}
    return None


def get(ctx: Context, object_name: str, record_id: str) -> Answer:
    """GET sobjects/{object}/{id}?fields=."""
    item = ctx.object(object_name)
    return one(ctx, item, path_id(item, record_id))


def path_id(item: ObjectType, record_id: str) -> str:
    """The 18-character id of a path. Raises ApiError NOT_FOUND, as the platform does for any other text."""
    id18 = to_18(record_id)
    if id18 is None or not id18.startswith(item.key_prefix):
        raise not_found(f"Provided external ID field does not exist or is not accessible: {record_id}")
    return id18


def one(ctx: Context, item: ObjectType, id18: str) -> Answer:
    """A record, 304 if the caller's copy is still right. Raises ApiError 404, 412."""
    fields = chosen_fields(item, ctx.query.get("fields", "").split(","))
    found = fetch(ctx, item, [id18], fields).get(id18)
    if found is None:
        raise not_found()
    if found.deleted:
        raise deleted()
    check_unmodified(ctx, found.stamp_ms)
    _check_tag(ctx, item, found.stamp_ms)
    headers = {"Last-Modified": http_date(found.stamp_ms)} if found.stamp_ms else {}
    if item.name == "Account":
        headers["ETag"] = etag(found.stamp_ms)
    if unmodified(ctx, found.stamp_ms) or (item.name == "Account" and _names(ctx, "if-none-match", found.stamp_ms)):
        return Answer(304, None, headers)
    return Answer(200, found.record, headers)


def _names(ctx: Context, header: str, stamp_ms: int) -> bool:
    """Whether an entity tag header names this state of the row; compressed answers have tags that end in -gzip."""
    tags = [tag.strip().removeprefix("W/").replace("-gzip", "") for tag in ctx.headers.get(header, "").split(",")]
    return "*" in tags or etag(stamp_ms) in tags


def etag(stamp_ms: int) -> str:
    return f'"{stamp_ms:x}"'


def check_unmodified(ctx: Context, stamp_ms: int) -> None:
    """Raises ApiError 412 if the row changed after If-Unmodified-Since, 400 for an unreadable date."""
    since = ctx.headers.get("if-unmodified-since")
    if since is None:
        return
    try:
        limit = int(parsedate_to_datetime(since).timestamp())
    except ValueError:
        raise ApiError(400, "INVALID_HEADER", f"Invalid value for If-Unmodified-Since: {since}") from None
    if stamp_ms // 1000 > limit:
        raise _precondition_failed()


def _precondition_failed() -> ApiError:
    text = "Precondition specified in one or more headers did not match current state"
    return ApiError(412, "PRECONDITION_FAILED", text)


def _check_tag(ctx: Context, item: ObjectType, stamp_ms: int) -> None:
    """Raises ApiError 412 if If-Match names another state of an account."""
    if item.name == "Account" and "if-match" in ctx.headers and not _names(ctx, "if-match", stamp_ms):
        raise _precondition_failed()


_CONDITIONS = frozenset({"if-match", "if-none-match", "if-modified-since", "if-unmodified-since"})


def holds_back(ctx: Context, change: dml.Change, item: ObjectType, record_id: str) -> bool:
    """Whether the conditions of a write say that there is nothing to do (304). Entity tags are for Account only.

    Asked inside the transaction of the write, so that nobody can change the row in between.
    Raises ApiError: 412 where they do not hold, 400 for an unreadable date.
    """
    if _CONDITIONS.isdisjoint(ctx.headers):
        return False
    stamp_ms = int(dml.living(change, item, record_id).get("SystemModstamp") or 0)
    check_unmodified(ctx, stamp_ms)
    _check_tag(ctx, item, stamp_ms)
    if item.name == "Account" and _names(ctx, "if-none-match", stamp_ms):
        raise _precondition_failed()
    return unmodified(ctx, stamp_ms, strict=True)


# -- writing


def create(ctx: Context, object_name: str) -> Answer:
    """POST sobjects/{object}."""
    item = ctx.object(object_name)
    body = _body(ctx, item)
    with ctx.writing() as change:
        record_id = dml.insert(change, item, body)
    return _created(ctx, item, record_id, {"id": record_id, "success": True, "errors": []})


def _created(ctx: Context, item: ObjectType, record_id: str, body: Record) -> Answer:
    return Answer(201, body, {"Location": ctx.url(f"sobjects/{item.name}/{record_id}")})


def _body(ctx: Context, item: ObjectType) -> Record:
    body = ctx.multipart_object(item) if ctx.is_multipart() else ctx.json_object()
    named = (body.get("attributes") or {}).get("type", item.name)
    if str(named).lower() != item.name.lower():
        text = f"SObject type in attributes, {named}, does not match the type in the URL, {item.name}"
        raise ApiError(400, "INVALID_FIELD", text)
    return body


def change_row(ctx: Context, object_name: str, record_id: str) -> Answer:
    """PATCH sobjects/{object}/{id}."""
    item = ctx.object(object_name)
    body = _body(ctx, item)
    visible(ctx, item, record_id)
    with ctx.writing() as change:
        if holds_back(ctx, change, item, record_id):
            return Answer(304)
        dml.update(change, item, record_id, body)
    return Answer(204)


def visible(ctx: Context, item: ObjectType, record_id: str) -> None:
    """Raises ApiError NOT_FOUND if the row is hidden from the user."""
    hidden = ctx.row_filter(item.name, "t")
    id18 = to_18(record_id)
    if not hidden or id18 is None:
        return
    with ctx.store.read() as conn:
        sql = f'SELECT 1 FROM {quoted(item.name)} t WHERE t."Id" = ? AND {hidden}'
        if conn.execute(sql, (id18,)).fetchone() is None:
            raise not_found()


def remove(ctx: Context, object_name: str, record_id: str) -> Answer:
    """DELETE sobjects/{object}/{id}."""
    item = ctx.object(object_name)
    visible(ctx, item, record_id)
    with ctx.writing() as change:
        deletion.delete(change, item, record_id)
    return Answer(204)


# -- by external id, or by relationship: sobjects/{object}/{x}/{y}


def key_field(item: ObjectType, name: str) -> Field:
    """A field that upserts may match on. Raises ApiError NOT_FOUND."""
    field = item.field(name)
    if field is None or not (field.external_id or field.id_lookup):
        raise not_found(f"Provided external ID field does not exist or is not accessible: {name}")
    return field


def _matches(ctx: Context, item: ObjectType, key: Field, value: str) -> list[str]:
    with ctx.store.read() as conn:
        return find_by_key(conn, item, key, from_json(key, value))


def _only_match(ctx: Context, item: ObjectType, key: Field, value: str) -> str | Answer:
    """The row with this key; the answer 300 for several. Raises ApiError NOT_FOUND."""
    found = _matches(ctx, item, key, value)
    if not found:
        raise not_found()
    return found[0] if len(found) == 1 else _choices(ctx, item, found)


def _choices(ctx: Context, item: ObjectType, ids: Sequence[str]) -> Answer:
    return Answer(300, [ctx.url(f"sobjects/{item.name}/{record_id}") for record_id in ids])


def get_by_key(ctx: Context, object_name: str, key_name: str, value: str) -> Result:
    """GET sobjects/{object}/{field}/{value}, or sobjects/{object}/{id}/{relationship}."""
    item = ctx.object(object_name)
    if item.field(key_name) is None and to_18(key_name) is not None:
        blob = item.field(value)
        if blob is not None and blob.type == "base64":
            return blob_body(ctx, item, path_id(item, key_name), blob)
        return related(ctx, item, path_id(item, key_name), value)
    found = _only_match(ctx, item, key_field(item, key_name), value)
    return found if isinstance(found, Answer) else one(ctx, item, found)


def blob_body(ctx: Context, item: ObjectType, id18: str, field: Field) -> Response:
    """GET sobjects/{object}/{id}/{blob field}: the bytes. Source: "sObject Blob Get"."""
    if fetch(ctx, item, [id18], [item.fields["id"]]).get(id18) is None:
        raise not_found()
    kind = item.field("ContentType")
    columns = f"{quoted(field.name)}, {quoted(kind.name) if kind else 'NULL'}"
    with ctx.store.read() as conn:
        row = conn.execute(f'SELECT {columns} FROM {quoted(item.name)} WHERE "Id" = ?', (id18,)).fetchone()
    content = base64.b64decode(row[0] or "")
    return Response(content, 200, {"Content-Type": row[1] or "application/octet-stream"})


def related(ctx: Context, item: ObjectType, id18: str, name: str) -> Result:
    """The parent row, or the first page of the children, that a relationship leads to."""
    for field in item.fields.values():
        if field.reference_to and (field.relationship_name or "").lower() == name.lower():
            return _parent(ctx, item, id18, field)
    for child in ctx.catalogue.children(item.name):
        if (child.name or "").lower() == name.lower():
            return _children(ctx, child, id18)
    raise not_found()


def _children(ctx: Context, child: ChildRelationship, id18: str) -> Result:
    item = ctx.object(child.child_object)
    names = ", ".join(field.name for field in chosen_fields(item, ctx.query.get("fields", "").split(",")))
    return query(ctx, f"SELECT {names} FROM {item.name} WHERE {child.field} = '{id18}'", all_rows=False)


def _parent(ctx: Context, item: ObjectType, id18: str, field: Field) -> Answer:
    found = fetch(ctx, item, [id18], [field]).get(id18)
    if found is None or found.record[field.name] is None:
        raise not_found()
    parent_id = found.record[field.name]
    target = ctx.catalogue.of_id(parent_id)
    if target is None:
        raise not_found()
    return one(ctx, target, parent_id)


def upsert_by_key(ctx: Context, object_name: str, key_name: str, value: str) -> Answer:
    """PATCH sobjects/{object}/{field}/{value}: 201 created, 200 updated (204 before v46), 300 several."""
    item = ctx.object(object_name)
    key = key_field(item, key_name)
    body = _body(ctx, item)
    if any(name.lower() == key.name.lower() for name in body):
        text = f"The {key.name} field should not be specified in the sobject data."
        raise ApiError(400, "INVALID_FIELD", text, [key.name])
    with ctx.writing() as change:
        matches = dml.matching(change, item, key, value)
        if len(matches) > 1:
            return _choices(ctx, item, matches)
        if not matches and ctx.query.get("updateOnly", "").lower() == "true":
            raise not_found()
        if matches and holds_back(ctx, change, item, matches[0]):
            return Answer(304)
        record_id, created = dml.upsert(change, item, key, value, body)
    answer = {"id": record_id, "success": True, "errors": [], "created": created}
    if created:
        return _created(ctx, item, record_id, answer)
    return Answer(200, answer) if float(ctx.version) >= UPSERT_ANSWERS_200_SINCE else Answer(204)


def remove_by_key(ctx: Context, object_name: str, key_name: str, value: str) -> Answer:
    """DELETE sobjects/{object}/{field}/{value}."""
    item = ctx.object(object_name)
    found = _only_match(ctx, item, key_field(item, key_name), value)
    return found if isinstance(found, Answer) else remove(ctx, item.name, found)


def create_by_id_path(ctx: Context, object_name: str) -> Answer:
    """POST sobjects/{object}/Id: an upsert without a key inserts."""
    answer = create(ctx, object_name)
    return Answer(201, {**answer.body, "created": True}, answer.headers)
