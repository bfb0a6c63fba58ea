"""The status page's routes. HTML for people, so outside the envelope and the OpenAPI document."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import parse_qsl
from uuid import UUID

from fastapi import APIRouter, Depends, FastAPI, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from fastapi.staticfiles import StaticFiles
from jinja2 import Environment, PackageLoader, StrictUndefined
from sqlalchemy.orm import Session
from starlette.concurrency import run_in_threadpool

from worker import history, monitoring
from worker.access import Caller, authenticate, caller_by_id
from worker.actions import store
from worker.actions.decide import UndecidableError, cancel, retry
from worker.checks import checks_of
from worker.errors import SyncError
from worker.log import blank
from worker.runtime import Runtime
from worker.shim.auth import Wiring
from worker.shim.oauth import redirect_uri
from worker.shim.site import view
from worker.shim.site.session import LENGTH, Sessions
from worker.tokens.authorize import begin_authorization
from worker.tokens.connect import Target

router = APIRouter(include_in_schema=False)

COOKIE = "sfsync_session"
STATIC = "/static"
FOLDER = Path(__file__).parent / "static"
SHOWN_ACTIONS = 50
TRIES_A_MINUTE = (
    30  # sign-ins, of everybody together: keys are far too long to be guessed, this only keeps the load down
)
FAILING = ("held", "rejected", "conflict")
# No form-action: in some browsers it also forbids the redirect to the org's login that the connect form ends in.
POLICY = (
    "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; img-src 'self' data:;"
    " frame-ancestors 'none'; base-uri 'none'"
)
HEADERS = {"Content-Security-Policy": POLICY, "Referrer-Policy": "same-origin"}

TEMPLATES = Environment(
    loader=PackageLoader("worker.shim.site"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
)
TEMPLATES.filters |= {"age": view.age, "rate": view.rate}
TEMPLATES.globals |= {"since": view.since, "share": view.share}


class SignInError(Exception):
    """Nobody is signed in."""


def mount(app: FastAPI) -> None:
    """Style and script; and what happens to those who are not signed in."""
    app.mount(STATIC, StaticFiles(directory=FOLDER), name="site-static")
    app.add_exception_handler(SignInError, _to_sign_in)


async def _to_sign_in(request: Request, _error: Exception) -> Response:
    """The page sends people to the form; what the page's script asks for is only told."""
    if request.url.path == "/live":
        return Response(status_code=401)
    return RedirectResponse("/login", 303)


def sessions_of(rt: Runtime) -> Sessions:
    """Who makes and reads our cookies."""
    return Sessions(rt.settings.keys[0])


def admin_of(request: Request, rt: Wiring) -> Caller:
    """Whose key is signed in; the key must still be there, and an admin's for all users."""
    cookie = request.cookies.get(COOKIE, "")
    with rt.database.transaction() as session:
        key_id = sessions_of(rt).read(cookie, monitoring.now(session))
        caller = caller_by_id(session, key_id) if key_id is not None else None
    if caller is None or not may_enter(caller):
        raise SignInError
    return caller


def may_enter(caller: Caller) -> bool:
    """The page shows everybody's connections, so it needs an admin's key that is bound to no user."""
    return "admin" in caller.scopes and caller.user_ids is None


Admin = Annotated[Caller, Depends(admin_of)]


def render(name: str, status: int = 200, **values: Any) -> HTMLResponse:
    """A page from its template; everything shown is escaped."""
    return HTMLResponse(TEMPLATES.get_template(name).render(values), status, HEADERS)


# --- signing in and out


@router.get("/login")
async def login() -> HTMLResponse:
    """The form."""
    return render("login.html", error="")


@router.post("/login")
async def sign_in(request: Request, rt: Wiring) -> Response:
    """Exchange a key for a cookie."""
    form = await form_of(request)
    return await run_in_threadpool(_sign_in, request, rt, form.get("key", "").strip())


def _sign_in(request: Request, rt: Runtime, key: str) -> Response:
    address = request.client.host if request.client else ""
    if request.app.state.sign_ins.take(hash(address)) is not None:
        return render("login.html", 429, error="Too many tries; wait a moment.")
    with rt.database.transaction() as session:
        caller = authenticate(session, key)
        now = monitoring.now(session)
    if caller is None or not may_enter(caller):
        return render("login.html", 401, error="This is no valid key with the scope admin for all users.")
    response = RedirectResponse("/", 303, HEADERS)
    cookie = sessions_of(rt).make(caller.key_id, now)
    secure = request.url.scheme == "https"
    response.set_cookie(
        COOKIE, cookie, max_age=int(LENGTH.total_seconds()), httponly=True, samesite="lax", secure=secure, path="/"
    )
    return response


async def form_of(request: Request) -> dict[str, str]:
    """The fields of a form; the size of its body is limited around every request."""
    return dict(parse_qsl((await request.body()).decode("utf-8", "replace")))


Handler = Callable[[Runtime, dict[str, str]], Response]


async def with_form(request: Request, rt: Runtime, handle: Handler) -> Response:
    """Do what a form of the page asks for, if it is one of this session's own."""
    form = await form_of(request)
    cookie = request.cookies.get(COOKIE, "")
    if not sessions_of(rt).is_form_token(cookie, form.get("form_token", "")):
        return render("message.html", 403, title="Not done", text="The page was too old. Go back and try again.")
    return await run_in_threadpool(handle, rt, form)


@router.post("/logout")
async def sign_out(request: Request, rt: Wiring, _admin: Admin) -> Response:
    """Forget the cookie."""

    def forget(_rt: Runtime, _form: dict[str, str]) -> Response:
        response = RedirectResponse("/login", 303, HEADERS)
        response.delete_cookie(COOKIE, path="/")
        return response

    return await with_form(request, rt, forget)


# --- the page


@router.get("/")
def status_page(request: Request, rt: Wiring, admin: Admin) -> HTMLResponse:
    """The whole page."""
    cookie = request.cookies.get(COOKIE, "")
    token = sessions_of(rt).form_token(cookie)
    return render(
        "status.html", form_token=token, admin=admin.name, flower=rt.settings.flower_url, **view.context(look(rt))
    )


@router.get("/live")
def live(request: Request, rt: Wiring, _admin: Admin) -> HTMLResponse:
    """The part of the page that changes; the page's script asks for it every few seconds."""
    cookie = request.cookies.get(COOKIE, "")
    return render("live.html", form_token=sessions_of(rt).form_token(cookie), **view.context(look(rt)))


def look(rt: Runtime) -> view.Seen:
    """Read everything that the page shows."""
    status = monitoring.status(rt.database, rt.settings)
    with rt.database.transaction() as session:
        now = status.at
        return view.Seen(
            status=status,
            checks=checks_of(status, rt.settings),
            runs=history.recent_runs(session),
            failing=_failing(session),
            calls=history.calls_by_lane(session, now),
            actions=history.actions_by_state(session, now),
            rows=history.rows_by_kind(session, now),
        )


def _failing(session: Session) -> list[dict[str, Any]]:
    return store.find(session, states=FAILING, limit=SHOWN_ACTIONS)


# --- what a person can do on it


@router.post("/decide/{action_id}")
async def decide(request: Request, rt: Wiring, _admin: Admin, action_id: UUID) -> Response:
    """Send a held or rejected action again, or give it up."""

    def handle(rt: Runtime, form: dict[str, str]) -> Response:
        doing = {"retry": retry, "cancel": cancel}.get(form.get("decision", ""))
        if doing is None:
            return render("message.html", 400, title="Not done", text="Nothing was chosen.")
        try:
            known = doing(rt.actions, action_id)
        except UndecidableError as error:
            return render("message.html", 409, title="Not done", text=f"It has moved on meanwhile: {error}.")
        if not known:
            return render("message.html", 404, title="Not done", text="There is no such action any more.")
        return RedirectResponse("/", 303, HEADERS)

    return await with_form(request, rt, handle)


@router.post("/connect")
async def connect(request: Request, rt: Wiring, _admin: Admin) -> Response:
    """Send the person to the org's own login, to connect an account as the named user."""

    def handle(rt: Runtime, form: dict[str, str]) -> Response:
        target = Target(
            form.get("user_id", "").strip(),
            "sandbox" if form.get("environment") == "sandbox" else "production",
            form.get("login_url", "").strip() or None,
            None,
        )
        try:
            begun = begin_authorization(rt.database, rt.vault, rt.settings, target, redirect_uri(rt))
        except SyncError as error:
            words = blank(str(error)).replace("--login-url", "My Domain").replace("--user-id", "the user")
            return render("message.html", 400, title="Not connected", text=f"{words}.")
        return RedirectResponse(begun.url, 303, {"Referrer-Policy": "no-referrer"})

    return await with_form(request, rt, handle)
