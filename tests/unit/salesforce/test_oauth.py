"""The pure parts of OAuth: PKCE, the authorize URL, expiry, what a refusal means."""

import base64
import json
from urllib.parse import parse_qs, urlsplit

import pytest

from worker.errors import DisconnectedError, SyncError, TransientError, UnknownOutcomeError
from worker.salesforce.oauth import (
    App,
    AppRefusedError,
    BusyError,
    Grant,
    _classify,
    authorize_url,
    challenge,
    jwt_expiry,
)

LOGIN = "https://login.salesforce.com"


def test_the_challenge_is_that_of_rfc_7636() -> None:
    assert challenge("dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk") == "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM"


def test_the_authorize_url_carries_challenge_and_state_but_no_secret() -> None:
    url = authorize_url(
        LOGIN + "/",
        App("key", "very-secret"),
        redirect_uri="http://localhost:1717/callback?x=1",
        state="s&t",
        verifier="v" * 43,
    )
    query = parse_qs(urlsplit(url).query)
    assert url.startswith("https://login.salesforce.com/services/oauth2/authorize?")
    assert query["state"] == ["s&t"]
    assert query["redirect_uri"] == ["http://localhost:1717/callback?x=1"]
    assert query["code_challenge_method"] == ["S256"]
    assert query["scope"] == ["api refresh_token"]
    assert "very-secret" not in url


@pytest.mark.parametrize(
    ("status", "error", "description", "kind"),
    [
        (400, "invalid_grant", "token request is already being processed", BusyError),
        (400, "invalid_grant", "expired access/refresh token", DisconnectedError),
        (400, "invalid_grant", "inactive user", DisconnectedError),
        (400, "invalid_client_id", "client identifier invalid", AppRefusedError),
        (401, "invalid_client", "invalid client credentials", AppRefusedError),
        (400, "rate_limit_exceeded", "login rate exceeded", TransientError),
        (400, "unknown_error", "retry your request", TransientError),
        (503, "", "", UnknownOutcomeError),
        (200, "", "", UnknownOutcomeError),
        (302, "", "", TransientError),
        (429, "", "", TransientError),
        (400, "", "", TransientError),
    ],
)
def test_what_a_refusal_means(status: int, error: str, description: str, kind: type[SyncError]) -> None:
    assert type(_classify(status, {"error": error, "error_description": description}, LOGIN)) is kind


def jwt(claims: object) -> str:
    def part(value: object) -> str:
        return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()

    return f"{part({'alg': 'RS256'})}.{part(claims)}.c2ln"


def test_a_jwt_tells_when_it_ends_and_an_opaque_token_does_not() -> None:
    expiry = jwt_expiry(jwt({"exp": 1795307200}))
    assert expiry is not None
    assert expiry.timestamp() == 1795307200
    assert jwt_expiry(jwt({"exp": 1795307200000})) is None
    for token in ("00D000000000001!AQ.a.b", "x", "a.b.c", "...", jwt([]), jwt({"exp": "soon"})):
        assert jwt_expiry(token) is None


def grant(identity: str | None) -> Grant:
    return Grant("access-secret", "refresh-secret", "https://x.my.salesforce.com", None, identity, None, None)


def test_the_identity_url_names_org_and_user() -> None:
    told = grant("https://login.salesforce.com/id/00D5g000004XXXX/0055g00000YYYYY")
    assert told.organization_id == "00D5g000004XXXXEA4"
    assert told.user_id is not None
    assert len(told.user_id) == 18
    assert grant("https://x/odd").organization_id is None
    assert grant(None).user_id is None
    opaque = Grant("00D5g000004XXXX!AQEA.secret", None, "https://x.my.salesforce.com", None, None, None, None)
    assert (opaque.organization_id, opaque.user_id) == ("00D5g000004XXXXEA4", None)


def test_a_grant_shows_no_token() -> None:
    assert "secret" not in repr(grant(None)) + repr(App("id", "secret"))
