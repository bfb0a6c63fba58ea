"""The OAuth endpoints: authorize with its log-in page, token, revoke, introspect, userinfo, identity, discovery.

Source: Salesforce Help, "OAuth Endpoints"; errors as in "OAuth Authorization Errors".
"""

import html
from collections.abc import Mapping
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit

from starlette.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response

from local_org import grants, identity, soap, users
from local_org.context import Answer, Reply
from local_org.data_api import Call
from local_org.errors import OAuthError
from local_org.tokens import Client

if TYPE_CHECKING:
    from local_org.org import Org
    from local_org.tokens import Session

_NO_STORE = {"Cache-Control": "no-cache, no-store", "Pragma": "no-cache"}
_ON_THIS_MACHINE = frozenset({"localhost", "127.0.0.1", "::1"})
Form = Mapping[str, str]


def answer(org: "Org", call: Call) -> tuple[Reply, str | None]:
    """The answer of any path outside the data API, and the user where one is known."""
    path = unquote(call.path).rstrip("/")
    form = {**dict(parse_qsl(call.query_string, keep_blank_values=True)), **_form(call)}
    try:
        return _dispatch(org, call, path, form)
    except OAuthError as error:
        return _formatted(error.body(), error.status, form, call.headers), None


def _dispatch(org: "Org", call: Call, path: str, form: Form) -> tuple[Reply, str | None]:
    match path:
        case "/services/oauth2/authorize":
            return authorize(org, call, form), None
        case "/services/oauth2/token":
            return _token(org, call, form), None
        case "/services/oauth2/revoke":
            return _revoke(org, call, form), None
        case "/services/oauth2/introspect":
            return _introspect(org, call, form), None
        case "/services/oauth2/userinfo":
            return _userinfo(org, call, form)
        case "/.well-known/openid-configuration":
            return Answer(200, identity.discovery(call.host_url)), None
        case "/id/keys":
            return Answer(200, org.signer.jwks()), None
        case "/services/oauth2/singleaccess":
            return _single_access(org, call, form)
    if path.startswith(soap.PREFIX) and call.method == "POST":
        return soap.answer(org, call)
    if path.startswith("/id/"):
        return _identity(org, call, path, form)
    return HTMLResponse("<html><body>URL No Longer Exists</body></html>", 404), None


def _form(call: Call) -> dict[str, str]:
    kind = call.headers.get("content-type", "")
    if call.method != "POST" or "json" in kind or "xml" in kind:
        return {}
    return dict(parse_qsl(call.body.decode("utf-8", "replace"), keep_blank_values=True))


def _formatted(body: dict[str, str], status: int, form: Form, headers: Mapping[str, str]) -> Reply:
    """JSON, or what `format` or Accept asks for."""
    wanted = form.get("format") or headers.get("accept", "")
    if "urlencoded" in wanted:
        return Response(urlencode(body), status, _NO_STORE, "application/x-www-form-urlencoded;charset=UTF-8")
    if wanted in ("xml", "application/xml", "text/xml"):
        items = "".join(f"<{name}>{html.escape(str(value))}</{name}>" for name, value in body.items())
        text = f'<?xml version="1.0" encoding="UTF-8"?><OAuth>{items}</OAuth>'
        return Response(text, status, _NO_STORE, "application/xml;charset=UTF-8")
    return Answer(status, body, dict(_NO_STORE))


# -- token, revoke, introspect


def _token(org: "Org", call: Call, form: Form) -> Reply:
    if call.method != "POST":
        raise OAuthError("invalid_request", "must use HTTP POST")
    body = grants.token(org, form, call.headers, call.host_url)
    return _formatted(body, 200, form, call.headers)


def _revoke(org: "Org", call: Call, form: Form) -> Reply:
    """A refresh token ends with its sessions, an access token alone."""
    token = form.get("token", "")
    known = org.tokens.refresh_token(token)
    if known is not None and known[1]:
        org.tokens.revoke_grant(known[0])
    elif org.tokens.session(token, touch=False) is not None:
        org.tokens.end_session(token)
    else:
        error = OAuthError("invalid_token", f"invalid token: {token}")
        wants_json = "json" in call.headers.get("accept", "")
        return _formatted(error.body(), 400, {"format": "json" if wants_json else "urlencoded"}, {})
    return Response("", 200, _NO_STORE)


def _introspect(org: "Org", call: Call, form: Form) -> Reply:
    if call.method != "POST":
        raise OAuthError("invalid_request", "must use HTTP POST")
    client = grants.client_of(org, {**grants.basic(call.headers), **form})
    token = form.get("token", "")
    session = org.tokens.session(token, touch=False)
    if session is not None and session.client_id == client.id:
        user = users.by_id(org, session.user_id)
        url = grants.identity_url(org, call.host_url, session.user_id)
        return Answer(200, identity.introspection(session, user, url), dict(_NO_STORE))
    return Answer(200, _refresh_state(org, client, token, call.host_url), dict(_NO_STORE))


def _refresh_state(org: "Org", client: Client, token: str, host_url: str) -> dict[str, object]:
    known = org.tokens.refresh_token(token)
    if known is None or not known[1]:
        return {"active": False}
    user_id, client_id, scope, _ = org.tokens.grant(known[0])
    if client_id != client.id:
        return {"active": False}
    sub = grants.identity_url(org, host_url, user_id)
    return {"active": True, "scope": scope, "client_id": client_id, "sub": sub, "token_type": "refresh_token"}


# -- who is it


def _bearer(org: "Org", call: Call, form: Form) -> "Session | None":
    token = call.headers.get("authorization", "").partition(" ")[2] or form.get("oauth_token", "")
    token = token or form.get("access_token", "")
    return org.tokens.session(token) if token else None


def _userinfo(org: "Org", call: Call, form: Form) -> tuple[Reply, str | None]:
    session = _bearer(org, call, form)
    user = users.by_id(org, session.user_id) if session else None
    if user is None:
        return PlainTextResponse("Bad_OAuth_Token", 403), None
    url = grants.identity_url(org, call.host_url, user.id)
    base = grants.instance_url(org, call.host_url)
    return Answer(200, identity.userinfo(org, user, base, url)), user.id


def _identity(org: "Org", call: Call, path: str, form: Form) -> tuple[Reply, str | None]:
    organization_id, _, user_id = path[len("/id/") :].partition("/")
    session = _bearer(org, call, form)
    if session is None:
        missing = not call.headers.get("authorization") and "oauth_token" not in form
        return PlainTextResponse("Missing_OAuth_Token" if missing else "Bad_OAuth_Token", 403), None
    if organization_id[:15] != org.organization_id[:15]:
        return PlainTextResponse("Wrong_Org", 403), session.user_id
    user = users.by_id(org, user_id)
    if user is None:
        return PlainTextResponse("Bad_Id", 404), session.user_id
    version = form.get("version", "{version}")
    url = f"{call.host_url}/id/{org.organization_id}/{user.id}"
    base = grants.instance_url(org, call.host_url)
    chosen = "68.0" if version == "latest" else version
    return Answer(200, identity.identity(org, user, base, url, chosen)), session.user_id


def _single_access(org: "Org", call: Call, form: Form) -> tuple[Reply, str | None]:
    """A URL that would open a browser session; here it leads to a page that says what this is."""
    session = _bearer(org, call, form)
    if session is None:
        return PlainTextResponse("Bad_OAuth_Token", 403), None
    target = quote(form.get("redirect_uri", ""), safe="")
    return Answer(200, {"frontdoor_uri": f"{call.host_url}/secur/frontdoor.jsp?retURL={target}"}), session.user_id


# -- authorize


def authorize(org: "Org", call: Call, form: Form) -> Reply:
    """The log-in and consent page (GET), and what becomes of it (POST)."""
    client = org.tokens.client(form.get("client_id", ""))
    if client is None:
        return _inline_error("invalid_client_id", "client identifier invalid")
    redirect_uri = form.get("redirect_uri", "")
    if not _registered(client, redirect_uri):
        return _inline_error("redirect_uri_mismatch", "redirect_uri must match configuration")
    problem = _problem(client, form)
    if problem is not None:
        return _back(redirect_uri, form, error=problem.error, error_description=problem.description)
    if call.method != "POST" or "username" not in form:
        return HTMLResponse(_page(client, form, ""))
    return _approve(org, client, form, redirect_uri)


def _registered(client: Client, redirect_uri: str) -> bool:
    if client.redirect_uris:
        return redirect_uri in client.redirect_uris
    try:
        target = urlsplit(redirect_uri)
        _ = target.port  # parsed when it is asked for
    except ValueError:
        return False
    return target.scheme in ("http", "https") and target.hostname in _ON_THIS_MACHINE


def _problem(client: Client, form: Form) -> OAuthError | None:
    if form.get("response_type") != "code":
        return OAuthError("unsupported_response_type", "response type not supported")
    if not set(form.get("scope", "").split()) <= set(client.scopes or identity.SCOPES):
        return OAuthError("invalid_scope", "the requested scope is not allowed")
    if form.get("code_challenge_method", "S256") != "S256":
        return OAuthError("invalid_request", "invalid code challenge method")
    if client.require_pkce and not form.get("code_challenge"):
        return OAuthError("invalid_request", "missing required code challenge")
    if "immediate" in form and form["immediate"] == "true":
        return OAuthError("immediate_unsuccessful", "immediate unsuccessful")
    return None


def _approve(org: "Org", client: Client, form: Form, redirect_uri: str) -> Reply:
    if form.get("approve", "").lower() in ("deny", "no", "false"):
        text = "end-user denied authorization"
        return _back(redirect_uri, form, error="access_denied", error_description=text)
    try:
        user = users.log_in(org, form["username"], form.get("password", ""))
    except OAuthError as error:
        return HTMLResponse(_page(client, form, error.description))
    scope = form.get("scope", "").strip() or grants.scope_without(client)
    code = org.tokens.add_code(client.id, user.id, scope, redirect_uri, form.get("code_challenge"), form.get("nonce"))
    return _back(redirect_uri, form, code=code)


def _back(redirect_uri: str, form: Form, **values: str) -> Reply:
    """302 to the app, its state returned."""
    if "state" in form:
        values["state"] = form["state"]
    query = urlencode(values, quote_via=quote if "code" in values else lambda s, *_: quote(s).replace("%20", "+"))
    return RedirectResponse(f"{redirect_uri}{'&' if '?' in redirect_uri else '?'}{query}", 302)


def _inline_error(error: str, description: str) -> Reply:
    text = f"error={error}&error_description={quote(description)}"
    return HTMLResponse(f"<html><body><h1>OAuth Error</h1><p>{html.escape(text)}</p></body></html>", 400)


_PAGE = """<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Log in | local org</title>
<style>body{{font:16px system-ui;max-width:24em;margin:4em auto}}label{{display:block;margin:1em 0}}
input[type=text],input[type=password]{{width:100%;padding:.5em;box-sizing:border-box}}
button{{padding:.6em 1.4em;margin-right:1em}}.bad{{color:#b00}}</style></head><body>
<h1>Local org</h1><p class="bad">{message}</p>
<form method="post" action="/services/oauth2/authorize">{hidden}
<label>Username <input type="text" name="username" value="{hint}" autocomplete="username"></label>
<label>Password <input type="password" name="password" autocomplete="current-password"></label>
<p><b>{client}</b> asks for access to: {scope}</p>
<button name="approve" value="allow">Log in and allow</button>
<button name="approve" value="deny" formnovalidate>Deny</button></form></body></html>"""
_ASKED = ("response_type", "client_id", "redirect_uri", "scope", "state", "code_challenge",
          "code_challenge_method", "nonce", "prompt", "display")  # fmt: skip


def _page(client: Client, form: Form, message: str) -> str:
    hidden = "".join(
        f'<input type="hidden" name="{name}" value="{html.escape(form[name])}">' for name in _ASKED if name in form
    )
    return _PAGE.format(
        message=html.escape(message),
        hidden=hidden,
        hint=html.escape(form.get("login_hint", form.get("username", ""))),
        client=html.escape(client.id),
        scope=html.escape(form.get("scope", "") or grants.scope_without(client)),
    )
