"""Server-sent events: changes of the states of actions and runs, as they happen.

A stream resumes where it broke: `Last-Event-ID` names a place up to which everything was sent. What is told twice then is
told with the same id and content.
"""

import asyncio
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Collection
from functools import partial
from typing import Annotated, TypeVar

from fastapi import APIRouter, Header, Query, Request
from fastapi.responses import StreamingResponse
from sqlalchemy.orm import Session
from starlette.concurrency import run_in_threadpool

from worker import events, exact
from worker.access import Caller, authenticate
from worker.db import Database
from worker.events import Event
from worker.runtime import Runtime
from worker.shim.answers import refusals
from worker.shim.auth import Key, Wiring, users_of
from worker.shim.envelope import Refusal, retry
from worker.shim.following import Feed, Follower

T = TypeVar("T")
router = APIRouter(prefix="/api/salesforce/events", tags=["events"])

HEARTBEAT_SECONDS = 15.0
LONGEST_SECONDS = 3600.0  # then the stream ends, and the caller resumes
STREAMS_PER_KEY = 20
STREAMS = 500
REMEMBERED = 5000  # ids of the catch-up, which may come once more
EXAMPLE = (
    'id: 41\nevent: action\ndata: {"id":"0b2e…","object":"Contact","state":"delivered","user_id":"u-1","at":"…"}\n\n'
)

LastEventId = Annotated[str | None, Header(description="The last id that was seen; a browser sends it by itself.")]


@router.get(
    "",
    summary="Follow actions and runs live",
    response_class=StreamingResponse,
    responses={
        200: {
            "description": "A stream that does not end by itself",
            "content": {"text/event-stream": {"example": EXAMPLE}},
        },
        **refusals(),
    },
)
async def follow(
    request: Request,
    rt: Wiring,
    caller: Key,
    user_id: Annotated[
        str | None, Query(description="Whose; none given: everybody's that the key may act for.")
    ] = None,
    last_event_id: LastEventId = None,
) -> StreamingResponse:
    """`event: action` when an action is delivered, rejected, held, in doubt, in conflict or cancelled, or when a person sends it
    again; `event: run` when a run begins or ends (of refreshes by the timetable, those that brought something);
    `event: reset` when events were forgotten that you have not seen: read the states anew."""
    users = users_of(caller, "read", user_id)
    after = _place(last_event_id)
    streams: Counter[int] = request.app.state.streams
    if streams[caller.key_id] >= STREAMS_PER_KEY or streams.total() >= STREAMS:
        raise Refusal.of("RATE_LIMITED", "Too many streams are open with this key.", headers=retry(None))
    body = _stream(rt, request.app.state.feed, caller, _key_text(request), users, after, streams)
    return StreamingResponse(body, media_type="text/event-stream", headers={"X-Accel-Buffering": "no"})


def _place(given: str | None) -> int | None:
    if given is None or given == "":
        return None
    if not (given.isascii() and given.isdigit() and len(given) <= 18):
        raise Refusal.of("VALIDATION_ERROR", "Last-Event-ID is no id of an event.")
    return int(given)


def _key_text(request: Request) -> str:
    return request.headers.get("authorization", "").partition(" ")[2].strip()


async def _stream(
    rt: Runtime,
    feed: Feed,
    caller: Caller,
    key: str,
    users: Collection[str] | None,
    after: int | None,
    streams: "Counter[int]",
) -> AsyncIterator[str]:
    streams[caller.key_id] += 1
    until = asyncio.get_running_loop().time() + LONGEST_SECONDS
    try:
        yield "retry: 3000\n\n"
        async with feed.follow(users) as follower:
            told: deque[int] = deque(maxlen=REMEMBERED)
            if after is not None:
                async for past in _missed(rt.database, users, after, feed.seen, told):
                    yield past
            known = frozenset(told)
            now = looked_at = asyncio.get_running_loop().time()
            while now < until:
                text = await _next(follower, known)
                if text is None:
                    return
                now = asyncio.get_running_loop().time()
                if not text or now - looked_at >= HEARTBEAT_SECONDS:  # also where events never cease
                    if not await run_in_threadpool(_still_valid, rt.database, key, caller):
                        return
                    looked_at = now
                yield text or ": heartbeat\n\n"
    finally:
        streams[caller.key_id] -= 1


async def _next(follower: Follower, told: frozenset[int]) -> str | None:
    """The next event as text; empty when none came for a while; None when the stream ends."""
    while True:
        try:
            item = await asyncio.wait_for(follower.queue.get(), HEARTBEAT_SECONDS)
        except TimeoutError:
            return ""
        if item is None:
            return None
        event, low = item
        if event.id not in told:
            return _shown(event, min(event.id, low))


async def _missed(
    database: Database, users: Collection[str] | None, after: int, until: int, told: deque[int]
) -> AsyncIterator[str]:
    """What happened since the caller was here last."""
    first = await run_in_threadpool(_read, database, events.oldest)
    if after < until and (first is None or first > after + 1) and after:
        yield "event: reset\ndata: {}\n\n"
    while True:
        question = partial(events.past, user_ids=users, after=after, until=until)
        found = await run_in_threadpool(_read, database, question)
        for event in found:
            told.append(event.id)
            yield _shown(event, event.id)
        if len(found) < events.BATCH:
            return
        after = found[-1].id


def _read(database: Database, question: Callable[[Session], T]) -> T:
    with database.transaction() as session:
        return question(session)


def _still_valid(database: Database, key: str, caller: Caller) -> bool:
    """A key that was revoked or ran out sees nothing more."""
    with database.transaction() as session:
        return authenticate(session, key) == caller


def _shown(event: Event, place: int) -> str:
    at = event.at.isoformat().replace("+00:00", "Z")
    data = exact.dumps({**event.data, "user_id": event.user_id, "at": at})
    return f"id: {place}\nevent: {event.kind}\ndata: {data}\n\n"
