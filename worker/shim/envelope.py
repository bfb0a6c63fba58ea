"""One envelope for every answer: `{"ok": true, "data": …}` or `{"ok": false, "error": {"code", "message", "details"?}}`.

Also for malformed bodies, unknown paths, wrong methods and our own bugs: no exception's text ever leaves the house.
"""

import re
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from worker.actions import exact
from worker.errors import DisconnectedError, OverBudgetError, RejectedError, SyncError, TransientError
from worker.log import get_logger

log = get_logger(__name__)

NOT_CONNECTED = "Could not get authenticated Salesforce client. Please connect your Salesforce account."
SINGULAR = {"contacts": "CONTACT", "accounts": "ACCOUNT", "opportunities": "OPPORTUNITY", "leads": "LEAD"}
RECORD_PATH = re.compile(rf"/api/salesforce/({'|'.join(SINGULAR)})(?:/(.+))?$")
CODES = {
    400: "VALIDATION_ERROR",
    401: "UNAUTHORIZED",
    403: "FORBIDDEN",
    404: "NOT_FOUND",
    405: "METHOD_NOT_ALLOWED",
    413: "PAYLOAD_TOO_LARGE",
    415: "UNSUPPORTED_MEDIA_TYPE",
    422: "VALIDATION_ERROR",
}


class ExactResponse(JSONResponse):
    """JSON whose numbers are as exact as the database's."""

    def render(self, content: Any) -> bytes:
        """The body."""
        return exact.dumps(content).encode()


class Refusal(Exception):
    """An answer that says no. Raised by routes; carries all that the caller gets to see."""

    def __init__(
        self, status: int, code: str, message: str, details: Any = None, headers: dict[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.details = details
        self.headers = headers


def ok(data: Any, status: int = 200, headers: dict[str, str] | None = None) -> JSONResponse:
    """A good answer."""
    return ExactResponse({"ok": True, "data": data}, status, headers)


def refused(
    status: int, code: str, message: str, details: Any = None, headers: dict[str, str] | None = None
) -> JSONResponse:
    """A bad answer."""
    error = {"code": code, "message": message} | ({} if details is None else {"details": details})
    return ExactResponse({"ok": False, "error": error}, status, headers)


def not_connected() -> Refusal:
    """The user has no connection, or it must be renewed by a person."""
    return Refusal(401, "AUTH_ERROR", NOT_CONNECTED)


def install(app: FastAPI) -> None:
    """Make every way of failing answer in the envelope."""
    app.add_exception_handler(Refusal, _on_refusal)
    app.add_exception_handler(HTTPException, _on_http)
    app.add_exception_handler(RequestValidationError, _on_invalid)
    app.add_exception_handler(SyncError, _on_sync_error)


async def _on_refusal(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, Refusal)
    return refused(error.status, error.code, error.message, error.details, error.headers)


async def _on_http(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    words = {404: f"There is nothing at {request.url.path}.", 405: f"{request.method} is not allowed here."}
    code = CODES.get(error.status_code, f"HTTP_{error.status_code}")
    headers = dict(error.headers) if error.headers else None
    return refused(error.status_code, code, words.get(error.status_code, str(error.detail)), headers=headers)


async def _on_invalid(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    faults = [
        {"field": ".".join(str(part) for part in fault["loc"][1:]), "message": fault["msg"]} for fault in error.errors()
    ]
    first = (
        f"{faults[0]['field']}: {faults[0]['message']}" if faults and faults[0]["field"] else "The body is not valid."
    )
    return refused(400, "VALIDATION_ERROR", first, faults)


async def _on_sync_error(request: Request, error: Exception) -> JSONResponse:
    """Errors that a use case raised on purpose."""
    if isinstance(error, DisconnectedError):
        return refused(401, "AUTH_ERROR", NOT_CONNECTED)
    if isinstance(error, RejectedError):
        complaints = [{"code": c.code, "message": c.message, "fields": list(c.fields)} for c in error.complaints]
        return refused(422, error.code, error.complaints[0].message, complaints)
    if isinstance(error, OverBudgetError):
        return refused(
            503, "ALLOWANCE_SPENT", "The org's API allowance is spent; try again later.", headers={"Retry-After": "900"}
        )
    if isinstance(error, TransientError):
        return refused(503, "UNAVAILABLE", "The org cannot be reached now; try again.", headers={"Retry-After": "5"})
    return await on_bug(request, error)


async def on_bug(request: Request, error: Exception) -> JSONResponse:
    """Our own fault: the log has it, the answer does not."""
    log.error("shim.bug", error=type(error).__name__, exc_info=error)
    return refused(500, _bug_code(request.url.path), "Something went wrong here; the request id names it in the log.")


def _bug_code(path: str) -> str:
    """The codes that callers of the record routes know: CONTACTS_HANDLING_FAILED, OPPORTUNITY_HANDLING_FAILED, …"""
    found = RECORD_PATH.match(path)
    if found is None:
        return "INTERNAL_ERROR"
    collection, record_id = found.groups()
    return f"{SINGULAR[collection] if record_id else collection.upper()}_HANDLING_FAILED"
