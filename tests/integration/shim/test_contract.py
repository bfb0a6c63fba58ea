"""The callers' contract: shapes, codes and messages, without Redis and without an org."""

import threading
from collections.abc import Callable
from typing import Any

import psycopg
import pytest
from starlette.testclient import TestClient

from tests.integration.shim.conftest import USER, Shim, body_of
from tests.waiting import until
from worker.runtime import Runtime
from worker.settings import load_settings
from worker.shim import envelope
from worker.shim.app import make_app

NOW = {"Prefer": "wait=0"}
NOT_CONNECTED = "Could not get authenticated Salesforce client. Please connect your Salesforce account."
CONTACT = {"user_id": USER, "LastName": "Ito"}
OPPORTUNITY_NEEDS = "Name, StageName, and CloseDate are required to create an opportunity."


@pytest.fixture
def execute(database_url: str) -> Callable[..., list[Any]]:
    def run(statement: str, *values: object) -> list[Any]:
        with psycopg.connect(database_url, autocommit=True) as connection:
            cursor = connection.execute(statement.encode(), values or None)
            return cursor.fetchall() if cursor.description else []

    return run


REFUSALS: list[tuple[str, str, Any, int, str, str | None]] = [
    ("GET", "/api/salesforce/contacts", None, 400, "VALIDATION_ERROR", "user_id is required."),
    ("POST", "/api/salesforce/contacts", {"LastName": "x"}, 400, "VALIDATION_ERROR", "user_id is required."),
    ("POST", "/api/salesforce/contacts", {"user_id": 7}, 400, "VALIDATION_ERROR", "user_id is required."),
    (
        "POST",
        "/api/salesforce/contacts",
        {"user_id": USER},
        400,
        "VALIDATION_ERROR",
        "LastName is required to create a contact.",
    ),
    (
        "POST",
        "/api/salesforce/accounts",
        {"user_id": USER},
        400,
        "VALIDATION_ERROR",
        "Name is required to create an account.",
    ),
    (
        "POST",
        "/api/salesforce/opportunities",
        {"user_id": USER, "Name": "x"},
        400,
        "VALIDATION_ERROR",
        OPPORTUNITY_NEEDS,
    ),
    ("POST", "/api/salesforce/contacts", b"{", 400, "VALIDATION_ERROR", "The body is not valid JSON."),
    ("POST", "/api/salesforce/contacts", b'{"user_id":NaN}', 400, "VALIDATION_ERROR", "The body is not valid JSON."),
    ("POST", "/api/salesforce/contacts", b"\xff", 400, "VALIDATION_ERROR", "The body is not valid JSON."),
    ("POST", "/api/salesforce/contacts", b"[" * 1500, 400, "VALIDATION_ERROR", "The body is not valid JSON."),
    ("POST", "/api/salesforce/contacts", [], 400, "VALIDATION_ERROR", "The body must be a JSON object."),
    ("POST", "/api/salesforce/contacts", CONTACT | {"Nope": 1}, 400, "VALIDATION_ERROR", None),
    ("POST", "/api/salesforce/contacts", CONTACT | {"LastName": "x" * 81}, 400, "VALIDATION_ERROR", None),
    ("POST", "/api/salesforce/contacts", CONTACT | {"LastName": "\x00"}, 400, "VALIDATION_ERROR", None),
    ("POST", "/api/salesforce/contacts", CONTACT | {"Email": "x" * 3000}, 413, "PAYLOAD_TOO_LARGE", None),
    ("POST", "/api/salesforce/contacts", CONTACT | {"user_id": "u-2"}, 403, "FORBIDDEN", None),
    ("GET", "/api/salesforce/contacts?user_id=u-2", None, 403, "FORBIDDEN", None),
    ("GET", f"/api/salesforce/contacts?user_id={USER}&limit=0", None, 400, "VALIDATION_ERROR", None),
    ("GET", f"/api/salesforce/contacts?user_id={USER}&cursor=x", None, 400, "INVALID_CURSOR", None),
    ("GET", f"/api/salesforce/accounts?user_id={USER}", None, 503, "MIRROR_NOT_READY", None),
    ("GET", f"/api/salesforce/contacts/003000000000009AAA?user_id={USER}", None, 404, "NOT_FOUND", None),
    ("GET", f"/api/salesforce/contacts/nonsense?user_id={USER}", None, 400, "VALIDATION_ERROR", None),
    ("PUT", "/api/salesforce/opportunities/006000000000001AAA", {"user_id": USER}, 400, "VALIDATION_ERROR", None),
    (
        "PUT",
        "/api/salesforce/opportunities/003000000000001AAA",
        {"user_id": USER, "Name": "x"},
        400,
        "VALIDATION_ERROR",
        None,
    ),
    ("PATCH", "/api/salesforce/opportunities/nonsense", {"user_id": USER, "Name": "x"}, 400, "VALIDATION_ERROR", None),
    ("DELETE", "/api/salesforce/contacts/003000000000001AAA", None, 400, "VALIDATION_ERROR", "user_id is required."),
    ("DELETE", "/api/salesforce/contacts", None, 405, "METHOD_NOT_ALLOWED", None),
    ("GET", "/api/salesforce/nothing", None, 404, "NOT_FOUND", None),
    ("GET", "/nothing", None, 404, "NOT_FOUND", None),
    ("GET", "/api/salesforce/actions/nonsense", None, 400, "VALIDATION_ERROR", None),
    ("GET", "/api/salesforce/actions/00000000-0000-0000-0000-000000000000", None, 404, "NOT_FOUND", None),
    ("POST", "/api/salesforce/actions/00000000-0000-0000-0000-000000000000/retry", None, 404, "NOT_FOUND", None),
]


@pytest.mark.parametrize(("method", "path", "body", "status", "code", "message"), REFUSALS)
def test_every_refusal_is_an_envelope_with_its_code(
    shared: Shim, method: str, path: str, body: Any, status: int, code: str, message: str | None
) -> None:
    sent = {"content": body} if isinstance(body, bytes) else {} if body is None else {"json": body}
    answer = shared.client.request(method, path, **sent)
    error = body_of(answer)["error"]
    assert (answer.status_code, error["code"]) == (status, code)
    assert message is None or error["message"] == message


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/api/salesforce/contacts"),
        ("POST", "/api/salesforce/contacts"),
        ("PUT", "/api/salesforce/opportunities/006000000000001AAA"),
        ("GET", "/api/salesforce/actions"),
        ("GET", "/api/salesforce/actions/00000000-0000-0000-0000-000000000000"),
    ],
)
@pytest.mark.parametrize("key", [None, "Basic x", "Bearer sfsk_00000000_no", "Bearer"])
def test_a_request_without_a_good_key_is_refused(shared: Shim, method: str, path: str, key: str | None) -> None:
    request = shared.client.build_request(method, path)
    del request.headers["authorization"]
    if key:
        request.headers["Authorization"] = key
    answer = shared.client.send(request)
    assert answer.status_code == 401
    assert body_of(answer)["error"]["code"] == "UNAUTHORIZED"


def test_a_read_key_cannot_write(client: TestClient, keys: dict[str, str], connected: int) -> None:
    answer = client.post("/api/salesforce/contacts", json=CONTACT, headers={"Authorization": f"Bearer {keys['read']}"})
    assert (answer.status_code, body_of(answer)["error"]["code"]) == (403, "FORBIDDEN")


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", f"/api/salesforce/contacts?user_id={USER}", None),
        ("GET", f"/api/salesforce/opportunities/006000000000001AAA?user_id={USER}", None),
        ("POST", "/api/salesforce/contacts", CONTACT),
        ("PUT", "/api/salesforce/opportunities/006000000000001AAA", {"user_id": USER, "Name": "x"}),
    ],
)
def test_a_user_who_is_not_connected_is_told_so(client: TestClient, method: str, path: str, body: Any) -> None:
    answer = client.request(method, path, json=body)
    assert answer.status_code == 401
    assert body_of(answer)["error"] == {"code": "AUTH_ERROR", "message": NOT_CONNECTED}


def test_contacts_are_listed_by_name_with_the_orgs_field_names(client: TestClient, connected: int) -> None:
    data = body_of(client.get("/api/salesforce/contacts", params={"user_id": USER}))["data"]
    assert [one["Name"] for one in data["contacts"]] == ["Abe", "Zorn"]
    assert data["contacts"][0] == {
        "attributes": {"type": "Contact", "url": "/services/data/v62.0/sobjects/Contact/003000000000001AAA"},
        "Id": "003000000000001AAA",
        "LastName": "Abe",
        "Name": "Abe",
        "Email": "a@b.example",
    }
    assert data["next_cursor"] is None
    assert data["lag_seconds"] >= 0


def test_a_list_is_read_page_by_page(client: TestClient, connected: int) -> None:
    first = body_of(client.get("/api/salesforce/contacts", params={"user_id": USER, "limit": 1}))["data"]
    following = {"user_id": USER, "limit": 1, "cursor": first["next_cursor"]}
    second = body_of(client.get("/api/salesforce/contacts", params=following))["data"]
    assert [one["Name"] for one in first["contacts"] + second["contacts"]] == ["Abe", "Zorn"]
    assert second["next_cursor"] is None


def test_opportunities_are_listed_by_close_date_latest_first(client: TestClient, connected: int) -> None:
    data = body_of(client.get("/api/salesforce/opportunities", params={"user_id": USER}))["data"]
    assert [one["CloseDate"] for one in data["opportunities"]] == ["2026-02-01", "2026-01-01"]


def test_one_opportunity_is_the_record_itself(client: TestClient, connected: int) -> None:
    answer = client.get("/api/salesforce/opportunities/006000000000001", params={"user_id": USER})
    data = body_of(answer)["data"]
    assert data["attributes"]["type"] == "Opportunity"
    assert (data["Id"], data["Name"]) == ("006000000000001AAA", "old")


def test_a_missing_mirror_is_started(client: TestClient, connected: int, execute: Callable[..., list[Any]]) -> None:
    for _ in range(2):
        client.get("/api/salesforce/accounts", params={"user_id": USER})
    assert execute("SELECT m.object, r.kind FROM sfsync.runs r JOIN sfsync.mirrors m ON m.id = r.mirror_id") == [
        ("Account", "load")
    ]


def test_a_write_is_accepted_without_redis_and_can_be_followed(client: TestClient, connected: int) -> None:
    answer = client.post("/api/salesforce/contacts", json=CONTACT, headers=NOW)
    data = body_of(answer)["data"]
    assert answer.status_code == 202
    assert data | {"action_id": ""} == {"id": None, "success": None, "errors": [], "action_id": "", "state": "ready"}
    action = body_of(client.get(answer.headers["Location"]))["data"]
    assert (action["id"], action["state"], action["fields"]) == (data["action_id"], "ready", {"LastName": "Ito"})


@pytest.mark.parametrize(
    "headers", [{"Idempotency-Key": "k"}, {"X-Workflow-Execution-Id": "e", "X-Workflow-Step-Id": "s"}]
)
def test_the_same_key_gives_the_same_action_and_other_content_is_refused(
    client: TestClient, connected: int, headers: dict[str, str]
) -> None:
    first = client.post("/api/salesforce/contacts", json=CONTACT, headers=NOW | headers)
    again = client.post("/api/salesforce/contacts", json=CONTACT, headers=NOW | headers)
    assert (first.status_code, first.json()) == (again.status_code, again.json())
    other = client.post("/api/salesforce/contacts", json=CONTACT | {"LastName": "Abe"}, headers=NOW | headers)
    assert (other.status_code, body_of(other)["error"]["code"]) == (409, "IDEMPOTENCY_KEY_REUSED")
    assert other.json()["error"]["details"]["action_id"] == first.json()["data"]["action_id"]


def test_half_of_the_workflow_headers_is_refused(client: TestClient, connected: int) -> None:
    answer = client.post("/api/salesforce/contacts", json=CONTACT, headers={"X-Workflow-Step-Id": "s"})
    assert answer.status_code == 400


OUTCOMES: list[tuple[str, int, dict[str, Any]]] = [
    (
        "state = 'delivered', record_id = '003000000000003AAA', outcome = '{\"id\": \"003000000000003AAA\", \"success\": true}', finished_at = now()",
        200,
        {"data": {"id": "003000000000003AAA", "success": True, "errors": []}},
    ),
    (
        "state = 'rejected', finished_at = now(),"
        ' error = \'{"code": "DUPLICATE_VALUE", "message": "It is there.", "fields": ["Email"]}\'',
        422,
        {"error": {"code": "DUPLICATE_VALUE", "message": "It is there."}},
    ),
    ("state = 'cancelled', finished_at = now()", 409, {"error": {"code": "CANCELLED"}}),
    (
        'state = \'held\', error = \'{"code": "IN_DOUBT", "message": "Who knows?", "fields": []}\'',
        202,
        {"data": {"success": False, "state": "held"}},
    ),
]


@pytest.mark.parametrize(("change", "status", "expected"), OUTCOMES)
def test_a_caller_who_waits_learns_the_outcome(
    client: TestClient,
    connected: int,
    execute: Callable[..., list[Any]],
    change: str,
    status: int,
    expected: dict[str, Any],
) -> None:
    """Nobody delivers here: the test writes the outcome while the caller waits."""

    def settle() -> None:
        until(lambda: execute("SELECT 1 FROM sfsync.actions"))
        execute(f"UPDATE sfsync.actions SET {change}")

    thread = threading.Thread(target=settle)
    thread.start()
    answer = client.post("/api/salesforce/contacts", json=CONTACT, headers={"Prefer": "wait=20"})
    thread.join()
    body = body_of(answer)
    assert answer.status_code == status
    for part, values in expected.items():
        assert body[part] | values == body[part]
    known = body["data"]["action_id"] if status < 400 else body["error"]["details"]["action_id"]
    assert known == str(execute("SELECT id FROM sfsync.actions")[0][0])


def test_another_users_action_is_as_good_as_none(client: TestClient, connected: int, keys: dict[str, str]) -> None:
    path = client.post("/api/salesforce/contacts", json=CONTACT, headers=NOW).headers["Location"]
    other = {"Authorization": f"Bearer {keys['other']}"}
    for method, tail in (("GET", ""), ("POST", "/cancel"), ("POST", "/retry")):
        assert client.request(method, path + tail, headers=other).status_code == 404
    assert body_of(client.get("/api/salesforce/actions", headers=other))["data"]["actions"] == []
    mine = body_of(client.get("/api/salesforce/actions", headers={"Authorization": f"Bearer {keys['all']}"}))["data"]
    assert len(mine["actions"]) == 1


def test_an_action_that_is_not_under_way_can_be_cancelled_once(client: TestClient, connected: int) -> None:
    path = client.post("/api/salesforce/contacts", json=CONTACT, headers=NOW).headers["Location"]
    assert body_of(client.post(f"{path}/cancel"))["data"]["state"] == "cancelled"
    again = client.post(f"{path}/cancel")
    assert (again.status_code, body_of(again)["error"]["code"]) == (409, "WRONG_STATE")


def test_a_held_action_is_sent_again_on_request(
    client: TestClient, connected: int, execute: Callable[..., list[Any]]
) -> None:
    path = client.post("/api/salesforce/contacts", json=CONTACT, headers=NOW).headers["Location"]
    execute('UPDATE sfsync.actions SET state = \'held\', error = \'{"code": "X", "message": "x"}\', attempts = 12')
    data = body_of(client.post(f"{path}/retry"))["data"]
    assert (data["state"], data["attempts"]) == ("ready", 0)


@pytest.mark.parametrize(
    ("path", "code"),
    [
        (f"/api/salesforce/contacts?user_id={USER}", "CONTACTS_HANDLING_FAILED"),
        (f"/api/salesforce/opportunities/006000000000001AAA?user_id={USER}", "OPPORTUNITY_HANDLING_FAILED"),
        ("/api/salesforce/actions", "INTERNAL_ERROR"),
    ],
)
def test_our_own_faults_are_answered_without_their_text(
    client: TestClient, connected: int, execute: Callable[..., list[Any]], path: str, code: str
) -> None:
    execute(
        "ALTER SCHEMA sfsync RENAME TO away; CREATE SCHEMA sfsync; CREATE VIEW sfsync.api_keys AS TABLE away.api_keys"
    )
    answer = client.get(path)
    execute("DROP SCHEMA sfsync CASCADE; ALTER SCHEMA away RENAME TO sfsync")
    assert (answer.status_code, body_of(answer)["error"]["code"]) == (500, code)
    assert "sfsync.mirrors" not in answer.text
    assert "psycopg" not in answer.text


def test_health_needs_no_key(client: TestClient) -> None:
    client.headers.pop("authorization")
    assert body_of(client.get("/healthz"))["ok"]
    assert body_of(client.get("/readyz"))["ok"]
    data = body_of(client.get("/api/salesforce/health"))["data"]
    assert data["service"] == "salesforce"
    assert data["status"] in ("degraded", "unhealthy")
    assert data["checks"]["database"]["status"] == "healthy"


def test_health_without_postgres_is_no_good_answer() -> None:
    nowhere = "127.0.0.1:1"
    away = {
        "DATABASE_URL": f"postgresql://{nowhere}/x",
        "REDIS_URL": f"redis://{nowhere}/0",
        "ENCRYPTION_KEY": "A" * 43,
    }
    with TestClient(make_app(Runtime(load_settings(away)))) as client:
        answer = client.get("/api/salesforce/health")
    error = body_of(answer)["error"]
    assert (answer.status_code, error["code"], error["details"]["status"]) == (503, "UNAVAILABLE", "unhealthy")
    assert error["details"]["checks"]["database"]["status"] == "unhealthy"


def test_a_request_id_is_given_back(client: TestClient) -> None:
    assert client.get("/healthz", headers={"X-Request-Id": "r-1"}).headers["X-Request-Id"] == "r-1"


def test_the_message_of_the_contract_is_kept_to_the_letter() -> None:
    assert envelope.NOT_CONNECTED == NOT_CONNECTED
