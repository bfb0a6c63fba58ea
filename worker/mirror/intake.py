"""Rows coming in, in the caller's transaction: CSV bytes that Python never parses, streamed into COPY.

What Postgres refuses is taken in once more as JSON, so that one bad value does not stop a load.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Protocol

import psycopg
from psycopg import sql
from psycopg.errors import DataError, ProgramLimitExceeded, UniqueViolation
from sqlalchemy.orm import Session

from worker.db import raw
from worker.errors import OrgComplaint, SchemaChangedError, TransientError
from worker.mirror import ddl
from worker.mirror.rows import header, parsed
from worker.mirror.schema import BIGINT, NUMERIC, TEXT
from worker.mirror.store import LOOK, Target, merge
from worker.mirror.tables import drop_temporary, existing, make_temporary, retype

REFUSED = (DataError, UniqueViolation, ProgramLimitExceeded)  # SQLSTATE 22…, 23505, 54000
RAW = sql.Identifier("_raw")
FIT = sql.Identifier("_fit")

Cursor = psycopg.Cursor[Any]


class Page(Protocol):
    """CSV on its way: `rows` as the org counts them, where it does; the first line is the header."""

    @property
    def rows(self) -> int | None: ...

    def chunks(self) -> Iterator[bytes]: ...


Source = Callable[[], AbstractContextManager[Page]]  # may be opened again, from its beginning


@dataclass(frozen=True, slots=True)
class MemoryPage:
    """CSV that is already here."""

    data: Sequence[bytes]
    rows: int | None = None

    def chunks(self) -> Iterator[bytes]:
        """The pieces, as they came."""
        return iter(self.data)


@dataclass(frozen=True, slots=True)
class Taken:
    """What came in. `rejects`: records that no column type could hold, as {"id", "record", "reason"}."""

    rows: int
    bytes: int
    nul_bytes: int
    rejects: list[dict[str, Any]] = field(default_factory=list)


def take_in(session: Session, target: Target, source: Source) -> Taken:
    """Bring a page in: all of its rows or, by an exception, none.

    Raises TransientError when the page holds fewer or more rows than the org said, SchemaChangedError when its columns
    are not those asked for.
    """
    try:
        with source() as page, session.begin_nested():
            return _copy(raw(session).cursor(), target.table, page, target.columns)
    except REFUSED:
        with source() as page:
            return _salvage(session, target, page)


def _copy(cursor: Cursor, table: sql.Identifier, page: Page, columns: tuple[str, ...]) -> Taken:
    pieces = _Pieces(page.chunks())
    line, rest = _first_line(pieces)
    names = header(line)
    rows = 0
    if names:
        _check_columns(names, columns)
        listed = sql.SQL(", ").join(map(sql.Identifier, names))
        statement = sql.SQL("COPY {} ({c}) FROM STDIN (FORMAT csv, FORCE_NULL ({c}), ENCODING 'UTF8')")
        with cursor.copy(statement.format(table, c=listed)) as copy:
            copy.write(rest)
            for piece in pieces:
                copy.write(piece)
        rows = cursor.rowcount
    _check_rows(page, rows)
    return Taken(rows, pieces.bytes, pieces.nul_bytes)


class _Pieces:
    """A page's chunks without NUL bytes, which text of Postgres cannot hold; counts both."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self.chunks = chunks
        self.bytes = 0
        self.nul_bytes = 0

    def __iter__(self) -> Iterator[bytes]:
        for chunk in self.chunks:
            self.bytes += len(chunk)
            if b"\0" in chunk:
                self.nul_bytes += chunk.count(b"\0")
                yield chunk.replace(b"\0", b"")
            else:
                yield chunk


def _check_rows(page: Page, rows: int) -> None:
    """A page that was cut at a row's end is otherwise good CSV."""
    if page.rows is not None and page.rows != rows:
        raise TransientError(f"a page holds {rows} rows where the org counts {page.rows}", code="PAGE_CUT")


def _first_line(chunks: Iterable[bytes]) -> tuple[bytes, bytes]:
    """The header line and what came after it in the same chunk. Field names hold no line breaks."""
    head = b""
    for chunk in chunks:
        head += chunk
        line, found, rest = head.partition(b"\n")
        if found:
            return line.rstrip(b"\r"), rest
    return head, b""


def _check_columns(names: list[str], columns: tuple[str, ...]) -> None:
    if sorted(names) == sorted(columns):
        return
    unknown, missing = sorted(set(names) - set(columns)), sorted(set(columns) - set(names))
    message = f"a page's columns are not those asked for: unknown {unknown}, missing {missing}"
    raise SchemaChangedError(200, (OrgComplaint("INVALID_FIELD", message),))


def look(session: Session, target: Target, data: Sequence[bytes]) -> tuple[Target, Taken]:
    """Stage CSV that is here in a temporary table, until the transaction ends; the target that names it."""
    make_temporary(session, target.spec, target.schema, LOOK)
    staged = replace(target, staging=LOOK)
    return staged, take_in(session, staged, lambda: nullcontext(MemoryPage(data)))


# --- rows that Postgres refused


def _salvage(session: Session, target: Target, page: Page) -> Taken:
    """Take a page in as JSON, widen the columns that its values do not fit, keep apart the rows that still do not fit.

    The one place where Python parses rows: one JSON value holds a record of any width.
    """
    connection = raw(session)
    connection.execute(
        sql.SQL("CREATE TEMPORARY TABLE {} (_row bigint NOT NULL, record jsonb NOT NULL) ON COMMIT DROP").format(RAW)
    )
    taken = _copy_records(connection.cursor(), page, target.columns)
    types = _widen(session, target)
    make_temporary(session, target.spec, target.schema, FIT)
    rejects = list(_fit(session, target, types, 0, taken.rows))
    if target.staging is None:
        merge(session, target, FIT, young=None)
    else:
        listed = sql.SQL(", ").join(map(sql.Identifier, target.columns))
        connection.execute(sql.SQL("INSERT INTO {} ({c}) SELECT {c} FROM {}").format(target.table, FIT, c=listed))
    drop_temporary(session, FIT)
    connection.execute(sql.SQL("DROP TABLE {}").format(RAW))
    return Taken(taken.rows, taken.bytes, taken.nul_bytes, rejects)


def _copy_records(cursor: Cursor, page: Page, columns: tuple[str, ...]) -> Taken:
    pieces = _Pieces(page.chunks())
    records, rows = parsed(pieces), 0
    with cursor.copy(sql.SQL("COPY {} (_row, record) FROM STDIN").format(RAW)) as copy:
        for rows, record in enumerate(records, start=1):
            if rows == 1:
                _check_columns(list(record), columns)
            copy.write_row((rows, json.dumps(record)))
    _check_rows(page, rows)
    return Taken(rows, pieces.bytes, pieces.nul_bytes)


def _widen(session: Session, target: Target) -> dict[str, str]:
    """Widen each column that a staged text does not fit, in the mirror and in the table being filled; types after it."""
    connection = raw(session)
    types = existing(session, target.schema, target.spec.table) or {}
    typed = [name for name in target.columns if types[name] != TEXT]
    if not typed:
        return types
    fits = sql.SQL("coalesce(bool_and(pg_input_is_valid(record ->> {}, {})), true)")
    kinds = [(name, kind) for name in typed for kind in (types[name], NUMERIC)]
    checks = sql.SQL(", ").join(fits.format(sql.Literal(name), sql.Literal(kind)) for name, kind in kinds)
    row = connection.execute(sql.SQL("SELECT {} FROM {}").format(checks, RAW)).fetchone() or ()
    fitting = dict(zip(kinds, row, strict=True))
    for name in typed:
        if fitting[name, types[name]]:
            continue
        types[name] = NUMERIC if types[name] == BIGINT and fitting[name, NUMERIC] else TEXT
        for table in (target.mirror, *([target.staging] if target.staging else [])):
            retype(session, target.spec, table, name, partial(ddl.widen, column=name, target=types[name]))
    return types


def _fit(session: Session, target: Target, types: dict[str, str], low: int, high: int) -> Iterator[dict[str, Any]]:
    """Cast rows low < _row ≤ high; halve the span until only the rows that do not fit are left, and yield those."""
    if high <= low:
        return
    casts = sql.SQL(", ").join(
        sql.SQL("CAST(record ->> {} AS {})").format(sql.Literal(name), sql.SQL(types[name])) for name in target.columns
    )
    listed = sql.SQL(", ").join(map(sql.Identifier, target.columns))
    statement = sql.SQL("INSERT INTO {} ({}) SELECT {} FROM {} WHERE _row > %s AND _row <= %s")
    try:
        with session.begin_nested():
            raw(session).execute(statement.format(FIT, listed, casts, RAW), (low, high))
    except REFUSED as error:
        if high - low > 1:
            middle = (low + high) // 2
            yield from _fit(session, target, types, low, middle)
            yield from _fit(session, target, types, middle, high)
            return
        query = sql.SQL("SELECT record ->> 'id', record FROM {} WHERE _row = %s").format(RAW)
        record_id, record = raw(session).execute(query, (high,)).fetchone() or ("", {})
        reason = str(error).strip().splitlines()[0]
        yield {"id": record_id or "", "record": record, "reason": f"{error.sqlstate}: {reason}"}
