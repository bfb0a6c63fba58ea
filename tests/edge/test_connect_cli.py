"""`sfsync connect`, `disconnect` and `keys`, as an operator runs them, against a local org."""

import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import requests

from tests import processes
from tests.consent import sign_in
from tests.org import ROOT, Org, start_org
from worker.cli.output import Exit
from worker.db import Database
from worker.errors import DisconnectedError
from worker.salesforce import rest
from worker.salesforce.client import OrgClient, http_options
from worker.salesforce.oauth import App, authorize_url
from worker.settings import load_settings
from worker.tokens.renew import StoredTokens
from worker.tokens.vault import Vault, generate_key

SFSYNC = [sys.executable, "-m", "worker.cli"]
Env = dict[str, str]


@pytest.fixture(scope="module")
def org(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Org]:
    with start_org(tmp_path_factory.mktemp("connect") / "org", seed="Contact=1") as running:
        yield running


@pytest.fixture
def env(org: Org, database: Database, tmp_path: Path) -> Env:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    return {
        **{name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ},
        "DATABASE_URL": database.url,
        "ENCRYPTION_KEY": generate_key(),
        "SALESFORCE_LOGIN_URL": org.url,
        "SALESFORCE_ALLOWED_HOSTS": org.url,
        "SALESFORCE_CLIENT_ID": org.client_id,
        "SALESFORCE_CLIENT_SECRET": org.client_secret,
        "SALESFORCE_REDIRECT_URI": f"http://localhost:{port}/callback",
        "SFSYNC_DATA_FOLDER": str(tmp_path),
        "COLUMNS": "1000",
        "PYTHONUNBUFFERED": "1",
    }


def run(env: Env, *arguments: str, text: str = "", code: int = Exit.OK) -> subprocess.CompletedProcess[str]:
    done = processes.run("worker.cli", arguments, env=env, text=text)
    assert done.returncode == code, done.stdout + done.stderr
    return done


def run_json(env: Env, *arguments: str, text: str = "") -> dict[str, Any]:
    answer: dict[str, Any] = json.loads(run(env, *arguments, "--json", text=text).stdout)
    return answer


def begun(env: Env) -> tuple["subprocess.Popen[str]", str]:
    """A running `sfsync connect` and the address that it printed."""
    process = subprocess.Popen(
        [*SFSYNC, "connect", "--user-id", "me", "--no-browser"],
        env=env,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout is not None
    for line in process.stdout:
        if found := re.search(r"http\S+/services/oauth2/authorize\?\S+", line):
            return process, found.group()
    raise AssertionError("no address was printed")


def test_a_person_connects_by_the_browser(env: Env, org: Org) -> None:
    process, url = begun(env)
    assert "code_challenge_method=S256" in url
    page = sign_in(org, url, approve=True)
    assert page.status_code == 200
    assert "Connected" in page.text
    output = process.communicate(timeout=60)[0]
    assert process.returncode == Exit.OK, output
    assert org.organization_id in output
    for secret in (org.client_secret, "5Aep", "!"):
        assert secret not in output


def test_an_app_needs_two_scopes_and_the_user_is_known_without_a_third(env: Env, org: Org) -> None:
    callback = env["SALESFORCE_REDIRECT_URI"]
    org.control.put_client(
        "3MVG9two", secret="two-secret", redirect_uris=[callback], scopes=["api", "refresh_token"], require_pkce=True
    )
    org.control.add_fault(match={"path_regex": "userinfo"}, action={"status": 403, "body": "Bad_OAuth_Token"})
    env |= {"SALESFORCE_CLIENT_ID": "3MVG9two", "SALESFORCE_CLIENT_SECRET": "two-secret"}
    process, url = begun(env)
    page = sign_in(org, url, approve=True)
    assert "Connected" in page.text, page.text
    output = process.communicate(timeout=60)[0]
    assert process.returncode == Exit.OK, output
    (known,) = run_json(env, "status")["connections"]
    assert (known["username"], known["organization_id"]) == (org.username, org.organization_id)


def test_a_person_who_denies_is_told_and_so_is_the_command(env: Env, org: Org) -> None:
    process, url = begun(env)
    page = sign_in(org, url, approve=False)
    assert page.status_code == 400
    assert "Not connected" in page.text
    output = process.communicate(timeout=60)[0]
    assert process.returncode == Exit.REFUSED
    assert "did not grant access" in output


def test_an_answer_with_a_foreign_state_is_shown_the_door_and_changes_nothing(env: Env, org: Org) -> None:
    process, url = begun(env)
    callback = env["SALESFORCE_REDIRECT_URI"]
    assert requests.get(callback, params={"code": "x", "state": "guessed"}, timeout=30).status_code == 400
    assert requests.get(callback.replace("/callback", "/favicon.ico"), timeout=30).status_code == 404
    assert "Connected" in sign_in(org, url, approve=True).text
    assert process.wait(60) == Exit.OK


def test_a_server_connects_as_the_app_and_disconnects(env: Env, org: Org) -> None:
    done = run_json(env, "connect", "--user-id", "me", "--client-credentials", "--schema", "crm")
    assert (done["organization_id"], done["username"], done["schema_name"]) == (
        org.organization_id,
        org.username,
        "crm",
    )
    ended = run_json(env, "disconnect", "--user-id", "me", "--keep-data")
    assert (ended["revoked"], ended["dropped_schema"]) == (True, None)
    assert "Not revoked in the org" in run(env, "disconnect", "--user-id", "me").stdout
    run(env, "disconnect", "--user-id", "nobody", code=Exit.DISCONNECTED)


def granted(org: Org) -> dict[str, str]:
    """A grant that another program got: token answer of the authorization code flow."""
    app, verifier, nowhere = App(org.client_id, org.client_secret), "v" * 64, "http://localhost:1/callback"
    url = authorize_url(org.url, app, redirect_uri=nowhere, state="s", verifier=verifier)
    with pytest.raises(requests.ConnectionError) as caught:
        sign_in(org, url, approve=True)
    assert caught.value.request is not None
    code = parse_qs(urlsplit(str(caught.value.request.url)).query)["code"][0]
    form = {
        "grant_type": "authorization_code",
        "client_id": org.client_id,
        "client_secret": org.client_secret,
        "redirect_uri": nowhere,
        "code": code,
        "code_verifier": verifier,
    }
    answer: dict[str, str] = requests.post(f"{org.url}/services/oauth2/token", data=form, timeout=30).json()
    return answer


@pytest.mark.parametrize("rotate", [True, False])
def test_a_refresh_token_comes_by_standard_input_and_lasts(
    env: Env, org: Org, database: Database, rotate: bool
) -> None:
    org.control.change_settings(rotate=rotate)
    token = granted(org)["refresh_token"]
    done = run_json(env, "connect", "--user-id", "me", "--refresh-token-stdin", text=token + "\n")
    assert done["organization_id"] == org.organization_id
    settings = load_settings(env)
    client = OrgClient(
        StoredTokens(database, Vault(settings.keys), settings, done["connection_id"]), http_options(settings)
    )
    for _ in range(3):
        org.control.expire_tokens()
        assert rest.query(client, "SELECT Id FROM Contact").total_size == 1
    org.control.revoke_tokens()
    with pytest.raises(DisconnectedError, match="expired access/refresh token"):
        rest.query(client, "SELECT Id FROM Contact")


def test_a_refresh_token_that_is_none_is_refused_without_repeating_it(env: Env) -> None:
    run(env, "connect", "--user-id", "me", "--refresh-token-stdin", text=" \n", code=Exit.USAGE)
    done = run(env, "connect", "--user-id", "me", "--refresh-token-stdin", text="5AepSecret", code=Exit.DISCONNECTED)
    assert "invalid_grant" in done.stderr
    assert "5AepSecret" not in done.stdout + done.stderr


def test_a_login_host_that_is_not_listed_is_refused_in_one_helpful_line(env: Env, org: Org) -> None:
    done = run(
        {**env, "SALESFORCE_ALLOWED_HOSTS": ""},
        "connect",
        "--user-id",
        "me",
        "--client-credentials",
        code=Exit.SETTINGS,
    )
    (line,) = done.stderr.strip().splitlines()
    assert f"SALESFORCE_ALLOWED_HOSTS={org.url}" in line


def test_a_wrong_secret_is_the_settings_fault(env: Env) -> None:
    done = run(
        {**env, "SALESFORCE_CLIENT_SECRET": "wrong"},
        "connect",
        "--user-id",
        "me",
        "--client-credentials",
        code=Exit.SETTINGS,
    )
    assert "SALESFORCE_CLIENT_SECRET" in done.stderr


def test_keys_are_generated_without_settings_and_rotated(env: Env) -> None:
    bare = {name: value for name, value in env.items() if not name.startswith(("SALESFORCE", "DATABASE", "ENCRYPTION"))}
    new = run(bare, "keys", "generate").stdout.strip()
    made = run_json(bare, "keys", "generate")
    assert len(made["key"]) == len(new) == 44
    run(env, "connect", "--user-id", "me", "--client-credentials")
    rotated = {**env, "ENCRYPTION_KEY": f"{new},{env['ENCRYPTION_KEY']}"}
    assert run_json(rotated, "keys", "rotate")["changed"] == 1
    assert "0 values" in run(rotated, "keys", "rotate").stdout
    only_new = {**env, "ENCRYPTION_KEY": new}
    assert run_json(only_new, "disconnect", "--user-id", "me")["revoked"]
