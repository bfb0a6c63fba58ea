"""The status page: who gets in, what it shows, what a person can do on it."""

import re
from typing import Any

import psycopg
import pytest
from psycopg.types.json import Jsonb
from starlette.testclient import TestClient

from tests.integration.shim.conftest import USER, Shim, connect
from tests.integration.shim.test_every_route import is_site, routes

HELD = "0b2e5f6c-0d6e-4c62-9f6c-1d0a5e3b7a77"
NASTY = "<script>alert(1)</script>"


@pytest.fixture
def visitor(shim: Shim) -> TestClient:
    """A browser without a key or cookie."""
    return TestClient(shim.client.app, follow_redirects=False, headers={})


def sign_in(shim: Shim, visitor: TestClient, key: str = "admin") -> Any:
    return visitor.post("/login", data={"key": shim.keys[key]})


def form_token(page: str) -> str:
    found = re.search(r'name="form_token" value="([^"]+)"', page)
    assert found is not None
    return found.group(1)


def hold(url: str) -> None:
    """An action of USER that a person must decide about."""
    error = {"code": "UNABLE_TO_LOCK_ROW", "message": f"unable to obtain exclusive access {NASTY}", "fields": []}
    with psycopg.connect(url) as connection:
        connection.execute(
            "INSERT INTO sfsync.actions (id, connection_id, object, operation, record_id, fields, content_hash, order_key,"
            " ticket, state, source, attempts, error)"
            " SELECT %s, id, 'Contact', 'update', '003000000000007AAA', '{}', sha256('x'), '003000000000007AAA', 1, 'held', 'http', 8, %s"
            " FROM salesforce_oauth_tokens WHERE user_id = %s",
            (HELD, Jsonb(error), USER),
        )


def state_of(url: str) -> str:
    with psycopg.connect(url) as connection:
        row = connection.execute("SELECT state FROM sfsync.actions WHERE id = %s", (HELD,)).fetchone()
    assert row is not None
    return str(row[0])


def test_nobody_gets_anywhere_without_signing_in(shim: Shim, visitor: TestClient) -> None:
    """Every route of the page, from the application's own table."""
    tried = set()
    for route in filter(is_site, routes(shim.client.app)):
        for method in set(route.methods) - {"HEAD"}:
            path = route.path.format(action_id=HELD)
            tried.add((method, path))
            answer = visitor.request(method, path)
            if path == "/login":
                assert answer.status_code == {"GET": 200, "POST": 401}[method]
            else:
                refused = (401, None) if path == "/live" else (303, "/login")
                assert (answer.status_code, answer.headers.get("location")) == refused, path
    assert ("GET", "/") in tried
    assert ("POST", f"/decide/{HELD}") in tried


def test_a_number_past_its_threshold_stands_out(shim: Shim, visitor: TestClient) -> None:
    connect(shim.url)
    with psycopg.connect(shim.url) as connection:
        connection.execute("UPDATE salesforce_oauth_tokens SET organization_id = '00D000000000001AAA'")
        connection.execute(
            "INSERT INTO sfsync.mirrors (connection_id, object, table_name, state, fresh_cursor)"
            " SELECT id, 'Account', 'account', 'live', clock_timestamp() FROM salesforce_oauth_tokens"
        )
        connection.execute(
            "INSERT INTO sfsync.orgs (organization_id, api_used, api_max) VALUES ('00D000000000001AAA', 10, 1000)"
        )
        connection.execute(
            "INSERT INTO sfsync.actions (id, connection_id, object, operation, record_id, fields, content_hash, order_key, ticket, state, source)"
            " SELECT %s, id, 'Contact', 'update', '003000000000007AAA', '{}', sha256('x'), '003000000000007AAA', 1, 'ready', 'http'"
            "   FROM salesforce_oauth_tokens",
            (HELD,),
        )
    sign_in(shim, visitor)

    def tiles() -> dict[str, str]:
        page = visitor.get("/live").text
        return {name: level for level, name in re.findall(r'class="tile (\w+)"><div class="name">([^<]+)<', page)}

    quiet = dict.fromkeys(("Furthest behind", "Oldest undelivered action", "API calls left"), "healthy")
    assert {name: tiles()[name] for name in quiet} == quiet
    for name, passed in (
        ("Furthest behind", "UPDATE sfsync.mirrors SET fresh_cursor = clock_timestamp() - interval '16 min'"),
        ("Oldest undelivered action", "UPDATE sfsync.actions SET created_at = clock_timestamp() - interval '16 min'"),
        ("API calls left", "UPDATE sfsync.orgs SET api_used = 901"),
    ):
        with psycopg.connect(shim.url) as connection:
            connection.execute(passed.encode())
        quiet[name] = "degraded"
        assert {name: tiles()[name] for name in quiet} == quiet


def test_an_org_that_refuses_calls_has_none_left_whatever_our_count(shim: Shim, visitor: TestClient) -> None:
    with psycopg.connect(shim.url) as connection:
        connection.execute(
            "UPDATE salesforce_oauth_tokens SET organization_id = '00D000000000001AAA';"
            "INSERT INTO sfsync.orgs (organization_id, api_used, api_max, blocked_until)"
            " VALUES ('00D000000000001AAA', 10, 1000, clock_timestamp() + interval '10 min')"
        )
    sign_in(shim, visitor)
    page = visitor.get("/live").text
    assert re.search(r'class="tile unhealthy"><div class="name">API calls left</div>\s*<div[^>]*>0%</div>', page)
    assert "asked again" in page


@pytest.mark.parametrize("key", ["write", "all"])
def test_only_an_admin_key_for_all_users_signs_in(shim: Shim, visitor: TestClient, key: str) -> None:
    assert sign_in(shim, visitor, key).status_code == 401
    assert not visitor.cookies


def test_the_cookie_is_out_of_reach_of_scripts_and_holds_no_key(shim: Shim, visitor: TestClient) -> None:
    answer = sign_in(shim, visitor)
    cookie = answer.headers["set-cookie"]
    assert answer.status_code == 303
    assert "HttpOnly" in cookie
    assert "samesite=lax" in cookie.lower()
    assert shim.keys["admin"] not in cookie


def test_a_forged_cookie_opens_nothing(shim: Shim, visitor: TestClient) -> None:
    sign_in(shim, visitor)
    cookie = visitor.cookies["sfsync_session"]
    body, _, signature = cookie.rpartition(".")
    key_id, _, end = body.partition(".")
    for forged in (f"{key_id}.{int(end) + 9999}.{signature}", f"99.{end}.{signature}", body, "", "a.b.c", "ü.1.x"):
        stranger = TestClient(shim.client.app, follow_redirects=False)
        answer = stranger.get("/", headers={"Cookie": f"sfsync_session={forged}".encode()})
        assert answer.status_code == 303, forged


def test_revoking_the_key_ends_its_sessions(shim: Shim, visitor: TestClient) -> None:
    sign_in(shim, visitor)
    assert visitor.get("/").status_code == 200
    with psycopg.connect(shim.url) as connection:
        connection.execute("UPDATE sfsync.api_keys SET revoked_at = clock_timestamp() WHERE name = 'admin'")
    assert visitor.get("/").status_code == 303


def test_tries_are_limited(shim: Shim, visitor: TestClient) -> None:
    answers = [visitor.post("/login", data={"key": "sfsk_wrong_key"}).status_code for _ in range(12)]
    assert answers[0] == 401
    assert answers[-1] == 429


def test_it_shows_what_is_held_with_the_orgs_words_escaped(shim: Shim, visitor: TestClient) -> None:
    connect(shim.url)
    hold(shim.url)
    sign_in(shim, visitor)
    for path in ("/", "/live"):
        page = visitor.get(path).text
        assert "UNABLE_TO_LOCK_ROW" in page
        assert "&lt;script&gt;" in page
        assert NASTY not in page
        assert USER in page


def test_a_held_action_is_retried_by_its_button(shim: Shim, visitor: TestClient) -> None:
    connect(shim.url)
    hold(shim.url)
    sign_in(shim, visitor)
    token = form_token(visitor.get("/").text)
    done = visitor.post(f"/decide/{HELD}", data={"form_token": token, "decision": "retry"})
    assert (done.status_code, state_of(shim.url)) == (303, "ready")
    again = visitor.post(f"/decide/{HELD}", data={"form_token": token, "decision": "retry"})
    assert (again.status_code, "moved on" in again.text) == (409, True)


@pytest.mark.parametrize("token", ["", "wrong"])
@pytest.mark.parametrize("path", [f"/decide/{HELD}", "/connect", "/logout"])
def test_a_form_of_somebody_elses_page_does_nothing(shim: Shim, visitor: TestClient, path: str, token: str) -> None:
    connect(shim.url)
    hold(shim.url)
    sign_in(shim, visitor)
    answer = visitor.post(path, data={"form_token": token, "decision": "cancel", "user_id": "mallory"})
    assert (answer.status_code, state_of(shim.url)) == (403, "held")
    assert visitor.get("/").status_code == 200


def test_signing_out_forgets_the_cookie(shim: Shim, visitor: TestClient) -> None:
    sign_in(shim, visitor)
    token = form_token(visitor.get("/").text)
    assert visitor.post("/logout", data={"form_token": token}).status_code == 303
    assert visitor.get("/").status_code == 303


def test_connecting_sends_the_person_to_the_orgs_login(shim: Shim, visitor: TestClient) -> None:
    sign_in(shim, visitor)
    token = form_token(visitor.get("/").text)
    sent = visitor.post("/connect", data={"form_token": token, "user_id": "new-user"})
    assert sent.status_code == 303
    assert "/services/oauth2/authorize?" in sent.headers["location"]
    elsewhere = visitor.post(
        "/connect", data={"form_token": token, "user_id": "new-user", "login_url": "https://evil.example"}
    )
    assert (elsewhere.status_code, "location" in elsewhere.headers) == (400, False)


def test_metrics_tell_the_numbers_to_a_key_for_all_users_alone(shim: Shim) -> None:
    connect(shim.url)
    hold(shim.url)
    assert shim.client.get("/metrics").status_code == 403  # the key of one user
    answer = shim.client.get("/metrics", headers=shim.as_key("all"))
    assert answer.status_code == 200
    assert 'sfsync_actions{state="held"} 1.0' in answer.text
    assert "sfsync_actions_undelivered_oldest_seconds" in answer.text
    assert 'sfsync_check{check="database"} 0.0' in answer.text


def test_health_of_tokens_and_the_summary_show_only_the_callers_own(shim: Shim) -> None:
    connect(shim.url)
    hold(shim.url)
    mine = shim.client.get("/api/salesforce/health/tokens").json()["data"]
    assert [one["user_id"] for one in mine["tokens"]] == [USER]
    assert not {"access_token", "refresh_token"} & set(mine["tokens"][0])
    assert shim.client.get("/api/salesforce/health/summary").json()["data"]["held"] == 1
    other = {"headers": shim.as_key("other")}
    assert shim.client.get("/api/salesforce/health/tokens", **other).json()["data"]["tokens"] == []
    assert shim.client.get("/api/salesforce/health/summary", **other).json()["data"]["held"] == 0


def test_health_of_the_connection_asks_the_org(shim: Shim) -> None:
    connect(shim.url)
    answer = shim.client.get("/api/salesforce/health/connection", params={"user_id": USER})
    assert (answer.status_code, answer.json()["data"]["status"]) == (200, "unhealthy")
