"""One call of the data API from its path to its answer: version, session, allowance, route, errors."""

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import parse_qsl

from starlette.responses import Response

from local_org import bulk1, bulk1_forms, metadata
from local_org.bulk_results import FileSlices
from local_org.context import Answer, Context, Reply, Result
from local_org.errors import ApiError, WrongKindError, not_found, session_expired, where
from local_org.locks import LockedError
from local_org.metadata import check_version
from local_org.routes import data_router

if TYPE_CHECKING:
    from local_org.org import Org
    from local_org.tokens import Session

PREFIX = "/services/data"
ASYNC_PREFIX = "/services/async/"
PREFIXES = (PREFIX, ASYNC_PREFIX)
MAX_URI_BYTES = 16_384

_T = TypeVar("_T")
_ROUTER = data_router()
_HEADERS_OF = {401: {"WWW-Authenticate": "Token"}}
_LOG = logging.getLogger("local_org")
_BODIES = ("application/json", "multipart/", "text/csv")
_READING = frozenset({"GET", "HEAD"})
_NO_SESSION_NEEDED = frozenset({"", "/"})


@dataclass(frozen=True, slots=True)
class Call:
    """A call as it came in. `path` is percent-encoded, `headers` have lower-case names."""

    method: str
    path: str
    query_string: str
    headers: Mapping[str, str]
    host_url: str
    body: bytes = b""
    upload: Path | None = None


def answer(org: "Org", call: Call) -> tuple[Reply, str | None]:
    """The answer and, if there was a session, its user. Never raises: an error becomes an answer."""
    session: Session | None = None
    if call.path.startswith(ASYNC_PREFIX):
        return _bulk1(org, call)
    try:
        version, rest = _split(call.path)
        if version is None:
            return Answer(200, metadata.versions()), None
        check_version(version)
        if rest in _NO_SESSION_NEEDED:
            return _resources(org, call, version), None
        session = authenticated(org, call.headers)
        headers = count(org, rest)
        _check_media_type(call)
        reply = dispatch(context_of(org, call, version, session), rest)
        _add_headers(reply, headers)
        return reply, session.user_id
    except Exception as error:
        if isinstance(error, WrongKindError):
            error.placed(call.body.decode("utf-8", "replace"))
        return error_answer(org, error), session.user_id if session else None


def uri_bytes(path: bytes, query_string: bytes) -> int:
    """The length of a URI without its host."""
    return len(path) + len(query_string) + bool(query_string)


def _check_media_type(call: Call) -> None:
    """Bodies are JSON; uploads and multipart say what they are themselves. Raises ApiError 415."""
    kind = call.headers.get("content-type", "").lower()
    if call.body and kind and call.upload is None and not kind.startswith(_BODIES):
        text = f"Content-Type '{kind}' is not supported. This resource takes application/json."
        raise ApiError(415, "UNSUPPORTED_MEDIA_TYPE", text)


def _bulk1(org: "Org", call: Call) -> tuple[Reply, str | None]:
    """Bulk API 1.0: its own header for the session, and its own form of errors."""
    version, _, rest = call.path[len(ASYNC_PREFIX) :].partition("/")
    bearer = call.headers.get("authorization", "").partition(" ")[2]
    session = org.tokens.session(call.headers.get("x-sfdc-session") or bearer)
    if session is None:
        return bulk1_forms.invalid_session(call.headers.get("content-type", "")), None
    org.usage.count()
    return bulk1.handle(context_of(org, call, version, session), rest), session.user_id


def _split(path: str) -> tuple[str | None, str]:
    """("68.0", "sobjects/Account") of /services/data/v68.0/sobjects/Account; no version for the root."""
    below = path[len(PREFIX) :].lstrip("/")
    if not below:
        return None, ""
    version, _, rest = below.partition("/")
    if not version.lower().startswith("v"):
        raise not_found()
    return version[1:], rest


def _resources(org: "Org", call: Call, version: str) -> Answer:
    session = org.tokens.session(call.headers.get("authorization", "").partition(" ")[2].strip())
    identity = f"{call.host_url}/id/{org.organization_id}/{session.user_id if session else org.admin_id}"
    return Answer(200, metadata.resources(f"{PREFIX}/v{version}", identity))


def authenticated(org: "Org", headers: Mapping[str, str]) -> "Session":
    """The living session of the Authorization header. Raises ApiError 401."""
    scheme, _, token = headers.get("authorization", "").partition(" ")
    if scheme.lower() not in ("bearer", "oauth") or not token:
        raise ApiError(401, "INVALID_AUTH_HEADER", "INVALID_HEADER_TYPE")
    session = org.tokens.session(token.strip())
    if session is None:
        raise session_expired()
    if not {"api", "full"} & set(session.scope.split()):
        text = "This session is not valid for use with the REST API"
        raise ApiError(401, "INVALID_SESSION_ID", text)
    return session


def count(org: "Org", rest: str) -> dict[str, str]:
    """Count the call; the headers that say so. Raises ApiError once the allowance is spent."""
    used, limit = org.usage.count(), org.settings.api_limit
    if used > limit:
        raise ApiError(403, "REQUEST_LIMIT_EXCEEDED", "TotalRequests Limit exceeded.")
    if rest.lower().startswith("jobs/"):
        return {}
    return {"Sforce-Limit-Info": f"api-usage={used}/{limit}"}


def context_of(org: "Org", call: Call, version: str, session: "Session") -> Context:
    query = dict(parse_qsl(call.query_string, keep_blank_values=True))
    override = query.pop("_HttpMethod", None)
    method = override.upper() if override and call.method == "POST" else call.method
    return Context(
        org=org,
        store=org.store,
        catalogue=org.access.catalogue(session.user_id),
        version=version,
        user=session.user_id,
        method=method,
        path=call.path,
        query=query,
        headers=call.headers,
        body=call.body,
        host_url=call.host_url,
        session=session,
        upload=call.upload,
        dispatch=dispatch,
    )


def dispatch(ctx: Context, rest: str) -> Reply:
    """Let the right handler answer; a write that meets a locked row is tried again. Raises ApiError."""
    handler, values = _ROUTER.find(ctx.method, rest)
    if ctx.method in _READING:
        return _as_reply(handler(ctx, **values))
    return _as_reply(patiently(ctx, lambda patient: handler(patient, **values)))


def patiently(ctx: Context, work: Callable[[Context], _T]) -> _T:
    """Do what may meet locked rows, again and again until the time to wait for them is over."""
    deadline = time.monotonic() + ctx.org.settings.lock_wait_ms / 1000
    while True:
        try:
            return work(replace(ctx, lock_deadline=deadline))
        except LockedError:
            if ctx.change is not None:
                raise
            ctx.org.locks.wait(deadline)


def _as_reply(result: Result) -> Reply:
    if isinstance(result, Answer | Response | FileSlices):
        return result
    return Answer(204) if result is None else Answer(200, result)


def _add_headers(reply: Reply, headers: Mapping[str, str]) -> None:
    for name, value in headers.items():
        reply.headers[name] = value


def error_answer(org: "Org", error: Exception) -> Answer:
    """An exception as the vendor shows it; one that nobody expected is logged and gets an error id."""
    if isinstance(error, ApiError):
        return Answer(error.status, error.body(), {**_HEADERS_OF.get(error.status, {}), **error.headers})
    _LOG.error("a call failed: %s", where(error))
    text = (
        "An unexpected error occurred. Please include this ErrorId if you contact support: "
        f"{org.store.clock.exact_ms()}-{id(error) % 100_000} ({type(error).__name__})"
    )
    return Answer(500, [{"message": text, "errorCode": "UNKNOWN_EXCEPTION"}])
