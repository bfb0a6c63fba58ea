"""The write side, as a caller meets it: over HTTP, through real processes, into the org and back into the mirror."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from standardwebhooks.webhooks import Webhook

from tests.acceptance.stack import Stack, start_stack
from tests.receiver import Receiver, receiving
from tests.waiting import until
from worker.local_servers import free_port

pytestmark = pytest.mark.acceptance

USER = "tester"
SLOW = {"delay_ms": 2000}


class Caller:
    """A program with an API key."""

    def __init__(self, stack: Stack, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"
        key = stack.sfsync_json(
            "api-keys", "create", "--name", "t", "--scope", "write", "--scope", "read", "--user", USER
        )
        self.headers = {"Authorization": f"Bearer {key['key']}"}

    def is_up(self) -> bool:
        try:
            return requests.get(f"{self.url}/readyz", timeout=5).ok
        except requests.ConnectionError:
            return False

    def call(self, method: str, path: str, **options: Any) -> tuple[int, dict[str, Any]]:
        headers = self.headers | options.pop("headers", {})
        answer = requests.request(method, f"{self.url}/api/salesforce/{path}", headers=headers, timeout=60, **options)
        return answer.status_code, answer.json()


@pytest.fixture
def stack(tmp_path: Path, database_url: str) -> Iterator[Stack]:
    """Without Redis: nothing here may need it."""
    seed = {"seed": "Account=5,Contact=20,Opportunity=20"}
    with start_stack(tmp_path, database_url, f"redis://127.0.0.1:{free_port()}/0", **seed) as stack:
        stack.env["SFSYNC_SHIM_PORT"] = str(free_port())
        stack.connect(USER)
        yield stack


@pytest.fixture
def receiver(stack: Stack) -> Iterator[Receiver]:
    """Who is told what became of a write; the operator trusts it."""
    with receiving() as receiver:
        stack.env["SFSYNC_CALLBACK_ALLOWED_HOSTS"] = receiver.url.partition("/hook")[0]
        yield receiver


@pytest.fixture
def caller(stack: Stack) -> Caller:
    caller = Caller(stack, int(stack.env["SFSYNC_SHIM_PORT"]))
    stack.start("shim")
    until(caller.is_up)
    return caller


def contacts(stack: Stack, last_name: str) -> list[dict[str, Any]]:
    """What the org holds, asked past our own product."""
    query = {"q": f"SELECT Id, Email FROM Contact WHERE LastName = '{last_name}'"}
    headers = {"Authorization": f"Bearer {stack.org.token()}"}
    answer = requests.get(f"{stack.org.url}/services/data/v62.0/query", params=query, headers=headers, timeout=30)
    answer.raise_for_status()
    records: list[dict[str, Any]] = answer.json()["records"]
    return records


def test_a_contact_created_and_an_opportunity_changed_are_in_the_org_and_in_the_mirror(
    stack: Stack, receiver: Receiver, caller: Caller
) -> None:
    stack.start("worker", "actions")
    stack.start("worker", "refresh")
    stack.start("worker", "backfill")
    stack.sfsync("mirror", "--user-id", USER, "--object", "Contact", "--object", "Opportunity", "--wait")

    body = {"user_id": USER, "LastName": "Ito", "Email": "aiko@ito.example"}
    key = {"Idempotency-Key": "one"}
    status, first = caller.call("POST", "contacts", json=body, headers=key)
    assert (status, first["data"]["success"], first["data"]["errors"]) == (200, True, [])
    assert caller.call("POST", "contacts", json=body, headers=key) == (200, first)
    assert [row["Id"] for row in contacts(stack, "Ito")] == [first["data"]["id"]]
    stack.wait_for("SELECT email = 'aiko@ito.example' FROM salesforce.contact WHERE id = %s", first["data"]["id"])

    _, listed = caller.call("GET", "opportunities", params={"user_id": USER})
    record_id = listed["data"]["opportunities"][0]["Id"]
    change = {"user_id": USER, "StageName": "Closed Won", "Amount": 1234.5}
    status, answer = caller.call("PUT", f"opportunities/{record_id}", json=change)
    assert (status, answer["data"]["id"], answer["data"]["success"]) == (200, record_id, True)
    stack.wait_for("SELECT amount = 1234.5 FROM salesforce.opportunity WHERE id = %s", record_id)
    _, seen = caller.call("GET", f"opportunities/{record_id}", params={"user_id": USER})
    assert (seen["data"]["StageName"], seen["data"]["Amount"]) == ("Closed Won", 1234.5)

    status, refused = caller.call("POST", "contacts", json=body | {"Email": "nonsense"})
    assert (status, refused["error"]["code"]) == (422, "INVALID_EMAIL_ADDRESS")
    long_ago = {"If-Unmodified-Since": "Sat, 01 Jan 2000 00:00:00 GMT"}
    status, refused = caller.call("PATCH", f"opportunities/{record_id}", json=change, headers=long_ago)
    assert (status, refused["error"]["code"]) == (409, "CONFLICT")

    secret = stack.sfsync_json("callbacks", "add-secret", "--user-id", USER)["secret"]
    status, told = caller.call("PATCH", f"opportunities/{record_id}", json=change | {"callback_url": receiver.url})
    assert status == 200
    until(lambda: receiver.got)
    headers, raw = receiver.got[0]
    event = Webhook(secret).verify(raw, headers)
    assert (event["type"], event["data"]["id"], event["data"]["state"]) == (
        "action.finished",
        told["data"]["action_id"],
        "delivered",
    )
    assert stack.sfsync("verify", "--user-id", USER)


def test_a_worker_killed_between_sending_and_outcome_doubles_nothing(stack: Stack, caller: Caller) -> None:
    stack.org.control.add_fault(match={"path_regex": "/composite/sobjects"}, action=SLOW)
    worker = stack.start("worker", "actions")
    body = {"user_id": USER, "LastName": "Killed"}
    _, answer = caller.call("POST", "contacts", json=body, headers={"Prefer": "wait=0"})
    until(lambda: any(rule["spoilt"] for rule in stack.org.control.faults()))
    stack.kill(worker)
    until(lambda: contacts(stack, "Killed"))  # it lands all the same
    stack.rows("UPDATE sfsync.actions SET claim_until = clock_timestamp() - interval '1 second'")
    stack.start("worker", "actions")
    stack.wait_for("SELECT state = 'delivered' FROM sfsync.actions")
    _, action = caller.call("GET", f"actions/{answer['data']['action_id']}")
    assert [row["Id"] for row in contacts(stack, "Killed")] == [action["data"]["outcome"]["id"]]
    assert action["data"]["outcome"]["adopted"]


def test_a_connection_cut_after_the_org_applied_it_doubles_nothing(stack: Stack, caller: Caller) -> None:
    stack.org.control.add_fault(match={"path_regex": "/composite/sobjects"}, action={"cut": "after"})
    stack.start("worker", "actions")
    status, answer = caller.call("POST", "contacts", json={"user_id": USER, "LastName": "Cut"})
    assert status == 200
    assert [row["Id"] for row in contacts(stack, "Cut")] == [answer["data"]["id"]]
