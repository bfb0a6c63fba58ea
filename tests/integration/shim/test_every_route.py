"""Every route of the application, taken from its own table, so that a new one cannot be forgotten."""

import asyncio
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import psycopg
import pytest
from fastapi.routing import APIRoute
from psycopg.types.json import Jsonb
from sqlalchemy.orm import Session

from tests.integration.shim.conftest import USER, Shim
from worker.db import Database

OPEN = {  # what answers without a key, and shows nothing of anybody
    ("GET", "/healthz"),
    ("GET", "/readyz"),
    ("GET", "/api/salesforce/health"),
    ("GET", "/api/auth/salesforce/callback"),
    ("POST", "/api/auth/salesforce/callback"),
    ("GET", "/docs"),
    ("GET", "/openapi.json"),
}
OF_NOBODY = {("GET", "/api/services"), ("GET", "/api/services/salesforce_service")}  # the same for everybody
ENDLESS = {("GET", "/api/salesforce/events")}
SECRET = "Zanzibar"  # in everything that belongs to USER
ACTION = "0b2e5f6c-0d6e-4c62-9f6c-1d0a5e3b7a11"
SYNC = "4f5b1e52-6a0c-4d0a-a5f0-0f0a5c6b9e11"
RUN = 77
TRIGGER = 1
RECORD = "003000000000007AAA"


@dataclass(frozen=True)
class Call:
    """One method of one route, with what its path needs and the example of its body."""

    method: str
    path: str
    body: dict[str, Any] | None

    @property
    def place(self) -> str:
        """The path with USER's own things in it."""
        known = {"action_id": ACTION, "sync_id": SYNC, "run_id": RUN, "record_id": RECORD, "trigger_id": TRIGGER}
        known["object_name"] = "Contact"
        return self.path.format(**known)


def routes(router: Any) -> Iterator[Any]:
    """Every route, also of routers that newer versions of FastAPI keep whole."""
    for route in router.routes:
        inner = getattr(route, "original_router", None)
        yield from routes(inner) if inner is not None else [route]


def is_site(route: Any) -> bool:
    """The status page's routes take a sign-in instead of a key; test_site.py tries each of them."""
    return getattr(getattr(route, "endpoint", None), "__module__", "").startswith("worker.shim.site")


def calls(shim: Shim) -> list[Call]:
    document = shim.client.app.openapi()  # type: ignore[attr-defined]
    found = []
    for route in routes(shim.client.app):
        if is_site(route):
            continue
        methods = getattr(route, "methods", None) or ()
        for method in sorted(set(methods) - {"HEAD"}):
            described = document["paths"].get(route.path, {}).get(method.lower(), {})
            content = described.get("requestBody", {}).get("content", {})
            example = content.get("application/json", {}).get("example")
            found.append(Call(method, route.path, example))
    assert len(found) > 40
    return found


def send(shim: Shim, call: Call, key: str | None, *, user_id: str | None) -> Any:
    query = {"user_id": user_id} if user_id else {}
    body = None if call.body is None else {k: v for k, v in call.body.items() if k != "user_id"} | query
    request = shim.client.build_request(call.method, call.place, params=query, json=body)
    del request.headers["authorization"]
    if key:
        request.headers["Authorization"] = f"Bearer {shim.keys[key]}"
    request.headers["Prefer"] = "wait=0"
    return shim.client.send(request)


@pytest.fixture(scope="module")
def filled(shared: Shim) -> Shim:
    """USER has an action, a run, a sync, a record, each with SECRET in it."""
    with psycopg.connect(shared.url) as connection:
        one = connection.execute("SELECT id FROM salesforce_oauth_tokens WHERE user_id = %s", (USER,)).fetchone()
        assert one
        connection.execute(
            "INSERT INTO sfsync.actions (id, connection_id, object, operation, fields, content_hash, order_key, ticket, state, source)"
            " VALUES (%s, %s, 'Contact', 'create', %s, sha256('x'), 'x', 0, 'ready', 'http')",
            (ACTION, one[0], Jsonb({"LastName": SECRET})),
        )
        connection.execute(
            "INSERT INTO sfsync.runs (id, mirror_id, kind, lane, cause, state, error, finished_at) OVERRIDING SYSTEM VALUE"
            " SELECT %s, id, 'load', 'backfill', 'manual', 'failed', %s, now() FROM sfsync.mirrors WHERE object = 'Contact'",
            (RUN, SECRET),
        )
        connection.execute("INSERT INTO sfsync.syncs (id, connection_id) VALUES (%s, %s)", (SYNC, one[0]))
        connection.execute("INSERT INTO sfsync.sync_runs VALUES (%s, %s)", (SYNC, RUN))
        connection.execute("INSERT INTO salesforce.contact VALUES (%s, %s, %s)", (RECORD, SECRET, SECRET))
        connection.execute("UPDATE salesforce_oauth_tokens SET username = %s", (SECRET,))
    trigger = {"name": SECRET, "type": "manual_trigger", "workflow_action": "process_data"}
    made = shared.client.post("/api/salesforce/triggers", json={"user_id": USER, **trigger})
    assert made.json()["data"]["id"] == TRIGGER, made.text
    return shared


def test_every_route_refuses_a_request_without_a_key(filled: Shim) -> None:
    for call in calls(filled):
        status = send(filled, call, None, user_id=USER).status_code
        assert (status == 401) == ((call.method, call.path) not in OPEN), (call, status)


def test_another_users_key_sees_and_changes_nothing_anywhere(filled: Shim) -> None:
    """`other` has every scope, for another user."""
    before = everything(filled)
    for call in calls(filled):
        if (call.method, call.path) in OPEN | OF_NOBODY:
            continue
        answer = send(filled, call, "other", user_id=USER)
        assert answer.status_code in (403, 404), (call, answer.text)
        assert SECRET not in answer.text, call
        if (call.method, call.path) not in ENDLESS:
            assert SECRET not in send(filled, call, "other", user_id=None).text, call
    assert everything(filled) == before


def everything(shim: Shim) -> list[Any]:
    with psycopg.connect(shim.url) as connection:
        return [
            connection.execute(f"SELECT t::text FROM {table} t ORDER BY 1".encode()).fetchall()
            for table in (
                "sfsync.actions",
                "sfsync.runs",
                "sfsync.syncs",
                "sfsync.mirrors",
                "sfsync.triggers",
                "salesforce_oauth_tokens",
            )
        ]


def test_a_key_for_reading_changes_nothing_anywhere(filled: Shim) -> None:
    before = everything(filled)
    for call in calls(filled):
        if call.method == "GET" or (call.method, call.path) in OPEN:
            continue
        if call.path.endswith(("/execute", "/chat")):  # their scope is that of what is executed
            continue
        answer = send(filled, call, "read", user_id=USER)
        assert answer.status_code == 403, (call, answer.text)
    assert everything(filled) == before


@contextmanager
def watched(found: list[str]) -> Iterator[None]:
    """Note every transaction that is begun in a thread in which an event loop runs."""
    plain = Database.transaction

    @contextmanager
    def transaction(self: Database) -> Iterator[Session]:
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            pass
        else:
            found.append("a transaction on the event loop")
        with plain(self) as session:
            yield session

    Database.transaction = transaction  # type: ignore[method-assign]
    try:
        yield
    finally:
        Database.transaction = plain  # type: ignore[method-assign]


def test_no_route_asks_postgres_on_the_event_loop_and_none_answers_without_an_envelope(filled: Shim) -> None:
    """The last test of this module: it changes things."""
    found: list[str] = []
    with watched(found):
        for call in calls(filled):
            if (call.method, call.path) in ENDLESS | {("GET", "/docs"), ("GET", "/openapi.json")}:
                continue
            answer = send(filled, call, "admin", user_id=USER)
            assert answer.status_code != 500, (call, answer.text)
            if answer.headers["content-type"] == "application/json":
                body = json.loads(answer.content)
                assert body["ok"] is (answer.status_code < 400), call
            else:
                assert call.path.endswith(("/callback", "/metrics")), call
            assert not found, call


def test_every_route_is_described_with_an_example(shared: Shim) -> None:
    """What the OpenAPI document leaves out, nobody can try at /docs."""
    document = shared.client.app.openapi()  # type: ignore[attr-defined]
    for route in routes(shared.client.app):
        if not isinstance(route, APIRoute) or not route.include_in_schema:
            continue
        for method in route.methods:
            described = document["paths"][route.path][method.lower()]
            assert described["summary"], route.path
            named = {one["name"] for one in described.get("parameters", ()) if one["in"] == "path"}
            assert named == set(re.findall(r"{(\w+)}", route.path)), (method, route.path)
            good = [answer for status, answer in described["responses"].items() if status.startswith("2")]
            assert any("example" in kind for one in good for kind in one.get("content", {}).values()), (
                method,
                route.path,
            )
