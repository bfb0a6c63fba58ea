"""Many actions at once, runs and syncs, capabilities and chat; without Redis and without an org."""

import json
from typing import Any

import psycopg
import pytest

from tests.integration.shim.conftest import USER, Shim, body_of, connect

ACTIONS = "/api/salesforce/actions"
SERVICE = "/api/services/salesforce_service"
CONTACT = {"object": "Contact", "operation": "create", "fields": {"LastName": "Ito"}}
NAMELESS = {"object": "Contact", "operation": "create", "fields": {}}
DEAL = {"object": "Opportunity", "operation": "update", "record_id": "006000000000001AAA"}


@pytest.fixture
def ready(shim: Shim) -> Shim:
    """A shim with the connected USER."""
    connect(shim.url)
    return shim


def post(shim: Shim, body: Any, **options: Any) -> Any:
    headers = options.pop("headers", {})
    sent = {"content": body} if isinstance(body, bytes) else {"json": {"user_id": USER, **body}}
    return shim.client.post(ACTIONS, headers=headers, **sent, **options)


def lines(*actions: Any) -> bytes:
    return b"\n".join(one if isinstance(one, bytes) else json.dumps(one).encode() for one in actions)


def stored(shim: Shim) -> list[Any]:
    with psycopg.connect(shim.url) as connection:
        return connection.execute("SELECT object, operation, state FROM sfsync.actions ORDER BY created_at").fetchall()


NDJSON = {"Content-Type": "application/x-ndjson"}


def test_many_actions_are_stored_in_order_and_every_fault_is_told_with_its_place(ready: Shim) -> None:
    update = DEAL | {"fields": {"Amount": 12.5}}
    answer = post(ready, {"actions": [CONTACT, update, CONTACT]})
    data = body_of(answer)["data"]
    assert (answer.status_code, data["accepted"], [one["position"] for one in data["actions"]]) == (202, 3, [0, 1, 2])
    assert [row[:2] for row in stored(ready)] == [
        ("Contact", "create"),
        ("Opportunity", "update"),
        ("Contact", "create"),
    ]

    wrong = [CONTACT, NAMELESS, {"object": "Contact"}, 7, DEAL | {"fields": {"Nope": 1}, "priorty": 1}]
    answer = post(ready, {"actions": wrong})
    error = body_of(answer)["error"]
    assert (answer.status_code, error["code"]) == (400, "VALIDATION_ERROR")
    assert sorted({one["position"] for one in error["details"]}) == [1, 2, 3, 4]
    assert any("did you mean priority" in one["message"] for one in error["details"])
    assert len(stored(ready)) == 3

    answer = post(ready, {"actions": wrong, "only_valid": True})
    data = body_of(answer)["data"]
    assert (answer.status_code, [one["position"] for one in data["actions"]]) == (202, [0])
    assert sorted({one["position"] for one in data["errors"]}) == [1, 2, 3, 4]
    assert len(stored(ready)) == 4


def test_lines_of_json_are_read_one_by_one(ready: Shim) -> None:
    answer = post(ready, lines(CONTACT, b"", CONTACT), headers=NDJSON, params={"user_id": USER})
    assert (answer.status_code, body_of(answer)["data"]["accepted"]) == (202, 2)
    answer = post(ready, lines(CONTACT, b"{", b"\xff"), headers=NDJSON, params={"user_id": USER, "only_valid": True})
    data = body_of(answer)["data"]
    assert (data["accepted"], [one["position"] for one in data["errors"]]) == (1, [1, 2])
    for body, query in ((lines(CONTACT), {}), (b"\n", {"user_id": USER}), (lines(CONTACT), {"user_id": "u-2"})):
        assert post(ready, body, headers=NDJSON, params=query).status_code in (400, 403)


def test_a_repeated_request_for_many_stores_nothing_twice(ready: Shim) -> None:
    key = {"Idempotency-Key": "batch-1"}
    first = body_of(post(ready, {"actions": [CONTACT, CONTACT]}, headers=key))["data"]
    again = body_of(post(ready, {"actions": [CONTACT, CONTACT]}, headers=key))["data"]
    assert [one["id"] for one in first["actions"]] == [one["id"] for one in again["actions"]]
    assert [one["repeated"] for one in again["actions"]] == [True, True]
    other = post(ready, {"actions": [CONTACT, CONTACT | {"fields": {"LastName": "Abe"}}]}, headers=key)
    assert (other.status_code, body_of(other)["error"]["code"]) == (409, "IDEMPOTENCY_KEY_REUSED")
    assert len(stored(ready)) == 2


def test_whoever_waits_for_many_learns_their_states(ready: Shim) -> None:
    with psycopg.connect(ready.url) as connection:  # whatever is stored is at once refused
        connection.execute(
            "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.state = 'rejected';"
            ' NEW.error = \'{"code": "X", "message": "x"}\'; NEW.finished_at = now(); RETURN NEW; END $$'
        )
        connection.execute(
            "CREATE TRIGGER refuse BEFORE INSERT ON sfsync.actions FOR EACH ROW EXECUTE FUNCTION refuse()"
        )
    answer = post(ready, {"actions": [CONTACT, CONTACT]}, headers={"Prefer": "wait=20"})
    with psycopg.connect(ready.url) as connection:
        connection.execute("DROP FUNCTION refuse CASCADE")
    states = [(one["state"], one["error"]["code"]) for one in body_of(answer)["data"]["actions"]]
    assert (answer.status_code, states) == (200, [("rejected", "X")] * 2)


def test_actions_are_listed_page_by_page_and_by_key(ready: Shim) -> None:
    post(ready, {"actions": [CONTACT | {"idempotency_key": f"k{number}"} for number in range(5)]})
    seen: list[str] = []
    query: dict[str, Any] = {"limit": 2}
    while True:
        data = body_of(ready.client.get(ACTIONS, params=query))["data"]
        seen += [one["idempotency_key"] for one in data["actions"]]
        if data["next_cursor"] is None:
            break
        query["cursor"] = data["next_cursor"]
    assert seen == ["k4", "k3", "k2", "k1", "k0"]
    found = body_of(ready.client.get(ACTIONS, params={"idempotency_key": "k3"}))["data"]["actions"]
    assert [one["idempotency_key"] for one in found] == ["k3"]
    assert body_of(ready.client.get(ACTIONS, params={"state": "held"}))["data"]["actions"] == []
    assert body_of(ready.client.get(ACTIONS, params={"cursor": "x"}))["error"]["code"] == "INVALID_CURSOR"


def test_a_sync_can_be_followed_and_joins_what_is_under_way(ready: Shim) -> None:
    body = {"user_id": USER, "data_types": ["contacts", "Account"]}
    answer = ready.client.post("/api/integrations/salesforce/sync", json=body)
    data = body_of(answer)["data"]
    assert (answer.status_code, data["status"]) == (202, "running")
    assert [(run["object"], run["kind"]) for run in data["runs"]] == [("Contact", "refresh"), ("Account", "load")]
    again = body_of(ready.client.post("/api/salesforce/mirrors/contact/refresh", json={"user_id": USER}))["data"]
    assert [run["id"] for run in again["runs"]] == [data["runs"][0]["id"]]
    assert again["sync_id"] != data["sync_id"]

    with psycopg.connect(ready.url) as connection:
        connection.execute("UPDATE sfsync.runs SET state = 'done', finished_at = now() WHERE kind = 'refresh'")
    assert body_of(ready.client.get(answer.headers["Location"]))["data"]["status"] == "running"
    with psycopg.connect(ready.url) as connection:
        connection.execute("UPDATE sfsync.runs SET state = 'parked', error = 'no permission' WHERE state = 'ready'")
    found = body_of(ready.client.get(answer.headers["Location"]))["data"]
    assert (found["status"], found["runs"][1]["error"]) == ("failed", "no permission")
    status = body_of(ready.client.get("/api/integrations/salesforce/status", params={"user_id": USER}))["data"]
    assert (status["sync"]["sync_id"], status["status"]) == (again["sync_id"], "done")
    assert {one["object"] for one in status["mirrors"]} == {"Contact", "Opportunity", "Account"}
    runs = body_of(ready.client.get("/api/salesforce/runs", params={"state": "parked"}))["data"]["runs"]
    assert [run["object"] for run in runs] == ["Account"]


def test_a_first_load_that_failed_says_why_and_is_not_begun_by_every_reader(ready: Shim) -> None:
    path = f"/api/salesforce/accounts?user_id={USER}"
    assert body_of(ready.client.get(path))["error"]["code"] == "MIRROR_NOT_READY"
    with psycopg.connect(ready.url) as connection:
        connection.execute("UPDATE sfsync.runs SET state = 'parked', error = 'no permission'")
    error = body_of(ready.client.get(path))["error"]
    assert (error["code"], "no permission" in error["message"]) == ("MIRROR_FAILED", True)
    with psycopg.connect(ready.url) as connection:
        assert connection.execute("SELECT count(*) FROM sfsync.runs").fetchone() == (1,)
        connection.execute("UPDATE sfsync.runs SET created_at = created_at - interval '2 minutes'")
    assert body_of(ready.client.get(path))["error"]["code"] == "MIRROR_NOT_READY"


def execute(shim: Shim, capability: str, key: str = "write", user_id: str = USER, **parameters: Any) -> Any:
    body = {"capability": capability, "user_id": user_id, "parameters": parameters}
    headers = {**shim.as_key(key), "Prefer": "wait=0"}
    return shim.client.post(f"{SERVICE}/execute", json=body, headers=headers)


READS = [
    ("get_salesforce_client", {}, "connected"),
    ("list_contacts", {"limit": 1}, "contacts"),
    ("list_opportunities", {"filters": {"Amount": {"gt": 1}}, "fields": "Name"}, "opportunities"),
    ("get_opportunity", {"id": "006000000000001AAA"}, "Name"),
]
WRITES = [
    ("create_contact", {"LastName": "Ito"}),
    ("create_account", {"Name": "Ito Trading"}),
    ("create_opportunity", {"Name": "x", "StageName": "Won", "CloseDate": "2027-01-31"}),
    ("update_opportunity", {"id": "006000000000001AAA", "Amount": 5}),
]


def test_every_capability_is_executed_by_its_name(ready: Shim) -> None:
    known = {one["name"] for one in body_of(ready.client.get(SERVICE))["data"]["capabilities"]}
    assert known == {name for name, *_ in (*READS, *WRITES)} | {"list_accounts", "create_lead"}
    for name, parameters, part in READS:
        answer = execute(ready, name, "read", **parameters)
        assert (answer.status_code, part in body_of(answer)["data"]) == (200, True), name
    for name, parameters in WRITES:
        assert execute(ready, name, "read", **parameters).status_code == 403
        answer = execute(ready, name, **parameters)
        assert (answer.status_code, body_of(answer)["data"]["state"]) == (202, "ready"), name
    assert len(stored(ready)) == len(WRITES)
    assert body_of(execute(ready, "list_accounts"))["error"]["code"] == "MIRROR_NOT_READY"


def test_capabilities_refuse_what_cannot_be(ready: Shim) -> None:
    for answer, status, code in (
        (execute(ready, "fly"), 400, "UNKNOWN_CAPABILITY"),
        (execute(ready, "create_account"), 400, "VALIDATION_ERROR"),
        (execute(ready, "create_lead", LastName="x"), 400, "VALIDATION_ERROR"),
        (execute(ready, "list_contacts", limit=0), 400, "VALIDATION_ERROR"),
        (execute(ready, "list_contacts", filters=[1]), 400, "VALIDATION_ERROR"),
        (execute(ready, "list_contacts", filters={"Name": {"eq": {}}}), 400, "VALIDATION_ERROR"),
        (execute(ready, "get_opportunity"), 400, "VALIDATION_ERROR"),
        (execute(ready, "get_opportunity", id=7), 400, "VALIDATION_ERROR"),
        (execute(ready, "list_contacts", user_id="u-2"), 403, "FORBIDDEN"),
        (execute(ready, "list_contacts", "other", user_id="u-2"), 401, "AUTH_ERROR"),
    ):
        assert (answer.status_code, body_of(answer)["error"]["code"]) == (status, code)
    state = body_of(execute(ready, "get_salesforce_client", "other", user_id="u-2"))["data"]
    assert (state["connected"], state["state"]) == (False, "not_connected")


def test_every_chat_command_is_answered_in_words(ready: Shim) -> None:
    def say(command: str, **parameters: Any) -> Any:
        body = {"command": command, "user_id": USER, "parameters": parameters}
        return ready.client.post(f"{SERVICE}/chat", json=body, headers={"Prefer": "wait=0"})

    for command in ("use salesforce", "Access  Salesforce"):
        data = body_of(say(command))["data"]
        assert "Connected to Salesforce" in data["message"]
        assert {one["object"] for one in data["data"]["mirrors"]} == {"Contact", "Opportunity"}
    assert body_of(say("get salesforce contacts"))["data"]["message"] == "2 contacts: Abe, Zorn."
    answer = say("create salesforce account", Name="Ito Trading")
    assert (answer.status_code, stored(ready)) == (202, [("Account", "create", "ready")])
    assert body_of(say("create salesforce account"))["error"]["message"] == "Name is required to create an account."
    assert body_of(say("sing"))["error"]["code"] == "UNKNOWN_COMMAND"
