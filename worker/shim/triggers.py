"""Triggers over HTTP: add, look, change, fire, remove."""

from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.responses import JSONResponse
from starlette.concurrency import run_in_threadpool

from worker.access import Caller
from worker.capabilities import CAPABILITIES
from worker.runtime import Runtime
from worker.shim.answers import Shape, answers, refusals
from worker.shim.auth import Key, Wiring, require, user_of, users_of
from worker.shim.bodies import json_body
from worker.shim.envelope import NOT_CONNECTED, Refusal, ok
from worker.shim.writing import idempotency_key
from worker.triggers import fire, store
from worker.triggers.store import ASKED, Asked, FaultyTriggerError, NameTakenError

router = APIRouter(prefix="/api/salesforce/triggers", tags=["triggers"])

SCOPE = "trigger"
UPCOMING = 5  # due times shown
TYPES: dict[str, tuple[type, ...]] = {
    "name": (str,),
    "type": (str,),
    "workflow_action": (str,),
    "cron": (str,),
    "time_zone": (str,),
    "every_seconds": (int, float),
    "capability": (str,),
    "parameters": (dict,),
    "actions": (list,),
    "objects": (list,),
    "missed": (str,),
    "missed_limit": (int,),
    "grace_seconds": (int, float),
    "overlap": (str,),
    "enabled": (bool,),
}
EXAMPLE = {
    "user_id": "u-1",
    "name": "nightly",
    "type": "scheduled_trigger",
    "cron": "0 2 * * *",
    "time_zone": "Europe/Berlin",
    "workflow_action": "process_data",
    "objects": ["Contact", "Account"],
}
BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {"application/json": {"schema": {"type": "object"}, "example": EXAMPLE}},
    }
}

FIRE_BODY: dict[str, Any] = {
    "requestBody": {
        "required": False,
        "content": {
            "application/json": {
                "schema": {"type": "object", "properties": {"parameters": {"type": "object"}}},
                "example": {"parameters": {}},
            }
        },
    }
}
TRIGGER = {"id": 1, **EXAMPLE, "enabled": True, "upcoming": ["2027-03-31T00:00:00Z"]}
FIRING = {"id": 7, "trigger_id": 1, "cause": "manual", "state": "ready", "repeated": False}


class TriggerShape(Shape):
    """One trigger."""

    id: int
    user_id: str
    name: str
    type: str
    workflow_action: str
    enabled: bool


class Triggers(Shape):
    """Triggers of the users that the key may act for."""

    triggers: list[TriggerShape]


class FiringShape(Shape):
    """One firing and how far its work is."""

    id: int
    state: str
    repeated: bool


class RemovedShape(Shape):
    """A trigger that is gone."""

    id: int
    removed: bool


@router.get("", summary="List triggers", responses=answers(Triggers, {"triggers": [TRIGGER]}))
def list_triggers(
    rt: Wiring,
    caller: Key,
    user_id: Annotated[
        str | None, Query(description="Whose; none given: everybody's that the key may act for.")
    ] = None,
) -> JSONResponse:
    """Triggers of the users that the key may act for, each with its last firing."""
    users = users_of(caller, SCOPE, user_id)
    with rt.database.transaction() as session:
        return ok({"triggers": [_json(one) for one in store.shown(session, users=users)]})


@router.post(
    "",
    summary="Add a trigger",
    status_code=201,
    openapi_extra=BODY,
    responses={**answers(TriggerShape, TRIGGER, status=201), **refusals(409)},
)
async def add_trigger(request: Request, rt: Wiring, caller: Key) -> JSONResponse:
    """Scheduled by `cron` (with `time_zone`) or `every_seconds`, or manual; executes a service or refreshes data."""
    body = await json_body(request)
    user_id = user_of(caller, SCOPE, body.pop("user_id", None))
    given = _checked_types(body)
    for name in ("name", "type", "workflow_action"):
        if name not in given:
            raise Refusal.of("VALIDATION_ERROR", f"{name} is required.")
    asked = Asked(**given)
    _require_scope_of_work(caller, asked)
    return await run_in_threadpool(_add, rt, user_id, asked)


def _add(rt: Runtime, user_id: str, asked: Asked) -> JSONResponse:
    now = rt.now()
    try:
        new = store.checked(asked, now, rt.triggers.capabilities)
        with rt.database.transaction() as session:
            connection_id = store.connection_of(session, user_id)
            if connection_id is None:
                raise Refusal.of("AUTH_ERROR", NOT_CONNECTED)
            trigger_id = store.add(session, connection_id, new, now).id
    except (FaultyTriggerError, NameTakenError) as error:
        raise _refusal(error) from None
    return _shown(rt, trigger_id, status=201)


@router.get(
    "/{trigger_id}",
    summary="One trigger, its next due times and its last firings",
    responses=answers(TriggerShape, TRIGGER),
)
def get_trigger(
    rt: Wiring, caller: Key, trigger_id: int, firings: Annotated[int, Query(ge=0, le=store.FIRINGS_SHOWN)] = 20
) -> JSONResponse:
    """`upcoming`: the next five due times; `firings`: the history, newest first, with the runs and actions that they caused."""
    _allowed(rt, caller, trigger_id)
    return _shown(rt, trigger_id, firings=firings)


@router.patch(
    "/{trigger_id}",
    summary="Change a trigger",
    openapi_extra=BODY,
    responses={**answers(TriggerShape, TRIGGER), **refusals(409)},
)
async def change_trigger(request: Request, rt: Wiring, caller: Key, trigger_id: int) -> JSONResponse:
    """Only what is given changes; a schedule or work replaces the former one. `enabled` switches it on or off."""
    given = await _given(request)
    return await run_in_threadpool(_change, rt, caller, trigger_id, given, False)


@router.put(
    "/{trigger_id}",
    summary="Replace a trigger",
    openapi_extra=BODY,
    responses={**answers(TriggerShape, TRIGGER), **refusals(409)},
)
async def replace_trigger(request: Request, rt: Wiring, caller: Key, trigger_id: int) -> JSONResponse:
    """What is not given goes back to its default."""
    given = await _given(request)
    return await run_in_threadpool(_change, rt, caller, trigger_id, given, True)


async def _given(request: Request) -> dict[str, Any]:
    body = await json_body(request)
    body.pop("user_id", None)  # a trigger stays its user's
    return _checked_types(body)


def _change(rt: Runtime, caller: Caller, trigger_id: int, given: dict[str, Any], whole: bool) -> JSONResponse:
    _allowed(rt, caller, trigger_id)
    if whole and (missing := sorted({"name", "type", "workflow_action"} - given.keys())):
        raise Refusal.of("VALIDATION_ERROR", f"{missing[0]} is required.")
    allow, able = partial(_require_scope_of_work, caller), rt.triggers.capabilities
    try:
        with rt.database.transaction() as session:
            changed = store.alter(session, trigger_id, given, rt.now(), able, whole=whole, allow=allow)
    except (FaultyTriggerError, NameTakenError) as error:
        raise _refusal(error) from None
    if changed is None:
        raise _unknown()
    return _shown(rt, trigger_id)


@router.delete("/{trigger_id}", summary="Remove a trigger", responses=answers(RemovedShape, {"id": 1, "removed": True}))
def remove_trigger(rt: Wiring, caller: Key, trigger_id: int) -> JSONResponse:
    """It is forgotten with its history; what it has started goes on."""
    _allowed(rt, caller, trigger_id)
    with rt.database.transaction() as session:
        store.remove(session, trigger_id)
    return ok({"id": trigger_id, "removed": True})


@router.post(
    "/{trigger_id}/fire",
    summary="Fire a trigger now",
    openapi_extra=FIRE_BODY,
    responses={
        **answers(FiringShape, FIRING, description="It was fired before, with the same key"),
        **answers(FiringShape, FIRING, status=202, description="Fired"),
        **refusals(409),
    },
)
async def fire_trigger(request: Request, rt: Wiring, caller: Key, trigger_id: int) -> JSONResponse:
    """`parameters` fill the trigger's work; an `Idempotency-Key` makes a repeated request fire once."""
    body = await json_body(request) if await request.body() else {}
    parameters = body.get("parameters", {})
    if not isinstance(parameters, dict):
        raise Refusal.of("VALIDATION_ERROR", "parameters must be an object.")
    key = idempotency_key(request)
    return await run_in_threadpool(_fire, rt, caller, trigger_id, parameters, key)


def _fire(rt: Runtime, caller: Caller, trigger_id: int, parameters: dict[str, Any], key: str | None) -> JSONResponse:
    _allowed(rt, caller, trigger_id)
    try:
        fired = fire.fire(rt.triggers, trigger_id, parameters, key, rt.now())
    except fire.KeyReusedError:
        message = "This idempotency key was used before with other parameters."
        raise Refusal.of("IDEMPOTENCY_KEY_REUSED", message) from None
    except fire.NotEnabledError as error:
        raise Refusal.of("WRONG_STATE", _sentence(error)) from None
    except FaultyTriggerError as error:
        raise _refusal(error) from None
    if fired is None:
        raise _unknown()
    with rt.database.transaction() as session:
        found = store.firing(session, fired.id)
    if found is None:
        raise _unknown()
    return ok({**_json(found), "repeated": fired.repeated}, 200 if fired.repeated else 202)


def _allowed(rt: Runtime, caller: Caller, trigger_id: int) -> dict[str, Any]:
    """The trigger, if the caller may know of it: another user's is as good as none."""
    require(caller, SCOPE)
    with rt.database.transaction() as session:
        found = store.shown(session, trigger_id=trigger_id) if 0 < trigger_id < 2**63 else []
    if not found or not caller.may_act_for(found[0]["user_id"]):
        raise _unknown()
    return found[0]


def _require_scope_of_work(caller: Caller, asked: Asked) -> None:
    """Who may not write must not write by way of a trigger. To fire what others made, `trigger` is enough."""
    if asked.workflow_action == "execute_service":
        known = CAPABILITIES.get(asked.capability) if asked.capability is not None else None
        require(caller, known.scope if known else "write")


def _checked_types(body: dict[str, Any]) -> dict[str, Any]:
    if unknown := sorted(body.keys() - ASKED):
        raise Refusal.of("VALIDATION_ERROR", f"{unknown[0]} is not known; known are {', '.join(sorted(ASKED))}.")
    given = {name: value for name, value in body.items() if value is not None}
    for name, value in given.items():
        number = float(value) if name.endswith("_seconds") and _is_number(value) else value
        if not isinstance(number, TYPES[name]) or (isinstance(value, bool) and name != "enabled"):
            raise Refusal.of("VALIDATION_ERROR", f"{name} must be of type {TYPES[name][-1].__name__}.")
        given[name] = number
    return given


def _is_number(value: Any) -> bool:
    return not isinstance(value, bool | str | list | dict)


def _shown(rt: Runtime, trigger_id: int, *, status: int = 200, firings: int = 0) -> JSONResponse:
    with rt.database.transaction() as session:
        found = store.find(session, trigger_id)
        shown = store.shown(session, trigger_id=trigger_id)
        if found is None or not shown:
            raise _unknown()
        upcoming = store.upcoming(found[0], rt.now(), UPCOMING) if found[0].enabled else []
        history = store.firings(session, trigger_id, firings) if firings else []
    more = {"firings": [_json(one) for one in history]} if firings else {}
    return ok({**_json(shown[0]), "upcoming": [_iso(at) for at in upcoming], **more}, status)


def _json(row: dict[str, Any]) -> dict[str, Any]:
    plain = {name: _iso(value) if hasattr(value, "isoformat") else value for name, value in row.items()}
    return plain | ({"action_ids": [str(one) for one in row["action_ids"]]} if "action_ids" in row else {})


def _iso(at: Any) -> str:
    return str(at.isoformat()).replace("+00:00", "Z")


def _unknown() -> Refusal:
    return Refusal.of("NOT_FOUND", "There is no such trigger.")


def _refusal(error: Exception) -> Refusal:
    code = "NAME_TAKEN" if isinstance(error, NameTakenError) else "VALIDATION_ERROR"
    return Refusal.of(code, _sentence(error))


def _sentence(error: Exception) -> str:
    """The error as a sentence; the name of a field stays as it is written."""
    text = str(error)
    return f"{text if text.split()[0] in ASKED else text[:1].upper() + text[1:]}."
