"""Connecting a user by OAuth: sending the browser to the org, taking what comes back, renewing, revoking, saying how it stands.

No answer holds a token. Nobody is redirected: the callback ends with a page, so no address that a stranger chose is ever followed.
"""

from dataclasses import asdict
from typing import Annotated, Any, Literal
from urllib.parse import parse_qsl

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response
from pydantic import Field
from sqlalchemy import text
from starlette.concurrency import run_in_threadpool

from worker.capabilities import connection_state
from worker.errors import DisconnectedError, SettingsError, TransientError
from worker.log import blank, get_logger
from worker.records import connection_of
from worker.runtime import Runtime
from worker.salesforce.oauth import AppRefusedError
from worker.shim.answers import Shape, answers, refusals
from worker.shim.auth import Key, Wiring, user_of, users_of
from worker.shim.bodies import Body, body_of, described, media_type, parse
from worker.shim.envelope import APP_REFUSED, Refusal, ok, retry
from worker.shim.pages import page
from worker.shim.shown import plain
from worker.tokens.authorize import UnknownStateError, begin_authorization, finish_authorization, give_up_authorization
from worker.tokens.connect import Connected, Target
from worker.tokens.disconnect import end_connection

log = get_logger(__name__)
router = APIRouter(prefix="/api/auth/salesforce", tags=["connections"])

CALLBACK = f"{router.prefix}/callback"
LONGEST_TEXT = 300  # characters of the org's own words on a page
FORM = "application/x-www-form-urlencoded"
UserId = Annotated[str | None, Query(description="Whose. Required.", examples=["u-1"])]
STATE = {
    "connected": True,
    "user_id": "u-1",
    "state": "active",
    "state_reason": None,
    "username": "aiko@ito.example",
    "organization_id": "00D000000000001EAA",
    "environment": "production",
    "instance_url": "https://ito.my.salesforce.com",
    "expires_at": None,
    "schema_name": "salesforce",
    "mirrors": [],
}


class User(Body):
    """Whose connection."""

    user_id: str


class Revoked(Body):
    """Whose connection ends. Its mirrors are dropped unless `keep_data`."""

    user_id: str
    keep_data: bool = Field(default=False, description="Keep the mirrors as they are.")


class Back(Body):
    """What the org's answer held, from a program that caught it."""

    code: str | None = None
    state: str | None = None
    error: str | None = None
    error_description: str | None = None


class AuthorizationShape(Shape):
    """Where to send the user's browser, and the state that comes back with it."""

    authorization_url: str
    state: str


class StateShape(Shape):
    """How a connection stands. Never a token."""

    connected: bool
    user_id: str
    state: str


class ConnectedShape(Shape):
    """A connection that was made."""

    user_id: str
    organization_id: str | None
    username: str | None
    instance_url: str


class RenewedShape(Shape):
    """A renewal that succeeded."""

    renewed: bool
    user_id: str
    expires_at: str | None


class RevokedShape(Shape):
    """What ending a connection did. `revoked`: the org confirmed; `problem`: why it did not."""

    user_id: str
    revoked: bool
    problem: str | None
    dropped_schema: str | None
    unfinished_actions: int


class HealthShape(Shape):
    """Connections by state. status: healthy, or degraded when one needs a person."""

    status: str
    configured: bool
    connections: dict[str, int]


AUTHORIZATION = {
    "authorization_url": "https://login.salesforce.com/services/oauth2/authorize?response_type=code&…",
    "state": "mE1J…",
}


@router.get("/authorize", summary="Begin to connect a user", responses=answers(AuthorizationShape, AUTHORIZATION))
def authorize(
    rt: Wiring,
    caller: Key,
    user_id: UserId = None,
    environment: Annotated[Literal["production", "sandbox"], Query(description="Which login host.")] = "production",
    login_url: Annotated[str | None, Query(description="A My Domain host, as https://acme.my.salesforce.com")] = None,
    schema: Annotated[str | None, Query(description="Postgres schema of the mirrors, for a new connection.")] = None,
) -> Response:
    """Send the user's browser to `authorization_url`. The state is good once, for this user, for ten minutes."""
    named = user_of(caller, "write", user_id)
    _configured(rt)
    target = Target(named, environment, login_url, schema)
    try:
        begun = begin_authorization(rt.database, rt.vault, rt.settings, target, redirect_uri(rt))
    except SettingsError as error:
        named_here = str(error).replace("--login-url", "login_url").replace("--environment", "environment")
        raise Refusal.of("VALIDATION_ERROR", f"{named_here}.") from None
    return ok({"authorization_url": begun.url, "state": begun.state})


def redirect_uri(rt: Runtime) -> str:
    """Where the org sends the browser back to: as registered, else this shim on this machine."""
    return rt.settings.salesforce_redirect_uri or f"http://localhost:{rt.settings.shim_port}{CALLBACK}"


def _configured(rt: Runtime) -> None:
    if not rt.settings.salesforce_client_id:
        raise Refusal.of(
            "UNAVAILABLE", "No connected app is configured here: SALESFORCE_CLIENT_ID is not set.", headers=retry(None)
        )


CONNECTED = {name: STATE[name] for name in ("user_id", "organization_id", "username", "instance_url")}
PAGE_RESPONSES: dict[int | str, dict[str, Any]] = {
    **answers(ConnectedShape, CONNECTED, description="A page for people; with Accept: application/json the connection"),
    **refusals(),
}
for _status in (200, 400, 502, 503):
    PAGE_RESPONSES[_status].setdefault("content", {})["text/html"] = {"schema": {"type": "string"}}


@router.get("/callback", summary="Where the org sends the browser back to", responses=PAGE_RESPONSES)
def callback(
    request: Request,
    rt: Wiring,
    code: Annotated[str | None, Query()] = None,
    state: Annotated[str | None, Query()] = None,
    error: Annotated[str | None, Query()] = None,
    error_description: Annotated[str | None, Query()] = None,
) -> Response:
    """Needs no API key: the state, which only the one who began has, is the proof."""
    back = Back(code=code, state=state, error=error, error_description=error_description)
    return _finish(rt, back, as_json="application/json" in request.headers.get("accept", ""))


@router.post(
    "/callback",
    summary="The same by POST: a form, or JSON from a program that caught the answer",
    responses=PAGE_RESPONSES,
    openapi_extra=described(Back, {"code": "aPrx…", "state": "mE1J…"}, "application/json", FORM),
)
async def callback_post(request: Request, rt: Wiring) -> Response:
    """A form is answered with a page, JSON with JSON."""
    kind = media_type(request)
    raw = await request.body()
    if kind == FORM:
        given: Any = dict(parse_qsl(raw.decode("utf-8", "replace")))
        back = Back(**{name: value for name, value in given.items() if name in Back.model_fields})
    else:
        given = await parse(raw)
        known = (
            {name: value for name, value in given.items() if name in Back.model_fields}
            if isinstance(given, dict)
            else {}
        )
        back = Back(**{name: value for name, value in known.items() if isinstance(value, str)})
    return await run_in_threadpool(_finish, rt, back, as_json=kind != FORM)


def _finish(rt: Runtime, back: Back, *, as_json: bool) -> Response:
    try:
        done = _connect(rt, back)
    except Refusal as no:
        if as_json:
            raise
        return page(
            "Not connected",
            no.message,
            "Close this page and begin again where you came from.",
            good=False,
            status=no.status,
        )
    if as_json:
        return ok(plain(asdict(done), without=("connection_id",)))
    who = done.username or done.user_id
    return page(
        "Salesforce is connected",
        f"{who} is connected as {done.user_id}.",
        "You can close this page.",
        good=True,
        status=200,
    )


def _connect(rt: Runtime, back: Back) -> Connected:
    """The connection that the org's answer makes; a Refusal in words for people otherwise."""
    if not back.state:
        raise Refusal.of("INVALID_STATE", "The answer names no sign-in that was begun here.")
    try:
        if not back.code:
            give_up_authorization(rt.database, back.state)
            reason = back.error_description or back.error or "it sent no code"
            raise Refusal.of(
                "AUTH_DENIED", f"The org did not grant access: {blank(reason)[:LONGEST_TEXT].rstrip('.')}."
            )
        return finish_authorization(rt.database, rt.vault, rt.settings, back.state, back.code, meter=rt.ledger.meter)
    except UnknownStateError:
        message = "This sign-in is unknown, was used already, or is older than ten minutes."
        raise Refusal.of("INVALID_STATE", message) from None
    except AppRefusedError as error:
        log.warning("shim.app_refused", error=str(error))
        raise Refusal.of("APP_REFUSED", APP_REFUSED) from None
    except DisconnectedError:
        raise Refusal.of("AUTH_DENIED", "The org did not accept the code that it gave.") from None
    except SettingsError as error:
        raise Refusal.of("VALIDATION_ERROR", f"{blank(str(error))[:LONGEST_TEXT]}.") from None
    except TransientError as error:
        log.warning("shim.connect_failed", error=type(error).__name__)
        raise Refusal.of("UNAVAILABLE", "The org did not answer; please begin again.", headers=retry(None)) from None


@router.post(
    "/refresh",
    summary="Renew a user's access token now",
    responses={**answers(RenewedShape, {"renewed": True, "user_id": "u-1", "expires_at": None}), **refusals(422)},
    openapi_extra=described(User, {"user_id": "u-1"}),
)
def refresh(rt: Wiring, caller: Key, body: Annotated[User, body_of(User)]) -> Response:
    """Workers do this by themselves; here it can be tried. 401 AUTH_ERROR when the org refuses: the user must connect again."""
    user_id = user_of(caller, "write", body.user_id)
    with rt.database.transaction() as session:
        connection_id = connection_of(session, user_id)
    tokens = rt.tokens(connection_id)
    tokens.renew(tokens.stored()[0])
    state = connection_state(rt.actions, user_id)
    return ok({"renewed": True, "user_id": user_id, "expires_at": state["expires_at"]})


@router.post(
    "/revoke",
    summary="End a user's connection, in the org and here",
    responses=answers(
        RevokedShape,
        {"user_id": "u-1", "revoked": True, "problem": None, "dropped_schema": "salesforce", "unfinished_actions": 0},
    ),
    openapi_extra=described(Revoked, {"user_id": "u-1", "keep_data": False}),
)
def revoke(rt: Wiring, caller: Key, body: Annotated[Revoked, body_of(Revoked)]) -> Response:
    """The grant is revoked in the org and forgotten here; the mirrors are dropped unless `keep_data`. Actions that wait stay."""
    user_id = user_of(caller, "write", body.user_id)
    done = end_connection(rt.database, rt.vault, rt.settings, user_id, keep_data=body.keep_data)
    return ok(asdict(done))


@router.get("/status", summary="How a user's connection stands", responses=answers(StateShape, STATE))
def status(rt: Wiring, caller: Key, user_id: UserId = None) -> Response:
    """state: active, revoked or disconnected; not_connected when there never was one."""
    return ok(connection_state(rt.actions, user_of(caller, "read", user_id)))


BY_STATE = """
SELECT state, count(*) AS connections FROM salesforce_oauth_tokens
 WHERE CAST(:users AS text[]) IS NULL OR user_id = ANY(CAST(:users AS text[])) GROUP BY state
"""


@router.get(
    "/health",
    summary="How all connections stand that the key may see",
    responses=answers(HealthShape, {"status": "healthy", "configured": True, "connections": {"active": 3}}),
)
def health(rt: Wiring, caller: Key, user_id: UserId = None) -> Response:
    """`configured`: a connected app is set up here."""
    users = users_of(caller, "read", user_id)
    with rt.database.transaction() as session:
        rows = session.execute(text(BY_STATE), {"users": None if users is None else list(users)}).all()
    found = {row.state: int(row.connections) for row in rows}
    worst = "degraded" if found.get("revoked") else "healthy"
    return ok({"status": worst, "configured": bool(rt.settings.salesforce_client_id), "connections": found})
