"""`sfsync worker`, `sfsync beat` and `sfsync migrate`: the services one by one."""

from enum import StrEnum
from typing import Annotated

import typer

from worker.cli.output import Json, console, show_json


class Service(StrEnum):
    """The three worker services; a process serves one of them."""

    actions = "actions"
    refresh = "refresh"
    backfill = "backfill"


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    for command in (worker, beat, migrate):
        app.command()(command)


def worker(
    service: Annotated[
        Service, typer.Argument(help="actions: writes; refresh: refreshes and upkeep; backfill: loads.")
    ],
    concurrency: Annotated[
        int | None,
        typer.Option(
            "--concurrency",
            "--threads",
            "--processes",
            min=1,
            help="Steps at once (SFSYNC_WORKER_THREADS; backfill: 2).",
        ),
    ] = None,
    poll_only: Annotated[bool, typer.Option(help="Without Celery and Redis: take work from Postgres alone.")] = False,
    beside: Annotated[int | None, typer.Option(hidden=True)] = None,
) -> None:
    """Run one worker service until SIGTERM; steps in hand are finished first."""
    from worker import service as services
    from worker.settings import load_settings

    settings = load_settings()
    if poll_only:
        services.poll_only(settings, service.value, concurrency, beside)
    else:
        raise typer.Exit(services.serve(settings, service.value, concurrency))


def beat() -> None:
    """Run the timetable until SIGTERM."""
    from worker.app import run_beat
    from worker.log import setup_logging
    from worker.settings import load_settings

    settings = load_settings()
    setup_logging(level=settings.log_level, as_json=settings.log_json)
    run_beat(settings)


def migrate(as_json: Json = False) -> None:
    """Bring the tables to this version; forward only, harmless to repeat."""
    from models.migrations import upgrade
    from worker.db import Database
    from worker.settings import load_settings

    url = load_settings().database_url.get_secret_value()
    Database(url).check_server()
    upgrade(url)
    if as_json:
        show_json({"migrated": True})
    else:
        console.print("The tables are up to date.")
