"""Triggers over HTTP: scopes, users, words of refusal, one firing per key."""

from typing import Any

import pytest
from starlette.testclient import TestClient

from tests.integration.shim.conftest import USER, body_of
from worker import access
from worker.db import Database

URL = "/api/salesforce/triggers"
NIGHTLY: dict[str, Any] = {
    "user_id": USER,
    "name": "nightly",
    "type": "scheduled_trigger",
    "cron": "0 2 * * *",
    "time_zone": "Europe/Berlin",
    "workflow_action": "process_data",
    "objects": ["Contact"],
}
BY_HAND: dict[str, Any] = {
    "user_id": USER,
    "name": "new contact",
    "type": "manual_trigger",
    "workflow_action": "execute_service",
    "capability": "create_contact",
    "parameters": {"LastName": "Ito"},
}


@pytest.fixture
def trigger_keys(database: Database) -> dict[str, dict[str, str]]:
    """Headers of callers: may trigger, may trigger and write, another user's, no such scope."""
    made = {}
    with database.transaction() as session:
        for name, scopes, users in (
            ("trigger", ["trigger"], [USER]),
            ("both", ["trigger", "write"], [USER]),
            ("other", ["trigger", "write"], ["u-2"]),
            ("read", ["read", "write"], [USER]),
        ):
            made[name] = {"Authorization": f"Bearer {access.create_key(session, name, scopes, users)[1]}"}
    return made


Keys = dict[str, dict[str, str]]


def test_a_trigger_is_added_shown_changed_and_removed(client: TestClient, trigger_keys: Keys, connected: int) -> None:
    me = trigger_keys["trigger"]
    made = client.post(URL, json=NIGHTLY, headers=me)
    assert made.status_code == 201
    data = body_of(made)["data"]
    assert len(data["upcoming"]) == 5
    assert data["next_due_at"] == data["upcoming"][0]
    assert (data["overlap"], data["missed"], data["objects"], data["enabled"]) == ("skip", "once", ["Contact"], True)
    assert [one["id"] for one in body_of(client.get(URL, headers=me))["data"]["triggers"]] == [data["id"]]
    one = f"{URL}/{data['id']}"
    changed = body_of(client.patch(one, json={"cron": "30 4 * * 1", "enabled": False}, headers=me))["data"]
    assert (changed["cron"], changed["enabled"], changed["next_due_at"]) == ("30 4 * * 1", False, None)
    assert changed["upcoming"] == []
    changed = body_of(
        client.put(one, json={**NIGHTLY, "every_seconds": 900, "cron": None, "time_zone": None}, headers=me)
    )["data"]
    assert changed["every_seconds"] == 900
    assert "cron" not in changed
    assert body_of(client.get(one, headers=me))["data"]["firings"] == []
    assert body_of(client.delete(one, headers=me))["data"] == {"id": data["id"], "removed": True}
    assert client.get(one, headers=me).status_code == 404


def test_only_who_may(client: TestClient, trigger_keys: Keys, connected: int) -> None:
    assert client.post(URL, json=NIGHTLY, headers=trigger_keys["read"]).status_code == 403
    assert client.get(URL, headers=trigger_keys["read"]).status_code == 403
    assert client.post(URL, json=NIGHTLY, headers=trigger_keys["other"]).status_code == 403
    assert client.post(URL, json=BY_HAND, headers=trigger_keys["trigger"]).status_code == 403  # it would write
    made = body_of(client.post(URL, json=BY_HAND, headers=trigger_keys["both"]))["data"]
    one = f"{URL}/{made['id']}"
    for method, path in (("GET", one), ("PATCH", one), ("DELETE", one), ("POST", f"{one}/fire")):
        answer = client.request(method, path, json={}, headers=trigger_keys["other"])
        assert (answer.status_code, body_of(answer)["error"]["code"]) == (404, "NOT_FOUND")
    assert client.post(f"{one}/fire", headers=trigger_keys["trigger"]).status_code == 202  # to fire needs no more
    more = {"capability": "create_account"}
    assert client.patch(one, json=more, headers=trigger_keys["trigger"]).status_code == 403


def test_a_key_fires_once(client: TestClient, trigger_keys: Keys, connected: int) -> None:
    both = trigger_keys["both"]
    made = body_of(client.post(URL, json=BY_HAND, headers=both))["data"]
    fire = f"{URL}/{made['id']}/fire"
    key = both | {"Idempotency-Key": "k"}
    first = client.post(fire, json={"parameters": {"LastName": "Abe"}}, headers=key)
    again = client.post(fire, json={"parameters": {"LastName": "Abe"}}, headers=key)
    assert (first.status_code, again.status_code) == (202, 200)
    data = body_of(again)["data"]
    assert (data["id"], data["repeated"], data["state"]) == (body_of(first)["data"]["id"], True, "ready")
    assert data["work"] == {"capability": "create_contact", "parameters": {"LastName": "Abe"}}
    other = client.post(fire, json={"parameters": {"LastName": "Zorn"}}, headers=key)
    assert (other.status_code, body_of(other)["error"]["code"]) == (409, "IDEMPOTENCY_KEY_REUSED")
    client.patch(f"{URL}/{made['id']}", json={"enabled": False}, headers=both)
    refused = client.post(fire, headers=both)
    assert (refused.status_code, body_of(refused)["error"]["code"]) == (409, "WRONG_STATE")
    history = body_of(client.get(f"{URL}/{made['id']}", headers=both))["data"]["firings"]
    assert [one["idempotency_key"] for one in history] == ["k"]


@pytest.mark.parametrize(
    ("change", "status", "words"),
    [
        ({"user_id": None}, 400, "user_id is required."),
        ({"name": None}, 400, "name is required."),
        ({"name": 7}, 400, "name must be of type str."),
        ({"cron": "0 25 * * *"}, 400, "bad hour"),
        ({"cron": None}, 400, "needs a cron line or an interval"),
        ({"every_seconds": 60}, 400, "and not both"),
        ({"time_zone": "Berlin"}, 400, "did you mean Europe/Berlin"),
        ({"type": "manual_trigger"}, 400, "no cron line"),
        ({"type": "webhook"}, 400, "manual_trigger, scheduled_trigger"),
        ({"workflow_action": "dance"}, 400, "execute_service or process_data"),
        ({"objects": ["Con tact"]}, 400, "API names"),
        ({"missed": "never"}, 400, "skip, once, all"),
        ({"overlap": "kill"}, 400, "skip, queue, allow"),
        ({"missed_limit": 0}, 400, "missed_limit is 1 to"),
        ({"missed_limit": True}, 400, "missed_limit must be"),
        ({"grace_seconds": "long"}, 400, "grace_seconds must be"),
        ({"colour": "red"}, 400, "colour is not known"),
        ({"user_id": USER + "x"}, 403, "may not act"),
    ],
)
def test_wrong_requests_are_told_what_to_do(
    client: TestClient, trigger_keys: Keys, connected: int, change: dict[str, Any], status: int, words: str
) -> None:
    answer = client.post(URL, json={**NIGHTLY, **change}, headers=trigger_keys["both"])
    assert (answer.status_code, words in body_of(answer)["error"]["message"]) == (status, True), answer.text


def test_a_name_is_taken_once(client: TestClient, trigger_keys: Keys, connected: int) -> None:
    both = trigger_keys["both"]
    client.post(URL, json=NIGHTLY, headers=both)
    answer = client.post(URL, json=NIGHTLY, headers=both)
    assert (answer.status_code, body_of(answer)["error"]["code"]) == (409, "NAME_TAKEN")
