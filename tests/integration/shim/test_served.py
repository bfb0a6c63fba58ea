"""The shim under its own server, in this process: heads that do not end, streams that rest, and their limits."""

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import psycopg
import pytest
import requests

from tests.integration.shim.conftest import connect, make_keys, runtime_of
from tests.waiting import until
from worker.shim import events
from worker.shim.app import make_app
from worker.shim.server import LONGEST_HEAD_BYTES, make_server

EVENTS = "/api/salesforce/events"


@dataclass
class Served:
    """A shim that listens."""

    port: int
    keys: dict[str, str]
    database: str

    def get(self, path: str, key: str = "write", **options: Any) -> requests.Response:
        headers = {"Authorization": f"Bearer {self.keys[key]}"}
        return requests.get(f"http://127.0.0.1:{self.port}{path}", headers=headers, timeout=60, **options)

    @contextmanager
    def open(self) -> Iterator[socket.socket]:
        """A bare connection."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=60) as connection:
            yield connection


@pytest.fixture(scope="module")
def served(new_url: str) -> Iterator[Served]:
    connect(new_url)
    runtime = runtime_of(new_url)
    keys = make_keys(runtime.database)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    server = make_server(make_app(runtime), "127.0.0.1", port, head_seconds=0.3)
    thread = threading.Thread(target=server.run)
    thread.start()
    until(lambda: server.started)
    yield Served(port, keys, new_url)
    server.should_exit = True
    thread.join()


def answer_on(connection: socket.socket) -> tuple[int, dict[str, Any]]:
    """The whole answer, until the shim hangs up."""
    received = b""
    try:
        while chunk := connection.recv(65536):
            received += chunk
    except ConnectionResetError:  # it hung up while we still sent
        pass
    head, _, body = received.partition(b"\r\n\r\n")
    return int(head.split()[1]), json.loads(body)


@pytest.mark.parametrize("sent", [b"", b"\r\n", b"GET /healthz HTTP/1.1\r\nHost: x\r\nX-Slow: "])
def test_a_head_that_does_not_come_is_not_waited_for(served: Served, sent: bytes) -> None:
    with served.open() as connection:
        connection.sendall(sent)
        status, body = answer_on(connection)
    assert (status, body["ok"], body["error"]["code"]) == (408, False, "REQUEST_TIMEOUT")


def test_a_second_head_that_does_not_come_is_not_waited_for_either(served: Served) -> None:
    with served.open() as connection:
        connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        assert connection.recv(4096).startswith(b"HTTP/1.1 200")
        connection.sendall(b"GET /healthz HTTP/1.1\r\n")
        assert answer_on(connection)[0] == 408


def test_a_head_without_end_is_cut_off(served: Served) -> None:
    with served.open() as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n")
        try:
            for number in range(2 * LONGEST_HEAD_BYTES // 1000):
                connection.sendall(b"X-%d: %s\r\n" % (number, b"x" * 1000))
        except (BrokenPipeError, ConnectionResetError):
            return
        assert answer_on(connection)[1]["error"]["code"] == "PAYLOAD_TOO_LARGE"


def test_the_rest_of_a_body_that_nobody_reads_does_not_count_as_a_head(served: Served) -> None:
    """Who is refused before the body came reads the refusal, and may go on."""
    body = b"x" * (LONGEST_HEAD_BYTES + 20_000)
    with served.open() as connection:
        head = f"POST /api/salesforce/actions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
        connection.sendall(head.encode() + body[:1000])
        assert connection.recv(4096).startswith(b"HTTP/1.1 401")
        for start in range(1000, len(body), 10_000):
            connection.sendall(body[start : start + 10_000])
        connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        assert connection.recv(4096).startswith(b"HTTP/1.1 200")


def test_an_upgrade_is_answered_in_the_envelope(served: Served) -> None:
    ask = f"GET {EVENTS} HTTP/1.1\r\nHost: x\r\nConnection: Upgrade, close\r\nUpgrade: websocket\r\n"
    with served.open() as connection:
        connection.sendall(f"{ask}Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAA\r\n\r\n".encode())
        status, body = answer_on(connection)
    assert (status, body["error"]["code"]) == (401, "UNAUTHORIZED")


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "HEARTBEAT_SECONDS", 0.1)


def lines_of(stream: requests.Response) -> Iterator[str]:
    return stream.iter_lines(decode_unicode=True)


@pytest.mark.usefixtures("quick")
def test_a_stream_that_rests_shows_that_it_lives_and_a_key_may_hold_only_so_many(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "STREAMS_PER_KEY", 1)
    with served.get(EVENTS, stream=True) as stream:
        lines = lines_of(stream)
        assert next(lines) == "retry: 3000"
        assert [line for line in (next(lines) for _ in range(5)) if line] == [": heartbeat"] * 2
        refused = served.get(EVENTS)
        assert (refused.status_code, refused.json()["error"]["code"]) == (429, "RATE_LIMITED")
        assert int(refused.headers["Retry-After"]) > 0
        with served.get(EVENTS, "all", stream=True) as other:
            assert other.status_code == 200
    until(lambda: _opens(served))


def _opens(served: Served) -> bool:
    with served.get(EVENTS, stream=True) as again:
        return again.status_code == 200


@pytest.mark.usefixtures("quick")
def test_a_stream_ends_with_its_key(served: Served) -> None:
    with served.get(EVENTS, "read", stream=True) as stream:
        lines = lines_of(stream)
        next(lines)
        with psycopg.connect(served.database) as connection:
            connection.execute("UPDATE sfsync.api_keys SET revoked_at = clock_timestamp() WHERE name = 'read'")
        assert set(lines) <= {"", ": heartbeat"}  # and then it ends
