"""The callers' contract: lists and single records from the mirror, writes as actions. Salesforce's own field names throughout."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.responses import JSONResponse

from worker.actions.accept import Intent
from worker.mirror.deps import STEP
from worker.mirror.read import Table, find_table, get_record, list_records
from worker.mirror.requests import ensure_mirror, request_run
from worker.runtime import Runtime
from worker.salesforce.ids import to_18
from worker.shim.auth import Key, Wiring
from worker.shim.envelope import Refusal, ok
from worker.shim.writing import carry_out, connection_of, idempotency_key, json_body, user_of

router = APIRouter(prefix="/api/salesforce", tags=["records"])

LARGEST_PAGE = 2000
READABLE = ("live", "paused")  # a mirror that holds a whole copy
UserId = Annotated[str | None, Query(description="Whose connection.")]
Limit = Annotated[int, Query(ge=1, le=LARGEST_PAGE, description="Records at most.")]
Cursor = Annotated[str | None, Query(pattern=r"^\d{1,12}$", description="next_cursor of the page before.")]


@dataclass(frozen=True, slots=True)
class Collection:
    """One family of routes. `required` and `missing`: what a create must have, and what it is told otherwise."""

    path: str
    object: str
    order_by: str
    descending: bool
    required: tuple[str, ...]
    missing: str
    example: dict[str, Any]


COLLECTIONS = (
    Collection(
        "contacts",
        "Contact",
        "name",
        False,
        ("LastName",),
        "LastName is required to create a contact.",
        {"user_id": "u-1", "LastName": "Ito", "FirstName": "Aiko", "Email": "aiko@ito.example"},
    ),
    Collection(
        "accounts",
        "Account",
        "name",
        False,
        ("Name",),
        "Name is required to create an account.",
        {"user_id": "u-1", "Name": "Ito Trading", "Industry": "Retail"},
    ),
    Collection(
        "opportunities",
        "Opportunity",
        "closedate",
        True,
        ("Name", "StageName", "CloseDate"),
        "Name, StageName, and CloseDate are required to create an opportunity.",
        {"user_id": "u-1", "Name": "Lamps", "StageName": "Prospecting", "CloseDate": "2027-03-31", "Amount": 1200.50},
    ),
    Collection(
        "leads",
        "Lead",
        "name",
        False,
        ("LastName", "Company"),
        "LastName and Company are required to create a lead.",
        {"user_id": "u-1", "LastName": "Ito", "Company": "Ito Trading"},
    ),
)


def _add(collection: Collection) -> None:
    """The routes of one collection."""
    path, one = f"/{collection.path}", f"/{collection.path}/{{record_id}}"
    body = _body(collection.example)
    update = _body({"user_id": "u-1", **dict(list(collection.example.items())[-1:])})
    name = collection.object.lower()
    add: Callable[..., None] = router.add_api_route
    add(path, _lister(collection), methods=["GET"], summary=f"List {collection.path}", name=f"list_{name}")
    add(
        path,
        _creator(collection),
        methods=["POST"],
        summary=f"Create a {name}",
        openapi_extra=body,
        name=f"create_{name}",
    )
    add(one, _getter(collection), methods=["GET"], summary=f"One {name}", name=f"get_{name}")
    for method in ("PUT", "PATCH"):
        add(
            one,
            _updater(collection),
            methods=[method],
            summary=f"Change fields of one {name}",
            openapi_extra=update,
            name=f"{method.lower()}_{name}",
        )
    add(one, _deleter(collection), methods=["DELETE"], summary=f"Delete one {name}", name=f"delete_{name}")


def _body(example: dict[str, Any]) -> dict[str, Any]:
    schema = {"type": "object", "required": ["user_id"], "properties": {"user_id": {"type": "string"}}}
    content = {"application/json": {"schema": {**schema, "additionalProperties": True}, "example": example}}
    return {"requestBody": {"required": True, "content": content}}


def _lister(collection: Collection) -> Callable[..., JSONResponse]:
    def list_page(
        rt: Wiring, caller: Key, user_id: UserId = None, limit: Limit = LARGEST_PAGE, cursor: Cursor = None
    ) -> JSONResponse:
        table = _table(rt, connection_of(rt, user_of(caller, "read", user_id)), collection.object)
        start = int(cursor or 0)
        with rt.database.transaction() as session:
            records = list_records(
                session,
                table,
                order_by=collection.order_by,
                descending=collection.descending,
                limit=limit + 1,
                offset=start,
            )
        following = str(start + limit) if len(records) > limit else None
        return ok(
            {collection.path: records[:limit], "next_cursor": following, "lag_seconds": table.fresh_lag},
        )

    return list_page


def _getter(collection: Collection) -> Callable[..., JSONResponse]:
    def get_one(rt: Wiring, caller: Key, record_id: str, user_id: UserId = None) -> JSONResponse:
        table = _table(rt, connection_of(rt, user_of(caller, "read", user_id)), collection.object)
        with rt.database.transaction() as session:
            record = get_record(session, table, _id(record_id))
        if record is None:
            raise Refusal(404, "NOT_FOUND", f"The mirror has no {collection.object} {record_id}.")
        return ok(record)

    return get_one


def _creator(collection: Collection) -> Callable[..., Any]:
    async def create(request: Request, rt: Wiring, caller: Key) -> JSONResponse:
        fields = await json_body(request)
        user_id = user_of(caller, "write", fields.pop("user_id", None))
        if any(fields.get(name) in (None, "") for name in collection.required):
            raise Refusal(400, "VALIDATION_ERROR", collection.missing)
        intent = Intent(collection.object, "create", fields, idempotency_key=idempotency_key(request))
        return await carry_out(request, rt, user_id, intent)

    return create


def _updater(collection: Collection) -> Callable[..., Any]:
    async def update(request: Request, rt: Wiring, caller: Key, record_id: str) -> JSONResponse:
        fields = await json_body(request)
        user_id = user_of(caller, "write", fields.pop("user_id", None))
        if not fields:
            raise Refusal(400, "VALIDATION_ERROR", "At least one field is required to update a record.")
        key = idempotency_key(request)
        intent = Intent(collection.object, "update", fields, record_id=_id(record_id), idempotency_key=key)
        return await carry_out(request, rt, user_id, intent)

    return update


def _deleter(collection: Collection) -> Callable[..., Any]:
    async def delete(request: Request, rt: Wiring, caller: Key, record_id: str, user_id: UserId = None) -> JSONResponse:
        named = user_of(caller, "write", user_id)
        key = idempotency_key(request)
        intent = Intent(collection.object, "delete", record_id=_id(record_id), idempotency_key=key)
        return await carry_out(request, rt, named, intent)

    return delete


def _id(record_id: str) -> str:
    try:
        return to_18(record_id)
    except ValueError:
        raise Refusal(400, "VALIDATION_ERROR", "The id in the path is no Salesforce record id.") from None


def _table(rt: Runtime, connection_id: int, object_name: str) -> Table:
    """The mirror; when there is no whole copy yet it is asked for, and the caller told to come again."""
    with rt.database.transaction() as session:
        table = find_table(session, connection_id, object_name, version=rt.settings.salesforce_api_version)
        if table is not None and table.state in READABLE:
            return table
        mirror_id = ensure_mirror(session, connection_id, object_name, refresh_seconds=rt.settings.refresh_seconds)
        run_id = request_run(session, mirror_id, "load", "manual")
    rt.wake(STEP, run_id, "backfill")
    message = f"{object_name} is being mirrored for the first time; try again."
    raise Refusal(503, "MIRROR_NOT_READY", message, {"object": object_name}, headers={"Retry-After": "5"})


for _collection in COLLECTIONS:
    _add(_collection)
