"""The HTTP door, put together: routes, envelope, request ids, limits, graceful end."""

from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI

from worker.access import KnownCallers
from worker.runtime import Runtime
from worker.shim import actions, docs, envelope, events, health, metrics, oauth, records, runs, services, triggers
from worker.shim.answers import refusals
from worker.shim.following import Feed
from worker.shim.rate import Rates
from worker.shim.site import routes as site
from worker.shim.surround import Surround
from worker.shim.waiting import Outcomes

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

    app = FastAPI(
        title="sfsync",
        version="1",
        description=DESCRIPTION,
        lifespan=lifespan,
        docs_url=None,  # ours loads nothing from elsewhere: worker/shim/docs.py
        redoc_url=None,
        redirect_slashes=False,  # a redirect would be an answer without an envelope, to an address that the caller chose
        responses=refusals(),
    )
    app.state.runtime = rt
    app.state.known_callers = KnownCallers()
    app.state.outcomes = Outcomes(rt.database)
    app.state.feed = Feed(rt.database)
    app.state.streams = Counter()
    app.state.rates = Rates(rt.settings.shim_requests_per_minute)
    app.state.sign_ins = Rates(site.TRIES_A_MINUTE)
    envelope.install(app)
    app.add_middleware(Surround, most_bytes=_most_bytes(rt), body_seconds=rt.settings.shim_body_seconds)
    # What is asked most often comes first: a path is looked for from route to route.
    for module in (records, actions, runs, health, metrics, site, events, oauth, services, triggers, docs):
        app.include_router(module.router)
    docs.mount(app)
    site.mount(app)
    return app


def _most_bytes(rt: Runtime) -> actions.Limits:
    return actions.Limits(rt.settings.shim_body_bytes, rt.settings.shim_batch_bytes)


def stop(app: FastAPI) -> None:
    """The process is asked to end: whoever waits for something is answered at once."""
    app.state.outcomes.stop()
    app.state.feed.stop()
