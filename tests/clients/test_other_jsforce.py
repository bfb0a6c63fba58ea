"""jsforce 1, @jsforce/jsforce-node, their ancestor node-salesforce and nforce, unchanged: SOAP and password log-in, pages
of user interfaces, Bulk 1.0, SOAP calls, attachments."""

import json
from pathlib import Path

import pytest

from tests.clients.conftest import npm

pytestmark = pytest.mark.timeout(1500)  # the first run installs the clients
EXPECTED = {
    "created": [True, True, True],
    "upserted": True,
    "found": True,
    "layouts": 1,
    "compactLayouts": 1,
    "listviews": 0,
    "quickActions": 0,
    "recent": True,
    "tabs": True,
    "theme": True,
    "tooling": "Account",
    "explained": "Account",
    "bulk": [True, True],
    "bulkQuery": 300,
    "merged": "true",
    "emptied": "true",
    "left": 2,
}


@pytest.fixture(scope="module")
def folder() -> Path:
    return npm("other-jsforce", "jsforce@1", "@jsforce/jsforce-node@3")


@pytest.mark.parametrize(("name", "version"), [("jsforce", "42.0"), ("@jsforce/jsforce-node", "63.0")])
def test_jsforce_of_other_makes(plain_org, folder: Path, node, command, name: str, version: str) -> None:
    env = {
        "JSFORCE_FOLDER": str(folder),
        "JSFORCE_NAME": name,
        "API_VERSION": version,
        "ORG_URL": plain_org.url,
        "ORG_USERNAME": plain_org.username,
        "ORG_PASSWORD": plain_org.password,
    }
    script = Path(__file__).with_name("other_jsforce_check.cjs")
    assert json.loads(command([node(folder), str(script)], env)) == EXPECTED


def test_nforce_and_node_salesforce(plain_org, node, command) -> None:
    folder = npm("nforce", "nforce@1", "node-salesforce@0.8")
    env = {
        "FOLDER": str(folder),
        "ORG_URL": plain_org.url,
        "CLIENT_ID": plain_org.client_id,
        "CLIENT_SECRET": plain_org.client_secret,
        "ORG_USERNAME": plain_org.username,
        "ORG_PASSWORD": plain_org.password,
    }
    done = json.loads(command([node(folder), str(Path(__file__).with_name("nforce_check.cjs"))], env))
    assert done == {
        "nforce": {"site": "here", "upserted": True, "queried": 300, "described": "Account", "body": "hello"},
        "node-salesforce": {"created": True, "updated": True, "queried": 300, "deleted": True},
    }
