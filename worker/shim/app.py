"""The HTTP door, put together: routes, envelope, request ids, size limit, graceful end."""

import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI, Request, Response
from starlette.middleware.base import RequestResponseEndpoint

from worker.log import bound
from worker.runtime import Runtime
from worker.shim import actions, envelope, health, records
from worker.shim.waiting import Outcomes

REQUEST_ID = "X-Request-Id"

DESCRIPTION = """
Write to Salesforce and read its mirror. Every write is stored before it is answered, carried out once, and its outcome
is told; send an `Idempotency-Key` so that a repeated request changes nothing. Keys: `sfsync api-keys create`.
"""


def make_app(rt: Runtime) -> FastAPI:
    """The application over one runtime."""

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        yield
        rt.close()

    app = FastAPI(title="sfsync", version="1", description=DESCRIPTION, lifespan=lifespan, redoc_url=None)
    app.state.runtime = rt
    app.state.outcomes = Outcomes(rt.database)
    envelope.install(app)
    app.middleware("http")(_surround)
    for router in (health.router, actions.router, records.router):
        app.include_router(router)
    return app


async def _surround(request: Request, call_next: RequestResponseEndpoint) -> Response:
    """Around every request: an id in the log and the answer; no body beyond the limit; no answer kept by caches."""
    request_id = request.headers.get(REQUEST_ID, "")[:64] or uuid.uuid4().hex
    with bound(request_id=request_id):
        response = _too_large(request) or await _guarded(request, call_next)
    response.headers[REQUEST_ID] = request_id
    response.headers.setdefault("Cache-Control", "no-store")
    return response


async def _guarded(request: Request, call_next: RequestResponseEndpoint) -> Response:
    """Our own bugs are answered here, inside what gives every answer its request id."""
    try:
        return await call_next(request)
    except Exception as error:
        return await envelope.on_bug(request, error)


def _too_large(request: Request) -> Response | None:
    most = request.app.state.runtime.settings.shim_body_bytes
    length = request.headers.get("content-length")
    if length is None and request.headers.get("transfer-encoding"):
        return envelope.refused(411, "LENGTH_REQUIRED", "Send the body with a Content-Length.")
    if length is not None and (not length.isdigit() or int(length) > most):
        return envelope.refused(413, "PAYLOAD_TOO_LARGE", f"A body may have {most:,} bytes at most.")
    return None
