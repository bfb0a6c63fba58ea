"""One envelope for every answer: `{"ok": true, "data": …}` or `{"ok": false, "error": {"code", "message", "details"?}}`.

Also for malformed bodies, unknown paths, wrong methods and our own bugs: no exception's text ever leaves the house.
"""

import re
from datetime import timedelta
from typing import Any

import psycopg
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from starlette.exceptions import HTTPException
from starlette.routing import Match

from worker import exact
from worker.actions.accept import FaultyError, KeyReusedError
from worker.errors import (
    CrowdedError,
    DisconnectedError,
    NotMirroredError,
    OverBudgetError,
    RejectedError,
    RequestError,
    SyncError,
    TransientError,
)
from worker.log import get_logger
from worker.shim.codes import CODES

log = get_logger(__name__)

APP_REFUSED = "The org refuses the connected app; the operator must look at its settings."
NOT_CONNECTED = "Could not get authenticated Salesforce client. Please connect your Salesforce account."
SINGULAR = {"contacts": "CONTACT", "accounts": "ACCOUNT", "opportunities": "OPPORTUNITY", "leads": "LEAD"}
RECORD_PATH = re.compile(rf"/api/salesforce/({'|'.join(SINGULAR)})(?:/(.+))?$")
BY_STATUS = {
    400: "VALIDATION_ERROR",
    404: "NOT_FOUND",
    405: "METHOD_NOT_ALLOWED",
    413: "PAYLOAD_TOO_LARGE",
    415: "UNSUPPORTED_MEDIA_TYPE",
    422: "VALIDATION_ERROR",
}
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")
SOON = timedelta(seconds=5)


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

    @classmethod
    def of(cls, code: str, message: str, details: Any = None, headers: dict[str, str] | None = None) -> "Refusal":
        """A refusal with one of our own codes, and its status."""
        return cls(CODES[code].status, code, message, details, headers)


def ok(data: Any, status: int = 200, headers: dict[str, str] | None = None) -> JSONResponse:
    """A good answer."""
    return ExactResponse({"ok": True, "data": data}, status, headers)


def refused(
    status: int, code: str, message: str, details: Any = None, headers: dict[str, str] | None = None
) -> JSONResponse:
    """A bad answer."""
    error = {"code": code, "message": message} | ({} if details is None else {"details": details})
    return ExactResponse({"ok": False, "error": error}, status, headers)


def install(app: FastAPI) -> None:
    """Make every way of failing answer in the envelope."""
    app.add_exception_handler(Refusal, _on_refusal)
    app.add_exception_handler(HTTPException, _on_http)
    app.add_exception_handler(RequestValidationError, _on_invalid)
    app.add_exception_handler(SyncError, _on_sync_error)
    app.add_exception_handler(DBAPIError, _on_database)
    app.add_exception_handler(psycopg.Error, _on_database)
    app.add_exception_handler(PoolTimeoutError, _on_full)


async def _on_refusal(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, Refusal)
    return refused(error.status, error.code, error.message, error.details, error.headers)


async def _on_http(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    if error.status_code == 405:
        return _wrong_method(request)
    words = {404: f"There is nothing at {request.url.path}."}
    code = BY_STATUS.get(error.status_code, "VALIDATION_ERROR" if error.status_code < 500 else "INTERNAL_ERROR")
    headers = dict(error.headers) if error.headers else None
    return refused(error.status_code, code, words.get(error.status_code, str(error.detail)), headers=headers)


def _wrong_method(request: Request) -> JSONResponse:
    """405 with every method that the path knows; OPTIONS is the question which they are."""
    allowed = [method for method in METHODS if _serves(request, method)]
    headers = {"Allow": ", ".join([*allowed, "OPTIONS"])}
    if request.method == "OPTIONS":
        return ok({"methods": [*allowed, "OPTIONS"]}, headers=headers)
    return refused(405, "METHOD_NOT_ALLOWED", f"{request.method} is not allowed here.", headers=headers)


def _serves(request: Request, method: str) -> bool:
    asked = dict(request.scope) | {"method": "GET" if method == "HEAD" else method}
    return any(route.matches(asked)[0] is Match.FULL for route in request.app.router.routes)


async def _on_invalid(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    return invalid(error.errors())


def faults_of(errors: Any) -> list[dict[str, str]]:
    """Pydantic's errors as details: which field, what is wrong."""
    return [
        {
            "field": ".".join(str(part) for part in fault["loc"] if part not in ("query", "path", "header", "body")),
            "message": fault["msg"],
        }
        for fault in errors
    ]


def invalid(errors: Any) -> JSONResponse:
    """400 with every fault."""
    faults = faults_of(errors)
    first = "; ".join(f"{one['field']}: {one['message']}" if one["field"] else one["message"] for one in faults[:1])
    return refused(400, "VALIDATION_ERROR", first or "The request is not valid.", faults)


async def _on_sync_error(request: Request, error: Exception) -> JSONResponse:
    """Errors that a use case raised on purpose."""
    match error:
        case RequestError():
            details = (
                [{"code": error.code, "message": str(error), "fields": list(error.fields)}] if error.fields else None
            )
            return refused(CODES[error.code].status, error.code, str(error), details)
        case FaultyError():
            return refused(400, "VALIDATION_ERROR", error.faults[0].message, [one.as_json() for one in error.faults])
        case KeyReusedError():
            known = {"action_id": str(error.action_id), "idempotency_key": error.key}
            return refused(
                409, "IDEMPOTENCY_KEY_REUSED", "This idempotency key was used before with other content.", known
            )
        case DisconnectedError():
            return refused(401, "AUTH_ERROR", NOT_CONNECTED)
        case RejectedError():
            complaints = [{"code": c.code, "message": c.message, "fields": list(c.fields)} for c in error.complaints]
            return refused(422, error.code, error.complaints[0].message, complaints)
        case NotMirroredError():
            return refused(
                503, error.code or "MIRROR_NOT_READY", str(error), {"object": error.object}, retry(error.retry_after)
            )
        case OverBudgetError() if not isinstance(error, CrowdedError):
            message = "The org's API allowance is spent; try again later."
            return refused(503, "ALLOWANCE_SPENT", message, headers=retry(error.retry_after or timedelta(minutes=15)))
        case TransientError() if error.code == "APP_REFUSED":
            return refused(CODES["APP_REFUSED"].status, "APP_REFUSED", APP_REFUSED, headers=retry(error.retry_after))
        case TransientError():
            message = "The org cannot be reached now; try again."
            return refused(503, "UNAVAILABLE", message, headers=retry(error.retry_after))
    return await on_bug(request, error)


def retry(after: timedelta | None) -> dict[str, str]:
    """The header that says when to come again."""
    return {"Retry-After": str(max(1, round((after or SOON).total_seconds())))}


async def _on_database(request: Request, error: Exception) -> JSONResponse:
    """Postgres is away or too slow: that passes. Anything else that it says is a bug of ours."""
    cause = error.orig if isinstance(error, DBAPIError) else error
    if isinstance(cause, psycopg.errors.QueryCanceled | psycopg.errors.LockNotAvailable):
        message = "Postgres could not answer in time; ask for less."
        return refused(503, "TIMEOUT", message, headers=retry(None))
    if isinstance(cause, psycopg.OperationalError):
        log.warning("shim.postgres_away", error=type(cause).__name__)
        return refused(503, "UNAVAILABLE", "PostgreSQL cannot be reached now; try again.", headers=retry(None))
    return await on_bug(request, error)


async def _on_full(_request: Request, _error: Exception) -> JSONResponse:
    return refused(503, "BUSY", "Too many requests are at work; try again.", headers=retry(None))


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
