"""`sfsync actions`: writes that were asked for, and what became of them."""

import csv
import itertools
import sys
from collections.abc import Callable
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any
from uuid import UUID

import typer
from sqlalchemy import select

from models.connection import Connection
from worker import exact
from worker.actions import decide, store
from worker.actions.accept import ACTIONS_AT_ONCE, FaultyError, KeyReusedError, Sorted, accept, find_faults
from worker.actions.check import Fault
from worker.actions.deps import ActionDeps
from worker.actions.lifecycle import CANCELLABLE, RETRYABLE
from worker.cli.action_files import Line, opened, read
from worker.cli.choosing import Choice, choosing
from worker.cli.output import Exit, Json, UserId, age, console, errors, fail, is_narrow, show_json, show_table
from worker.errors import SettingsError
from worker.runtime import Runtime
from worker.settings import load_settings

actions = typer.Typer(no_args_is_help=True, help="Writes to the org: add, list, show, retry, cancel, export.")
FAULTS_SHOWN = 50

OneAction = Annotated[UUID, typer.Argument(help="The action's id.")]
SomeActions = Annotated[list[UUID] | None, typer.Argument(help="Ids of actions; or choose them by the options.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]


class Form(StrEnum):
    """How actions are written to a file."""

    JSONL = "jsonl"
    CSV = "csv"


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.add_typer(actions, name="actions")


def _runtime() -> Runtime:
    rt = Runtime(load_settings(), application="sfsync-cli")
    rt.database.check_server()
    return rt


@actions.command("list")
@choosing
def list_(
    chosen: Choice,
    limit: Annotated[int, typer.Option(min=1, help="At most so many, newest first.")] = 50,
    as_json: Json = False,
) -> None:
    """List actions, newest first."""
    rt = _runtime()
    found = list(itertools.islice(chosen.find(rt), limit))
    if as_json:
        show_json(found)
        return
    now = rt.database.now()
    columns = (
        ("!action", "state", "error") if is_narrow() else ("!action", "user", "state", "#attempts", "age", "error")
    )
    show_table("Actions", columns, [_row(one, age((now - one["created_at"]).total_seconds())) for one in found])


def _row(action: dict[str, Any], since: str) -> list[object]:
    """The id, whole, is what the other commands are given; what it asks stands below it."""
    asks = " ".join(action[name] for name in ("operation", "object", "record_id") if action[name])
    error = action["error"]
    why = f"{error['code']}: {error['message']}" if error else None
    if not is_narrow():
        return [f"{action['id']}\n{asks}", action["user_id"], action["state"], action["attempts"], since, why]
    tried = f"{action['attempts']} attempts" if action["attempts"] != 1 else "1 attempt"
    return [f"{action['id']}\n{asks}\n{action['user_id']}", f"{action['state']}\n{tried}\n{since}", why]


@actions.command()
def show(action_id: OneAction, as_json: Json = False) -> None:
    """Show one action with all that is known of it, and every attempt."""
    with _runtime().database.transaction() as session:
        found = store.read(session, action_id)
        attempts = store.attempts(session, action_id)
    if found is None:
        raise fail(f"there is no action {action_id}", Exit.REFUSED)
    if as_json:
        show_json({**found, "attempts_log": attempts})
        return
    for name, value in found.items():
        text = exact.dumps(value) if isinstance(value, dict) else "–" if value is None else str(value)
        console.print(f"{name:>20}  {text}", highlight=False, markup=False)
    rows = [
        [f"{one['at']:%Y-%m-%d %H:%M:%S}", *(one[name] for name in ("way", "state", "code", "message"))]
        for one in attempts
    ]
    show_table("Attempts", ("at", "way", "became", "code", "message"), rows)


@actions.command()
@choosing
def retry(chosen: Choice, ids: SomeActions = None, yes: Yes = False, as_json: Json = False) -> None:
    """Send actions that are held, rejected or in conflict again; each goes to the end of its record's line."""
    _decide(decide.retry, "retried", ids, chosen, RETRYABLE, yes=yes, as_json=as_json)


@actions.command()
@choosing
def cancel(chosen: Choice, ids: SomeActions = None, yes: Yes = False, as_json: Json = False) -> None:
    """Give up actions that are waiting, ready or held."""
    _decide(decide.cancel, "cancelled", ids, chosen, CANCELLABLE, yes=yes, as_json=as_json)


def _decide(
    decision: Callable[[ActionDeps, UUID], bool],
    word: str,
    ids: list[UUID] | None,
    chosen: Choice,
    lawful: frozenset[str],
    *,
    yes: bool,
    as_json: bool,
) -> None:
    """One named action must be there and decidable; of many, those that are in another state by now are told as skipped."""
    rt = _runtime()
    if ids and chosen:
        raise SettingsError("name actions by their ids, or choose them by options; not both")
    if not ids:
        if not chosen:
            raise SettingsError("name actions by their ids, or choose them with --user-id, --state, --object, --error")
        meant = chosen.within(lawful)
        ids = [one["id"] for one in meant.find(rt)] if meant else []
        ids.reverse()  # the oldest first, so that they keep their order
        if ids and not yes and not typer.confirm(f"{len(ids):,} actions will be {word}. Go on?", err=True):
            raise typer.Exit(Exit.REFUSED)
    done: list[UUID] = []
    skipped: list[UUID] = []
    for action_id in ids:
        try:
            found = decision(rt.actions, action_id)
        except decide.UndecidableError as error:
            if len(ids) == 1:
                raise fail(str(error), Exit.REFUSED) from None
            found = False
        (done if found else skipped).append(action_id)
    if len(ids) == 1 and not done:
        raise fail(f"there is no action {ids[0]}", Exit.REFUSED)
    if as_json:
        show_json({word: done, "skipped": skipped})
        return
    left = f"; {len(skipped):,} skipped" if skipped else ""
    console.print(f"{word.capitalize()} {done[0] if len(ids) == 1 else f'{len(done):,} actions'}{left}.")


@actions.command()
@choosing
def export(
    chosen: Choice,
    file: Annotated[Path, typer.Argument(help="Where to write; - for standard output.")] = Path("-"),
    form: Annotated[Form | None, typer.Option("--format", help="Default: by the file's name, else jsonl.")] = None,
) -> None:
    """Write actions to a file, newest first: JSON lines, or CSV with fields, outcome and error as JSON."""
    form = form or (Form.CSV if file.suffix.lower() == ".csv" else Form.JSONL)
    rt = _runtime()
    try:
        target = sys.stdout if str(file) == "-" else file.open("w", newline="", encoding="utf-8")
    except OSError as error:
        raise SettingsError(f"{file}: {error.strerror}") from None
    try:
        writer = csv.writer(target)
        count = 0
        for count, action in enumerate(chosen.find(rt), start=1):
            plain = {name: _plain(value) for name, value in action.items()}
            if form is Form.JSONL:
                target.write(exact.dumps(plain) + "\n")
                continue
            if count == 1:
                writer.writerow(plain)
            writer.writerow([exact.dumps(one) if isinstance(one, dict) else one for one in plain.values()])
    finally:
        if target is not sys.stdout:
            target.close()
    errors.print(f"Wrote {count:,} actions.")


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.isoformat().replace("+00:00", "Z")
    return str(value) if isinstance(value, UUID) else value


@actions.command()
def add(
    user_id: UserId,
    file: Annotated[Path, typer.Argument(help="JSON lines or CSV; - for standard input.")],
    object_name: Annotated[str | None, typer.Option("--object", help="Of rows that name none.")] = None,
    operation: Annotated[str, typer.Option(help="Of rows that name none: create, update, upsert, delete.")] = "create",
    form: Annotated[Form | None, typer.Option("--format", help="Default: by the file's name, else jsonl.")] = None,
    only_valid: Annotated[bool, typer.Option("--only-valid", help="Add what is right, tell what is wrong.")] = False,
    as_json: Json = False,
) -> None:
    """Add actions from a file: all, or none when anything is wrong with one of them.

    JSON lines: {"object", "operation", "fields", "record_id"?, "external_id_field"?, "external_id"?, "idempotency_key"?,
    "order_key"?, "priority"?, "after_failure"?, "mergeable"?, "if_unmodified_since"?, "parents"?, "callback_url"?}.
    CSV: a header of field names; Id is the record's id, a column named like a member above is that member, and
    parents.AccountId names the action that makes the parent. An empty cell empties the field. A file of more than 10,000 actions is added in parts of
    10,000, each as a whole; with idempotency keys it can be added again after a fault was mended.
    """
    rt = _runtime()
    with rt.database.transaction() as session:
        known = select(Connection.id).where(Connection.user_id == user_id, Connection.state == "active")
        connection_id = session.scalar(known)
    if connection_id is None:
        raise fail(f"{user_id} is not connected; `sfsync connect --user-id {user_id}`", Exit.DISCONNECTED)
    as_csv = (form or (Form.CSV if file.suffix.lower() == ".csv" else Form.JSONL)) is Form.CSV
    tally = _Tally(only_valid=only_valid)
    with opened(file, quiet=as_json) as source:
        lines = read(source, as_csv=as_csv, object_name=object_name, operation=operation)
        while part := list(itertools.islice(lines, ACTIONS_AT_ONCE)):
            tally.take(rt.actions, connection_id, part)
            if tally.stopped:
                break
    tally.tell(as_json=as_json)


class _Tally:
    """What was added, and what was wrong on which line."""

    def __init__(self, *, only_valid: bool) -> None:
        self.only_valid = only_valid
        self.stopped = False
        self.made: list[dict[str, Any]] = []
        self.wrong: list[dict[str, Any]] = []

    def take(self, deps: ActionDeps, connection_id: int, part: list[Line]) -> None:
        """Add one part of the file."""
        for line in part:
            self.wrong += [{"line": line.number, "code": "VALIDATION_ERROR", "message": text} for text in line.faults]
        right = [line for line in part if line.intent is not None]
        intents = [line.intent for line in right if line.intent is not None]
        if self.wrong and not self.only_valid:
            # Nothing of this part is added; what else is wrong with it is told all the same.
            self.stopped = True
        if not intents:
            return
        try:
            if self.stopped:
                self._note(right, find_faults(deps, connection_id, intents))
            else:
                self._keep(right, _sorted(deps, connection_id, intents, only_valid=self.only_valid))
        except (FaultyError, KeyReusedError) as error:
            self._note(right, error.faults)
            self.stopped = True

    def _keep(self, lines: list[Line], found: Sorted) -> None:
        self.made += [
            {"line": lines[place].number, "id": one.id, "repeated": one.repeated}
            for place, one in found.accepted.items()
        ]
        self._note(lines, found.faults)

    def _note(self, lines: list[Line], faults: tuple[Fault, ...]) -> None:
        self.wrong += [
            {"line": lines[one.position].number, "code": one.code, "message": one.message, "fields": list(one.fields)}
            for one in faults
        ]

    def tell(self, *, as_json: bool) -> None:
        """Say it; exit 5 when anything was wrong."""
        self.wrong.sort(key=lambda one: one["line"])
        if as_json:
            show_json({"added": self.made, "faults": self.wrong})
        else:
            for one in self.wrong[:FAULTS_SHOWN]:
                errors.print(
                    f"line {one['line']}: {one['code']}: {one['message']}",
                    highlight=False,
                    markup=False,
                    soft_wrap=True,
                )
            if len(self.wrong) > FAULTS_SHOWN:
                errors.print(f"… and {len(self.wrong) - FAULTS_SHOWN:,} more.")
            repeated = sum(one["repeated"] for one in self.made)
            console.print(f"Added {len(self.made) - repeated:,} actions; {repeated:,} were there already.")
        if self.stopped:
            raise fail("something is wrong: of the part with these lines nothing was added", Exit.REFUSED)
        if self.wrong:
            raise typer.Exit(Exit.REFUSED)


def _sorted(deps: ActionDeps, connection_id: int, intents: list[Any], *, only_valid: bool) -> Sorted:
    if only_valid:
        return accept(deps, connection_id, intents, source="cli", only_valid=True)
    return Sorted(dict(enumerate(accept(deps, connection_id, intents, source="cli"))), ())
