"""What all routes that write share: accepting the action, waiting for its outcome, wording the answer."""

import re
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import Any
from uuid import UUID

from fastapi import Request
from fastapi.responses import JSONResponse
from starlette.concurrency import run_in_threadpool

from worker.actions.accept import Intent
from worker.mirror.question import instant
from worker.records import accept_for, read_action
from worker.runtime import Runtime
from worker.shim.envelope import Refusal, ok
from worker.shim.waiting import Outcomes

LONGEST_WAIT_SECONDS = 20.0  # shorter than the grace of a shutdown
WAIT = re.compile(r"(?:^|[,;\s])wait\s*=\s*\"?(\d{1,6})", re.IGNORECASE)


def idempotency_key(request: Request) -> str | None:
    """`Idempotency-Key`, else the execution and step of a workflow: the engine repeats a step with the same two."""
    key = request.headers.get("idempotency-key")
    if key is not None:
        if not key.strip():
            raise Refusal.of("VALIDATION_ERROR", "Idempotency-Key is empty.")
        return key.strip()
    execution, step = (request.headers.get(f"x-workflow-{part}-id", "").strip() for part in ("execution", "step"))
    if bool(execution) != bool(step):
        raise Refusal.of("VALIDATION_ERROR", "X-Workflow-Execution-Id and X-Workflow-Step-Id go together.")
    return f"workflow:{execution}/{step}" if execution else None


def unmodified_since(request: Request) -> datetime | None:
    """`If-Unmodified-Since`, as HTTP writes times or as ISO 8601."""
    given = request.headers.get("if-unmodified-since")
    if given is None:
        return None
    for read in (parsedate_to_datetime, instant):
        try:
            return read(given)
        except (ValueError, TypeError, OverflowError):
            continue
    raise Refusal.of("VALIDATION_ERROR", "If-Unmodified-Since is no time; give it as Sat, 28 Nov 2026 12:00:00 GMT.")


def wait_seconds(request: Request, default: float) -> float:
    """How long the caller would wait: `Prefer: wait=5`, `Prefer: respond-async`, or the default; bounded."""
    prefer = ",".join(request.headers.getlist("prefer"))
    found = WAIT.search(prefer)
    if found:
        return min(float(found[1]), LONGEST_WAIT_SECONDS)
    return 0.0 if "respond-async" in prefer.lower() else min(default, LONGEST_WAIT_SECONDS)


async def carry_out(request: Request, rt: Runtime, user_id: str, intent: Intent) -> JSONResponse:
    """Accept one action, wait for its outcome as long as the caller likes, answer."""
    accepted = (await run_in_threadpool(accept_for, rt.actions, user_id, [intent], source="http"))[0]
    if accepted.state is not None and not wait_seconds(request, rt.settings.wait_seconds):
        data = waiting(accepted.id, intent.record_id, accepted.state)
        return ok(data, 202, location(accepted.id))
    return await answer_of(request, rt, accepted.id)


def location(action_id: UUID) -> dict[str, str]:
    """The header that says where to look for the outcome."""
    return {"Location": f"/api/salesforce/actions/{action_id}"}


def waiting(action_id: UUID, record_id: str | None, state: str) -> dict[str, Any]:
    """What is told of an action while nothing is decided."""
    return {"id": record_id, "success": None, "errors": [], "action_id": str(action_id), "state": state}


async def answer_of(request: Request, rt: Runtime, action_id: UUID) -> JSONResponse:
    """Wait for the outcome of an accepted action as long as the caller likes, answer."""
    data, status = await written(request, rt, action_id)
    return ok(data, status, location(action_id) if status == 202 else None)


async def written(request: Request, rt: Runtime, action_id: UUID) -> tuple[dict[str, Any], int]:
    """Wait as long as the caller likes: what is known then, and the status. Refusal when the org or somebody said no."""
    seconds = wait_seconds(request, rt.settings.wait_seconds)
    outcomes: Outcomes = request.app.state.outcomes
    if seconds:
        await outcomes.wait([action_id], seconds)
    action = await run_in_threadpool(read_action, rt.actions, action_id)
    assert action is not None, "accepted actions are kept"
    return answer(action)


def answer(action: dict[str, Any]) -> tuple[dict[str, Any], int]:
    """200 with the outcome; 422 with the org's refusal; 202 while nothing is decided, or a person must decide."""
    action_id = str(action["id"])
    error = action["error"] or {}
    if action["state"] == "delivered":
        outcome = action["outcome"]
        return {"id": outcome["id"], "success": True, "errors": [], "action_id": action_id}, 200
    if action["state"] in ("rejected", "conflict"):
        details = {"action_id": action_id, "fields": error.get("fields") or []}
        status = 422 if action["state"] == "rejected" else 409
        code = error["code"] if action["state"] == "rejected" else "CONFLICT"
        raise Refusal(status, code, error["message"], details)
    if action["state"] == "cancelled":
        raise Refusal.of("CANCELLED", "The action was cancelled.", {"action_id": action_id})
    data = waiting(action["id"], action["record_id"], action["state"])
    return (data | {"success": False, "errors": [error]} if action["state"] == "held" else data), 202
