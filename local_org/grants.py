"""The token endpoint: each grant type, and the answer that all share.

Source: Salesforce Help, "OAuth Authorization Flows" (web server, refresh token, client credentials, JWT bearer,
username-password).
"""

import base64
import binascii
import hashlib
import hmac
import json
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from local_org import jwt, users
from local_org.errors import OAuthError
from local_org.tokens import Client, Code

if TYPE_CHECKING:
    from local_org.org import Org

LOGIN_HOSTS = frozenset({"login.salesforce.com", "test.salesforce.com"})
MAX_ASSERTION_SECONDS = 300 + 180  # five minutes, three of skew
_NEVER_WITHOUT_CONSENT = frozenset({"refresh_token", "offline_access"})
_NEVER_BY_CLIENT = _NEVER_WITHOUT_CONSENT | {"full", "web"}
DEFAULT_SCOPES = ("api", "refresh_token", "id", "openid", "web")
Form = Mapping[str, str]
Token = dict[str, Any]


def token(org: "Org", form: Form, headers: Mapping[str, str], host_url: str) -> Token:
    """The answer of the token endpoint. Raises OAuthError."""
    grant = _GRANTS.get(form.get("grant_type", ""))
    if grant is None:
        raise OAuthError("unsupported_grant_type", "grant type not supported")
    return grant(org, {**basic(headers), **form}, host_url)


def basic(headers: Mapping[str, str]) -> dict[str, str]:
    """Client id and secret of an HTTP Basic header."""
    scheme, _, value = headers.get("authorization", "").partition(" ")
    if scheme.lower() != "basic":
        return {}
    try:
        client_id, _, secret = base64.b64decode(value, validate=True).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError):
        return {}
    return {"client_id": client_id, "client_secret": secret}


def client_of(org: "Org", form: Form, *, secret: bool = True) -> Client:
    """The app that calls, its secret checked if it has one. Raises OAuthError."""
    client = org.tokens.client(form.get("client_id", ""))
    if client is None:
        raise OAuthError("invalid_client_id", "client identifier invalid")
    if secret and client.secret is not None:
        given = form.get("client_secret", "")
        if not hmac.compare_digest(given.encode(), client.secret.encode()):
            raise OAuthError("invalid_client", "invalid client credentials")
    return client


def _given(form: Form, name: str) -> str:
    """A parameter that must be there. Raises OAuthError."""
    value = form.get(name)
    if not value:
        raise OAuthError("invalid_request", f"missing required parameter: {name}")
    return value


def scope_without(client: Client, dropped: frozenset[str] = frozenset()) -> str:
    """The app's scopes as one text, without some of them."""
    return " ".join(s for s in client.scopes or DEFAULT_SCOPES if s not in dropped)


# -- grants


def _authorization_code(org: "Org", form: Form, host_url: str) -> Token:
    client = client_of(org, form)
    code = org.tokens.code(_given(form, "code"))
    if code is None or code.client_id != client.id:
        raise OAuthError("invalid_grant", "invalid authorization code")
    if code.expires_ms <= org.store.clock.exact_ms():
        raise OAuthError("invalid_grant", "expired authorization code")
    if form.get("redirect_uri") != code.redirect_uri:
        raise OAuthError("redirect_uri_mismatch", "redirect_uri must match configuration")
    _check_verifier(code, form.get("code_verifier"))
    grant_id = org.tokens.use_code(code)
    answer = _answer(org, client, code.user_id, code.scope, grant_id, host_url)
    if {"refresh_token", "offline_access"} & set(code.scope.split()):
        answer["refresh_token"] = org.tokens.add_refresh(grant_id)
    if "openid" in code.scope.split():
        answer["id_token"] = _id_token(org, client, code, answer)
    return answer


def _check_verifier(code: Code, verifier: str | None) -> None:
    if code.challenge is None:
        return
    if not verifier:
        raise OAuthError("invalid_grant", "code verifier is required")
    digest = jwt.b64(hashlib.sha256(verifier.encode()).digest())
    if not 43 <= len(verifier) <= 128 or not hmac.compare_digest(digest, code.challenge):
        raise OAuthError("invalid_request", "invalid code verifier")


def _id_token(org: "Org", client: Client, code: Code, answer: Token) -> str:
    now = org.store.clock.exact_ms() // 1000
    claims = {"iss": _origin(answer["id"]), "sub": answer["id"], "aud": client.id, "iat": now, "exp": now + 120}
    at_hash = hashlib.sha256(answer["access_token"].encode()).digest()[:16]
    claims |= {"at_hash": jwt.b64(at_hash)} | ({"nonce": code.nonce} if code.nonce else {})
    return org.signer.sign(claims)


def _refresh(org: "Org", form: Form, host_url: str) -> Token:
    client = client_of(org, form)
    refresh_token = _given(form, "refresh_token")
    alone = org.tokens.begin_refresh(refresh_token)
    if not alone and org.settings.concurrent_refresh_error:
        raise OAuthError("invalid_grant", "token request is already being processed")
    try:
        time.sleep(org.settings.refresh_ms / 1000)
        return _refreshed(org, client, refresh_token, host_url)
    finally:
        if alone:
            org.tokens.end_refresh(refresh_token)


def _refreshed(org: "Org", client: Client, refresh_token: str, host_url: str) -> Token:
    known = org.tokens.refresh_token(refresh_token)
    expired = OAuthError("invalid_grant", "expired access/refresh token")
    if known is None:
        raise expired
    grant_id, current = known
    user_id, client_id, scope, revoked = org.tokens.grant(grant_id)
    if client_id != client.id or revoked:
        raise expired
    if not current:  # used before: whoever has the newer one may have stolen it
        org.tokens.revoke_grant(grant_id)
        raise expired
    user = users.by_id(org, user_id)
    if user is None or not user.active:
        raise OAuthError("invalid_grant", "inactive user")
    answer = _answer(org, client, user_id, scope, grant_id, host_url)
    if org.settings.rotate:
        answer["refresh_token"] = org.tokens.add_refresh(grant_id)
    return answer


def _client_credentials(org: "Org", form: Form, host_url: str) -> Token:
    client = client_of(org, form)
    if _host(host_url) in LOGIN_HOSTS:
        raise OAuthError("invalid_grant", "request not supported on this domain")
    if client.secret is None:
        raise OAuthError("invalid_client", "invalid client credentials")
    scope = scope_without(client, _NEVER_BY_CLIENT)
    return _answer(org, client, client.run_as or org.admin_id, scope, None, host_url)


def _password(org: "Org", form: Form, host_url: str) -> Token:
    client = client_of(org, form)
    if not org.settings.password_grant:
        raise OAuthError("invalid_grant", "authentication failure")
    user = users.log_in(org, form.get("username", ""), form.get("password", ""))
    scope = scope_without(client, _NEVER_WITHOUT_CONSENT)
    return _answer(org, client, user.id, scope, None, host_url)


def _jwt_bearer(org: "Org", form: Form, host_url: str) -> Token:
    claims = _unverified(form.get("assertion", ""))
    client = client_of(org, {"client_id": str(claims.get("iss", ""))}, secret=False)
    if client.certificate is None:
        raise OAuthError("invalid_grant", "invalid assertion")
    try:
        claims = jwt.claims_of(form["assertion"], client.certificate)
        left = float(claims.get("exp", 0)) - org.store.clock.exact_ms() / 1000
    except (ValueError, TypeError):
        raise OAuthError("invalid_grant", "invalid assertion") from None
    _check_claims(org, claims, left, host_url)
    user = users.by_name(org, str(claims.get("sub") or claims.get("prn") or ""))
    if user is None:
        raise OAuthError("invalid_grant", "user hasn't approved this consumer")
    if not user.active:
        raise OAuthError("invalid_grant", "inactive user")
    scope = scope_without(client, _NEVER_WITHOUT_CONSENT)
    return _answer(org, client, user.id, scope, None, host_url)


def _check_claims(org: "Org", claims: Mapping[str, Any], seconds_left: float, host_url: str) -> None:
    if seconds_left <= -180 or seconds_left > MAX_ASSERTION_SECONDS:
        raise OAuthError("invalid_grant", "expired authorization code")
    audience = _host(str(claims.get("aud", "")))
    if audience not in LOGIN_HOSTS | {org.settings.my_domain, _host(host_url)}:
        raise OAuthError("invalid_grant", "audience is invalid")


def _unverified(assertion: str) -> dict[str, Any]:
    try:
        claims = json.loads(jwt.unb64(assertion.split(".")[1]))
    except (ValueError, IndexError):
        raise OAuthError("invalid_grant", "invalid assertion") from None
    return claims if isinstance(claims, dict) else {}


_GRANTS: dict[str, Callable[["Org", Form, str], Token]] = {
    "authorization_code": _authorization_code,
    "refresh_token": _refresh,
    "client_credentials": _client_credentials,
    "password": _password,
    "urn:ietf:params:oauth:grant-type:jwt-bearer": _jwt_bearer,
}


# -- the answer


def _host(url: str) -> str:
    return (urlsplit(url).hostname or "").lower()


def _origin(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"


def instance_url(org: "Org", host_url: str) -> str:
    """Where the API is: where the caller is, or My Domain for one that came to a common log-in host."""
    if org.settings.instance_url:
        return org.settings.instance_url
    return f"https://{org.settings.my_domain}" if _host(host_url) in LOGIN_HOSTS else host_url


def identity_url(org: "Org", host_url: str, user_id: str) -> str:
    return f"{host_url}/id/{org.organization_id}/{user_id}"


def _answer(org: "Org", client: Client, user_id: str, scope: str, grant_id: int | None, host_url: str) -> Token:
    idle_ms = int(org.settings.session_minutes * 60_000)
    session = org.tokens.add_session(org.organization_id, grant_id, user_id, client.id, scope, idle_ms)
    identity, issued_at = identity_url(org, host_url, user_id), str(session.issued_ms)
    key = (client.secret or client.id).encode()
    signature = hmac.new(key, (identity + issued_at).encode(), hashlib.sha256).digest()
    return {
        "access_token": session.token,
        "signature": base64.b64encode(signature).decode(),
        "scope": scope,
        "instance_url": instance_url(org, host_url),
        "id": identity,
        "token_type": "Bearer",
        "issued_at": issued_at,
    }
