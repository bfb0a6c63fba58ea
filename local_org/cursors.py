"""Query cursors on disk: a snapshot of record ids, read page by page, until two days have passed.

The records themselves are read when their page is asked for. Source: REST API Developer Guide, "Query More
Results".
"""

import json
import os
import re
import sqlite3
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from local_org.errors import ApiError
from local_org.store import Store

LIFETIME_MS = 2 * 86_400_000
ID_BYTES = 18
KEY_PREFIX = "0r8"

_LOCATOR = re.compile(rf"({KEY_PREFIX}[0-9A-Za-z]{{15}})-(\d+)")


@dataclass(frozen=True, slots=True)
class Cursor:
    """`children`: names of the child relationships that lead to the query meant, for pages of child records."""

    id: str
    soql: str
    all_rows: bool
    batch: int
    total: int
    user: str
    created_ms: int
    children: tuple[str, ...] = ()

    def locator(self, offset: int) -> str:
        return f"{self.id}-{offset}"


def invalid_locator() -> ApiError:
    return ApiError(400, "INVALID_QUERY_LOCATOR", "invalid query locator")


def _folder(store: Store) -> Path:
    folder = store.folder / "cursors"
    folder.mkdir(exist_ok=True)
    return folder


def keep(
    store: Store,
    rows: sqlite3.Cursor,
    first: Sequence[str],
    *,
    soql: str,
    all_rows: bool,
    batch: int,
    user: str,
    children: tuple[str, ...] = (),
) -> Cursor:
    """Write the ids to disk: those already read, then the rest of `rows`. The cursor exists once its file is whole."""
    with store.write() as conn:
        cursor_id = store.next_id(conn, KEY_PREFIX)
    folder = _folder(store)
    total = _write_ids(folder / f"{cursor_id}.ids", first, rows)
    cursor = Cursor(cursor_id, soql, all_rows, batch, total, user, store.clock.now_ms(), children)
    draft = folder / f"{cursor_id}.draft"
    draft.write_text(json.dumps(asdict(cursor)))
    draft.replace(folder / f"{cursor_id}.json")
    _forget_old(folder, store.clock.now_ms())
    return cursor


def _write_ids(path: Path, first: Sequence[str], rows: sqlite3.Cursor) -> int:
    total = len(first)
    with path.open("wb") as file:
        file.write("".join(first).encode())
        while chunk := rows.fetchmany(10_000):
            file.write("".join(row[0] for row in chunk).encode())
            total += len(chunk)
    return total


def _forget_old(folder: Path, now_ms: int) -> None:
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.endswith(".json") and _created_ms(Path(entry.path)) < now_ms - LIFETIME_MS:
                Path(entry.path).unlink(missing_ok=True)
                Path(entry.path).with_suffix(".ids").unlink(missing_ok=True)


def _created_ms(path: Path) -> int:
    try:
        return int(json.loads(path.read_text())["created_ms"])
    except FileNotFoundError:
        return 0


def find(store: Store, locator: str, user: str) -> tuple[Cursor, int]:
    """The cursor and the offset that a locator names. Raises ApiError INVALID_QUERY_LOCATOR."""
    match = _LOCATOR.fullmatch(locator)
    path = _folder(store) / f"{match[1] if match else ''}.json"
    if match is None or not path.exists():
        raise invalid_locator()
    data = json.loads(path.read_text())
    cursor = Cursor(**{**data, "children": tuple(data["children"])})
    offset = int(match[2])
    expired = cursor.created_ms < store.clock.now_ms() - LIFETIME_MS
    if expired or cursor.user != user or offset >= cursor.total:
        raise invalid_locator()
    return cursor, offset


def ids(store: Store, cursor: Cursor, offset: int) -> list[str]:
    """The ids of the page that begins at `offset`."""
    with (_folder(store) / f"{cursor.id}.ids").open("rb") as file:
        file.seek(offset * ID_BYTES)
        text = file.read(cursor.batch * ID_BYTES).decode()
    return [text[at : at + ID_BYTES] for at in range(0, len(text), ID_BYTES)]
