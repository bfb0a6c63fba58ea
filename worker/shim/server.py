"""The shim under uvicorn: what uvicorn itself would answer is in the envelope, too, and an end on request is quick and whole."""

import asyncio
import signal
from http import HTTPStatus
from types import FrameType

import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from worker.shim.app import stop
from worker.shim.envelope import refused

GRACE_SECONDS = 25  # requests in hand get this long; those who only wait are answered at once
HEAD_SECONDS = 10.0
LONGEST_HEAD_BYTES = 65_536  # uvicorn's fast parser has no limit of its own


class _Protocol(HttpToolsProtocol):
    """HTTP/1.1; an envelope for what is none; and an end for who sends a head without end, or none at all.

    uvicorn itself waits for ever for the rest of a head, so that a few thousand idle connections would be all it can hold.
    """

    head_seconds = HEAD_SECONDS

    _in_body = False  # its rest may still come when the answer is long out
    _head_timer: asyncio.TimerHandle | None = None  # set while a head is awaited
    _head_bytes = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A head is awaited from the first moment on."""
        super().connection_made(transport)
        self._await_head()

    def data_received(self, data: bytes) -> None:
        """Of a head that is not whole yet, so much may come and no more."""
        if self._head_timer is None and not self._in_body and (self.cycle is None or self.cycle.response_complete):
            self._await_head()
        super().data_received(data)
        if self._head_timer is not None:
            self._head_bytes += len(data)
            if self._head_bytes > LONGEST_HEAD_BYTES:
                self._end(413, "PAYLOAD_TOO_LARGE", f"A request's head may have {LONGEST_HEAD_BYTES:,} bytes at most.")

    def on_headers_complete(self) -> None:
        """The head is here."""
        self._in_body = True
        self._stop_waiting()
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """The body, too."""
        self._in_body = False
        super().on_message_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing is awaited any more."""
        self._stop_waiting()
        super().connection_lost(exc)

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002 - the reason is uvicorn's own
        """The request is none."""
        self._end(400, "VALIDATION_ERROR", "The request is not valid HTTP.")

    def _await_head(self) -> None:
        self._head_bytes = 0
        self._head_timer = self.loop.call_later(self.head_seconds, self._too_slow)

    def _stop_waiting(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _too_slow(self) -> None:
        self._end(408, "REQUEST_TIMEOUT", "The request did not come in time.")

    def _end(self, status: int, code: str, message: str) -> None:
        self._stop_waiting()
        if self.transport.is_closing():
            return
        answer = refused(status, code, message)
        lines = [f"HTTP/1.1 {status} {HTTPStatus(status).phrase}", "Connection: close"]
        lines += [f"{name.decode()}: {value.decode()}" for name, value in answer.raw_headers]
        self.transport.write("\r\n".join([*lines, "", ""]).encode() + bytes(answer.body))
        self.transport.close()


class _Server(uvicorn.Server):
    """Tells the application of the end when it is asked for, not when all connections are closed."""

    def __init__(self, config: uvicorn.Config, app: FastAPI) -> None:
        super().__init__(config)
        self._app = app
        self._loop: asyncio.AbstractEventLoop | None = None

    async def startup(self, sockets: list[object] | None = None) -> None:  # type: ignore[override]
        self._loop = asyncio.get_running_loop()
        await super().startup(sockets)  # type: ignore[arg-type]

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002
        """Not uvicorn's own, which ends the process by the signal once everything is done: a clean end exits 0."""
        self.force_exit = self.should_exit and sig == signal.SIGINT
        self.should_exit = True
        if self._loop is not None:
            self._loop.call_soon_threadsafe(stop, self._app)


def make_server(app: FastAPI, host: str, port: int, *, head_seconds: float = HEAD_SECONDS) -> uvicorn.Server:
    """The server; `run()` serves until SIGTERM or SIGINT, and finishes requests in hand.

    `head_seconds`: how long a request's head may take to come.
    """
    config = uvicorn.Config(
        app,
        host=host,
        port=port,
        http=type("Protocol", (_Protocol,), {"head_seconds": head_seconds}),
        ws="none",  # else an upgrade would be answered without an envelope
        log_config=None,
        access_log=False,
        timeout_graceful_shutdown=GRACE_SECONDS,
        server_header=False,
    )
    return _Server(config, app)
