"""The service registry: what `salesforce_service` can do, how it stands, and doing it by name."""

from typing import Annotated, Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse
from pydantic import Field
from starlette.concurrency import run_in_threadpool

from worker.access import Caller
from worker.capabilities import CAPABILITIES, COMMANDS, Capability, Result, execute, find, find_command
from worker.checks import is_somebodys, look, overall
from worker.runtime import Runtime
from worker.shim.answers import Shape, answers, refusals
from worker.shim.auth import Key, Wiring, require, user_of
from worker.shim.bodies import Body, body_of, described
from worker.shim.envelope import ok
from worker.shim.records import HEADERS
from worker.shim.writing import answer_of, idempotency_key, written

router = APIRouter(prefix="/api/services", tags=["services"])

SERVICE = "salesforce_service"
WORKFLOW_TRIGGERS = ("manual_trigger", "scheduled_trigger")
WORKFLOW_ACTIONS = ("execute_service", "process_data")


class Execute(Body):
    """Which capability, for whom, with what."""

    capability: str
    user_id: str
    parameters: dict[str, Any] = Field(default={})
    callback_url: str | None = Field(default=None, description="Of a write: told when it is finished or held.")


class Chat(Body):
    """What a person said to the assistant."""

    command: str
    user_id: str
    parameters: dict[str, Any] = Field(default={})


class Service(Shape):
    """One service."""

    id: str
    name: str
    type: str
    status: str
    capabilities: list[Any]
    workflow_triggers: list[str]
    workflow_actions: list[str]
    chat_commands: list[str]


class Services(Shape):
    """All services."""

    services: list[Service]


class Executed(Shape):
    """What a capability answered: of a read its data, of a write what a create or update answers."""


class Said(Shape):
    """What the chat shows, and the data behind it."""

    command: str
    message: str
    data: Any


SERVICE_EXAMPLE = {
    "id": SERVICE,
    "name": "Salesforce",
    "type": "integration",
    "status": "healthy",
    "capabilities": [
        {"name": "list_contacts", "summary": "Contacts by name", "scope": "read", "parameters": {"type": "object"}}
    ],
    "workflow_triggers": list(WORKFLOW_TRIGGERS),
    "workflow_actions": list(WORKFLOW_ACTIONS),
    "chat_commands": list(COMMANDS),
}


@router.get("", summary="List services", responses=answers(Services, {"services": [SERVICE_EXAMPLE]}))
def list_services(rt: Wiring, caller: Key) -> JSONResponse:
    """There is one."""
    require(caller, "read")
    return ok({"services": [_service(rt)]})


@router.get(f"/{SERVICE}", summary="What the Salesforce service can do", responses=answers(Service, SERVICE_EXAMPLE))
def get_service(rt: Wiring, caller: Key) -> JSONResponse:
    """Capabilities with their parameters, triggers, workflow actions, chat commands, and the present health."""
    require(caller, "read")
    return ok(_service(rt))


def _service(rt: Runtime) -> dict[str, Any]:
    checks = look(rt.database, rt.settings)
    return {
        "id": SERVICE,
        "name": "Salesforce",
        "type": "integration",
        "description": "A local copy of Salesforce that is always right, and writes that are carried out exactly once",
        "status": overall([one for one in checks if not is_somebodys(one)]),
        "capabilities": [_shown(one) for one in CAPABILITIES.values()],
        "workflow_triggers": list(WORKFLOW_TRIGGERS),
        "workflow_actions": list(WORKFLOW_ACTIONS),
        "chat_commands": list(COMMANDS),
    }


def _shown(one: Capability) -> dict[str, Any]:
    return {"name": one.name, "summary": one.summary, "scope": one.scope, "parameters": one.parameters}


@router.post(
    f"/{SERVICE}/execute",
    summary="Execute a capability by name",
    responses={
        **answers(Executed, {"contacts": [], "next_cursor": None, "lag_seconds": 4.2, "settled_lag_seconds": 61.0}),
        **answers(Executed, status=202, description="A write that is accepted and not yet decided"),
        **refusals(409, 422),
    },
    openapi_extra={
        **described(Execute, {"capability": "list_contacts", "user_id": "u-1", "parameters": {"limit": 10}}),
        "parameters": HEADERS,
    },
)
async def execute_capability(
    request: Request, rt: Wiring, caller: Key, body: Annotated[Execute, body_of(Execute)]
) -> JSONResponse:
    """A read answers with its data; a write waits for its outcome and answers as a create or update does."""
    known = find(body.capability)
    result = await _execute(request, rt, caller, known, body.user_id, body.parameters, body.callback_url)
    return ok(result.data) if result.action_id is None else await answer_of(request, rt, result.action_id)


@router.post(
    f"/{SERVICE}/chat",
    summary="Execute a chat command",
    responses={
        **answers(
            Said, {"command": "use salesforce", "message": "Connected to Salesforce as aiko@ito.example.", "data": {}}
        ),
        **answers(Said, status=202, description="A write that is accepted and not yet decided"),
        **refusals(409, 422),
    },
    openapi_extra={
        **described(
            Chat, {"command": "create salesforce account", "user_id": "u-1", "parameters": {"Name": "Ito Trading"}}
        ),
        "parameters": HEADERS,
    },
)
async def chat(request: Request, rt: Wiring, caller: Key, body: Annotated[Chat, body_of(Chat)]) -> JSONResponse:
    """`use salesforce`, `access salesforce`, `get salesforce contacts`, `create salesforce account` (parameter Name)."""
    command = find_command(body.command)
    result = await _execute(request, rt, caller, find(command.capability), body.user_id, body.parameters, None)
    data, status = result.data, 200
    if result.action_id is not None:
        data, status = await written(request, rt, result.action_id)
    return ok({"command": command.text, "message": command.say(data), "data": data}, status)


async def _execute(
    request: Request,
    rt: Runtime,
    caller: Caller,
    capability: Capability,
    user_id: str,
    parameters: dict[str, Any],
    callback_url: str | None,
) -> Result:
    named = user_of(caller, capability.scope, user_id)
    return await run_in_threadpool(
        execute,
        rt.actions,
        capability.name,
        named,
        parameters,
        source="http",
        idempotency_key=idempotency_key(request),
        callback_url=callback_url,
    )
