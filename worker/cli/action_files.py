"""Reading actions from JSON lines and CSV, line by line: a file larger than the memory is no trouble."""

import csv
import io
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

from rich.progress import Progress

from worker import exact
from worker.actions.intent import TYPES, Intent, UnreadableError, read_intent
from worker.cli.output import errors
from worker.errors import SettingsError

BIG_BYTES = 1024 * 1024  # from here on a progress bar is worth it
NOT_FIELDS = frozenset(TYPES) - {"fields", "parents"}  # columns of a CSV that belong to the action


@dataclass(frozen=True, slots=True)
class Line:
    """One action of a file, or what is wrong with it. `number`: of the line in the file, from 1."""

    number: int
    intent: Intent | None
    faults: tuple[str, ...] = ()


@contextmanager
def opened(file: Path, *, quiet: bool) -> Iterator[BinaryIO]:
    """A file, or standard input for "-"; with a progress bar on standard error for a big file, unless `quiet`."""
    if str(file) == "-":
        yield sys.stdin.buffer
        return
    try:
        size = file.stat().st_size
        source = file.open("rb")
    except OSError as error:
        raise SettingsError(f"{file}: {error.strerror}") from None
    with source:
        if quiet or size < BIG_BYTES:
            yield source
            return
        bar = Progress(console=errors, transient=True)
        with bar, bar.wrap_file(source, total=size, description=file.name) as watched:
            yield watched


def read(source: BinaryIO, *, as_csv: bool, object_name: str | None, operation: str) -> Iterator[Line]:
    """The actions of a file; `object_name` and `operation` of those that name none."""
    text = io.TextIOWrapper(source, encoding="utf-8-sig", newline="")
    try:
        yield from _csv(text, object_name, operation) if as_csv else _json(text, object_name, operation)
    except UnicodeDecodeError:
        raise SettingsError("the file is not UTF-8") from None
    finally:
        with suppress(ValueError):  # the file may be closed before we are, when nobody reads us to the end
            text.detach()


def _json(text: io.TextIOWrapper, object_name: str | None, operation: str) -> Iterator[Line]:
    for number, line in enumerate(text, start=1):
        if not line.strip():
            continue
        try:
            document = exact.loads(line)
        except (ValueError, RecursionError):
            yield Line(number, None, ("it is not JSON.",))
            continue
        if not isinstance(document, dict):
            yield Line(number, None, ("it is no JSON object.",))
            continue
        yield _line(number, {"object": object_name, "operation": operation} | _given(document))


def _csv(text: io.TextIOWrapper, object_name: str | None, operation: str) -> Iterator[Line]:
    """A header of field names. `Id` is the record; columns named as an action's members are these; an empty cell is null.

    A column `parents.AccountId` holds the parent's id or idempotency key.
    """
    rows = csv.DictReader(text, restkey="", strict=True)
    try:
        if wrong := _wrong_header(rows.fieldnames or ()):
            yield Line(1, None, wrong)
            return
        for row in rows:
            if "" in row or None in row.values():
                yield Line(rows.line_num, None, ("it has more or fewer cells than the header.",))
                continue
            document: dict[str, object] = {"object": object_name, "operation": operation}
            fields: dict[str, str | None] = {}
            parents: dict[str, str] = {}
            for name, cell in row.items():
                if name.lower() == "id":
                    document["record_id"] = cell or None
                elif name in NOT_FIELDS:
                    document |= _given({name: _typed(name, cell)})
                elif name.startswith("parents."):
                    parents |= {name.removeprefix("parents."): cell} if cell else {}
                else:
                    fields[name] = cell if cell != "" else None
            deleting = document["operation"] == "delete"
            yield _line(rows.line_num, document | {"fields": {} if deleting else fields, "parents": parents})
    except csv.Error as error:
        yield Line(rows.line_num, None, (f"it is not CSV: {error}.",))


def _wrong_header(names: Sequence[str]) -> tuple[str, ...]:
    """Of two columns of one name a row would keep the last, and say nothing."""
    given = [name.lower() for name in names]
    twice = sorted({name for name in names if given.count(name.lower()) > 1})
    if twice:
        return (f"the header has a column twice: {', '.join(twice)}.",)
    odd = next((mark for mark in (";", "\t") if len(names) == 1 and mark in names[0]), None)
    return (f"its columns are separated by {odd!r}; they must be by commas.",) if odd else ()


def _typed(name: str, cell: str) -> object:
    if name == "priority" and cell.lstrip("+-").isdigit():
        return int(cell)
    if name == "mergeable" and cell.lower() in ("true", "false"):
        return cell.lower() == "true"
    return cell or None


def _given(document: dict[str, object]) -> dict[str, object]:
    return {name: value for name, value in document.items() if value is not None}


def _line(number: int, document: dict[str, object]) -> Line:
    try:
        intent = read_intent(document)
    except UnreadableError as error:
        return Line(number, None, error.sentences)
    return Line(number, replace(intent, fields=dict(intent.fields)))
