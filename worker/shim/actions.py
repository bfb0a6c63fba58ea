"""Actions as such: asking for many at once, what became of them; giving one up, sending one again."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal
from uuid import UUID

from fastapi import APIRouter, Query, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field
from starlette.concurrency import run_in_threadpool

from worker.access import Caller
from worker.actions import decide, store
from worker.actions.deps import ActionDeps
from worker.records import read_action
from worker.runtime import Runtime
from worker.shim import many
from worker.shim.answers import Shape, answers, refusals
from worker.shim.auth import Key, Wiring, require, user_of, users_of
from worker.shim.bodies import NDJSON, check, described, json_body, media_type
from worker.shim.envelope import Refusal, ok
from worker.shim.shown import plain
from worker.shim.writing import idempotency_key, wait_seconds

router = APIRouter(prefix="/api/salesforce/actions", tags=["actions"])

State = Literal["waiting", "ready", "sending", "in_doubt", "delivered", "rejected", "conflict", "held", "cancelled"]
States = Annotated[list[State] | None, Query(description="Only in these states.")]
UserId = Annotated[str | None, Query(description="Whose; none given: everybody's that the key may act for.")]
LARGEST_PAGE = 1000


@dataclass(frozen=True, slots=True)
class Limits:
    """How large a request's body may be, by its path: in bytes."""

    usual: int
    batch: int

    def __call__(self, path: str) -> int:
        return self.batch if path == router.prefix else self.usual


class AskedAction(BaseModel):
    """One write. `record_id` for update and delete; `external_id_field` and `external_id` for upsert."""

    object: str
    operation: Literal["create", "update", "upsert", "delete"]
    fields: dict[str, Any] = {}
    record_id: str | None = None
    external_id_field: str | None = None
    external_id: str | None = None
    idempotency_key: str | None = None
    order_key: str | None = Field(default=None, description="Actions of one object with the same key keep their order.")
    priority: int = 0
    after_failure: Literal["go_on", "wait"] = "go_on"
    mergeable: bool = False
    if_unmodified_since: str | None = None
    parents: dict[str, str] = Field(
        default={}, description="Field → the create whose record's id goes there: its action id or idempotency key."
    )
    callback_url: str | None = None


class AskedActions(BaseModel):
    """Up to 10,000 writes."""

    user_id: str
    actions: list[AskedAction] = Field(min_length=1)
    only_valid: bool = Field(default=False, description="Store what is right even if something else is wrong.")
    callback_url: str | None = Field(default=None, description="For every action that names none.")


class ActionShape(Shape):
    """One action."""

    id: str
    user_id: str
    object: str
    operation: str
    state: str
    outcome: Any
    error: Any


class Actions(Shape):
    """Actions, newest first."""

    actions: list[ActionShape]


class Accepted(Shape):
    """What was stored, by place in the request from 0, and what was wrong."""

    accepted: int
    actions: list[Any]
    errors: list[Any]


ACTION = {
    "id": "0b2e5f6c-0d6e-4c62-9f6c-1d0a5e3b7a11",
    "user_id": "u-1",
    "object": "Contact",
    "operation": "create",
    "fields": {"LastName": "Ito"},
    "state": "delivered",
    "record_id": "003000000000001AAA",
    "attempts": 1,
    "outcome": {"id": "003000000000001AAA", "success": True, "created": True},
    "error": None,
}
MANY = {
    "user_id": "u-1",
    "actions": [
        {"object": "Account", "operation": "create", "fields": {"Name": "Ito Trading"}, "idempotency_key": "a-1"},
        {"object": "Contact", "operation": "create", "fields": {"LastName": "Ito"}, "parents": {"AccountId": "a-1"}},
    ],
}
ACCEPTED = {
    "accepted": 2,
    "actions": [
        {"position": 0, "id": ACTION["id"], "repeated": False},
        {"position": 1, "id": ACTION["id"], "repeated": False},
    ],
    "errors": [],
}


@router.post(
    "",
    summary="Ask for many writes at once",
    status_code=202,
    responses={
        **answers(Accepted, ACCEPTED, status=202, description="Stored; `Prefer: wait=` waits for the outcomes"),
        **answers(Accepted, ACCEPTED, description="Stored, and every outcome is there"),
        **refusals(409, 422),
    },
    openapi_extra={
        **described(AskedActions, MANY, "application/json", "application/x-ndjson"),
        "parameters": [
            {
                "name": "Idempotency-Key",
                "in": "header",
                "schema": {"type": "string"},
                "description": "For all: an action without a key of its own gets this one and its position.",
            }
        ],
    },
)
async def ask_for_many(
    request: Request,
    rt: Wiring,
    caller: Key,
    user_id: Annotated[str | None, Query(description="With NDJSON: whose.")] = None,
    only_valid: Annotated[bool, Query(description="With NDJSON, see the body.")] = False,
    callback_url: Annotated[str | None, Query(description="With NDJSON, see the body.")] = None,
) -> JSONResponse:
    """All or none is stored, in this order; every fault of every action is told with its position. NDJSON: one action a line."""
    require(caller, "write")
    if media_type(request) in NDJSON:
        raw = await request.body()
        asked = await run_in_threadpool(many.from_lines, raw, user_id, only_valid=only_valid, callback_url=callback_url)
    else:
        asked = check(many.Asked, await json_body(request))
    named = user_of(caller, "write", asked.user_id)
    sorted_ = await run_in_threadpool(many.accept_many, rt.actions, named, asked, idempotency_key(request))
    ids = [one.id for one in sorted_.accepted.values()]
    seconds = wait_seconds(request, 0.0)
    if seconds and ids:
        await request.app.state.outcomes.wait(ids, seconds)
    data, settled = await run_in_threadpool(many.shown, rt.actions, sorted_, with_states=bool(seconds))
    return ok(data, 200 if settled else 202)


@router.get("", summary="List actions, newest first", responses=answers(Actions, {"actions": [ACTION]}))
def list_actions(
    rt: Wiring,
    caller: Key,
    user_id: UserId = None,
    state: States = None,
    object_name: Annotated[str | None, Query(alias="object", description="Only of this object.")] = None,
    idempotency_key: Annotated[str | None, Query(description="The action with this key.")] = None,
    cursor: Annotated[str | None, Query(description="`next_cursor` of the page before.")] = None,
    limit: Annotated[int, Query(ge=1, le=LARGEST_PAGE)] = 100,
) -> JSONResponse:
    """Actions of the users that the key may act for. `state=held`: those for which a person must decide."""
    users = users_of(caller, "read", user_id)
    with rt.database.transaction() as session:
        found = store.find(
            session,
            user_ids=users,
            states=state or (),
            object_name=object_name,
            idempotency_key=idempotency_key,
            before=many.read_cursor(cursor),
            limit=limit + 1,
        )
    following = many.make_cursor(found[limit - 1]) if len(found) > limit else None
    return ok({"actions": [shown(one) for one in found[:limit]], "next_cursor": following})


@router.get("/{action_id}", summary="What became of an action", responses=answers(ActionShape, ACTION))
def get_action(rt: Wiring, caller: Key, action_id: UUID) -> JSONResponse:
    """Its state, its outcome or the org's error, its attempts."""
    return ok(shown(_allowed(rt, caller, "read", action_id)))


@router.post(
    "/{action_id}/cancel",
    summary="Give up an action that is not under way",
    responses={**answers(ActionShape, ACTION | {"state": "cancelled", "outcome": None}), **refusals(409)},
)
def cancel_action(rt: Wiring, caller: Key, action_id: UUID) -> JSONResponse:
    """Only one that is waiting, ready or held."""
    return _decide(rt, caller, action_id, decide.cancel)


@router.post(
    "/{action_id}/retry",
    summary="Send a held or rejected action again",
    responses={**answers(ActionShape, ACTION | {"state": "ready", "outcome": None}), **refusals(409)},
)
def retry_action(rt: Wiring, caller: Key, action_id: UUID) -> JSONResponse:
    """It goes to the end of its record's line."""
    return _decide(rt, caller, action_id, decide.retry)


def _decide(rt: Runtime, caller: Caller, action_id: UUID, decision: Callable[[ActionDeps, UUID], bool]) -> JSONResponse:
    _allowed(rt, caller, "write", action_id)
    try:
        decision(rt.actions, action_id)
    except decide.UndecidableError as error:
        raise Refusal.of("WRONG_STATE", f"{error}.") from None
    return ok(shown(_allowed(rt, caller, "write", action_id)))


def _allowed(rt: Runtime, caller: Caller, scope: str, action_id: UUID) -> dict[str, Any]:
    """The action, if the caller may know of it: another user's is as good as none."""
    require(caller, scope)
    action = read_action(rt.actions, action_id)
    if action is None or not caller.may_act_for(action["user_id"]):
        raise Refusal.of("NOT_FOUND", "There is no such action.")
    return action


def shown(action: dict[str, Any]) -> dict[str, Any]:
    """An action as JSON shows it."""
    return plain(action, without=("connection_id",))
