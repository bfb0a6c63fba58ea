"""`sfsync actions`: writes that were asked for, and what became of them."""

import csv
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any
from uuid import UUID

import typer
from sqlalchemy import select

from models.action import ACTION_STATES
from models.connection import Connection
from worker.actions import decide, exact, store
from worker.actions.accept import FaultyError, Intent, accept
from worker.cli.output import Exit, Json, UserId, age, console, fail, show_json, show_table
from worker.errors import SettingsError
from worker.runtime import Runtime
from worker.settings import load_settings

actions = typer.Typer(no_args_is_help=True, help="Writes to the org: list, show, retry, cancel, add.")
ActionId = Annotated[UUID, typer.Argument(help="The action's id.")]
INTENT_FIELDS = ("record_id", "external_id_field", "external_id", "idempotency_key", "order_key")


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.add_typer(actions, name="actions")


def _runtime() -> Runtime:
    rt = Runtime(load_settings(), application="sfsync-cli")
    rt.database.check_server()
    return rt


@actions.command("list")
def list_(
    user_id: Annotated[str | None, typer.Option("--user-id", help="Only of this user.")] = None,
    state: Annotated[list[str] | None, typer.Option(help=f"Only in these states: {', '.join(ACTION_STATES)}.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="At most so many, newest first.")] = 50,
    as_json: Json = False,
) -> None:
    """List actions, newest first."""
    wrong = sorted(set(state or ()) - set(ACTION_STATES))
    if wrong:
        raise SettingsError(f"--state {wrong[0]}: choose from {', '.join(ACTION_STATES)}")
    rt = _runtime()
    with rt.database.transaction() as session:
        found = store.find(session, user_ids=[user_id] if user_id else None, states=state or (), limit=limit)
    if as_json:
        show_json(found)
        return
    now = rt.database.now()
    columns = ("id", "user", "operation", "object", "record", "state", "#attempts", "age", "error")
    show_table("Actions", columns, [_row(one, age((now - one["created_at"]).total_seconds())) for one in found])


def _row(action: dict[str, Any], since: str) -> list[object]:
    names = ("id", "user_id", "operation", "object", "record_id", "state", "attempts")
    error = action["error"]
    return [*(action[name] for name in names), since, f"{error['code']}: {error['message']}" if error else None]


@actions.command()
def show(action_id: ActionId, as_json: Json = False) -> None:
    """Show one action with all that is known of it."""
    with _runtime().database.transaction() as session:
        found = store.read(session, action_id)
    if found is None:
        raise fail(f"there is no action {action_id}", Exit.REFUSED)
    if as_json:
        show_json(found)
        return
    for name, value in found.items():
        text = exact.dumps(value) if isinstance(value, dict) else "–" if value is None else str(value)
        console.print(f"{name:>18}  {text}", highlight=False, markup=False)


@actions.command()
def retry(action_id: ActionId, as_json: Json = False) -> None:
    """Send a held or rejected action again; it goes to the end of its record's line."""
    _tell(decide.retry(_runtime().actions, action_id), action_id, "retried", as_json=as_json)


@actions.command()
def cancel(action_id: ActionId, as_json: Json = False) -> None:
    """Give up an action that is waiting, ready or held."""
    _tell(decide.cancel(_runtime().actions, action_id), action_id, "cancelled", as_json=as_json)


def _tell(done: bool, action_id: UUID, word: str, *, as_json: bool) -> None:
    if not done:
        raise fail(f"there is no action {action_id}", Exit.REFUSED)
    if as_json:
        show_json({"id": action_id, word: True})
    else:
        console.print(f"{word.capitalize()} {action_id}.")


@actions.command()
def add(
    user_id: UserId,
    file: Annotated[Path, typer.Argument(help="JSON lines or CSV; - for standard input.")],
    object_name: Annotated[str | None, typer.Option("--object", help="Of rows that name none.")] = None,
    operation: Annotated[str, typer.Option(help="Of rows that name none: create, update, upsert, delete.")] = "create",
    as_json: Json = False,
) -> None:
    """Add actions from a file; all or, when anything is wrong with one of them, none.

    JSON lines: {"object", "operation", "fields", "record_id"?, "external_id_field"?, "external_id"?, "idempotency_key"?}.
    CSV (name ends in .csv): a header of field names; the columns Id and idempotency_key are no fields.
    """
    rt = _runtime()
    with rt.database.transaction() as session:
        known = select(Connection.id).where(Connection.user_id == user_id, Connection.state == "active")
        connection_id = session.scalar(known)
    if connection_id is None:
        raise fail(f"{user_id} is not connected; `sfsync connect --user-id {user_id}`", Exit.DISCONNECTED)
    rows = _from_csv(file) if file.suffix.lower() == ".csv" else _from_json(file)
    intents = [_intent(row, object_name, operation) for row in rows]
    try:
        made = accept(rt.actions, connection_id, intents, source="cli")
    except FaultyError as error:
        lines = [f"action {one.position + 1}: {one.code}: {one.message}" for one in error.faults[:50]]
        raise fail("nothing was added\n  " + "\n  ".join(lines), Exit.REFUSED) from None
    if as_json:
        show_json([{"id": one.id, "repeated": one.repeated} for one in made])
    else:
        repeated = sum(one.repeated for one in made)
        console.print(f"Added {len(made) - repeated:,} actions; {repeated:,} were there already.")


def _from_json(file: Path) -> Iterator[dict[str, Any]]:
    text = sys.stdin.read() if str(file) == "-" else file.read_text()
    for number, line in enumerate(text.splitlines(), start=1):
        if line.strip():
            try:
                row = exact.loads(line)
            except ValueError:
                raise SettingsError(f"{file}: line {number} is not JSON") from None
            if not isinstance(row, dict):
                raise SettingsError(f"{file}: line {number} is no JSON object")
            yield row


def _from_csv(file: Path) -> Iterator[dict[str, Any]]:
    with file.open(newline="") as lines:
        for row in csv.DictReader(lines):
            own = {
                "record_id": row.pop("Id", None) or None,
                "idempotency_key": row.pop("idempotency_key", None) or None,
            }
            yield {**own, "fields": {name: value if value != "" else None for name, value in row.items()}}


def _intent(row: dict[str, Any], object_name: str | None, operation: str) -> Intent:
    named = row.get("object") or object_name
    if not named:
        raise SettingsError("a row names no object; give --object")
    given = {name: row[name] for name in INTENT_FIELDS if row.get(name) is not None}
    return Intent(named, row.get("operation") or operation, dict(row.get("fields") or {}), **given)
