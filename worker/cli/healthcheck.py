"""`sfsync healthcheck`: whether a service of this host is alive, as Postgres shows it; what a container asks of itself."""

import socket
from enum import StrEnum
from typing import Annotated

import typer

from worker import lanes, pulse
from worker.cli.opening import open_database
from worker.cli.output import Exit, Json, console, show_json
from worker.db import Database
from worker.settings import Settings, load_settings

SEEN_SECONDS = 30.0  # workers write a sign of life every 3 s, beat's tick comes every 4 s


class Service(StrEnum):
    """What can be asked for."""

    actions = "actions"
    refresh = "refresh"
    backfill = "backfill"
    beat = "beat"


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command()(healthcheck)


def healthcheck(
    service: Annotated[Service, typer.Argument(help="The worker service of this host, or beat.")],
    as_json: Json = False,
) -> None:
    """Say whether a service is alive: seen lately, and ending steps while there is work. Exits 6 when it is not."""
    settings = load_settings()
    database = open_database(settings)
    trouble = _beat(database) if service is Service.beat else _worker(database, settings, service.value)
    if as_json:
        show_json({"service": service.value, "alive": trouble is None, "trouble": trouble})
    else:
        console.print(f"{service.value}: {trouble or 'alive'}", highlight=False)
    if trouble is not None:
        raise typer.Exit(Exit.UNAVAILABLE)


def _worker(database: Database, settings: Settings, service: str) -> str | None:
    """What is wrong with this host's worker. One that has nothing to do ends no steps, and one step may take its whole deadline."""
    host = socket.gethostname()
    longest = settings.page_seconds if service == "backfill" else 2 * settings.request_seconds
    with database.transaction() as session:
        sign = pulse.sign_of(session, service, host)
        if sign is None:
            return f"no such worker has started on {host}"
        if sign.seen > SEEN_SECONDS:
            return f"not seen for {sign.seen:.0f} s"
        if sign.stepped > longest and any(lanes.due(session, lane, 1) for lane in lanes.SERVICES[service]):
            return f"there is work, and no step has ended for {sign.stepped:.0f} s"
    return None


def _beat(database: Database) -> str | None:
    """Beat leaves its tick through the broker and a worker of the lane upkeep: all three are needed."""
    with database.transaction() as session:
        seen = pulse.beat_sign(session)
    if seen is None or seen > SEEN_SECONDS:
        since = "yet" if seen is None else f"for {seen:.0f} s"
        return f"no tick {since}: beat, Redis or the worker of `refresh` is down"
    return None
