"""`sfsync`: the operator's door. Each module registers its commands; errors become one line and an exit code."""

import sys

import typer

from worker.cli import actions, api_keys, connect, keys, mirror, shim, stack, status, worker
from worker.cli.output import Exit, errors
from worker.errors import DisconnectedError, RejectedError, SettingsError, SyncError, TransientError
from worker.log import blank

app = typer.Typer(
    name="sfsync",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Keeps a local, always-right PostgreSQL copy of a Salesforce org and carries writes back to it.",
)

for module in (actions, api_keys, connect, keys, mirror, shim, stack, status, worker):
    module.register(app)

CODES: tuple[tuple[type[SyncError], Exit], ...] = (
    (SettingsError, Exit.SETTINGS),
    (DisconnectedError, Exit.DISCONNECTED),
    (RejectedError, Exit.REFUSED),
    (TransientError, Exit.UNAVAILABLE),
    (SyncError, Exit.REFUSED),
)


def run() -> None:
    """Entry point of the console script."""
    try:
        app()
    except SyncError as error:
        for line in blank(str(error)).splitlines():
            errors.print(f"[red]sfsync:[/red] {line}", highlight=False, soft_wrap=True)
        sys.exit(next(code for kind, code in CODES if isinstance(error, kind)))
