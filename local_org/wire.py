"""Parts of a file straight from the page cache to a client's socket, past the web server's own buffers."""

import asyncio
import os

from anyio import to_thread
from starlette.types import Send
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

STEP_BYTES = 64 << 20


class GoneError(ConnectionError):
    """The client went away in the middle of an answer."""


async def send_file(send: Send, file: int, offset: int, length: int) -> bool:
    """Send a part of an answer's body; False where that is not possible (TLS, another server): then nothing was sent.

    `send` is that of uvicorn, whose answer has begun and has a length. Raises GoneError.
    """
    cycle = getattr(send, "__self__", None)
    if (
        not isinstance(cycle, RequestResponseCycle)
        or cycle.chunked_encoding
        or cycle.transport.get_extra_info("sslcontext")
    ):
        return False
    while cycle.transport.get_write_buffer_size():  # the head of the answer goes first
        await asyncio.sleep(0)
        _check(cycle)
    wire = os.dup(cycle.transport.get_extra_info("socket").fileno())
    try:
        await _pour(cycle, wire, file, offset, length)
    except OSError as error:
        raise GoneError(*error.args) from None
    finally:
        os.close(wire)
    cycle.expected_content_length -= length  # as if the server had sent it
    return True


async def _pour(cycle: RequestResponseCycle, wire: int, file: int, offset: int, length: int) -> None:
    end = offset + length
    while offset < end:
        _check(cycle)
        sent = await to_thread.run_sync(_push, wire, file, offset, min(end - offset, STEP_BYTES))
        if sent == 0:
            await _writable(wire)
        offset += sent


def _check(cycle: RequestResponseCycle) -> None:
    if cycle.disconnected or cycle.transport.is_closing():
        raise GoneError


def _push(wire: int, file: int, offset: int, length: int) -> int:
    """As much as the socket takes now. Raises OSError if the file is shorter than it was."""
    sent = 0
    try:
        while sent < length:
            count = os.sendfile(wire, file, offset + sent, length - sent)
            if count == 0:
                raise OSError("the file is shorter than it was")
            sent += count
    except BlockingIOError:
        pass
    return sent


async def _writable(wire: int) -> None:
    loop, ready = asyncio.get_running_loop(), asyncio.Event()
    loop.add_writer(wire, ready.set)
    try:
        await ready.wait()
    finally:
        loop.remove_writer(wire)
