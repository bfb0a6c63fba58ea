"""Mirror tables in Postgres: make and widen them, bring rows in by COPY, merge, compare.

Everything here runs in the caller's transaction. Rows come in as CSV bytes that Python never parses; what Postgres
refuses is taken in once more as text, so that one bad value does not stop a load (see `_salvage`).
"""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, Protocol

import psycopg
from psycopg import sql
from psycopg.errors import DataError, ProgramLimitExceeded, UniqueViolation
from sqlalchemy.orm import Session

from worker.db import raw
from worker.errors import OrgComplaint, SchemaChangedError, TransientError
from worker.mirror import ddl
from worker.mirror import merge as statements
from worker.mirror.merge import Names
from worker.mirror.rows import header, parsed
from worker.mirror.schema import BIGINT, NUMERIC, READ, TEXT, TableSpec

REFUSED = (DataError, UniqueViolation, ProgramLimitExceeded)  # SQLSTATE 22…, 23505, 54000
LOCKS = 0x5F5F  # our family of advisory locks
DDL_LOCK = -1  # in that family; mirrors' locks are their ids
RAW = sql.Identifier("_raw")
FIT = sql.Identifier("_fit")
LOOK = sql.Identifier("_look")

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


@dataclass(frozen=True, slots=True)
class Merged:
    """What a merge changed."""

    changed: int
    deleted: int


# --- tables


def existing(session: Session, schema: str, table: str) -> dict[str, str] | None:
    """Column → type of a table as it stands; None when there is none."""
    rows = (
        raw(session)
        .execute(
            """
        SELECT a.attname, format_type(a.atttypid, a.atttypmod) FROM pg_attribute a
         WHERE a.attrelid = to_regclass(format('%%I.%%I', %s::text, %s::text)) AND a.attnum > 0 AND NOT a.attisdropped
        """,
            (schema, table),
        )
        .fetchall()
    )
    return dict(rows) or None


def ensure_table(session: Session, spec: TableSpec, schema: str) -> None:
    """Make or complete the mirror table, its schema and the tombstones. Two makers at once wait for each other."""
    connection = raw(session)
    connection.execute("SELECT pg_advisory_xact_lock(%s, %s)", (LOCKS, DDL_LOCK))
    for statement in (
        *ddl.create_schema(schema),
        *ddl.plan(spec, existing(session, schema, spec.table), schema=schema),
    ):
        connection.execute(statement)


def empty_table(session: Session, spec: TableSpec, schema: str) -> None:
    """Before a first load: no rows of an earlier attempt, no tombstones of an earlier mirror."""
    connection = raw(session)
    table, tombstones = sql.Identifier(schema, spec.table), sql.Identifier(schema, ddl.TOMBSTONES)
    connection.execute(sql.SQL("TRUNCATE {}").format(table))
    connection.execute(sql.SQL("DELETE FROM {} WHERE object = %s").format(tombstones), (spec.object,))


def number_rows(session: Session, spec: TableSpec, schema: str, read: int | None) -> None:
    """Give rows that COPY brings the number of their read; None: rows must bring it themselves again."""
    value = sql.SQL("DROP DEFAULT") if read is None else sql.SQL("SET DEFAULT {}").format(sql.Literal(read))
    table = sql.Identifier(schema, spec.table)
    raw(session).execute(sql.SQL("ALTER TABLE {} ALTER COLUMN {} {}").format(table, sql.Identifier(READ), value))


def make_staging(session: Session, spec: TableSpec, schema: str, staging: str) -> None:
    """An unlogged table shaped as the mirror stands, without its key: a Bulk result may repeat a record."""
    connection, name = raw(session), sql.Identifier(schema, staging)
    connection.execute(sql.SQL("DROP TABLE IF EXISTS {}").format(name))
    mirror = sql.Identifier(schema, spec.table)
    connection.execute(sql.SQL("CREATE UNLOGGED TABLE {} (LIKE {})").format(name, mirror))
    _default_read(connection, name)


def _make_temporary(session: Session, like: sql.Identifier, name: sql.Identifier) -> None:
    connection = raw(session)
    connection.execute(sql.SQL("CREATE TEMPORARY TABLE {} (LIKE {}) ON COMMIT DROP").format(name, like))
    _default_read(connection, name)


def _default_read(connection: psycopg.Connection[Any], table: sql.Identifier) -> None:
    connection.execute(sql.SQL("ALTER TABLE {} ALTER COLUMN {} SET DEFAULT 0").format(table, sql.Identifier(READ)))


def drop_table(session: Session, schema: str, table: str | None) -> None:
    """Drop a staging or suspects table, if there is one."""
    if table is not None:
        raw(session).execute(sql.SQL("DROP TABLE IF EXISTS {}").format(sql.Identifier(schema, table)))


def count(session: Session, schema: str, table: str) -> int:
    """Rows of a table. After a crash of the server an unlogged table is empty: who staged rows counts them before use."""
    row = raw(session).execute(sql.SQL("SELECT count(*) FROM {}").format(sql.Identifier(schema, table))).fetchone()
    return int(row[0]) if row else 0


def finish_table(session: Session, spec: TableSpec, schema: str) -> None:
    """After a first load: what left meanwhile, the secondary indexes, statistics."""
    connection = raw(session)
    names = Names.of(spec, schema, sql.Identifier("_none"), spec.names)
    connection.execute(statements.drop_buried(names), {"object": spec.object})
    number_rows(session, spec, schema, None)
    for statement in ddl.index_plan(spec, schema=schema):
        connection.execute(statement)
    connection.execute(sql.SQL("ANALYZE {}").format(names.mirror))


# --- rows coming in


@dataclass(frozen=True, slots=True)
class Target:
    """Where rows go: the mirror itself (`staging` None) or a staging table. `columns` are those that must come."""

    spec: TableSpec
    schema: str
    staging: sql.Identifier | None
    columns: tuple[str, ...]
    mirror_id: int
    read: int

    @property
    def mirror(self) -> sql.Identifier:
        """The mirror table."""
        return sql.Identifier(self.schema, self.spec.table)

    @property
    def table(self) -> sql.Identifier:
        """The table that COPY fills."""
        return self.staging or self.mirror


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
    _make_temporary(session, target.table, FIT)
    rejects = list(_fit(session, target, types, 0, taken.rows))
    if target.staging is None:
        merge(session, target, FIT, young=None)
    else:
        listed = sql.SQL(", ").join(map(sql.Identifier, target.columns))
        connection.execute(sql.SQL("INSERT INTO {} ({c}) SELECT {c} FROM {}").format(target.table, FIT, c=listed))
    connection.execute(sql.SQL("DROP TABLE {}, {}").format(RAW, FIT))
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
            connection.execute(ddl.widen(table, name, types[name]))
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


# --- merging and comparing


def lock_mirror(session: Session, mirror_id: int) -> None:
    """Merges of one mirror wait for each other: a row and its tombstone must not be written past one another."""
    raw(session).execute("SELECT pg_advisory_xact_lock(%s, %s)", (LOCKS, mirror_id))


def merge(session: Session, target: Target, staging: sql.Identifier, *, young: datetime | None) -> Merged:
    """Merge staged rows into the mirror; `young`: see cursor.young_since (None: no row is)."""
    lock_mirror(session, target.mirror_id)
    names = Names.of(target.spec, target.schema, staging, target.columns)
    values = {"object": target.spec.object, "read": target.read, "young": young or "infinity"}
    connection = raw(session)
    counts = {what: connection.execute(text, values).rowcount for what, text in statements.merge(names).items()}
    return Merged(changed=counts["changed"], deleted=counts.get("deleted", 0))


def look(session: Session, target: Target, data: Sequence[bytes]) -> tuple[Target, Taken]:
    """Stage CSV that is here in a temporary table, until the transaction ends; the target that names it."""
    _make_temporary(session, target.mirror, LOOK)
    staged = replace(target, staging=LOOK)
    return staged, take_in(session, staged, lambda: nullcontext(MemoryPage(data)))


def bury(session: Session, target: Target, ids: Sequence[str], began: datetime) -> int:
    """Bury the records that a read by Id, begun at `began`, did not find at all; how many were here."""
    if not ids:
        return 0
    lock_mirror(session, target.mirror_id)
    names = Names.of(target.spec, target.schema, LOOK, target.columns)
    values = {"object": target.spec.object, "read": target.read, "began": began, "ids": list(ids)}
    return raw(session).execute(statements.bury_unseen(names), values).rowcount


def forget(session: Session, target: Target, ids: Sequence[str]) -> None:
    """Let go of what we hold on these records, unless a later read wrote it: what comes next is taken whatever its stamp."""
    lock_mirror(session, target.mirror_id)
    names = Names.of(target.spec, target.schema, LOOK, target.columns)
    values = {"object": target.spec.object, "read": target.read, "ids": list(ids)}
    for statement in statements.forget(names):
        raw(session).execute(statement, values)


# --- suspects: records that may differ, in a table of their own until each was looked at again


def make_suspects(session: Session, target: Target, suspects: str, *, compared: Sequence[str] | None) -> int:
    """Fill a suspects table from a full read in staging; how many there are.

    `compared`: columns to compare on both sides; None: only look for mirror rows that the read did not bring.
    """
    assert target.staging is not None
    names = Names.of(target.spec, target.schema, target.staging, compared or target.columns)
    connection, table = raw(session), sql.Identifier(target.schema, suspects)
    connection.execute(statements.drop_repeated(names), {"read": target.read})
    connection.execute(sql.SQL("DROP TABLE IF EXISTS {}").format(table))
    connection.execute(
        sql.SQL('CREATE UNLOGGED TABLE {} (id text COLLATE "C" PRIMARY KEY, kind text NOT NULL, verdict text)').format(
            table
        )
    )
    query = statements.unseen(names) if compared is None else statements.suspects(names)
    return connection.execute(
        sql.SQL("INSERT INTO {} (id, kind) {}").format(table, query), {"read": target.read}
    ).rowcount


def open_suspects(session: Session, schema: str, suspects: str, limit: int) -> list[str]:
    """Ids of suspects that were not judged yet."""
    query = sql.SQL("SELECT id FROM {} WHERE verdict IS NULL ORDER BY id LIMIT %s")
    return [row[0] for row in raw(session).execute(query.format(sql.Identifier(schema, suspects)), (limit,)).fetchall()]


def close_suspects(session: Session, schema: str, suspects: str, ids: Sequence[str], verdict: str) -> None:
    """Give these suspects one verdict."""
    query = sql.SQL("UPDATE {} SET verdict = %s WHERE id = ANY(%s)").format(sql.Identifier(schema, suspects))
    raw(session).execute(query, (verdict, list(ids)))


def judge(
    session: Session, staged: Target, suspects: str, ids: Sequence[str], *, compared: Sequence[str], since: datetime
) -> None:
    """Give these suspects their verdicts from a second look at them (see merge.verdicts)."""
    assert staged.staging is not None
    lock_mirror(session, staged.mirror_id)
    columns = [*compared, *(["isdeleted"] if "isdeleted" in staged.columns and "isdeleted" not in compared else [])]
    names = Names.of(staged.spec, staged.schema, staged.staging, columns)
    statement = statements.verdicts(names, sql.Identifier(staged.schema, suspects))
    raw(session).execute(statement, {"ids": list(ids), "since": since, "read": staged.read})


def verdict_counts(session: Session, schema: str, suspects: str) -> dict[str, int]:
    """How many suspects got each verdict."""
    query = sql.SQL("SELECT verdict, count(*) FROM {} GROUP BY verdict").format(sql.Identifier(schema, suspects))
    return dict(raw(session).execute(query).fetchall())


def judged(session: Session, schema: str, suspects: str, ids: Sequence[str]) -> dict[str, str]:
    """The differences among `ids`: id → missing, surplus, different."""
    query = sql.SQL("SELECT id, verdict FROM {} WHERE id = ANY(%s) AND verdict <> 'moved'")
    return dict(raw(session).execute(query.format(sql.Identifier(schema, suspects)), (list(ids),)).fetchall())


def differing(session: Session, staged: Target, record_id: str, compared: Sequence[str]) -> list[dict[str, str | None]]:
    """The fields in which a record differs from a second look at it: {"field", "org", "mirror"}, values shortened."""
    assert staged.staging is not None
    query = sql.SQL(
        """
        SELECT o.key AS field, left(o.value, 80) AS org, left(h.value, 80) AS mirror
          FROM {staging} s JOIN {mirror} m USING (id), jsonb_each_text(to_jsonb(s)) o JOIN jsonb_each_text(to_jsonb(m)) h USING (key)
         WHERE s.id = %s AND o.value IS DISTINCT FROM h.value AND o.key = ANY(%s)
        """
    ).format(staging=staged.staging, mirror=staged.mirror)
    rows = raw(session).execute(query, (record_id, list(compared))).fetchall()
    return [{"field": row[0], "org": row[1], "mirror": row[2]} for row in rows]
