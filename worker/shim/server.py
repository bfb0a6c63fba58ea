"""The shim under uvicorn: what uvicorn itself would answer is in the envelope, too, and an end on request is quick and whole."""

import asyncio
import signal
from types import FrameType

import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from worker.shim.app import stop

GRACE_SECONDS = 25  # requests in hand get this long; those who only wait are answered at once
MALFORMED = b'{"ok":false,"error":{"code":"VALIDATION_ERROR","message":"The request is not valid HTTP."}}'


class _Protocol(HttpToolsProtocol):
    """HTTP/1.1, and an envelope for what is none."""

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002 - the reason is uvicorn's own
        head = (
            b"HTTP/1.1 400 Bad Request\r\nContent-Type: application/json\r\nConnection: close\r\n"
            b"Content-Length: " + str(len(MALFORMED)).encode() + b"\r\n\r\n"
        )
        self.transport.write(head + MALFORMED)
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


def serve(app: FastAPI, host: str, port: int) -> None:
    """Serve until SIGTERM or SIGINT; requests in hand are finished."""
    config = uvicorn.Config(
        app,
        host=host,
        port=port,
        http=_Protocol,
        log_config=None,
        access_log=False,
        timeout_graceful_shutdown=GRACE_SECONDS,
        server_header=False,
    )
    _Server(config, app).run()
