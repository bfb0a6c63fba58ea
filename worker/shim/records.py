"""The callers' contract: lists and single records from the mirror, writes as actions. Salesforce's own field names throughout.

The four collections have routes of their own; `/objects/{object}` is the same for any object.
"""

import re
from collections.abc import Callable
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Request
from fastapi.responses import JSONResponse

from worker.actions.accept import Intent
from worker.capabilities import question_of
from worker.mirror.question import OPERATORS
from worker.records import (
    COLLECTIONS,
    LARGEST_PAGE,
    Collection,
    create_intent,
    delete_intent,
    list_records,
    read_record,
    update_intent,
)
from worker.shim.answers import Listed, Record, Written, answers, refusals
from worker.shim.auth import Key, Wiring, user_of
from worker.shim.bodies import described, json_body
from worker.shim.envelope import Refusal, ok
from worker.shim.writing import carry_out, idempotency_key, unmodified_since

router = APIRouter(prefix="/api/salesforce", tags=["records"])

FILTER = re.compile(r"([A-Za-z]\w*)(?:\[([a-z]+)\])?", re.ASCII)
LIST_PARAMETERS = ("user_id", "limit", "cursor", "order_by", "fields", "updated_since")
UserId = Annotated[str | None, Query(description="Whose connection. Required.", examples=["u-1"])]
Callback = Annotated[str | None, Query(description="Told when the action is finished or held.")]
Limit = Annotated[int, Query(ge=1, le=LARGEST_PAGE, description="Records at most.")]
Cursor = Annotated[str | None, Query(description="`next_cursor` of the page before.")]
OrderBy = Annotated[str | None, Query(description="A field; `-Field` for descending. Nulls come last.")]
Fields = Annotated[
    str | None, Query(description="Only these fields, separated by commas; Id always.", examples=["Id,Name"])
]
Since = Annotated[
    str | None, Query(description="Only records changed at or after this time.", examples=["2027-03-31T12:00:00Z"])
]
RecordId = Annotated[str, Path(description="15 or 18 characters.")]

OBJECT = {
    "name": "object_name",
    "in": "path",
    "required": True,
    "description": "An object's API name, in any case.",
    "schema": {"type": "string", "examples": ["Case", "Invoice__c"]},
}
FILTERS = {
    "name": "filters",
    "in": "query",
    "required": False,
    "style": "form",
    "explode": True,
    "description": (
        "Filters by field: `StageName=Closed Won`, or with an operator `Amount[gte]=1000`. "
        f"Operators: {', '.join(OPERATORS)} (`in`: values separated by commas; `null`: true or false)."
    ),
    "schema": {"type": "object", "additionalProperties": {"type": "string"}},
}
WRITE_HEADERS = [
    ("Idempotency-Key", "The same key with the same content is the same action, however often it is sent."),
    ("X-Workflow-Execution-Id", "With X-Workflow-Step-Id: stands in for Idempotency-Key."),
    ("X-Workflow-Step-Id", "With X-Workflow-Execution-Id."),
    ("Prefer", "`wait=5`: wait so many seconds (20 at most) for the outcome; `respond-async`: do not wait."),
]
HEADERS = [
    {"name": name, "in": "header", "schema": {"type": "string"}, "description": text} for name, text in WRITE_HEADERS
]
UNMODIFIED = {
    "name": "If-Unmodified-Since",
    "in": "header",
    "schema": {"type": "string"},
    "description": "Only if the record was not changed after this time: else the outcome is CONFLICT.",
}
EXAMPLES: dict[str, dict[str, Any]] = {
    "contacts": {"user_id": "u-1", "LastName": "Ito", "FirstName": "Aiko", "Email": "aiko@ito.example"},
    "accounts": {"user_id": "u-1", "Name": "Ito Trading", "Industry": "Retail"},
    "opportunities": {
        "user_id": "u-1",
        "Name": "Lamps",
        "StageName": "Prospecting",
        "CloseDate": "2027-03-31",
        "Amount": 1200.50,
    },
    "leads": {"user_id": "u-1", "LastName": "Ito", "Company": "Ito Trading"},
}
ANY_EXAMPLE = {"user_id": "u-1", "Subject": "A lamp is broken", "Priority": "High"}
WRITTEN = {
    "id": "003000000000001AAA",
    "success": True,
    "errors": [],
    "action_id": "0b2e5f6c-0d6e-4c62-9f6c-1d0a5e3b7a11",
}
ACCEPTED = {"id": None, "success": None, "errors": [], "action_id": WRITTEN["action_id"], "state": "ready"}


Route = tuple[str, str, Callable[..., Any], str, str]  # path, method, handler, summary, name


def _answered(example: Any, collection: Collection | None) -> Any:
    object_name = collection.object if collection else "Case"
    shown = {name: value for name, value in example.items() if name != "user_id"}
    url = f"/services/data/v62.0/sobjects/{object_name}/003000000000001AAA"
    return {"attributes": {"type": object_name, "url": url}, "Id": "003000000000001AAA", **shown}


def _add(collection: Collection | None) -> None:
    """The routes of one collection; None: those of any object."""
    base = f"/{collection.path}" if collection else "/objects/{object_name}"
    named, plural = (collection.object.lower(), collection.path) if collection else ("record", "records")
    article = "an" if named[0] in "aeiou" else "a"
    example = EXAMPLES[collection.path] if collection else ANY_EXAMPLE
    record = _answered(example, collection)
    page = {plural: [record], "next_cursor": None, "lag_seconds": 4.2, "settled_lag_seconds": 61.0}
    change = {"user_id": "u-1", **dict(list(example.items())[-1:])}
    schema = {
        "type": "object",
        "required": ["user_id", *(collection.required if collection else ())],
        "properties": {"user_id": {"type": "string"}, "callback_url": {"type": "string", "format": "uri"}},
        "additionalProperties": True,
    }
    update = {**schema, "required": ["user_id"]}
    written = {
        **answers(Written, WRITTEN),
        **answers(Written, ACCEPTED, status=202, description="Accepted; not yet decided"),
        **refusals(409, 422),
    }
    one = f"{base}/{{record_id}}"
    lists = (base, "GET", _lister(collection), f"List {plural}", f"list_{plural}")
    creates = (base, "POST", _creator(collection), f"Create {article} {named}", f"create_{named}")
    reads = (one, "GET", _getter(collection), f"One {named}", f"get_{named}")
    changes = [
        (one, method, _updater(collection), f"Change fields of one {named}", f"{method.lower()}_{named}")
        for method in ("PUT", "PATCH")
    ]
    deletes = (one, "DELETE", _deleter(collection), f"Delete one {named}", f"delete_{named}")
    of_object = () if collection else (OBJECT,)

    def add(route: Route, responses: Any, *parameters: dict[str, Any], body: dict[str, Any] | None = None) -> None:
        path, method, handler, summary, name = route
        extra = {**(body or {}), "parameters": [*of_object, *parameters]}
        router.add_api_route(
            path, handler, methods=[method], summary=summary, name=name, responses=responses, openapi_extra=extra
        )

    add(lists, answers(Listed, page), FILTERS)
    add(creates, written, *HEADERS, body=described(schema, example))
    add(reads, answers(Record, record))
    for route in changes:
        add(route, written, *HEADERS, UNMODIFIED, body=described(update, change))
    add(deletes, written, *HEADERS, UNMODIFIED)


def _filters(request: Request) -> dict[str, dict[str, str]]:
    """`Field=value` and `Field[operator]=value` of the query."""
    found: dict[str, dict[str, str]] = {}
    for name, value in request.query_params.multi_items():
        if name in LIST_PARAMETERS:
            continue
        parts = FILTER.fullmatch(name)
        if parts is None:
            raise Refusal.of(
                "VALIDATION_ERROR", f"{name[:80]} is no parameter: filters are Field=value or Field[gte]=value."
            )
        conditions = found.setdefault(parts[1], {})
        operator = parts[2] or "eq"
        if operator in conditions:
            raise Refusal.of(
                "VALIDATION_ERROR", f"{name[:80]} is given twice; use {parts[1]}[in]=a,b for several values."
            )
        conditions[operator] = value
    return found


def _lister(collection: Collection | None) -> Callable[..., JSONResponse]:
    def list_page(  # the parameters stand here for the OpenAPI document; the query itself is read whole
        rt: Wiring,
        caller: Key,
        request: Request,
        user_id: UserId = None,
        limit: Limit = LARGEST_PAGE,  # noqa: ARG001
        cursor: Cursor = None,  # noqa: ARG001
        order_by: OrderBy = None,  # noqa: ARG001
        fields: Fields = None,  # noqa: ARG001
        updated_since: Since = None,  # noqa: ARG001
    ) -> JSONResponse:
        named = user_of(caller, "read", user_id)
        given: dict[str, Any] = {
            name: request.query_params[name] for name in LIST_PARAMETERS if name in request.query_params
        }
        question, ordered = question_of({**given, "filters": _filters(request)}, usual=LARGEST_PAGE)
        listing = list_records(rt.actions, named, _object(request, collection), question, ordered=ordered)
        return ok(
            {
                collection.path if collection else "records": listing.page.records,
                "next_cursor": listing.page.next_cursor,
                "lag_seconds": listing.table.fresh_lag,
                "settled_lag_seconds": listing.table.settled_lag,
            }
        )

    return list_page


def _object(request: Request, collection: Collection | None) -> str:
    return collection.object if collection else str(request.path_params["object_name"])


def _getter(collection: Collection | None) -> Callable[..., JSONResponse]:
    def get_one(
        rt: Wiring, caller: Key, request: Request, record_id: RecordId, user_id: UserId = None, fields: Fields = None
    ) -> JSONResponse:
        named = user_of(caller, "read", user_id)
        question, _ = question_of({} if fields is None else {"fields": fields})
        return ok(read_record(rt.actions, named, _object(request, collection), record_id, question.fields))

    return get_one


def _options(request: Request, callback_url: Any, *, precondition: bool = False) -> dict[str, Any]:
    """What a write is asked for beside its fields."""
    if not isinstance(callback_url, str | None):
        raise Refusal.of("VALIDATION_ERROR", "callback_url is a text.")
    since = {"if_unmodified_since": unmodified_since(request)} if precondition else {}
    return {"idempotency_key": idempotency_key(request), "callback_url": callback_url, **since}


def _creator(collection: Collection | None) -> Callable[..., Any]:
    async def create(request: Request, rt: Wiring, caller: Key) -> JSONResponse:
        fields = await json_body(request)
        user_id = user_of(caller, "write", fields.pop("user_id", None))
        options = _options(request, fields.pop("callback_url", None))
        if collection is None:
            intent = Intent(_object(request, collection), "create", fields, **options)
        else:
            intent = create_intent(collection, fields, **options)
        return await carry_out(request, rt, user_id, intent)

    return create


def _updater(collection: Collection | None) -> Callable[..., Any]:
    async def update(request: Request, rt: Wiring, caller: Key, record_id: RecordId) -> JSONResponse:
        fields = await json_body(request)
        user_id = user_of(caller, "write", fields.pop("user_id", None))
        options = _options(request, fields.pop("callback_url", None), precondition=True)
        intent = update_intent(_object(request, collection), record_id, fields, **options)
        return await carry_out(request, rt, user_id, intent)

    return update


def _deleter(collection: Collection | None) -> Callable[..., Any]:
    async def delete(
        request: Request,
        rt: Wiring,
        caller: Key,
        record_id: RecordId,
        user_id: UserId = None,
        callback_url: Callback = None,
    ) -> JSONResponse:
        named = user_of(caller, "write", user_id)
        options = _options(request, callback_url, precondition=True)
        intent = delete_intent(_object(request, collection), record_id, **options)
        return await carry_out(request, rt, named, intent)

    return delete


for _collection in (*COLLECTIONS.values(), None):
    _add(_collection)
