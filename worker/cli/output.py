"""What every command shares: exit codes, `--json`, tables, and one place where errors become one helpful line."""

import json
import sys
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from enum import IntEnum
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

WIDE = 120  # columns of what goes to a file or a pipe
NARROW = 100  # with fewer a table of many columns shows several values in one
console = Console(width=None if sys.stdout.isatty() else WIDE)
errors = Console(stderr=True)

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of text.")]
UserId = Annotated[str, typer.Option("--user-id", help="Whose connection: the caller's own id of the user.")]


class Exit(IntEnum):
    """Exit codes of `sfsync`, documented in docs/operations.md."""

    OK = 0
    DIFFERENCES = 1  # verify found differences, or the demo did not end as it should
    USAGE = 2  # wrong arguments (typer's own)
    SETTINGS = 3  # a setting is missing or wrong
    DISCONNECTED = 4  # there is no such connection, or a person must reconnect
    REFUSED = 5  # the org or the product refused what was asked
    UNAVAILABLE = 6  # Postgres, Redis or the org cannot be reached now


def show_json(value: Any) -> None:
    """Print one JSON document; times as ISO 8601 UTC."""
    sys.stdout.write(json.dumps(value, default=_plain, indent=2) + "\n")
    sys.stdout.flush()  # `up` goes on after it, and whoever reads a pipe must not wait for its end


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.isoformat().replace("+00:00", "Z")
    if isinstance(value, timedelta):
        return value.total_seconds()
    return str(value)


def show_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print a table; columns whose name begins with "#" are right-aligned numbers, those with "!" are never cut: ids."""
    cells = [[_cell(cell) for cell in row] for row in rows]
    table = Table(title=title, title_justify="left", header_style="bold")
    for place, column in enumerate(columns):
        whole = column.startswith("!")
        table.add_column(
            column.lstrip("#!"),
            justify="right" if column.startswith("#") else "left",
            overflow="fold",
            no_wrap=whole,
            min_width=max((len(line) for row in cells for line in row[place].plain.splitlines()), default=0)
            if whole
            else None,
        )
    for row in cells:
        table.add_row(*row)
    console.print(table)


def _cell(value: object) -> Text:
    """What an org or a caller wrote is shown as it is: brackets are no markup."""
    return Text(number(value) if isinstance(value, int) else "–" if value is None else str(value))


def is_narrow() -> bool:
    """Whether what is printed has little room."""
    return console.width < NARROW


def number(value: int) -> str:
    """1234567 → 1,234,567."""
    return f"{value:,}"


def age(seconds: float | None) -> str:
    """A duration as people say it: 0.4 s, 12 s, 3 min, 5 h, 2 days."""
    if seconds is None:
        return "–"
    for limit, unit, name in ((2, 1, ".1f s"), (120, 1, ".0f s"), (7200, 60, ".0f min"), (172_800, 3600, ".0f h")):
        if seconds < limit:
            form, word = name.split(" ")
            return f"{seconds / unit:{form}} {word}"
    return f"{seconds / 86_400:.0f} days"


def fail(message: str, code: Exit) -> typer.Exit:
    """Print one line to standard error; raise what this returns."""
    errors.print(f"[red]sfsync:[/red] {escape(message)}", highlight=False, soft_wrap=True)
    return typer.Exit(code)
