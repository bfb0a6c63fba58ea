"""@salesforce/cli, unchanged: log-in with an access token, queries, records, bulk."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import requests

ALIAS = "localorg"


@pytest.fixture(scope="module")
def sf(plain_org, cli_folder, node, command, tmp_path_factory) -> Callable[..., Any]:
    """Run `sf ARGUMENTS --json` in a home of its own, logged in; its result."""
    home = tmp_path_factory.mktemp("home")
    env = {
        "HOME": str(home),
        "SF_DISABLE_TELEMETRY": "true",
        "SF_AUTOUPDATE_DISABLE": "true",
        "SF_SKIP_NEW_VERSION_CHECK": "true",
        "SF_USE_GENERIC_UNIX_KEYCHAIN": "true",
        "SF_ACCESS_TOKEN": _token(plain_org),
        "PATH": f"{cli_folder}/node_modules/.bin:/usr/bin:/bin",
    }

    def one(*arguments: str) -> Any:
        program = [node(cli_folder), str(cli_folder / "node_modules/@salesforce/cli/bin/run.js")]
        return json.loads(command([*program, *arguments, "--json"], env, cwd=home))["result"]

    one("org", "login", "access-token", "--instance-url", plain_org.url, "--no-prompt", "--alias", ALIAS)
    return one


def _token(org) -> str:
    data = {"grant_type": "client_credentials", "client_id": org.client_id, "client_secret": org.client_secret}
    answer = requests.post(f"{org.url}/services/oauth2/token", data=data, timeout=30)
    return str(answer.json()["access_token"])


def test_queries(sf) -> None:
    found = sf("data", "query", "-o", ALIAS, "-q", "SELECT Id, Name FROM Account ORDER BY Name LIMIT 3")
    assert (found["totalSize"], len(found["records"])) == (3, 3)
    everything = sf("data", "query", "-o", ALIAS, "-q", "SELECT Id FROM Contact")
    assert len(everything["records"]) == 5000


def test_records(sf) -> None:
    target = ("-o", ALIAS, "-s", "Account")
    made = sf("data", "create", "record", *target, "-v", "Name='From the CLI' Phone=1")
    assert made["success"]
    sf("data", "update", "record", *target, "-i", made["id"], "-v", "Phone=2")
    got = sf("data", "get", "record", *target, "-i", made["id"])
    assert (got["Name"], got["Phone"]) == ("From the CLI", "2")
    sf("data", "delete", "record", *target, "-i", made["id"])


def test_bulk_import_update_upsert_and_delete(sf, tmp_path: Path) -> None:
    file = tmp_path / "accounts.csv"
    file.write_text("Name,External_Key__c\n" + "".join(f"Imported {n},cli-{n}\n" for n in range(300)))
    done = sf("data", "import", "bulk", "-o", ALIAS, "-s", "Account", "-f", str(file), "-w", "5")
    assert (done["processedRecords"], done["successfulRecords"], done["failedRecords"]) == (300, 300, 0)
    file.write_text("External_Key__c,Name\ncli-1,Changed\ncli-new,New\n")
    target = ("-o", ALIAS, "-s", "Account", "-f", str(file), "-w", "5")
    done = sf("data", "upsert", "bulk", *target, "-i", "External_Key__c")
    assert done["jobInfo"]["numberRecordsProcessed"] == 2
    found = sf("data", "query", "-o", ALIAS, "-q", "SELECT Id FROM Account WHERE External_Key__c LIKE 'cli-%'")
    file.write_text("Id\n" + "".join(f"{record['Id']}\n" for record in found["records"]))
    done = sf("data", "delete", "bulk", *target)
    assert done["jobInfo"]["numberRecordsProcessed"] == 301


def test_bulk_export(sf, tmp_path: Path) -> None:
    out = tmp_path / "contacts.csv"
    sf(
        "data", "export", "bulk", "-o", ALIAS, "-q", "SELECT Id, Name FROM Contact", "--output-file", str(out), "-w", "5",
        "-r", "csv",
    )  # fmt: skip
    assert len(out.read_text().splitlines()) == 5001


def test_describe_limits_and_raw_requests(sf) -> None:
    assert "Account" in sf("sobject", "list", "-o", ALIAS, "-s", "all")
    assert sf("sobject", "describe", "-o", ALIAS, "-s", "Account")["name"] == "Account"
    assert any(limit["name"] == "DailyApiRequests" for limit in sf("org", "list", "limits", "-o", ALIAS))
