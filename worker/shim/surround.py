"""Around every request: an id in the log and the answer, limits of size and time for the body, no answer kept by caches.

Plain ASGI: an answer that streams goes through piece by piece, and a caller who hangs up is noticed.
"""

import asyncio
import uuid
from collections.abc import Callable
from urllib.parse import unquote_to_bytes

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from worker.log import bound
from worker.shim import envelope
from worker.shim.envelope import Refusal

REQUEST_ID = "X-Request-Id"
ID_CHARACTERS = 64
CLOSE = {"Connection": "close"}  # the rest of the body is not read


class Surround:
    """The outermost layer of ours. `most_bytes(path)`: how large a body may be; `body_seconds`: how long it may take to come."""

    def __init__(self, app: ASGIApp, most_bytes: Callable[[str], int], body_seconds: float) -> None:
        self._app = app
        self._most_bytes = most_bytes
        self._body_seconds = body_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = _request_id(Headers(scope=scope).get(REQUEST_ID))
        answer = _Answer(send, request_id, head=scope["method"] == "HEAD")
        if answer.head:
            scope = {**scope, "method": "GET"}
        with bound(request_id=request_id):
            await self._serve(scope, receive, answer)

    async def _serve(self, scope: Scope, receive: Receive, answer: "_Answer") -> None:
        body = _Body(scope, receive, self._most_bytes(scope["path"]), self._body_seconds)
        try:
            _check_text(scope)
            body.check_length()
            await self._app(scope, body.receive, answer.send)
        except Refusal as no:  # raised before a route was found
            if not answer.begun:
                refusal = envelope.refused(no.status, no.code, no.message, no.details, no.headers)
                await refusal(scope, receive, answer.send)
        except Exception as error:
            if answer.begun:
                raise
            response = await envelope.on_bug(Request(scope), error)
            await response(scope, receive, answer.send)


class _Body:
    """Hands the body on, as long as it keeps within its limits."""

    def __init__(self, scope: Scope, receive: Receive, most: int, seconds: float) -> None:
        self._headers = Headers(scope=scope)
        self._receive = receive
        self._most = most
        self._seconds = seconds
        self._until: float | None = None
        self._seen = 0
        self._whole = False

    def check_length(self) -> None:
        """Refuse by the header alone, before a byte is read."""
        length = self._headers.get("content-length", "0")
        if length.isdigit() and int(length) > self._most:
            raise self._too_large()
        if self._headers.get("content-encoding", "identity").lower() != "identity":
            raise Refusal.of(
                "UNSUPPORTED_MEDIA_TYPE", "Send the body as it is, without a Content-Encoding.", None, CLOSE
            )

    async def receive(self) -> Message:
        if self._whole:  # only the caller's hanging up can come
            return await self._receive()
        loop = asyncio.get_running_loop()
        self._until = self._until or loop.time() + self._seconds
        try:
            async with asyncio.timeout_at(self._until):
                message = await self._receive()
        except TimeoutError:
            raise Refusal.of("REQUEST_TIMEOUT", "The body did not come in time.", None, CLOSE) from None
        if message["type"] == "http.request":
            self._seen += len(message.get("body", b""))
            self._whole = not message.get("more_body", False)
            if self._seen > self._most:
                raise self._too_large()
        return message

    def _too_large(self) -> Refusal:
        return Refusal.of("PAYLOAD_TOO_LARGE", f"A body may have {self._most:,} bytes at most here.", None, CLOSE)


class _Answer:
    """Hands the answer on, with our headers; of an answer to HEAD the headers only."""

    def __init__(self, send: Send, request_id: str, *, head: bool) -> None:
        self._send = send
        self._request_id = request_id
        self.head = head
        self.begun = False

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.begun = True
            headers = MutableHeaders(scope=message)
            headers[REQUEST_ID] = self._request_id
            headers.setdefault("Cache-Control", "no-store")
            headers.setdefault("X-Content-Type-Options", "nosniff")
        elif self.head and message["type"] == "http.response.body":
            message = {**message, "body": b""}
        await self._send(message)


def _request_id(given: str | None) -> str:
    """The caller's own, if it can stand in a log; else a new one."""
    return (
        given if given and len(given) <= ID_CHARACTERS and given.isascii() and given.isprintable() else uuid.uuid4().hex
    )


def _check_text(scope: Scope) -> None:
    """Neither Postgres nor the org can keep NUL."""
    if "\x00" in scope["path"] or b"\x00" in unquote_to_bytes(scope["query_string"]):
        raise Refusal.of("VALIDATION_ERROR", "The address holds a NUL character.")
