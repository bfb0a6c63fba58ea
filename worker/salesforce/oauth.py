"""OAuth 2.0: authorize URL, token endpoint, revoke, introspect, who am I. Grants' values never leave through repr or errors.

Source: Salesforce Help, "OAuth Authorization Flows"; facts about errors are in `_classify`.
"""

import base64
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

import requests

from worker.errors import DisconnectedError, SettingsError, SyncError, TransientError, UnknownOutcomeError
from worker.log import blank
from worker.salesforce import transport
from worker.salesforce.hosts import allowed, check_login_url, is_listed
from worker.salesforce.ids import is_id, to_18
from worker.salesforce.transport import BROKEN, Call, Deadline, HttpOptions

TOKEN_SECONDS = 15.0  # whole deadline of one token request; less than the patience of those who wait for its row lock
IDENTITY_SECONDS = 15.0
SCOPE = "api refresh_token"  # an org refuses whoever asks for more than its app was given
JWT_GRANT = "urn:ietf:params:oauth:grant-type:jwt-bearer"
BUSY = "already being processed"  # invalid_grant with this text is no refusal: another request holds the same token


@dataclass(frozen=True, slots=True)
class App:
    """The connected app (or external client app) as which we ask. A public app has no secret."""

    client_id: str
    client_secret: str = field(repr=False, default="")


@dataclass(frozen=True, slots=True)
class Grant:
    """A token answer. `refresh_token` is None when the org sent none (then the former one, if any, stays good)."""

    access_token: str = field(repr=False)
    refresh_token: str | None = field(repr=False)
    instance_url: str
    scope: str | None
    identity_url: str | None
    issued_at: datetime | None  # the org's time
    expires_at: datetime | None  # None: the org did not say

    @property
    def organization_id(self) -> str | None:
        """From the identity URL, …/id/{organization}/{user}; else from the token, which begins with it where it is opaque."""
        return self._identity_part(-2) or _id(self.access_token.partition("!")[0])

    @property
    def user_id(self) -> str | None:
        """The org's user, from the identity URL."""
        return self._identity_part(-1)

    def _identity_part(self, place: int) -> str | None:
        parts = urlsplit(self.identity_url or "").path.rstrip("/").split("/")
        found = parts[place] if len(parts) >= 3 else ""
        return to_18(found) if is_id(found) else None


@dataclass(frozen=True, slots=True)
class Identity:
    """Whose grant it is; what the org does not tell is None."""

    organization_id: str | None
    user_id: str | None
    username: str | None


class BusyError(TransientError):
    """Another request with the same refresh token is being processed: read the stored pair again, then ask again."""


class AppRefusedError(SettingsError):
    """The org refuses the app itself (client id, secret, redirect URI, scope): the grant may still be good."""


class InactiveOrgError(DisconnectedError):
    """The org itself is inactive or locked: nobody can do anything now, and it may come back."""


def challenge(verifier: str) -> str:
    """The S256 challenge of a PKCE verifier (43 to 128 unreserved characters)."""
    return base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()


def authorize_url(login_url: str, app: App, *, redirect_uri: str, state: str, verifier: str, scope: str = SCOPE) -> str:
    """Where the user's browser goes to consent."""
    query = {
        "response_type": "code",
        "client_id": app.client_id,
        "redirect_uri": redirect_uri,
        "scope": scope,
        "state": state,
        "code_challenge": challenge(verifier),
        "code_challenge_method": "S256",
    }
    return f"{login_url.rstrip('/')}/services/oauth2/authorize?{urlencode(query)}"


def exchange_code(
    options: HttpOptions, login_url: str, app: App, *, code: str, redirect_uri: str, verifier: str
) -> Grant:
    """An authorization code → a grant. A code is good once, for 15 minutes."""
    form = {"grant_type": "authorization_code", "code": code, "redirect_uri": redirect_uri, "code_verifier": verifier}
    return _token(options, login_url, {**form, **_credentials(app)})


def refresh(options: HttpOptions, login_url: str, app: App, refresh_token: str) -> Grant:
    """A refresh token → a new access token and, with rotation, a new refresh token: the former is spent.

    Never repeated here. Raises BusyError; DisconnectedError (the grant is gone); AppRefusedError; UnknownOutcomeError (the request
    was sent and no whole answer came: with rotation the token may be spent); TransientError.
    """
    form = {"grant_type": "refresh_token", "refresh_token": refresh_token}
    return _token(options, login_url, {**form, **_credentials(app)})


def client_credentials(options: HttpOptions, login_url: str, app: App) -> Grant:
    """The app's own grant, as its "Run As" user; on a My Domain host only. Nothing is spent by asking again.

    The credentials go as HTTP Basic, and in the body where an org does not read that.
    """
    form = {"grant_type": "client_credentials"}
    try:
        return _token(options, login_url, form, auth=(app.client_id, app.client_secret))
    except AppRefusedError:
        return _token(options, login_url, {**form, **_credentials(app)})


def jwt_bearer(options: HttpOptions, login_url: str, signed: str) -> Grant:
    """A signed assertion (worker.salesforce.assertion) → an access token, never a refresh token. Nothing is spent by asking again."""
    return _token(options, login_url, {"grant_type": JWT_GRANT, "assertion": signed})


def revoke(options: HttpOptions, login_url: str, token: str) -> bool:
    """End a grant: a refresh token takes its access tokens with it. False when the org no longer knew it."""
    status, body = _post(options, login_url, "revoke", {"token": token})
    if status >= 500:
        raise TransientError(f"{_host(login_url)} answered with status {status}", code=f"HTTP_{status}")
    return status < 300 or bool(body.get("success"))


def introspect(options: HttpOptions, login_url: str, app: App, access_token: str) -> datetime | None:
    """When an access token ends, if the org tells this app; None otherwise (not allowed, not known, no longer active)."""
    form = {"token": access_token, "token_type_hint": "access_token", **_credentials(app)}
    status, body = _post(options, login_url, "introspect", form)
    expires = body.get("exp") if status == 200 and body.get("active") is True else None
    return _epoch(expires)


def identity(options: HttpOptions, grant: Grant) -> Identity:
    """Whose grant it is: from userinfo, completed by the identity URL. What the org refuses to tell stays None."""
    url = f"{grant.instance_url.rstrip('/')}/services/oauth2/userinfo"
    request = requests.Request("GET", url, headers={"Authorization": f"Bearer {grant.access_token}"})
    try:
        status, body = _exchange(options, request, Deadline.after(IDENTITY_SECONDS))
    except TransientError:
        status, body = 0, {}
    told = body if status == 200 else {}
    return Identity(
        organization_id=_id(told.get("organization_id")) or grant.organization_id,
        user_id=_id(told.get("user_id")) or grant.user_id,
        username=told.get("preferred_username") or None,
    )


def _id(value: Any) -> str | None:
    return to_18(value) if isinstance(value, str) and is_id(value) else None


def _credentials(app: App) -> dict[str, str]:
    secret = {"client_secret": app.client_secret} if app.client_secret else {}
    return {"client_id": app.client_id, **secret}


def _token(options: HttpOptions, login_url: str, form: Mapping[str, str], auth: tuple[str, str] | None = None) -> Grant:
    status, body = _post(options, login_url, "token", form, auth)
    if status != 200 or not body.get("access_token"):
        raise _classify(status, body, login_url)
    return _grant(body, login_url, options)


def _post(
    options: HttpOptions, login_url: str, resource: str, form: Mapping[str, str], auth: tuple[str, str] | None = None
) -> tuple[int, dict[str, Any]]:
    base = check_login_url(login_url, options.allowed_hosts)
    request = requests.Request("POST", f"{base}/services/oauth2/{resource}", data=dict(form), auth=auth)
    return _exchange(options, request, Deadline.after(TOKEN_SECONDS))


def _exchange(options: HttpOptions, request: requests.Request, deadline: Deadline) -> tuple[int, dict[str, Any]]:
    """Status and body of one request, sent once. UnknownOutcomeError when it left us and no whole answer came."""
    host = _host(str(request.url))
    request.headers = {"Accept": "application/json", "Accept-Encoding": "identity", **(request.headers or {})}
    call = Call(deadline, private_ok=is_listed(str(request.url), options.allowed_hosts), trust_idle=False)
    with transport.watched(call):
        try:
            with transport.send(transport.new_session(options), request, call) as response:
                content = b"".join(transport.chunks(response, call))
        except BROKEN as error:
            kind = UnknownOutcomeError if call.sent else TransientError
            raise kind(transport.trouble(error, call, host), code="NO_ANSWER") from None
    body = _parse(content)
    if response.status_code == 200 and body is None and content.strip():
        raise UnknownOutcomeError(f"the answer of {host} is no whole JSON", code="BROKEN_ANSWER")
    return response.status_code, body or {}


def _parse(content: bytes) -> dict[str, Any] | None:
    """A JSON object, or the url-encoded form that revoke answers with; None for anything else."""
    try:
        body = json.loads(content)
    except ValueError:
        return dict(parse_qsl(content.decode("latin-1"))) if content.startswith(b"error=") else None
    return body if isinstance(body, dict) else None


def _host(url: str) -> str:
    return urlsplit(url).netloc.rpartition("@")[2]


def _grant(body: Mapping[str, Any], login_url: str, options: HttpOptions) -> Grant:
    instance_url = str(body.get("instance_url") or login_url).rstrip("/")
    if not allowed(instance_url, options.allowed_hosts):
        raise DisconnectedError(
            f"the org names {blank(instance_url)} as its instance, which is no Salesforce host; "
            f"if that is right, add it to SALESFORCE_ALLOWED_HOSTS"
        )
    access_token = str(body["access_token"])
    issued_at = _epoch(body.get("issued_at"), milliseconds=True)
    return Grant(
        access_token=access_token,
        refresh_token=str(body["refresh_token"]) if body.get("refresh_token") else None,
        instance_url=instance_url,
        scope=str(body["scope"]) if body.get("scope") else None,
        identity_url=str(body["id"]) if body.get("id") else None,
        issued_at=issued_at,
        expires_at=_expiry(body.get("expires_in"), issued_at) or jwt_expiry(access_token),
    )


def _expiry(expires_in: Any, issued_at: datetime | None) -> datetime | None:
    """Salesforce itself sends no expires_in; some that speak its language do."""
    text = str(expires_in or "")
    return issued_at + timedelta(seconds=int(text)) if text.isdigit() and len(text) < 10 and issued_at else None


def jwt_expiry(token: str) -> datetime | None:
    """The `exp` of a JWT-based access token; None for an opaque one. (Nothing is verified: it is for our own timing.)"""
    parts = token.split(".")
    if len(parts) != 3 or "!" in token:
        return None
    try:
        claims = json.loads(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
    except ValueError:
        return None
    return _epoch(claims.get("exp")) if isinstance(claims, dict) else None


def _epoch(value: Any, *, milliseconds: bool = False) -> datetime | None:
    text = str(value or "")
    if not text.isdigit() or len(text) > 14:
        return None
    try:
        return datetime.fromtimestamp(int(text) / (1000 if milliseconds else 1), UTC)
    except ValueError:  # no year of ours: it counts something else than seconds
        return None


APP_ERRORS = frozenset(
    {
        "invalid_client_id",
        "invalid_client",
        "invalid_client_credentials",
        "invalid_request",
        "unauthorized_client",
        "unsupported_grant_type",
        "redirect_uri_mismatch",
        "redirect_uri_missing",
        "invalid_scope",
    }
)
# invalid_grant with one of these is a mistake in how we ask (key, audience, clock), not the end of a grant.
MISTAKES = ("invalid assertion", "audience is invalid", "expired assertion", "activation secret invalid")
INACTIVE = ("inactive organization", "inactive_org", "org locked", "org is locked")
PASSING_ERRORS = frozenset({"rate_limit_exceeded", "unknown_error", "server_error", "temporarily_unavailable"})


def _secret(code: str) -> str:
    """What, beside the client id, proves that it is us."""
    return "the key and its certificate in the app" if code == "invalid_grant" else "SALESFORCE_CLIENT_SECRET"


def _classify(status: int, body: Mapping[str, Any], login_url: str) -> SyncError:
    """A token endpoint's refusal. Descriptions are not contractual: only "being processed" is looked for."""
    code = str(body.get("error") or "")
    description = blank(str(body.get("error_description") or ""))[:300]
    text = f"{code}: {description}" if description else code or f"status {status}"
    host = _host(login_url)
    if code == "invalid_grant" and BUSY in description.lower():
        return BusyError(text, code="TOKEN_BUSY", retry_after=timedelta(seconds=2))
    if code in APP_ERRORS or (code == "invalid_grant" and any(one in description for one in MISTAKES)):
        return AppRefusedError(f"{host} refuses the app ({text}); look at SALESFORCE_CLIENT_ID and {_secret(code)}")
    if code in PASSING_ERRORS or status in (420, 429):
        return TransientError(f"{host}: {text}", code=code or f"HTTP_{status}", retry_after=timedelta(seconds=30))
    if status >= 500 or status == 200:
        return UnknownOutcomeError(f"{host} answered with status {status} and no token", code=f"HTTP_{status}")
    if not code:
        return TransientError(f"{host} answered with status {status} and no OAuth error", code=f"HTTP_{status}")
    inactive = code == "invalid_grant" and any(one in description for one in INACTIVE)
    return (InactiveOrgError if inactive else DisconnectedError)(f"{host} refuses the grant ({text})")
