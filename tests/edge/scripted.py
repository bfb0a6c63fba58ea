"""A server that answers exactly the bytes that a test scripts: for answers no well-behaved server gives."""

import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from worker.errors import SyncError, TransientError
from worker.salesforce.client import OrgClient
from worker.salesforce.exchange import AccessToken
from worker.salesforce.transport import HttpOptions


@dataclass(frozen=True)
class Seen:
    """One request as it arrived."""

    number: int
    method: str
    target: str
    headers: dict[str, str]
    body: bytes


class Hang(Exception):
    """Raised by a script: say nothing more and keep the connection open until the test ends."""


class Cut(Exception):
    """Raised by a script: reset the connection."""


Script = Callable[[Seen], Iterator[bytes]]


@dataclass
class Server:
    """A scripted server on a free port; `seen` are its requests so far."""

    url: str
    seen: list[Seen] = field(default_factory=list)
    connections: int = 0


def answer(status: int, body: Any = None, headers: dict[str, str] | None = None) -> bytes:
    """A whole answer; a body that is no bytes is sent as JSON."""
    content = b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
    lines = {"Content-Type": "application/json", "Content-Length": str(len(content)), **(headers or {})}
    head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    return f"HTTP/1.1 {status} X\r\n{head}\r\n".encode() + content


def script_of(*answers: bytes) -> Script:
    """A script that gives these answers in turn, the last one again and again."""

    def script(seen: Seen) -> Iterator[bytes]:
        yield answers[min(seen.number, len(answers)) - 1]

    return script


@contextmanager
def serve(script: Script) -> Iterator[Server]:
    """A server that lets `script` answer each request, each connection in a thread of its own."""
    listener = socket.create_server(("127.0.0.1", 0))
    server = Server(f"http://127.0.0.1:{listener.getsockname()[1]}")
    over = threading.Event()
    opened: list[socket.socket] = []

    def accept() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            opened.append(connection)
            server.connections += 1
            threading.Thread(target=converse, args=(connection,), daemon=True).start()

    def converse(connection: socket.socket) -> None:
        reader = connection.makefile("rb")
        try:
            while (seen := read_request(reader, len(server.seen) + 1)) is not None:
                server.seen.append(seen)
                for piece in script(seen):
                    connection.sendall(piece)
        except Hang:
            over.wait()
        except Cut:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        except OSError:  # the other side has gone
            pass
        finally:
            reader.close()
            connection.close()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield server
    finally:
        over.set()
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        for connection in opened:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)


def read_request(reader: Any, number: int) -> Seen | None:
    """The next request on a connection; None at its end."""
    first = reader.readline().decode("latin-1")
    if not first:
        return None
    method, target, _ = first.split(" ", 2)
    headers: dict[str, str] = {}
    while (line := reader.readline().decode("latin-1").strip()) != "":
        name, _, value = line.partition(":")
        headers[name.lower()] = value.strip()
    return Seen(number, method, target, headers, reader.read(int(headers.get("content-length", "0"))))


@dataclass
class FakeTokens:
    """A token source without a store: token-1, token-2, … for one instance."""

    url: str
    renewals: int = 0
    refusals: list[str] = field(default_factory=list)

    def current(self) -> AccessToken:
        return AccessToken(f"token-{self.renewals + 1}", self.url, self.renewals + 1)

    def renew(self, stale: AccessToken) -> AccessToken:
        assert stale.version == self.renewals + 1
        self.renewals += 1
        return self.current()

    def refused(self, token: AccessToken, reason: str) -> SyncError:
        self.refusals.append(reason)
        return TransientError(reason, code="INVALID_SESSION_ID")


def client_of(server: Server, *, request_seconds: float = 20.0, page_seconds: float = 20.0) -> OrgClient:
    """A client of a scripted server."""
    options = HttpOptions("62.0", (server.url,), None, request_seconds, page_seconds)
    return OrgClient(FakeTokens(server.url), options)
