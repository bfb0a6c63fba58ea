"""What all routes that write share: reading the request, accepting the action, waiting for its outcome, wording the answer."""

import re
from typing import Any
from uuid import UUID

from fastapi import Request
from fastapi.responses import JSONResponse
from sqlalchemy import select
from starlette.concurrency import run_in_threadpool

from models.connection import Connection
from worker.access import Caller
from worker.actions import exact, store
from worker.actions.accept import FaultyError, Intent, KeyReusedError, accept
from worker.runtime import Runtime
from worker.shim.auth import require
from worker.shim.envelope import Refusal, not_connected, ok
from worker.shim.waiting import Outcomes

LONGEST_WAIT_SECONDS = 20.0  # shorter than the grace of a shutdown
WAIT = re.compile(r"(?:^|[,;\s])wait\s*=\s*\"?(\d{1,6})", re.IGNORECASE)


async def json_body(request: Request) -> dict[str, Any]:
    """The body, a JSON object with exact numbers."""
    try:
        body = exact.loads(await request.body())
    except (ValueError, RecursionError):
        raise Refusal(400, "VALIDATION_ERROR", "The body is not valid JSON.") from None
    if not isinstance(body, dict):
        raise Refusal(400, "VALIDATION_ERROR", "The body must be a JSON object.")
    return body


def user_of(caller: Caller, scope: str, user_id: Any) -> str:
    """The user that the caller names and may act for."""
    if not isinstance(user_id, str) or not user_id.strip():
        raise Refusal(400, "VALIDATION_ERROR", "user_id is required.")
    require(caller, scope, user_id)
    return user_id


def connection_of(rt: Runtime, user_id: str) -> int:
    """The user's connection; refuses when there is none that works."""
    with rt.database.transaction() as session:
        found = session.scalar(select(Connection.id).where(Connection.user_id == user_id, Connection.state == "active"))
    if found is None:
        raise not_connected()
    return found


def idempotency_key(request: Request) -> str | None:
    """`Idempotency-Key`, else the execution and step of a workflow: the engine repeats a step with the same two."""
    key = request.headers.get("idempotency-key")
    if key is not None:
        if not key.strip():
            raise Refusal(400, "VALIDATION_ERROR", "Idempotency-Key is empty.")
        return key.strip()
    execution, step = (request.headers.get(f"x-workflow-{part}-id", "").strip() for part in ("execution", "step"))
    if bool(execution) != bool(step):
        raise Refusal(400, "VALIDATION_ERROR", "X-Workflow-Execution-Id and X-Workflow-Step-Id go together.")
    return f"workflow:{execution}/{step}" if execution else None


def wait_seconds(request: Request, default: float) -> float:
    """How long the caller would wait: `Prefer: wait=5`, `Prefer: respond-async`, or the default; bounded."""
    prefer = ",".join(request.headers.getlist("prefer"))
    found = WAIT.search(prefer)
    if found:
        return min(float(found[1]), LONGEST_WAIT_SECONDS)
    return 0.0 if "respond-async" in prefer.lower() else min(default, LONGEST_WAIT_SECONDS)


async def carry_out(request: Request, rt: Runtime, user_id: str, intent: Intent) -> JSONResponse:
    """Accept one action, wait for its outcome as long as the caller likes, answer."""
    action_id = await run_in_threadpool(_accept, rt, user_id, intent)
    seconds = wait_seconds(request, rt.settings.wait_seconds)
    outcomes: Outcomes = request.app.state.outcomes
    if seconds:
        await outcomes.wait(action_id, seconds)
    action = await run_in_threadpool(read_action, rt, action_id)
    assert action is not None, "accepted actions are kept"
    return answer(action)


def _accept(rt: Runtime, user_id: str, intent: Intent) -> UUID:
    connection_id = connection_of(rt, user_id)
    try:
        return accept(rt.actions, connection_id, [intent], source="http")[0].id
    except FaultyError as error:
        details = [{"code": one.code, "message": one.message, "fields": list(one.fields)} for one in error.faults]
        raise Refusal(400, "VALIDATION_ERROR", error.faults[0].message, details) from None
    except KeyReusedError as error:
        known = {"action_id": str(error.action_id)}
        message = "This idempotency key was used before with other content."
        raise Refusal(409, "IDEMPOTENCY_KEY_REUSED", message, known) from None


def read_action(rt: Runtime, action_id: UUID) -> dict[str, Any] | None:
    """One action, as `store.read` gives it."""
    with rt.database.transaction() as session:
        return store.read(session, action_id)


def answer(action: dict[str, Any]) -> JSONResponse:
    """200 with the outcome; 422 with the org's refusal; 202 while nothing is decided, or a person must decide."""
    action_id = str(action["id"])
    error = action["error"] or {}
    if action["state"] == "delivered":
        outcome = action["outcome"]
        return ok({"id": outcome["id"], "success": True, "errors": [], "action_id": action_id})
    if action["state"] == "rejected":
        details = {"action_id": action_id, "fields": error["fields"]}
        raise Refusal(422, error["code"], error["message"], details)
    if action["state"] == "cancelled":
        raise Refusal(409, "CANCELLED", "The action was cancelled.", {"action_id": action_id})
    held = action["state"] == "held"
    data = {
        "id": action["record_id"],
        "success": False if held else None,
        "errors": [error] if held else [],
        "action_id": action_id,
        "state": action["state"],
    }
    return ok(data, 202, {"Location": f"/api/salesforce/actions/{action_id}"})
