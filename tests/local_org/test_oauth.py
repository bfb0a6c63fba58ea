"""Log-in as the vendor documents it: web server flow, refresh, revocation, identity."""

import base64
import hashlib
import hmac
import json
import re
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import requests
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from tests.local_org.calling import Api, grant
from tests.org import Org

VERIFIER = "v" * 43
CHALLENGE = base64.urlsafe_b64encode(hashlib.sha256(VERIFIER.encode()).digest()).rstrip(b"=").decode()
CALLBACK = "http://localhost:1717/OauthRedirect"


def asked(org: Org, **more: str) -> dict[str, str]:
    form = {"response_type": "code", "client_id": org.client_id, "redirect_uri": CALLBACK, "state": "s t/1"}
    return form | {"code_challenge": CHALLENGE, "scope": "api refresh_token"} | more


def authorize(org: Org, **more: str) -> requests.Response:
    """What the consent form answers when the user fills it in."""
    form = asked(org) | {"username": org.username, "password": org.password, "approve": "allow"} | more
    return requests.post(f"{org.url}/services/oauth2/authorize", data=form, allow_redirects=False, timeout=30)


def redirected(answer: requests.Response) -> dict[str, str]:
    assert answer.status_code == 302, answer.text
    assert answer.headers["Location"].startswith(CALLBACK)
    return {key: values[0] for key, values in parse_qs(urlsplit(answer.headers["Location"]).query).items()}


def exchange(org: Org, code: str, **more: str) -> requests.Response:
    form = {"grant_type": "authorization_code", "code": code, "redirect_uri": CALLBACK, "code_verifier": VERIFIER}
    return grant(org, **(form | more))


def logged_in(org: Org, **more: str) -> dict[str, Any]:
    answer = exchange(org, redirected(authorize(org, **more))["code"])
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def refresh(org: Org, token: str) -> requests.Response:
    return grant(org, grant_type="refresh_token", refresh_token=token)


def error_of(answer: requests.Response) -> tuple[int, str, str]:
    return answer.status_code, answer.json()["error"], answer.json()["error_description"]


def works(org: Org, token: str) -> bool:
    return Api(org, token=token)("GET", "limits").status_code == 200


def test_the_log_in_page_is_a_form_that_keeps_what_was_asked(org: Org) -> None:
    page = requests.get(f"{org.url}/services/oauth2/authorize", params=asked(org), timeout=30)
    assert page.headers["Content-Type"].startswith("text/html")
    assert f'name="code_challenge" value="{CHALLENGE}"' in page.text
    assert 'name="password"' in page.text


def test_a_code_comes_back_with_the_state_and_buys_tokens(org: Org) -> None:
    back = redirected(authorize(org))
    assert back["state"] == "s t/1"
    tokens = exchange(org, back["code"]).json()
    assert set(tokens) == {"access_token", "refresh_token", "signature", "scope", "instance_url", "id", "token_type",
                           "issued_at"}  # fmt: skip
    assert tokens["instance_url"] == org.url
    assert tokens["access_token"].startswith(org.organization_id[:15] + "!")
    key = hmac.new(org.client_secret.encode(), (tokens["id"] + tokens["issued_at"]).encode(), hashlib.sha256)
    assert tokens["signature"] == base64.b64encode(key.digest()).decode()
    assert works(org, tokens["access_token"])


def test_a_code_used_twice_ends_what_it_bought(org: Org) -> None:
    code = redirected(authorize(org))["code"]
    tokens = exchange(org, code).json()
    assert error_of(exchange(org, code)) == (400, "invalid_grant", "invalid authorization code")
    assert not works(org, tokens["access_token"])
    assert error_of(refresh(org, tokens["refresh_token"]))[1] == "invalid_grant"


@pytest.mark.parametrize(
    ("more", "error"),
    [
        ({"code_verifier": "w" * 43}, ("invalid_request", "invalid code verifier")),
        ({"code_verifier": ""}, ("invalid_grant", "code verifier is required")),
        ({"redirect_uri": CALLBACK + "2"}, ("redirect_uri_mismatch", "redirect_uri must match configuration")),
        ({"client_secret": "x"}, ("invalid_client", "invalid client credentials")),
        ({"client_id": "x"}, ("invalid_client_id", "client identifier invalid")),
        ({"grant_type": "magic"}, ("unsupported_grant_type", "grant type not supported")),
    ],
)
def test_an_exchange_that_does_not_fit_is_refused(org: Org, more: dict[str, str], error: tuple[str, str]) -> None:
    code = redirected(authorize(org))["code"]
    assert error_of(exchange(org, code, **more)) == (400, *error)


def test_denial_and_bad_requests_go_back_to_the_app(org: Org) -> None:
    assert redirected(authorize(org, approve="deny"))["error"] == "access_denied"
    answer = requests.get(
        f"{org.url}/services/oauth2/authorize",
        params=asked(org, response_type="token"),
        allow_redirects=False,
        timeout=30,
    )
    assert redirected(answer)["error"] == "unsupported_response_type"


def test_an_unknown_app_or_callback_is_never_redirected(org: Org) -> None:
    for more in ({"client_id": "nobody"}, {"redirect_uri": "https://elsewhere.example/cb"}):
        answer = authorize(org, **more)
        assert answer.status_code == 400
        assert "error=" in answer.text


def test_a_wrong_password_shows_the_page_again(org: Org) -> None:
    answer = authorize(org, password="wrong")
    assert answer.status_code == 200
    assert "authentication failure" in answer.text


def test_a_refresh_without_rotation_leaves_the_refresh_token(org: Org) -> None:
    tokens = logged_in(org)
    for _ in range(2):
        again = refresh(org, tokens["refresh_token"]).json()
        assert "refresh_token" not in again
        assert again["id"] == tokens["id"]
        assert works(org, again["access_token"])


def test_a_rotated_out_refresh_token_ends_the_grant_and_its_sessions(org: Org) -> None:
    org.control.change_settings(rotate=True)
    try:
        first = logged_in(org)
        second = refresh(org, first["refresh_token"]).json()
        assert second["refresh_token"] != first["refresh_token"]
        assert error_of(refresh(org, first["refresh_token"])) == (400, "invalid_grant", "expired access/refresh token")
        assert error_of(refresh(org, second["refresh_token"]))[1] == "invalid_grant"
        assert not works(org, second["access_token"])
    finally:
        org.control.change_settings(rotate=False)


def test_a_sixth_approval_ends_the_oldest(org: Org) -> None:
    tokens = [logged_in(org)["refresh_token"] for _ in range(6)]
    assert refresh(org, tokens[0]).status_code == 400
    assert refresh(org, tokens[1]).status_code == 200


def test_client_credentials_work_by_form_and_by_basic_header(org: Org) -> None:
    answer = requests.post(
        f"{org.url}/services/oauth2/token",
        data={"grant_type": "client_credentials"},
        auth=(org.client_id, org.client_secret),
        timeout=30,
    )
    assert "refresh_token" not in answer.json()
    assert works(org, answer.json()["access_token"])


def test_username_and_password_log_in(org: Org) -> None:
    form = {"grant_type": "password", "username": org.username}
    assert works(org, grant(org, **form, password=org.password).json()["access_token"])
    assert error_of(grant(org, **form, password="no")) == (400, "invalid_grant", "authentication failure")


def test_revoking_a_refresh_token_ends_its_sessions(org: Org) -> None:
    tokens = logged_in(org)
    revoke = f"{org.url}/services/oauth2/revoke"
    assert requests.post(revoke, data={"token": tokens["refresh_token"]}, timeout=30).status_code == 200
    assert not works(org, tokens["access_token"])
    again = requests.post(revoke, data={"token": tokens["refresh_token"]}, timeout=30)
    assert (again.status_code, parse_qs(again.text)["error"]) == (400, ["invalid_token"])


def test_introspection_tells_the_expiry_of_a_living_token(org: Org) -> None:
    tokens = logged_in(org)
    ask = {"client_id": org.client_id, "client_secret": org.client_secret, "token": tokens["access_token"]}
    url = f"{org.url}/services/oauth2/introspect"
    answer = requests.post(url, data=ask, timeout=30).json()
    assert answer["active"] is True
    assert answer["exp"] - answer["iat"] == 7200
    assert requests.post(url, data=ask | {"token": "x"}, timeout=30).json() == {"active": False}


def test_identity_and_userinfo_name_the_user(org: Org) -> None:
    tokens = logged_in(org)
    identity = requests.get(tokens["id"], params={"oauth_token": tokens["access_token"], "format": "json"}, timeout=30)
    assert identity.json()["user_id"] == org.user_id
    assert identity.json()["urls"]["query"] == f"{org.url}/services/data/v{{version}}/query/"
    bearer = {"Authorization": f"Bearer {tokens['access_token']}"}
    info = requests.get(f"{org.url}/services/oauth2/userinfo", headers=bearer, timeout=30).json()
    assert (info["user_id"], info["preferred_username"]) == (org.user_id, org.username)
    bad = requests.get(f"{org.url}/services/oauth2/userinfo", headers={"Authorization": "Bearer x"}, timeout=30)
    assert (bad.status_code, bad.text) == (403, "Bad_OAuth_Token")


def test_a_session_slides_while_it_is_used_and_ends_when_idle(org: Org) -> None:
    token = logged_in(org)["access_token"]
    for _ in range(3):  # each step in the later half of two hours
        org.control.advance_clock(80 * 60)
        assert works(org, token)
    org.control.advance_clock(121 * 60)
    answer = Api(org, token=token)("GET", "limits")
    assert answer.status_code == 401
    assert answer.json() == [{"message": "Session expired or invalid", "errorCode": "INVALID_SESSION_ID"}]


def key_and_certificate() -> tuple[Any, str]:
    """A new key and a certificate for it."""
    key = rsa.generate_private_key(65537, 2048)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "app")])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(datetime(2026, 1, 1, tzinfo=UTC))
        .not_valid_after(datetime(2036, 1, 1, tzinfo=UTC))
        .sign(key, hashes.SHA256())
    )
    return key, certificate.public_bytes(serialization.Encoding.PEM).decode()


def assertion(key: Any, **claims: Any) -> str:
    parts = [json.dumps(part).encode() for part in ({"alg": "RS256"}, claims)]
    head = b".".join(base64.urlsafe_b64encode(part).rstrip(b"=") for part in parts)
    signature = key.sign(head, padding.PKCS1v15(), hashes.SHA256())
    return (head + b"." + base64.urlsafe_b64encode(signature).rstrip(b"=")).decode()


def test_a_jwt_is_taken_only_with_the_apps_signature_and_for_this_audience(org: Org) -> None:
    key, certificate = key_and_certificate()
    org.control.put_client("jwt-app", secret="s", certificate=certificate)
    soon = org.control.status()["now_ms"] // 1000 + 180
    good = {"iss": "jwt-app", "sub": org.username, "aud": "https://login.salesforce.com", "exp": str(soon)}

    def ask(signed_by: Any = key, **more: Any) -> requests.Response:
        kind = "urn:ietf:params:oauth:grant-type:jwt-bearer"
        return grant(org, grant_type=kind, assertion=assertion(signed_by, **{**good, **more}))

    assert works(org, ask().json()["access_token"])
    assert "refresh_token" not in ask().json()
    other, _ = key_and_certificate()
    assert error_of(ask(other)) == (400, "invalid_grant", "invalid assertion")
    assert error_of(ask(aud="https://elsewhere.example"))[2] == "audience is invalid"
    assert error_of(ask(exp=str(soon - 1000)))[1] == "invalid_grant"
    assert error_of(ask(sub="nobody@example.com"))[2] == "user hasn't approved this consumer"


def test_soap_login_gives_a_session_up_to_version_64(org: Org) -> None:
    def log_in(version: str, password: str) -> requests.Response:
        body = (
            '<env:Envelope xmlns:env="http://schemas.xmlsoap.org/soap/envelope/"><env:Body>'
            f'<n1:login xmlns:n1="urn:partner.soap.sforce.com"><n1:username>{org.username}</n1:username>'
            f"<n1:password>{password}</n1:password></n1:login></env:Body></env:Envelope>"
        )
        headers = {"Content-Type": "text/xml", "SOAPAction": "login"}
        return requests.post(f"{org.url}/services/Soap/u/{version}", data=body, headers=headers, timeout=30)

    answer = log_in("59.0", org.password)
    token = re.search("<sessionId>(.*?)</sessionId>", answer.text)
    assert token
    assert works(org, token[1])
    assert f"<serverUrl>{org.url}/services/Soap/u/59.0/" in answer.text
    refused = log_in("59.0", "wrong")
    assert (refused.status_code, "sf:INVALID_LOGIN" in refused.text) == (500, True)
    assert log_in("65.0", org.password).status_code == 500


def test_an_openid_token_is_signed_by_a_published_key(org: Org) -> None:
    tokens = logged_in(org, scope="openid api", nonce="n-1")
    found = requests.get(f"{org.url}/.well-known/openid-configuration", timeout=30).json()
    numbers = requests.get(found["jwks_uri"], timeout=30).json()["keys"][0]
    head, _, signature = tokens["id_token"].rpartition(".")
    n, e = (int.from_bytes(base64.urlsafe_b64decode(numbers[k] + "==")) for k in ("n", "e"))
    public = rsa.RSAPublicNumbers(e, n).public_key()
    public.verify(base64.urlsafe_b64decode(signature + "=="), head.encode(), padding.PKCS1v15(), hashes.SHA256())
    claims = json.loads(base64.urlsafe_b64decode(head.split(".")[1] + "=="))
    assert (claims["nonce"], claims["sub"], claims["aud"]) == ("n-1", tokens["id"], org.client_id)
