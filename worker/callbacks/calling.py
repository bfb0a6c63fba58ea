"""One call of a callback's URL: pinned to an address that was looked at, no proxy, no redirect, one whole deadline.

The name is resolved once, here; the connection goes to an address that passed, so a name that changes its mind between the
look and the call (DNS rebinding) gains nothing. TLS is verified for the name.
"""

import http.client
import socket
import ssl
import threading
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from worker.callbacks.addresses import Target, is_public, target

USER_AGENT = "sfsync"
LARGEST_ANSWER_BYTES = 64 * 1024  # read, so that the connection ends well; nothing of it is kept
CONNECT_SECONDS = 5.0

Resolve = Callable[[str, int], list[str]]


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of a call. `status` None: there was no answer, `error` says why. `retry_after`: seconds, where it says so."""

    status: int | None
    error: str | None
    seconds: float
    retry_after: float | None = None


def resolve(host: str, port: int) -> list[str]:
    """The addresses of a host, in the resolver's order. OSError when there are none."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


@dataclass(frozen=True)
class Caller:
    """How callbacks are called. `allowed`: origins that the operator trusts; `resolve` is the system's unless a test gives another."""

    allowed: Collection[str]
    deadline_seconds: float
    ca_file: Path | None = None
    resolve: Resolve = resolve

    def call(self, url: str, body: bytes, headers: Mapping[str, str]) -> Answer:
        """POST the body. Never raises for what the other side does."""
        begin = time.monotonic()

        def after(status: int | None, error: str | None, retry_after: float | None = None) -> Answer:
            return Answer(status, error, time.monotonic() - begin, retry_after)

        try:
            where = target(url, self.allowed)
            addresses = [one for one in self.resolve(where.host, where.port) if where.trusted or is_public(one)]
        except ValueError as error:
            return after(None, str(error))
        except OSError:
            return after(None, "the host's name is not known")
        if not addresses:
            return after(
                None, "the host has no public address; the operator may list it in SFSYNC_CALLBACK_ALLOWED_HOSTS"
            )
        watch = _Watch(self.deadline_seconds)
        try:
            status, retry_after = self._post(where, addresses, body, headers, watch)
        except (OSError, http.client.HTTPException, ValueError) as error:
            late = f"no answer within {self.deadline_seconds:g} s"
            return after(None, late if watch.rang else f"{type(error).__name__}: {error}"[:500])
        finally:
            watch.stop()
        if watch.rang:  # a cut in the middle of the headers looks like their end
            return after(None, f"no answer within {self.deadline_seconds:g} s")
        return after(status, None if 200 <= status < 300 else _explain(status), retry_after)

    def _post(
        self, where: Target, addresses: list[str], body: bytes, headers: Mapping[str, str], watch: "_Watch"
    ) -> tuple[int, float | None]:
        connection = http.client.HTTPConnection(where.host, where.port)
        connection.sock = self._connect(where, addresses, watch)
        try:
            named = {"content-type": "application/json", "user-agent": USER_AGENT, "connection": "close", **headers}
            connection.request("POST", where.path, body=body, headers=named)
            answer = connection.getresponse()
            answer.read(LARGEST_ANSWER_BYTES)
            return answer.status, _seconds(answer.getheader("retry-after"))
        finally:
            connection.close()

    def _connect(self, where: Target, addresses: list[str], watch: "_Watch") -> socket.socket:
        failure: OSError = OSError("no address")
        for address in addresses:
            try:
                raw = socket.create_connection(
                    (address, where.port), timeout=min(CONNECT_SECONDS, self.deadline_seconds)
                )
            except OSError as error:
                failure = error
                continue
            watch.guard(raw)
            raw.settimeout(self.deadline_seconds)
            if where.scheme == "http":
                return raw
            wrapped = self._tls().wrap_socket(raw, server_hostname=where.host, do_handshake_on_connect=False)
            watch.guard(wrapped)
            wrapped.do_handshake()
            return wrapped
        raise failure

    def _tls(self) -> ssl.SSLContext:
        context = ssl.create_default_context()
        if self.ca_file is not None:
            context.load_verify_locations(self.ca_file)
        return context


class _Watch:
    """Cuts the connection off when the deadline passes: a time-out for each read alone lets a slow drip go on for ever."""

    def __init__(self, seconds: float) -> None:
        self.rang = False
        self._sockets: list[socket.socket] = []
        self._timer = threading.Timer(seconds, self._ring)
        self._timer.daemon = True
        self._timer.start()

    def guard(self, sock: socket.socket) -> None:
        """Cut this one off, too."""
        self._sockets.append(sock)
        if self.rang:
            self._cut(sock)

    def stop(self) -> None:
        """The call is over."""
        self._timer.cancel()

    def _ring(self) -> None:
        self.rang = True
        for sock in list(self._sockets):
            self._cut(sock)

    @staticmethod
    def _cut(sock: socket.socket) -> None:
        try:
            socket.socket.shutdown(sock, socket.SHUT_RDWR)
        except OSError:
            pass


def _explain(status: int) -> str:
    if 300 <= status < 400:
        return f"it answered {status}: redirects are not followed"
    return f"it answered {status}"


def _seconds(text: str | None) -> float | None:
    return float(text) if text is not None and text.isascii() and text.isdigit() else None
