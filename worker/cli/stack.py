"""`sfsync up`, `sfsync demo` and `sfsync org`: everything at once, or the local org alone."""

import os
import signal
import sys
import threading
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer

from worker.cli.output import Exit, Json, console, show_json, show_table

SEED = "Contact=40000,Account=5000,Opportunity=12000"


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command()(up)
    app.command()(demo)
    app.command(
        context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []},
        help="Start the local org alone: [--http] --port P [--import DIR] ...; `sfsync org --help` lists its options.",
    )(org)


def up(
    folder: Annotated[Path | None, typer.Option(help="Where data, key and logs are kept (default .sfsync).")] = None,
    seed: Annotated[str, typer.Option(help="What the local org holds at first.")] = SEED,
    as_json: Json = False,
) -> None:
    """Start everything that DATABASE_URL, REDIS_URL and SALESFORCE_LOGIN_URL do not already give, until Ctrl-C."""
    from worker.supervisor import full_stack

    stop = stop_on_signals()
    place = folder or Path(os.environ.get("SFSYNC_DATA_FOLDER", ".sfsync"))
    with full_stack(place, os.environ, org_options=("--seed", seed)) as stack:
        parts = [*stack.brought.items(), *((child.name, child.url) for child in stack.children)]
        if as_json:
            show_json({"parts": dict(parts), "environment": stack.env_of_stack(), "logs": stack.folder / "logs"})
        else:
            show_table("Running", ("part", "at"), [(name, url or "–") for name, url in parts])
            console.print(f"Logs: {stack.folder / 'logs'}. The environment for other shells: {stack.write_env()}")
            console.print("Ctrl-C stops everything.")
        stack.watch(stop.is_set)
    if not as_json:
        console.print("Stopped.")


def demo(
    folder: Annotated[Path, typer.Option(help="Where the demo keeps its data; emptied at the start.")] = Path(
        ".sfsync/demo"
    ),
    seed: Annotated[str, typer.Option(help="What the local org holds at first.")] = SEED,
    as_json: Json = False,
) -> None:
    """Show the main job, from nothing: servers, org, mirror, changes, writes, proof. Exits 1 if anything differed."""
    from worker.cli.demo import run_demo

    stop_on_signals(interrupt=True)
    report = run_demo(folder, seed, quiet=as_json)
    if as_json:
        show_json(report)
    if not report["ok"]:
        raise typer.Exit(Exit.DIFFERENCES)


def org(context: typer.Context) -> None:
    """Become the local org: it shares no code with us, so it is started, not imported."""
    from worker.supervisor import org_command

    os.execv(sys.executable, org_command(*context.args))  # noqa: S606 - our own interpreter


def stop_on_signals(*, interrupt: bool = False) -> threading.Event:
    """An event set by SIGTERM and Ctrl-C; `interrupt`: raise KeyboardInterrupt instead, so that blocks unwind."""
    stop = threading.Event()

    def on_signal(_number: int, _frame: FrameType | None) -> None:
        stop.set()
        if interrupt:
            raise KeyboardInterrupt

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, on_signal)
    return stop
