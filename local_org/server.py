"""The org as an ASGI application: takes calls off the wire, spoils those that a test wants spoilt, notes them all."""

import asyncio
import gzip
import re
import time
import uuid
import zlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from anyio import CapacityLimiter, move_on_after, to_thread
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from local_org import control, data_api, oauth, wire
from local_org.clock import Clock
from local_org.context import Answer, Reply
from local_org.data_api import Call
from local_org.errors import ApiError
from local_org.ledger import Entry
from local_org.metadata import http_date
from local_org.org import Org
from local_org.values import dumps

THREADS = 64
COMPRESS_FROM_BYTES = 2_048
MAX_HEADER_BYTES = 16_384
_ONE_ROW = re.compile(r"/services/data/v\d+\.\d/sobjects/\w+/\w{15}(?:\w{3})?/?")
_WITHOUT_BODY = frozenset({204, 304})
_COMMON_HEADERS = {
    "Cache-Control": "no-cache,must-revalidate,max-age=0,no-store,private",
    "Strict-Transport-Security": "max-age=63072000; includeSubDomains",
    "Vary": "Accept-Encoding",
    "X-Content-Type-Options": "nosniff",
    "X-Robots-Tag": "none",
}


class _CutError(Exception):
    """The connection is to be closed without (the rest of) an answer."""


class Server:
    """The ASGI application of one org."""

    def __init__(self, org: Org) -> None:
        self.org = org
        self._limiter: CapacityLimiter | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        path = scope["path"]
        if path.startswith("/__org__"):
            await self._control(scope, receive, send)
            return
        entry = Entry(self.org.store.clock.exact_ms(), scope["method"], path, scope["query_string"].decode("latin-1"))
        started = time.perf_counter()
        try:
            await self._answer(scope, receive, _Counted(send, entry, self.org.store.clock), entry)
            entry.delivered = True
        except (_CutError, wire.GoneError):
            _close(send)
            await asyncio.sleep(
                0
            )  # the server learns that the connection is lost, and does not complain of half an answer
        finally:
            entry.milliseconds = round((time.perf_counter() - started) * 1000, 3)
            self.org.ledger.add(entry)

    async def _answer(self, scope: Scope, receive: Receive, send: "_Counted", entry: Entry) -> None:
        if (refusal := _too_long(scope)) is not None:
            await refusal(scope, receive, send)
            return
        async with self._call(scope, receive) as call:
            entry.bytes_in = len(call.body) if call.upload is None else call.upload.stat().st_size
            path = call.path + (f"?{call.query_string}" if call.query_string else "")
            text = call.body.decode("utf-8", "replace") if self.org.faults.need_body else ""
            fault = self.org.faults.pick(call.method, path, text)
            if fault is None:
                await self._reply(scope, receive, send, call, entry)
            else:
                entry.fault = "+".join(fault)
                await self._spoilt(fault, scope, receive, send, call, entry)

    async def _reply(self, scope: Scope, receive: Receive, send: Send, call: Call, entry: Entry) -> None:
        reply: Reply = _timed_out(call)
        if self._is_quick(call):
            reply, entry.user = self._carry_out(call)
        else:
            with move_on_after(self.org.settings.request_seconds):
                reply, entry.user = await self.in_thread(self._carry_out, call, leave=call.upload is None)
        await _send_reply(reply, call, scope, receive, send)

    def _is_quick(self, call: Call) -> bool:
        """Whether a call takes less time than handing it to a thread: the reading of one row."""
        return call.method == "GET" and _ONE_ROW.fullmatch(call.path) is not None and not self.org.has_chores

    def _carry_out(self, call: Call) -> tuple[Reply, str | None]:
        self.org.upkeep()
        answer = data_api.answer if call.path.startswith(data_api.PREFIXES) else oauth.answer
        try:
            return answer(self.org, call)
        except Exception as error:  # whatever it is: the caller gets the vendor's answer, the log one line
            return data_api.error_answer(self.org, error), None

    async def in_thread(self, function: Callable[..., Any], *args: Any, leave: bool = False) -> Any:
        """Run what may wait for the disk away from the event loop; `leave` it to itself when time is up."""
        if self._limiter is None:
            self._limiter = CapacityLimiter(THREADS)
        return await to_thread.run_sync(function, *args, abandon_on_cancel=leave, limiter=self._limiter)

    # -- taking a call off the wire

    @asynccontextmanager
    async def _call(self, scope: Scope, receive: Receive) -> AsyncIterator[Call]:
        """The call with its body; what is uploaded goes to a file that lives as long as the call."""
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        # The vendor's command line keeps the slash at the end of an instance URL: //services/data/...
        raw_path = "/" + scope["raw_path"].decode("latin-1").partition("?")[0].lstrip("/")
        upload = self._upload_path(scope["method"], raw_path)
        body = b"" if upload else await _body(receive, headers)
        if upload:
            await self._save(receive, upload, headers)
        method = scope["method"]
        try:
            yield Call(
                method=method,
                path=raw_path,
                query_string=scope["query_string"].decode("latin-1"),
                headers=headers,
                host_url=f"{scope['scheme']}://{headers.get('host', 'localhost')}",
                body=body,
                upload=upload,
            )
        finally:
            if upload:
                upload.unlink(missing_ok=True)

    def _upload_path(self, method: str, path: str) -> Path | None:
        if method != "PUT" or not path.rstrip("/").endswith("/batches"):
            return None
        folder = self.org.store.folder / "uploads"
        folder.mkdir(exist_ok=True)
        return folder / uuid.uuid4().hex

    async def _save(self, receive: Receive, path: Path, headers: dict[str, str]) -> None:
        unzip = zlib.decompressobj(31) if headers.get("content-encoding") == "gzip" else None
        with path.open("wb") as file:
            async for chunk in _chunks(receive):
                await self.in_thread(file.write, _unzipped(unzip, chunk) if unzip else chunk)

    # -- trouble

    async def _spoilt(
        self, fault: dict[str, Any], scope: Scope, receive: Receive, send: "_Counted", call: Call, entry: Entry
    ) -> None:
        """Carry out what a fault says, in the order: wait, hang, cut, answer or let the org answer."""
        if "delay_ms" in fault:
            await asyncio.sleep(fault["delay_ms"] / 1000)
        if fault.get("hang"):
            while (await receive())["type"] != "http.disconnect":
                pass
            raise _CutError
        if fault.get("cut") == "before":
            raise _CutError
        if "status" in fault:
            await _send_reply(_faked(fault), call, scope, receive, send)
            return
        if fault.get("cut") == "after":
            _, entry.user = await self.in_thread(self._carry_out, call)
            raise _CutError
        await self._reply(scope, receive, _spoiling(fault, send), call, entry)

    # -- the control path

    async def _control(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = await _body(receive, {})
        path = unquote(scope["path"])[len("/__org__") :].strip("/")
        query = scope["query_string"].decode("latin-1")
        answer = await self.in_thread(control.answer, self.org, scope["method"], path, query, body)
        await _send_reply(answer, None, scope, receive, send)


class _Counted:
    """Counts what is sent of an answer's body, notes its status, and dates it by the org's clock."""

    def __init__(self, send: Send, entry: Entry, clock: Clock) -> None:
        self.send = send
        self.entry = entry
        self.clock = clock

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.entry.status = message["status"]
            date = (b"date", http_date(self.clock.exact_ms()).encode())
            message = {**message, "headers": [*message.get("headers", ()), date]}
        await self.send(message)
        self.entry.bytes_out += len(message.get("body", b""))

    async def send_file(self, file: int, offset: int, length: int) -> bool:
        """Part of a file as a part of the body, without a detour; False where that cannot be."""
        if not await wire.send_file(self.send, file, offset, length):
            return False
        self.entry.bytes_out += length
        return True


def _faked(fault: dict[str, Any]) -> Response:
    body = fault.get("body", "")
    headers = {str(name): str(value) for name, value in (fault.get("headers") or {}).items()}
    if isinstance(body, str):
        kind = "text/html;charset=utf-8"
        content = body.encode()
    else:
        kind, content = "application/json;charset=UTF-8", dumps(body)
    if not any(name.lower() == "content-type" for name in headers):
        headers["Content-Type"] = kind
    return Response(content, fault["status"], headers)


def _spoiling(fault: dict[str, Any], send: Send) -> Send:
    """A `send` that stops after `truncate_bytes`, or sends `drip_bytes` at a time every `drip_ms`."""
    left = fault.get("truncate_bytes")
    drip = int(fault.get("drip_bytes", 0))

    async def spoil(message: Message) -> None:
        nonlocal left
        body = message.get("body", b"")
        if left is not None and len(body) > left:
            await send({**message, "body": body[:left], "more_body": True})
            raise _CutError
        if left is not None:
            left -= len(body)
        while drip and len(body) > drip:
            await send({"type": "http.response.body", "body": body[:drip], "more_body": True})
            await asyncio.sleep(fault.get("drip_ms", 100) / 1000)
            body = body[drip:]
        await send({**message, "body": body} if "body" in message else message)

    return spoil


def _timed_out(call: Call) -> Reply:
    """What a call gets that took too long; what it does may still be done."""
    if "/query" in call.path:
        text = "Your query request was running for too long."
        return Answer(400, ApiError(400, "QUERY_TIMEOUT", text).body())
    return Response("<html><body>Gateway Timeout</body></html>", 504, media_type="text/html")


def _too_long(scope: Scope) -> Response | None:
    """What a call gets whose URI, or URI and headers together, are over the vendor's limit."""
    if data_api.uri_bytes(scope["raw_path"], scope["query_string"]) > data_api.MAX_URI_BYTES:
        return Response("URI Too Long", 414)
    if _header_bytes(scope) > MAX_HEADER_BYTES:
        return Response("Request Header Fields Too Large", 431)
    return None


def _header_bytes(scope: Scope) -> int:
    """The URI and all headers, as the vendor limits them together."""
    headers = sum(len(name) + len(value) + 4 for name, value in scope["headers"])
    return headers + len(scope["raw_path"]) + len(scope["query_string"])


def _close(send: Send) -> None:
    """Drop the connection; uvicorn's `send` belongs to the object that holds the transport."""
    transport = getattr(getattr(send, "__self__", None), "transport", None)
    if transport is not None:
        transport.abort()


async def _chunks(receive: Receive) -> AsyncIterator[bytes]:
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise _CutError
        yield message.get("body", b"")
        more = message.get("more_body", False)


def _unzipped(unzip: "zlib._Decompress", chunk: bytes) -> bytes:
    try:
        return unzip.decompress(chunk)
    except zlib.error:
        return chunk  # no gzip after all: whoever reads it will say what is wrong


async def _body(receive: Receive, headers: dict[str, str]) -> bytes:
    body = b"".join([chunk async for chunk in _chunks(receive)])
    if headers.get("content-encoding") != "gzip":
        return body
    try:
        return gzip.decompress(body)
    except (OSError, EOFError, zlib.error):
        return body  # no gzip after all: whoever reads it will say what is wrong


async def _send_reply(reply: Reply, call: Call | None, scope: Scope, receive: Receive, send: Send) -> None:
    if not isinstance(reply, Answer):
        await reply(scope, receive, send)
        return
    content = b"" if reply.body is None else dumps(reply.body)
    headers = {**_COMMON_HEADERS, **reply.headers}
    if reply.body is not None:
        headers["Content-Type"] = "application/json;charset=UTF-8"
    if call is not None and len(content) >= COMPRESS_FROM_BYTES:
        content = await _compressed(content, call, headers)
    raw = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]
    if reply.status not in _WITHOUT_BODY:
        raw.append((b"content-length", str(len(content)).encode()))
    await send({"type": "http.response.start", "status": reply.status, "headers": raw})
    await send({"type": "http.response.body", "body": content})


async def _compressed(content: bytes, call: Call, headers: dict[str, str]) -> bytes:
    if "gzip" not in call.headers.get("accept-encoding", ""):
        return content
    headers["Content-Encoding"] = "gzip"
    if "ETag" in headers:
        headers["ETag"] = headers["ETag"][:-1] + '-gzip"'
    return await to_thread.run_sync(gzip.compress, content, 1)
