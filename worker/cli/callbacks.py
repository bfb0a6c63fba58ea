"""`sfsync callbacks`: what callers are told over HTTP, and the secrets that it is signed with."""

import os
import sys
from datetime import datetime, timedelta
from typing import Annotated, Any

import typer
from sqlalchemy import select

from models.callback import CALLBACK_STATES
from models.connection import Connection
from worker import exact
from worker.callbacks import signing, store
from worker.cli.output import Exit, Json, UserId, age, console, fail, show_json, show_table
from worker.errors import SettingsError
from worker.runtime import Runtime
from worker.settings import load_settings

callbacks = typer.Typer(no_args_is_help=True, help="What callers are told over HTTP: secrets, deliveries, endpoints.")
User = Annotated[str | None, typer.Option("--user-id", help="Only of this user.")]


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.add_typer(callbacks, name="callbacks")


def _runtime() -> Runtime:
    rt = Runtime(load_settings(), application="sfsync-cli")
    rt.database.check_server()
    return rt


@callbacks.command("add-secret")
def add_secret(
    user_id: UserId,
    stdin: Annotated[bool, typer.Option("--stdin", help="Read the secret (whsec_…) from standard input.")] = False,
    as_json: Json = False,
) -> None:
    """Make a signing secret and show it, once. Older ones go on signing beside it until they are retired."""
    rt = _runtime()
    text = sys.stdin.read().strip() if stdin else signing.secret_of(os.urandom(32))
    try:
        signing.key_of(text)
    except ValueError as error:
        raise SettingsError(str(error)) from None
    secret_id = f"whk_{os.urandom(6).hex()}"
    sealed = rt.vault.encrypt(text, table="callback_secrets", column="secret", row=secret_id)
    with rt.database.transaction() as session:
        connection_id = session.scalar(select(Connection.id).where(Connection.user_id == user_id))
        if connection_id is None:
            raise fail(f"{user_id} is not connected; `sfsync connect --user-id {user_id}`", Exit.DISCONNECTED)
        store.add_secret(session, connection_id, secret_id, sealed)
    if as_json:
        show_json({"id": secret_id} | ({} if stdin else {"secret": text}))
    else:
        console.print(f"{secret_id}" if stdin else f"{secret_id}  {text}", highlight=False)


@callbacks.command("retire-secret")
def retire_secret(
    secret_id: Annotated[str, typer.Argument(help="whk_…, as `callbacks secrets` lists it.")],
    hours: Annotated[float, typer.Option("--after", min=0, help="Hours that it goes on signing.")] = 0.0,
) -> None:
    """Have a secret sign no longer, at once or after some hours."""
    with _runtime().database.transaction() as session:
        if not store.retire_secret(session, secret_id, timedelta(hours=hours)):
            raise fail(f"there is no secret {secret_id}", Exit.REFUSED)
    console.print(f"{secret_id} signs no longer." if not hours else f"{secret_id} signs for {hours:g} h more.")


@callbacks.command()
def secrets(user_id: User = None, as_json: Json = False) -> None:
    """List signing secrets, without themselves."""
    with _runtime().database.transaction() as session:
        found = store.list_secrets(session, user_id)
    if as_json:
        show_json(found)
        return
    rows = [
        [one["id"], one["user_id"], *(_minute(one[name]) for name in ("created_at", "retires_at"))] for one in found
    ]
    show_table("Secrets", ("!id", "user", "made", "retires"), rows)


def _minute(moment: datetime | None) -> str | None:
    return f"{moment:%Y-%m-%d %H:%M}" if moment else None


@callbacks.command("list")
def list_(
    user_id: User = None,
    states: Annotated[list[str] | None, typer.Option("--state", help=", ".join(CALLBACK_STATES))] = None,
    limit: Annotated[int, typer.Option(min=1, help="At most so many, newest first.")] = 50,
    as_json: Json = False,
) -> None:
    """List what was told or is to be told, newest first."""
    wrong = sorted(set(states or ()) - set(CALLBACK_STATES))
    if wrong:
        raise SettingsError(f"--state {wrong[0]}: choose from {', '.join(CALLBACK_STATES)}")
    rt = _runtime()
    with rt.database.transaction() as session:
        found = store.find(session, user_id=user_id, states=states or (), limit=limit)
    if as_json:
        show_json(found)
        return
    now = rt.database.now()
    names = ("user_id", "kind", "url", "state", "attempts")
    rows = [[str(one["id"]), *(one[name] for name in names), _since(now, one), _answer(one)] for one in found]
    show_table("Callbacks", ("!id", "user", "kind", "url", "state", "#tries", "age", "answer"), rows)


def _since(now: datetime, callback: dict[str, Any]) -> str:
    return age((now - callback["created_at"]).total_seconds())


def _answer(call: dict[str, Any]) -> str | None:
    """The status, or why there was none."""
    return " ".join(str(one) for one in (call["status"], call["error"]) if one is not None) or None


@callbacks.command()
def show(callback_id: Annotated[int, typer.Argument(help="The callback's number.")], as_json: Json = False) -> None:
    """Show one callback: what it says, and what every call gave."""
    with _runtime().database.transaction() as session:
        found = store.read(session, callback_id)
    if found is None:
        raise fail(f"there is no callback {callback_id}", Exit.REFUSED)
    if as_json:
        show_json(found)
        return
    for name, value in found.items():
        if name != "calls":
            text = exact.dumps(value) if isinstance(value, dict) else "–" if value is None else str(value)
            console.print(f"{name:>14}  {text}", highlight=False, markup=False)
    rows: list[list[Any]] = [
        [f"{one['at']:%Y-%m-%d %H:%M:%S}", _answer(one), f"{one['seconds']:.2f} s"] for one in found["calls"]
    ]
    show_table("Calls", ("at", "answer", "took"), rows)


@callbacks.command()
def redo(
    ids: Annotated[list[int] | None, typer.Argument(help="Numbers of callbacks.")] = None,
    failed: Annotated[bool, typer.Option("--failed", help="All that were given up.")] = False,
    user_id: User = None,
    as_json: Json = False,
) -> None:
    """Tell these again, whatever came of them."""
    if not ids and not failed:
        raise SettingsError("name callbacks by their numbers, or give --failed")
    with _runtime().database.transaction() as session:
        if failed:
            ids = [one["id"] for one in store.find(session, user_id=user_id, states=["failed"], limit=1_000_000)]
        done = store.redo(session, ids or [])
    if as_json:
        show_json({"redone": done})
    else:
        console.print(f"{len(done):,} callbacks are told again.")
    if ids and not done:
        raise typer.Exit(Exit.REFUSED)


@callbacks.command()
def endpoints(user_id: User = None, as_json: Json = False) -> None:
    """List URLs, what waits for them, and which are disabled."""
    with _runtime().database.transaction() as session:
        found = store.endpoints(session, user_id)
    if as_json:
        show_json(found)
        return
    names = ("user_id", "url", "waiting", "failures")
    columns = ("!id", "user", "url", "#waiting", "#failures", "next", "disabled")
    rows = [
        [str(one["id"]), *(one[name] for name in names), _minute(one["next_due_at"]), one["disabled_reason"]]
        for one in found
    ]
    show_table("Endpoints", columns, rows)


@callbacks.command()
def enable(endpoint_id: Annotated[int, typer.Argument(help="The endpoint's number.")]) -> None:
    """Tell a URL again that answered 410 Gone; what was given up is not told unless it is redone."""
    with _runtime().database.transaction() as session:
        if not store.enable(session, endpoint_id):
            raise fail(f"there is no disabled endpoint {endpoint_id}", Exit.REFUSED)
    console.print(f"Endpoint {endpoint_id} is enabled.")
