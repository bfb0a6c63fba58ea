"""The eight calls of a desktop app's skills, by axios, against the shim on a local org: no change but a default header."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from tests.acceptance.stack import Stack, start_stack
from tests.acceptance.test_writes import USER, Caller
from tests.waiting import until
from worker.local_servers import free_port

READ = {"listContacts": "contacts", "listAccounts": "accounts", "listOpportunities": "opportunities"}
WRITTEN = ("createContact", "createAccount", "createOpportunity", "updateOpportunity")


@pytest.fixture
def stack(tmp_path: Path, database_url: str) -> Iterator[Stack]:
    nowhere = f"redis://127.0.0.1:{free_port()}/0"
    with start_stack(tmp_path, database_url, nowhere, seed="Account=5,Contact=20,Opportunity=20") as stack:
        stack.env["SFSYNC_SHIM_PORT"] = str(free_port())
        stack.connect(USER)
        for service in (("shim",), ("worker", "actions"), ("worker", "refresh"), ("worker", "backfill")):
            stack.start(*service)
        stack.sfsync("mirror", "--user-id", USER, "--wait")
        yield stack


def test_all_eight_calls_succeed_and_what_they_made_is_in_the_org(stack, axios_folder, node, command) -> None:
    caller = Caller(stack, int(stack.env["SFSYNC_SHIM_PORT"]))
    until(caller.is_up)
    env = {
        "AXIOS_FOLDER": str(axios_folder),
        "SHIM_URL": caller.url,
        "API_KEY": caller.headers["Authorization"].removeprefix("Bearer "),
        "USER_ID": USER,
    }
    results = json.loads(command([node(axios_folder), str(Path(__file__).with_name("axios_check.mjs"))], env))
    assert {name: bool(results[name][part]) for name, part in READ.items()} == dict.fromkeys(READ, True)
    assert results["getOpportunity"]["attributes"]["type"] == "Opportunity"
    for name in WRITTEN:
        assert (results[name]["success"], results[name]["errors"]) == (True, []), results[name]
    found = {
        name: in_org(stack, f"SELECT Id FROM {name} WHERE {field} LIKE 'Axios%'")
        for name, field in (("Contact", "LastName"), ("Account", "Name"), ("Opportunity", "Name"))
    }
    assert found == {name: [results[f"create{name}"]["id"]] for name in found}
    won = results["updateOpportunity"]["id"]
    assert in_org(stack, f"SELECT Id FROM Opportunity WHERE Id = '{won}' AND StageName = 'Closed Won'") == [won]


def in_org(stack: Stack, query: str) -> list[str]:
    """Ids that the org holds, asked past the product."""
    headers = {"Authorization": f"Bearer {stack.org.token()}"}
    answer = requests.get(
        f"{stack.org.url}/services/data/v62.0/query", params={"q": query}, headers=headers, timeout=30
    )
    answer.raise_for_status()
    return [record["Id"] for record in answer.json()["records"]]
