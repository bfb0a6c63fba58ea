"""sObject Collections: up to 200 records a call, each with its own outcome.

Source: REST API Developer Guide, "sObject Collections".
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import groupby
from typing import Any

from local_org import deletion, dml
from local_org.catalogue import ObjectType
from local_org.context import Answer, Context, texts
from local_org.dml import Change
from local_org.errors import ApiError, unknown_type
from local_org.ids import to_18
from local_org.record_text import a_list
from local_org.rows import chosen_fields, fetch, key_field, living_texts, visible
from local_org.values import Json

MAX_RECORDS = 200
MAX_RETRIEVED = 2_000
MAX_CHUNKS = 10
NULL = Json("null")

Outcome = dict[str, Any]
Work = tuple[
    ObjectType | ApiError | None, Callable[[Change], Outcome]
]  # what a row of is saved (None: more than that), how
_ROLLED_BACK = ApiError(
    400,
    "ALL_OR_NONE_OPERATION_ROLLED_BACK",
    "Record rolled back because not all records were valid and the request was using AllOrNone header",
    [],
)


class _RollbackError(Exception):
    """Carries the outcomes out of a transaction that must not be kept."""

    def __init__(self, outcomes: list[Outcome]) -> None:
        super().__init__()
        self.outcomes = outcomes


Before = Callable[[Change], AbstractContextManager[None]]


def _carry_out(
    ctx: Context, works: Sequence[Work], *, all_or_none: bool, before: Before = lambda _: nullcontext()
) -> list[Outcome] | Answer:
    """Each piece of work whole or not at all, in one transaction; with all_or_none, a failure undoes them all.

    Inside a Composite request that is all or none, this holds here too, and the failure is that of the subrequest. `before`
    is entered before the first.
    """
    try:
        with ctx.writing() as change, before(change):
            outcomes = [_outcome(change, work) for work in works]
            if (all_or_none or ctx.all_or_none) and not all(outcome["success"] for outcome in outcomes):
                raise _RollbackError(outcomes)
            return outcomes
    except _RollbackError as rollback:
        undone = failure(_ROLLED_BACK, None)
        outcomes = [undone if outcome["success"] else outcome for outcome in rollback.outcomes]
        return Answer(400, outcomes) if ctx.all_or_none else outcomes


def _outcome(change: Change, work: Work) -> Outcome:
    item, do = work
    try:
        with dml.saving(change, None if isinstance(item, ApiError) else item):
            return do(change)
    except ApiError as error:
        return failure(error, None)


def failure(error: ApiError, record_id: str | None) -> Outcome:
    outcome: Outcome = {"success": False, "errors": [error.row_error()]}
    return outcome if record_id is None else {"id": record_id, **outcome}


def success(record_id: str, created: bool | None = None) -> Outcome:
    outcome: Outcome = {"id": record_id, "success": True, "errors": []}
    return outcome if created is None else {**outcome, "created": created}


# -- the envelope


def _records(ctx: Context) -> tuple[list[dict[str, Any]], bool]:
    """The records of the body and its allOrNone. Raises ApiError for a malformed envelope."""
    body = ctx.json_object()
    records = body.get("records")
    if not isinstance(records, list) or not all(isinstance(record, dict) for record in records):
        raise ApiError(400, "JSON_PARSER_ERROR", "The records list is missing or is no list of objects")
    check_size(len(records))
    return records, bool(body.get("allOrNone", False))


def check_size(count: int) -> None:
    if count > MAX_RECORDS:
        text = f"record limit reached. cannot submit more than {MAX_RECORDS} records in this request"
        raise ApiError(400, "EXCEEDED_ID_LIMIT", text)


def type_name(record: dict[str, Any]) -> str:
    """What a record's attributes say it is; "" if they say nothing."""
    attributes = record.get("attributes")
    return str(attributes.get("type", "")) if isinstance(attributes, dict) else ""


def _types(ctx: Context, records: Sequence[dict[str, Any]]) -> list[ObjectType | ApiError]:
    """The object of each record, or the error of that record. Raises ApiError for more than 10 chunks."""
    names = [type_name(record) for record in records]
    if sum(1 for _ in groupby(name.lower() for name in names)) > MAX_CHUNKS:
        text = f"Too many chunks: the records may change their type at most {MAX_CHUNKS - 1} times in one request"
        raise ApiError(400, "EXCEEDED_ID_LIMIT", text)
    return [ctx.catalogue.object(name) or unknown_type(name) for name in names]


def _known(item: ObjectType | ApiError) -> ObjectType:
    if isinstance(item, ApiError):
        raise item
    return item


# -- calls


def create(ctx: Context) -> list[Outcome] | Answer:
    """POST composite/sobjects."""
    records, all_or_none = _records(ctx)

    def work(item: ObjectType | ApiError, record: dict[str, Any]) -> Work:
        return item, lambda change: success(dml.insert(change, _known(item), record))

    items = _types(ctx, records)
    works = [work(item, record) for item, record in zip(items, records, strict=True)]
    return _carry_out(ctx, works, all_or_none=all_or_none)


def update(ctx: Context) -> list[Outcome] | Answer:
    """PATCH composite/sobjects."""
    records, all_or_none = _records(ctx)
    seen: set[str] = set()

    def work(item: ObjectType | ApiError, record: dict[str, Any]) -> Work:
        record_id, values = _split_id(record)
        twice = _seen_before(seen, record_id)
        return item, lambda change: _update_one(ctx, change, _known(item), record_id, values, twice)

    items = _types(ctx, records)
    works = [work(item, record) for item, record in zip(items, records, strict=True)]
    return _carry_out(ctx, works, all_or_none=all_or_none)


def _split_id(record: dict[str, Any]) -> tuple[str | None, dict[str, Any]]:
    ids = [value for name, value in record.items() if name.lower() == "id"]
    values = {name: value for name, value in record.items() if name.lower() != "id"}
    return (str(ids[0]) if ids and ids[0] is not None else None), values


def _seen_before(seen: set[str], record_id: str | None) -> bool:
    key = to_18(record_id or "")
    if key is None:
        return False
    known = key in seen
    seen.add(key)
    return known


def _update_one(
    ctx: Context, change: Change, item: ObjectType, record_id: str | None, values: dict[str, Any], twice: bool
) -> Outcome:
    if record_id is None:
        raise ApiError(400, "MISSING_ARGUMENT", "Id not specified in an update call", [])
    if twice:
        raise ApiError(400, "DUPLICATE_VALUE", f"duplicate id in list: {record_id}", [])
    try:
        with dml.saving(change, item):
            visible(ctx, item, record_id)
            dml.update(change, item, record_id, values)
    except ApiError as error:
        return failure(as_row_error(error), to_18(record_id))
    return success(to_18(record_id) or record_id)


def as_row_error(error: ApiError) -> ApiError:
    """In collections a missing row is a bad reference, not a missing resource."""
    if error.code == "NOT_FOUND":
        return ApiError(400, "INVALID_CROSS_REFERENCE_KEY", "invalid cross reference id", [])
    return error


def upsert(ctx: Context, object_name: str, key_name: str) -> list[Outcome] | Answer:
    """PATCH composite/sobjects/{object}/{field}."""
    item = ctx.object(object_name)
    key = item.fields["id"] if key_name.lower() == "id" else key_field(item, key_name)
    records, all_or_none = _records(ctx)
    seen: set[str] = set()

    def work(record: dict[str, Any]) -> Work:
        named = type_name(record)
        if named and named.lower() != item.name.lower():
            return item, lambda _change: failure(_other_type(named, item), None)
        value = next((v for name, v in record.items() if name.lower() == key.name.lower()), None)
        values = {name: v for name, v in record.items() if name.lower() != key.name.lower()}
        twice = value is not None and str(value).lower() in seen
        seen.add(str(value).lower())
        return item, lambda change: _upsert_one(change, item, key.name, value, values, twice)

    def before(change: Change) -> AbstractContextManager[None]:
        given = (value for record in records for name, value in record.items() if name.lower() == key.name.lower())
        return nullcontext() if key.type == "id" else dml.looking_up(change, item, key, given)

    return _carry_out(ctx, [work(record) for record in records], all_or_none=all_or_none, before=before)


def _other_type(named: str, item: ObjectType) -> ApiError:
    text = f"SObject type in attributes, {named}, does not match the type in the URL, {item.name}"
    return ApiError(400, "INVALID_TYPE", text, [])


def _upsert_one(
    change: Change, item: ObjectType, key_name: str, value: Any, values: dict[str, Any], twice: bool
) -> Outcome:
    key = item.fields[key_name.lower()]
    if value in (None, "") and key.type != "id":
        raise ApiError(400, "MISSING_ARGUMENT", f"{key.name} not specified", [])
    if twice:
        raise ApiError(400, "DUPLICATE_VALUE", f"Duplicate external id specified: {value}", [key.name])
    try:
        record_id, created = dml.upsert(change, item, key, value, values)
    except ApiError as error:
        raise as_row_error(error) from None
    return success(record_id, created)


def delete(ctx: Context) -> list[Outcome] | Answer:
    """DELETE composite/sobjects?ids=a,b&allOrNone=false."""
    ids = [record_id for record_id in ctx.query.get("ids", "").split(",") if record_id]
    if not ids:
        raise ApiError(400, "MISSING_ARGUMENT", "The ids parameter is required")
    check_size(len(ids))

    seen: set[str] = set()

    def work(record_id: str) -> Work:
        twice = _seen_before(seen, record_id)
        return None, lambda change: _delete_one(ctx, change, record_id, twice)

    all_or_none = ctx.query.get("allOrNone", "").lower() == "true"
    return _carry_out(ctx, [work(record_id) for record_id in ids], all_or_none=all_or_none)


def _delete_one(ctx: Context, change: Change, record_id: str, twice: bool) -> Outcome:
    id18 = to_18(record_id)
    item = ctx.catalogue.of_id(id18) if id18 else None
    if id18 is None or item is None:
        return failure(ApiError(400, "MALFORMED_ID", f"malformed id {record_id}", []), None)
    if twice:
        raise ApiError(400, "DUPLICATE_VALUE", f"duplicate id in list: {record_id}", [])
    try:
        with dml.savepoint(change):
            visible(ctx, item, id18)
            deletion.delete(change, item, id18)
    except ApiError as error:
        return failure(as_row_error(error), id18)
    return success(id18)


def retrieve_get(ctx: Context, object_name: str) -> Answer:
    """GET composite/sobjects/{object}?ids=a,b&fields=X,Y."""
    ids = [record_id for record_id in ctx.query.get("ids", "").split(",") if record_id]
    names = [name for name in ctx.query.get("fields", "").split(",") if name]
    return _retrieve(ctx, object_name, ids, names)


def retrieve_post(ctx: Context, object_name: str) -> Answer:
    """POST composite/sobjects/{object} {"ids": […], "fields": […]}."""
    body = ctx.json_object()
    return _retrieve(ctx, object_name, texts(body.get("ids"), "ids"), texts(body.get("fields"), "fields"))


def _retrieve(ctx: Context, object_name: str, ids: Sequence[str], names: Sequence[str]) -> Answer:
    item = ctx.object(object_name)
    if not item.retrieveable:
        raise ApiError(400, "INVALID_TYPE_FOR_OPERATION", f"entity type {item.name} does not support retrieve")
    if len(ids) > MAX_RETRIEVED:
        text = f"record limit reached. cannot submit more than {MAX_RETRIEVED} records in this request"
        raise ApiError(400, "EXCEEDED_ID_LIMIT", text)
    if not names:
        raise ApiError(400, "MISSING_ARGUMENT", "The fields parameter is required")
    wanted = [to_18(record_id) for record_id in ids]
    asked = [id18 for id18 in wanted if id18]
    if ctx.inner:
        found = fetch(ctx, item, asked, chosen_fields(item, names))
        alive = {id18: row.record for id18, row in found.items() if not row.deleted}
        return Answer(200, [alive.get(id18 or "") for id18 in wanted])
    texts = living_texts(ctx, item, asked, chosen_fields(item, names))
    return Answer(200, a_list(texts.get(id18 or "", NULL) for id18 in wanted))
