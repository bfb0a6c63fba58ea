"""More Python clients, unchanged: salesforce-bulk, aiosalesforce, salesforce-api, cloudy-salesforce, a fork of
simple-salesforce, and airbyte's source-salesforce.

Those whose hosts are fixed go through the org's proxy.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.clients.conftest import pip

pytestmark = pytest.mark.timeout(1500)  # the first run installs the clients
CHECK = Path(__file__).with_name("other_python_check.py")
EXPECTED = {
    "bulk": {"inserted": ["true", "false"], "CSV": 300, "JSON": 300},
    "aio": {"site": "here", "created": True, "queried": 300, "batch": [1, "001"], "composite": ["001", "003"]},
    "api": {"inserted": True, "queried": 300, "bulk": [False, True]},
    "cloudy": {"queried": 5, "children": True},
    "fork": {"inserted": True, "queried": 300},
}
PACKAGES = {
    "aio": "aiosalesforce==0.6.2",
    "api": "salesforce-api==0.1.46",
    "bulk": "salesforce-bulk==2.2.0",
    "cloudy": "cloudy-salesforce==0.5.0",
    "fork": "async-simple-salesforce==1.12.9b0",
}


@pytest.fixture(scope="module")
def org(tmp_path_factory, start_org) -> Iterator[Any]:
    folder = tmp_path_factory.mktemp("org")
    with start_org(folder, "--proxy", "0", "--seed", "Account=20,Contact=300") as running:
        yield running, json.loads((folder / "ready.json").read_text())["proxy_url"]


@pytest.fixture(scope="module")
def session(org) -> Iterator[requests.Session]:
    """Calls to the org itself, past the proxy."""
    running, _ = org
    with requests.Session() as session:
        session.trust_env = False  # REQUESTS_CA_BUNDLE would win over `verify`
        session.verify = running.ca_file
        yield session


def app(running: Any) -> dict[str, str]:
    return {"client_id": running.client_id, "client_secret": running.client_secret}


def environment(org: Any) -> dict[str, str]:
    running, proxy_url = org
    return {
        "HTTPS_PROXY": proxy_url,
        "NO_PROXY": "",
        "no_proxy": "",
        "REQUESTS_CA_BUNDLE": running.ca_file,
        "SSL_CERT_FILE": running.ca_file,
        "CLIENT_ID": running.client_id,
        "CLIENT_SECRET": running.client_secret,
        "ORG_URL": running.url,
        "ORG_USERNAME": running.username,
        "ORG_PASSWORD": running.password,
    }


@pytest.mark.parametrize("client", sorted(EXPECTED))
def test_python_clients(org, session, command, client: str) -> None:
    running, _ = org
    folder = pip(f"python-{client}", PACKAGES[client])
    form = {"grant_type": "client_credentials", **app(running)}
    token = session.post(f"{running.url}/services/oauth2/token", data=form, timeout=30).json()["access_token"]
    env = {**environment(org), "ACCESS_TOKEN": token}
    assert (
        json.loads(command([str(folder / "venv/bin/python"), "-W", "ignore", str(CHECK), client], env))
        == EXPECTED[client]
    )


def test_airbyte_discovers_and_reads(org, session, command, tmp_path: Path) -> None:
    running, _ = org
    program = str(pip("python-airbyte", "airbyte-source-salesforce==2.10.3") / "venv/bin/source-salesforce")
    streams = [{"criteria": "exacts", "value": name} for name in ("Account", "Contact")]
    config = {"refresh_token": refresh_token(running, session), **app(running), "auth_type": "Client"}
    config |= {"is_sandbox": False, "start_date": "2022-01-01T00:00:00Z", "streams_criteria": streams}
    (tmp_path / "config.json").write_text(json.dumps(config))
    env = environment(org)
    checked = messages(command([program, "check", "--config", "config.json"], env, cwd=tmp_path))
    assert [m["connectionStatus"]["status"] for m in checked if m["type"] == "CONNECTION_STATUS"] == ["SUCCEEDED"]
    found = messages(command([program, "discover", "--config", "config.json"], env, cwd=tmp_path))
    (catalog,) = (m["catalog"] for m in found if m["type"] == "CATALOG")
    chosen = [
        {"stream": stream, "sync_mode": "incremental", "destination_sync_mode": "append"}
        for stream in catalog["streams"]
        if stream["name"] in ("Account", "Contact")
    ]
    (tmp_path / "catalog.json").write_text(json.dumps({"streams": chosen}))
    read = [program, "read", "--config", "config.json", "--catalog", "catalog.json"]
    records = [m["record"] for m in messages(command(read, env, cwd=tmp_path)) if m["type"] == "RECORD"]
    for name, seeded in (("Account", 20), ("Contact", 300)):
        assert len({r["data"]["Id"] for r in records if r["stream"] == name}) >= seeded


def messages(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines() if line.startswith("{")]


def refresh_token(running: Any, session: requests.Session) -> str:
    """From the browser flow, its form posted as a person would."""
    query = {
        "response_type": "code",
        "redirect_uri": "http://localhost:1717/OauthRedirect",
        "scope": "api refresh_token",
    }
    query["client_id"] = running.client_id
    form = {"username": running.username, "password": running.password, "approve": "1"}
    url = f"{running.url}/services/oauth2/"
    sent = session.post(url + "authorize", params=query, data={**query, **form}, allow_redirects=False, timeout=30)
    code = requests.utils.unquote(sent.headers["location"].split("code=")[1].split("&")[0])
    exchange = {"grant_type": "authorization_code", "code": code, "redirect_uri": query["redirect_uri"], **app(running)}
    return str(session.post(url + "token", data=exchange, timeout=30).json()["refresh_token"])
