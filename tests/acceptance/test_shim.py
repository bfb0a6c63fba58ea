"""The shim as a process, over the wire: what HTTP itself can do wrong, live events, its end, and connecting by OAuth."""

import json
import re
import signal
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import requests

from tests.acceptance.stack import Stack, start_stack
from tests.conftest import new_database
from tests.edge.test_connect_cli import sign_in
from tests.waiting import until
from worker.local_servers import EmbeddedPostgres, free_port

pytestmark = pytest.mark.acceptance

USER = "u-1"
AUTH = "/api/auth/salesforce"
CONTACT = {"user_id": USER, "LastName": "Ito"}


@dataclass
class Door:
    """A running shim and the header of a key for everything."""

    stack: Stack
    port: int
    key: str

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def call(self, method: str, path: str, **options: Any) -> requests.Response:
        headers = {"Authorization": f"Bearer {self.key}"} | options.pop("headers", {})
        return requests.request(method, self.url + path, headers=headers, timeout=60, **options)

    def data(self, method: str, path: str, **options: Any) -> Any:
        answer = self.call(method, path, **options)
        assert answer.ok, answer.text
        return answer.json()["data"]

    def raw(self, sent: bytes, *, then: bytes = b"") -> tuple[bytes, dict[str, Any]]:
        """Send bytes as they are; head and parsed body of the answer."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=60) as connection:
            connection.sendall(sent)
            if then:
                connection.sendall(then)
            received = b""
            while chunk := connection.recv(65536):
                received += chunk
        head, _, body = received.partition(b"\r\n\r\n")
        return head, json.loads(body)

    def head(self, method: str, path: str) -> str:
        return f"{method} {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {self.key}\r\n"


@pytest.fixture(scope="module")
def door(postgres: EmbeddedPostgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Door]:
    folder: Path = tmp_path_factory.mktemp("shim")
    nowhere = f"redis://127.0.0.1:{free_port()}/0"
    with new_database(postgres) as url, start_stack(folder, url, nowhere, seed="Contact=5") as stack:
        stack.env |= {"SFSYNC_SHIM_PORT": str(free_port()), "SFSYNC_SHIM_BODY_SECONDS": "2"}
        yield start(stack)


def start(stack: Stack) -> Door:
    key = stack.sfsync_json("api-keys", "create", "--name", "t", "--scope", "admin")["key"]
    door = Door(stack, int(stack.env["SFSYNC_SHIM_PORT"]), key)
    stack.start("shim")
    until(lambda: is_up(door))
    return door


def is_up(door: Door) -> bool:
    try:
        return requests.get(f"{door.url}/healthz", timeout=5).ok
    except requests.ConnectionError:
        return False


WRONG = {
    "no HTTP": (b"\x16\x03\x01 hello\r\n\r\n", 400, "VALIDATION_ERROR"),
    "no JSON": (b"Content-Length: 1\r\n\r\n{", 400, "VALIDATION_ERROR"),
    "another type": (b"Content-Type: text/xml\r\nContent-Length: 4\r\n\r\n<a/>", 415, "UNSUPPORTED_MEDIA_TYPE"),
    "packed": (b"Content-Encoding: gzip\r\nContent-Length: 2\r\n\r\n{}", 415, "UNSUPPORTED_MEDIA_TYPE"),
    "too long by its header": (b"Content-Length: 1048577\r\n\r\n", 413, "PAYLOAD_TOO_LARGE"),
    "too long in chunks": (
        b"Transfer-Encoding: chunked\r\n\r\n" + b"10000\r\n" + b"x" * 65536 + b"\r\n",
        413,
        "PAYLOAD_TOO_LARGE",
    ),
    "too slow": (b"Content-Length: 10\r\n\r\n{", 408, "REQUEST_TIMEOUT"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_on_the_wire_is_answered_in_the_envelope(door: Door, case: str) -> None:
    sent, status, code = WRONG[case]
    head = door.head("POST", "/api/salesforce/contacts").encode() + b"Connection: close\r\n"
    chunks = b"".join(sent.partition(b"\r\n\r\n")[2] for _ in range(20)) if case == "too long in chunks" else b""
    try:
        answer, body = door.raw(sent if case == "no HTTP" else head + sent, then=chunks)
    except (BrokenPipeError, ConnectionResetError):  # it hung up while we still sent: so it did not take it in
        assert case == "too long in chunks"
        return
    assert f" {status} ".encode() in answer.split(b"\r\n")[0]
    assert (body["ok"], body["error"]["code"]) == (False, code)


def test_head_and_options_are_answered(door: Door) -> None:
    head = door.call("HEAD", "/healthz")
    assert (head.status_code, head.content, int(head.headers["Content-Length"]) > 0) == (200, b"", True)
    options = door.call("OPTIONS", "/api/salesforce/contacts/003000000000001AAA")
    assert options.headers["Allow"] == "GET, HEAD, PUT, PATCH, DELETE, OPTIONS"
    assert options.json()["data"]["methods"][0] == "GET"
    assert door.call("POST", "/healthz").headers["Allow"] == "GET, HEAD, OPTIONS"
    slash = door.call("GET", "/healthz/", allow_redirects=False)
    assert (slash.status_code, slash.json()["error"]["code"]) == (404, "NOT_FOUND")


def begin(door: Door, **query: str) -> dict[str, str]:
    found: dict[str, str] = door.data("GET", f"{AUTH}/authorize", params={"user_id": USER, **query})
    return found


def connect(door: Door) -> requests.Response:
    return sign_in(door.stack.org, begin(door)["authorization_url"], approve=True)


def test_a_person_connects_in_the_browser_and_a_state_opens_one_door_once(door: Door) -> None:
    page = connect(door)
    assert (page.status_code, page.headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    assert "Salesforce is connected" in page.text
    assert "default-src 'none'" in page.headers["Content-Security-Policy"]
    assert not page.history[-1].is_redirect or urlsplit(page.url).path == f"{AUTH}/callback"
    again = requests.get(page.url, timeout=30)
    assert (again.status_code, "used already" in again.text) == (400, True)
    state = door.data("GET", f"{AUTH}/status", params={"user_id": USER})
    assert (state["connected"], state["organization_id"]) == (True, door.stack.org.organization_id)


def test_a_person_who_denies_reads_why_and_the_state_is_used_up(door: Door) -> None:
    begun = begin(door)
    page = sign_in(door.stack.org, begun["authorization_url"], approve=False)
    assert (page.status_code, "Not connected" in page.text, "did not grant access" in page.text) == (400, True, True)
    assert requests.get(page.url, timeout=30).status_code == 400


def test_words_of_a_stranger_are_never_shown(door: Door) -> None:
    query = {"state": "guessed", "error": "x", "error_description": "<script>alert(1)</script> call 555-0100"}
    page = requests.get(f"{door.url}{AUTH}/callback", params=query, timeout=30)
    assert (page.status_code, "555" in page.text, "<script" in page.text) == (400, False, False)
    answer = requests.post(f"{door.url}{AUTH}/callback", json={"code": "x", "state": "guessed"}, timeout=30)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "INVALID_STATE")
    form = requests.post(f"{door.url}{AUTH}/callback", data={"code": "x", "state": "guessed"}, timeout=30)
    assert (form.status_code, "Not connected" in form.text) == (400, True)


def test_a_state_that_is_ten_minutes_old_opens_nothing(door: Door) -> None:
    begun = begin(door)
    door.stack.rows(
        "UPDATE sfsync.oauth_states SET created_at = created_at - interval '10 minutes' WHERE used_at IS NULL"
    )
    page = sign_in(door.stack.org, begun["authorization_url"], approve=True)
    assert (page.status_code, "older than ten minutes" in page.text) == (400, True)


def test_a_program_that_caught_the_answer_hands_it_in(door: Door) -> None:
    begun = begin(door)
    caught = capture(door, begun["authorization_url"])
    answer = requests.post(f"{door.url}{AUTH}/callback", json=caught, timeout=60)
    assert (answer.status_code, answer.json()["data"]["user_id"]) == (200, USER)


class Caught(requests.adapters.HTTPAdapter):
    """Keeps the address to which the org sends the browser back, and does not go there."""

    def __init__(self) -> None:
        super().__init__()
        self.query: dict[str, str] = {}

    def send(self, request: requests.PreparedRequest, **_options: Any) -> requests.Response:  # type: ignore[override]
        self.query = {name: values[0] for name, values in parse_qs(urlsplit(str(request.url)).query).items()}
        answer = requests.Response()
        answer.status_code, answer.url, answer.request, answer._content = 200, str(request.url), request, b""
        return answer


def capture(door: Door, url: str) -> dict[str, str]:
    """The code and state that the org sends, caught before the shim."""
    caught = Caught()
    browser = requests.Session()
    browser.mount(f"http://localhost:{door.port}", caught)
    sign_in(door.stack.org, url, approve=True, browser=browser)
    return caught.query


def test_only_the_hosts_of_the_operator_and_of_salesforce_are_asked_to_log_in(door: Door) -> None:
    refused = (
        "https://evil.example",
        "https://acme.my.salesforce.com.evil.example",
        "http://login.salesforce.com",
        "nonsense",
    )
    for url in refused:
        answer = door.call("GET", f"{AUTH}/authorize", params={"user_id": USER, "login_url": url})
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, "VALIDATION_ERROR"), url
        assert "--" not in answer.json()["error"]["message"]
    for url in (
        "https://acme.my.salesforce.com",
        "https://acme--dev.sandbox.my.salesforce.com",
        "https://test.salesforce.com",
    ):
        assert begin(door, login_url=url)["authorization_url"].startswith(f"{url}/services/oauth2/authorize?")
    answer = door.call("GET", f"{AUTH}/authorize", params={"user_id": USER, "environment": "moon"})
    assert answer.status_code == 400


def test_a_token_is_renewed_and_revoked_and_never_shown(door: Door) -> None:
    connect(door)
    version = "SELECT token_version FROM salesforce_oauth_tokens"
    before = door.stack.rows(version)[0][0]
    renewed = door.call("POST", f"{AUTH}/refresh", json={"user_id": USER})
    assert (renewed.json()["data"]["renewed"], door.stack.rows(version)[0][0] > before) == (True, True)
    health = door.call("GET", f"{AUTH}/health")
    assert health.json()["data"]["connections"] == {"active": 1}
    revoked = door.call("POST", f"{AUTH}/revoke", json={"user_id": USER})
    assert (revoked.json()["data"]["revoked"], revoked.json()["data"]["problem"]) == (True, None)
    state = door.call("GET", f"{AUTH}/status", params={"user_id": USER})
    assert (state.json()["data"]["connected"], state.json()["data"]["state"]) == (False, "disconnected")
    refused = door.call("POST", f"{AUTH}/refresh", json={"user_id": USER})
    assert (refused.status_code, refused.json()["error"]["code"]) == (401, "AUTH_ERROR")
    for answer in (renewed, health, revoked, state, refused):
        assert not re.search(r"00D\w{12,15}!|5Aep|v1\|", answer.text)
    connect(door)


class Stream:
    """Events as they come, read in a thread."""

    def __init__(self, door: Door, last: str | None = None) -> None:
        headers = {"Last-Event-ID": last} if last else {}
        self.answer = door.call("GET", "/api/salesforce/events", stream=True, headers=headers)
        assert self.answer.headers["Content-Type"].startswith("text/event-stream")
        self.events: list[dict[str, str]] = []
        self.ended = threading.Event()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        event: dict[str, str] = {}
        try:
            for line in self.answer.iter_lines(decode_unicode=True):
                name, _, value = line.partition(": ")
                if line:
                    event[name] = value
                elif "event" in event:
                    self.events.append(event)
                    event = {}
        except (requests.exceptions.RequestException, AttributeError):  # closed while it was read
            pass
        self.ended.set()

    def states(self) -> list[tuple[str, str]]:
        found = [json.loads(event["data"]) for event in self.events]
        return [(one.get("id"), one["state"]) for one in found]


def accept(door: Door) -> str:
    answer = door.call("POST", "/api/salesforce/contacts", json=CONTACT, headers={"Prefer": "wait=0"})
    assert answer.status_code == 202, answer.text
    return str(answer.json()["data"]["action_id"])


def test_events_come_live_and_a_broken_stream_resumes_where_it_was(door: Door) -> None:
    """Nobody delivers here: actions are cancelled."""
    connect(door)
    first, second, third = accept(door), accept(door), accept(door)
    stream = Stream(door)
    until(lambda: door.stack.rows("SELECT 1 FROM pg_stat_activity WHERE query LIKE '%sfsync.events%'"))
    door.data("POST", f"/api/salesforce/actions/{first}/cancel")
    until(lambda: (first, "cancelled") in stream.states())
    last = stream.events[-1]["id"]
    stream.answer.close()
    door.data("POST", f"/api/salesforce/actions/{second}/cancel")
    resumed = Stream(door, last)
    until(lambda: (second, "cancelled") in resumed.states())
    door.data("POST", f"/api/salesforce/actions/{third}/cancel")
    until(lambda: (third, "cancelled") in resumed.states())
    assert (first, "cancelled") not in resumed.states()
    assert door.call("GET", "/api/salesforce/events", headers={"Last-Event-ID": "x"}).status_code == 400
    resumed.answer.close()


def test_told_to_end_it_answers_who_waits_ends_streams_and_exits_cleanly(
    postgres: EmbeddedPostgres, tmp_path: Path, door: Door
) -> None:
    connect(door)
    stack = door.stack
    stack.env["SFSYNC_SHIM_PORT"] = str(free_port())
    second = start(stack)
    process = stack.processes[-1]
    stream = Stream(second)
    answers: list[requests.Response] = []

    def create() -> None:
        answers.append(second.call("POST", "/api/salesforce/contacts", json=CONTACT, headers={"Prefer": "wait=20"}))

    count = "SELECT count(*) FROM sfsync.actions"
    before = stack.rows(count)[0][0]
    waiting = threading.Thread(target=create)
    waiting.start()
    until(lambda: stack.rows(count)[0][0] > before)
    process.send_signal(signal.SIGTERM)
    waiting.join(60)
    assert [(one.status_code, one.json()["data"]["state"]) for one in answers] == [(202, "ready")]
    assert process.wait(60) == 0
    assert stream.ended.wait(60)
