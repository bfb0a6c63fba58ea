"""Sockets with a whole deadline: connection pools shared by the process, calls that can be cut, the CA bundle.

A per-read time-out is no deadline: a server that sends one byte a second passes it for ever, in the handshake, in the
headers and in the body. So every call is watched: when its time is over, or somebody calls `cut()`, its socket is shut down,
whatever the thread waits for.
"""

import http.client
import ipaddress
import os
import socket
import ssl
import threading
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

import certifi
import requests
import urllib3
from requests.adapters import HTTPAdapter
from urllib3 import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.connection import HTTPConnection, HTTPSConnection

from worker.errors import SettingsError

CONNECT_SECONDS = 5.0
WATCH_SECONDS = 0.1  # how late the watchdog may be
STALE_SECONDS = 15.0  # a write does not trust a connection that was idle for longer: its loss would leave us in doubt
POOL_SIZE = 32
CHUNK_BYTES = 512 * 1024


@dataclass(frozen=True, slots=True)
class HttpOptions:
    """How to speak to an org: API version (`62.0`), hosts allowed beside Salesforce's own, CA file, deadlines in seconds."""

    version: str
    allowed_hosts: tuple[str, ...] = ()
    ca_file: Path | None = None
    request_seconds: float = 120.0
    page_seconds: float = 1200.0


@dataclass(frozen=True, slots=True)
class Deadline:
    """A moment on the monotonic clock by which a call must be over."""

    at: float

    @classmethod
    def after(cls, seconds: float) -> "Deadline":
        """The moment `seconds` from now."""
        return cls(time.monotonic() + seconds)

    def remaining(self) -> float:
        """Seconds left, never below 0."""
        return max(0.0, self.at - time.monotonic())

    def passed(self) -> bool:
        """Whether the moment is over."""
        return time.monotonic() >= self.at


class Call:
    """One exchange with a server. `sent`: at least a part of the request left us. `was_cut`: its socket was shut down.

    `silence_seconds`: how long the server may say nothing at all (None: until the deadline): a page may take long, but a
    dead connection should not.
    """

    def __init__(
        self, deadline: Deadline, *, private_ok: bool, trust_idle: bool = True, silence_seconds: float | None = None
    ) -> None:
        self.deadline = deadline
        self.silence_seconds = silence_seconds
        self.private_ok = private_ok
        self.trust_idle = trust_idle
        self.sent = False
        self.was_cut = False
        self._connection: _Cuttable | None = None

    def attach(self, connection: "_Cuttable") -> None:
        """This call uses `connection` from now on."""
        self._connection = connection
        connection.call = self
        if self.was_cut:
            connection.shut()

    def cut(self) -> None:
        """Shut the socket down; callable from any thread, more than once."""
        self.was_cut = True
        connection = self._connection
        if connection is not None and connection.call is self:
            connection.shut()

    def finish(self) -> None:
        """The exchange is over: the connection may serve another call."""
        connection, self._connection = self._connection, None
        if connection is not None and connection.call is self:
            connection.call = None


class _Current(threading.local):
    call: Call | None = None


_current = _Current()


def _call() -> Call:
    assert _current.call is not None, "a connection is used outside of send()"
    return _current.call


class _Cuttable:
    """What our connections add to urllib3's: a second handle on the socket, valid in every phase (connect, TLS, body)."""

    call: Call | None = None
    _handle: socket.socket | None = None
    _used_at: float = 0.0
    sock: Any

    def _new_conn(self) -> socket.socket:
        call = _call()
        sock = cast(socket.socket, super()._new_conn())  # type: ignore[misc]
        if not call.private_ok and not is_public(sock.getpeername()[0]):
            sock.close()
            raise PrivateAddressError
        self._drop_handle()
        self._handle = sock.dup()
        call.attach(self)
        return sock

    def request(self, *args: Any, **kwargs: Any) -> None:
        call = _call()
        if self.sock is not None and not call.trust_idle and time.monotonic() - self._used_at > STALE_SECONDS:
            self.close()
        call.attach(self)
        super().request(*args, **kwargs)  # type: ignore[misc]

    def send(self, data: Any) -> None:
        if self.sock is None:
            self.connect()  # type: ignore[attr-defined]
        _call().sent = True
        super().send(data)  # type: ignore[misc]
        self._used_at = time.monotonic()

    def shut(self) -> None:
        """Shut the socket down in both directions: whoever waits for it wakes up."""
        handle = self._handle
        if handle is not None:
            try:
                handle.shutdown(socket.SHUT_RDWR)
            except OSError:  # already closed
                pass

    def close(self) -> None:
        self._drop_handle()
        super().close()  # type: ignore[misc]

    def _drop_handle(self) -> None:
        handle, self._handle = self._handle, None
        if handle is not None:
            handle.close()


class PrivateAddressError(OSError):
    """A host that is not listed in SALESFORCE_ALLOWED_HOSTS resolved to a private address."""


class _PlainConnection(_Cuttable, HTTPConnection):
    pass


class _TlsConnection(_Cuttable, HTTPSConnection):
    pass


class _PlainPool(HTTPConnectionPool):
    ConnectionCls = cast(Any, _PlainConnection)


class _TlsPool(HTTPSConnectionPool):
    ConnectionCls = cast(Any, _TlsConnection)


class _Adapter(HTTPAdapter):
    """Pools of cuttable connections over one TLS context."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self._context = context
        super().__init__(pool_connections=POOL_SIZE, pool_maxsize=POOL_SIZE, max_retries=0)

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, ssl_context=self._context, **kwargs)
        self.poolmanager.pool_classes_by_scheme = {"http": _PlainPool, "https": _TlsPool}

    def cert_verify(self, conn: Any, url: Any, verify: Any, cert: Any) -> None:  # noqa: ARG002
        """The context holds the roots; requests would load its bundle again for each connection."""
        conn.cert_reqs = "CERT_REQUIRED"


def is_public(address: str) -> bool:
    """Whether an IP address (a zone id is ignored) is one of the public internet."""
    return ipaddress.ip_address(address.partition("%")[0]).is_global


def is_loopback(url: str) -> bool:
    """Whether a URL names this machine by its text alone."""
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def tls_context(ca_file: Path | None) -> ssl.SSLContext:
    """The public roots and, beside them, what `ca_file` holds. SettingsError when that file cannot be read as PEM."""
    context = ssl.create_default_context(cafile=certifi.where())
    if ca_file is not None:
        try:
            context.load_verify_locations(ca_file)
        except (OSError, ssl.SSLError):
            raise SettingsError(
                f"SALESFORCE_CA_FILE: {ca_file} cannot be read; it must hold certificates in PEM"
            ) from None
    return context


@lru_cache(maxsize=8)
def _adapter(pid: int, ca_file: Path | None) -> _Adapter:  # noqa: ARG001 (a pool must not cross a fork)
    return _Adapter(tls_context(ca_file))


def new_session(options: HttpOptions) -> requests.Session:
    """A requests session of its own headers and cookies over this process's shared pools.

    Never close it: that would close the pools, which others use.
    """
    session = requests.Session()
    session.trust_env = False  # no .netrc, no proxy, no CA bundle from the environment
    session.max_redirects = 0
    adapter = _adapter(os.getpid(), options.ca_file)
    session.mount("https://", adapter)
    session.mount("http://", adapter)
    return session


class _Watchdog:
    """One thread of the process that cuts calls whose deadline has passed. It ends when there is nothing to watch."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._calls: set[Call] = set()
        self._running = False

    def add(self, call: Call) -> None:
        with self._lock:
            self._calls.add(call)
            if not self._running:
                self._running = True
                threading.Thread(target=self._run, name="deadlines", daemon=True).start()

    def remove(self, call: Call) -> None:
        with self._lock:
            self._calls.discard(call)

    def _run(self) -> None:
        idle_since = time.monotonic()
        while True:
            time.sleep(WATCH_SECONDS)
            with self._lock:
                if self._calls:
                    idle_since = time.monotonic()
                elif time.monotonic() - idle_since > 5:
                    self._running = False
                    return
                late = [call for call in self._calls if call.deadline.passed()]
            for call in late:
                call.cut()


_watchdog = _Watchdog()


def _renew_after_fork() -> None:
    global _watchdog
    _watchdog = _Watchdog()


os.register_at_fork(after_in_child=_renew_after_fork)


@contextmanager
def watched(call: Call) -> Iterator[Call]:
    """Watch `call` until the block ends; its connection is free for others then."""
    _watchdog.add(call)
    try:
        yield call
    finally:
        _watchdog.remove(call)
        call.finish()


def send(session: requests.Session, request: requests.Request, call: Call) -> requests.Response:
    """Send one request and return its open response: status and headers are there, the body is not read.

    Past the session's own `send`, which reads bodies when it meets a redirect; here no redirect is followed or even looked at.
    Raises what requests and urllib3 raise; `trouble` puts that into words.
    """
    prepared = session.prepare_request(request)
    adapter = session.get_adapter(cast(str, prepared.url))
    left = call.deadline.remaining() or 0.001
    timeout = (min(CONNECT_SECONDS, left), min(call.silence_seconds or left, left))
    previous, _current.call = _current.call, call
    try:
        return adapter.send(prepared, stream=True, timeout=timeout)
    finally:
        _current.call = previous


def chunks(response: requests.Response, call: Call, size: int = CHUNK_BYTES) -> Iterator[bytes]:
    """The body in large pieces, gzip undone, until its end.

    A body that ends before its Content-Length, its last chunk or its gzip trailer raises (urllib3's errors, EOFError), and so does
    a passed deadline or a cut (TimeoutError).
    """
    inflate = zlib.decompressobj(wbits=31) if "gzip" in response.headers.get("Content-Encoding", "").lower() else None
    while data := response.raw.read(size, decode_content=False):
        if call.was_cut or call.deadline.passed():
            raise TimeoutError
        if inflate is None:
            yield data
        elif piece := inflate.decompress(data):
            yield piece
    if call.was_cut:  # a body without a length ends like this too
        raise TimeoutError
    if inflate is not None:
        yield from filter(None, [inflate.flush()])
        if not inflate.eof and response.raw.tell():
            raise EOFError("gzip ends early")


# What a broken exchange may raise on its way, from the name look-up to the last byte.
BROKEN = (
    requests.exceptions.RequestException,
    urllib3.exceptions.HTTPError,
    http.client.HTTPException,
    OSError,
    EOFError,
    zlib.error,
)


def trouble(error: Exception, call: Call, host: str) -> str:
    """One line about a broken exchange, without URL, headers or body."""
    if _caused_by(error, PrivateAddressError):
        return f"{host} resolves to a private address; list it in SALESFORCE_ALLOWED_HOSTS if that is meant"
    if call.deadline.passed():
        return f"{host} did not answer in time"
    if call.was_cut:
        return f"the call to {host} was cut off"
    if isinstance(error, requests.exceptions.SSLError):
        return f"{host}: the TLS connection failed ({_tls_reason(error)})"
    if not call.sent:
        return f"{host} cannot be reached ({type(error).__name__})"
    return f"the connection to {host} broke ({type(error).__name__})"


def _tls_reason(error: Exception) -> str:
    if _caused_by(error, ssl.SSLCertVerificationError):
        return "its certificate is not trusted; SALESFORCE_CA_FILE adds one"
    return type(error).__name__


def _caused_by(error: BaseException | None, kind: type[BaseException]) -> bool:
    seen: set[int] = set()
    queue: list[Any] = [error]
    while queue:
        item = queue.pop()
        if not isinstance(item, BaseException) or id(item) in seen:
            continue
        if isinstance(item, kind):
            return True
        seen.add(id(item))
        queue += [item.__cause__, item.__context__, getattr(item, "reason", None), *item.args]
    return False
