"""`sfsync removals`: reads that would remove too much wait here for a person's word."""

from dataclasses import asdict
from typing import Annotated

import typer

from worker.cli.output import Json, console, show_json, show_table
from worker.mirror import guard
from worker.mirror.deps import STEP
from worker.runtime import Runtime
from worker.settings import load_settings

app = typer.Typer(no_args_is_help=True, help="Mass removals that wait for a person: list, confirm, refuse.")
RunId = Annotated[int, typer.Argument(help="The run's number, from the list.")]


def register(root: typer.Typer) -> None:
    """Add the commands of this module."""
    root.add_typer(app, name="removals")


@app.command("list")
def list_(as_json: Json = False) -> None:
    """Show what would leave, and some of its ids."""
    with _runtime().database.transaction() as session:
        found = guard.removals(session)
    if as_json:
        show_json([asdict(one) for one in found])
        return
    rows = [(one.run_id, one.user_id, one.object, one.kind, one.leaving, one.records) for one in found]
    show_table("Removals that wait", ("#run", "user", "object", "", "#would leave", "#of"), rows)
    for one in found:
        console.print(f"{one.run_id}: {', '.join(one.sample)}", highlight=False)


@app.command()
def confirm(run_id: RunId) -> None:
    """Let the run go on: each record is looked at once more, then leaves."""
    rt = _runtime()
    with rt.database.transaction() as session:
        lane = guard.confirm(session, run_id)
    rt.wake(STEP, run_id, lane)
    console.print(f"Run {run_id} goes on.")


@app.command()
def refuse(run_id: RunId) -> None:
    """Give the run up: the records stay."""
    with _runtime().database.transaction() as session:
        guard.refuse(session, run_id)
    console.print(f"Run {run_id} is given up; nothing was removed.")


def _runtime() -> Runtime:
    rt = Runtime(load_settings(), application="sfsync-cli")
    rt.database.check_server()
    return rt
