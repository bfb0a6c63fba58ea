"""`sfsync`: the operator's door. Each module registers its commands; errors become one line and an exit code."""

import sys
from importlib import import_module
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

from worker.cli.output import Exit, errors
from worker.errors import DisconnectedError, RejectedError, SettingsError, SyncError, TransientError

# Command → its module in worker.cli and its line in `sfsync --help`. A module is imported when its command is called:
# together they take more than a second.
COMMANDS = {
    "demo": ("stack", "Show the main job, from nothing, on a local org; exit 1 if anything differed."),
    "up": ("stack", "Start everything that the environment does not already give, until Ctrl-C."),
    "org": ("stack", "Start the local org alone: a small Salesforce for development and tests."),
    "connect": ("connect", "Connect a user to a Salesforce org."),
    "disconnect": ("connect", "Revoke a user's grant and forget it."),
    "mirror": ("mirror", "Mirror objects, or refresh those that are mirrored."),
    "verify": ("mirror", "Compare every record and field with the org; exit 1 when something differs."),
    "drift": ("mirror", "Show what changed in the org's schema and was followed."),
    "removals": ("removals", "Reads that would remove too much: list, confirm, refuse."),
    "status": ("status", "Show lags, verifications, active runs, actions and processes."),
    "doctor": ("status", "Look at every part; say what is wrong and what to do."),
    "actions": ("actions", "Writes to the org: add, list, show, retry, cancel, export."),
    "callbacks": ("callbacks", "What callers are told over HTTP: secrets, deliveries, endpoints."),
    "triggers": (
        "triggers",
        "Work that a timetable or a caller starts: add, list, show, change, fire, enable, disable, remove.",
    ),
    "worker": ("worker", "Run a worker service: actions, refresh or backfill."),
    "beat": ("worker", "Run the timetable."),
    "healthcheck": ("healthcheck", "Say whether a service of this host is alive: for containers."),
    "shim": ("shim", "Serve the HTTP door."),
    "migrate": ("worker", "Bring the tables to this version."),
    "keys": ("keys", "Make encryption keys, and encrypt again with a new one."),
    "api-keys": ("api_keys", "Keys of callers of the HTTP shim."),
}

CODES: tuple[tuple[type[SyncError], Exit], ...] = (
    (SettingsError, Exit.SETTINGS),
    (DisconnectedError, Exit.DISCONNECTED),
    (RejectedError, Exit.REFUSED),
    (TransientError, Exit.UNAVAILABLE),
    (SyncError, Exit.REFUSED),
)


class LazyGroup(TyperGroup):
    """Knows its commands' names and help; loads the one that is called."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.commands = {name: TyperCommand(name, help=text) for name, (_, text) in COMMANDS.items()}

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """The real command in place of its stand-in."""
        name, command, rest = super().resolve_command(ctx, args)
        return name, load(name) if name else command, rest


def load(name: str) -> Any:
    """One command, as its module registers it; warnings go to standard error, services set their own level."""
    from worker.log import setup_logging

    setup_logging(level="WARNING")
    part = typer.Typer()
    import_module(f"worker.cli.{COMMANDS[name][0]}").register(part)
    return typer.main.get_group(part).commands[name]


app = typer.Typer(cls=LazyGroup, name="sfsync", no_args_is_help=True, pretty_exceptions_enable=False)


@app.callback()
def sfsync() -> None:
    """Keeps a local, always-right PostgreSQL copy of a Salesforce org and carries writes back to it."""


def run() -> None:
    """Entry point of the console script."""
    try:
        app()
    except SyncError as error:
        from rich.markup import escape

        from worker.log import blank

        for line in blank(str(error)).splitlines():
            errors.print(f"[red]sfsync:[/red] {escape(line)}", highlight=False, soft_wrap=True)
        sys.exit(next(code for kind, code in CODES if isinstance(error, kind)))
