"""PyPI's tap-salesforce, unchanged, in both its modes. Its hosts are fixed, so it goes through the org's proxy."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests


@pytest.fixture(scope="module")
def org(tmp_path_factory, start_org) -> Iterator[Any]:
    folder = tmp_path_factory.mktemp("org")
    with start_org(folder, "--proxy", "0", "--seed", "Account=20,Contact=300") as running:
        yield running, json.loads((folder / "ready.json").read_text())["proxy_url"]


@pytest.fixture(scope="module")
def refresh_token(org) -> str:
    """From the browser flow, its form posted as a person would."""
    running, _ = org
    query = {
        "response_type": "code",
        "client_id": running.client_id,
        "redirect_uri": "http://localhost:1717/OauthRedirect",
        "scope": "api refresh_token",
    }
    form = {"username": running.username, "password": running.password, "approve": "1"}
    url = f"{running.url}/services/oauth2/authorize"
    with requests.Session() as session:
        session.trust_env = False  # REQUESTS_CA_BUNDLE would win over `verify`
        session.verify = running.ca_file
        sent = session.post(url, params=query, data={**query, **form}, allow_redirects=False, timeout=30)
        code = requests.utils.unquote(sent.headers["location"].split("code=")[1].split("&")[0])
        exchange = {
            "grant_type": "authorization_code",
            "code": code,
            "client_id": running.client_id,
            "client_secret": running.client_secret,
            "redirect_uri": query["redirect_uri"],
        }
        return str(
            session.post(f"{running.url}/services/oauth2/token", data=exchange, timeout=30).json()["refresh_token"]
        )


@pytest.mark.parametrize("mode", ["REST", "BULK"])
def test_the_tap_discovers_and_reads(org, refresh_token, tap_folder, command, tmp_path: Path, mode: str) -> None:
    running, proxy_url = org
    config = {
        "refresh_token": refresh_token,
        "client_id": running.client_id,
        "client_secret": running.client_secret,
        "start_date": "2000-01-01T00:00:00Z",
        "api_type": mode,
        "select_fields_by_default": True,
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    env = {"HTTPS_PROXY": proxy_url, "REQUESTS_CA_BUNDLE": running.ca_file, "NO_PROXY": "", "no_proxy": ""}
    assert not os.environ.get("ALL_PROXY")
    program = str(tap_folder / "venv/bin/tap-salesforce")
    found = json.loads(command([program, "--config", "config.json", "--discover"], env, cwd=tmp_path))
    for stream in found["streams"]:
        selected = stream["tap_stream_id"] in ("Account", "Contact")
        next(m for m in stream["metadata"] if m["breadcrumb"] == [])["metadata"]["selected"] = selected
    (tmp_path / "catalog.json").write_text(json.dumps(found))
    text = command([program, "--config", "config.json", "--properties", "catalog.json"], env, cwd=tmp_path)
    messages = [json.loads(line) for line in text.splitlines()]
    counts = {name: _records(messages, name) for name in ("Account", "Contact")}
    assert counts == {"Account": 20, "Contact": 300}


def _records(messages: list[dict[str, Any]], stream: str) -> int:
    return sum(m["type"] == "RECORD" and m["stream"] == stream for m in messages)
