"""A small object, its table and hand-made pages, for the tests of the store."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from psycopg import sql

from worker.db import Database, raw
from worker.mirror import intake, store, tables
from worker.mirror.schema import TableSpec, table_spec
from worker.mirror.store import Target
from worker.salesforce.describe import ObjectDescribe, parse

SCHEMA = "salesforce"
YOUNG = datetime(2020, 1, 1, tzinfo=UTC)  # every row of these tests is young
FIELDS = {
    "Id": "id",
    "IsDeleted": "boolean",
    "MasterRecordId": "reference",
    "Name": "string",
    "Amount": "currency",
    "Count": "int",
    "Born": "date",
    "SystemModstamp": "datetime",
}


def described(fields: dict[str, str] | None = None) -> ObjectDescribe:
    """An object `Thing` with these fields (name → type)."""
    entries = [{"name": name, "type": kind} for name, kind in (fields or FIELDS).items()]
    return parse({"name": "Thing", "queryable": True, "fields": entries})


def spec(fields: dict[str, str] | None = None) -> TableSpec:
    return table_spec(described(fields))


def record_id(number: int) -> str:
    return f"a00{number:012}AAA"


def stamp(second: int) -> str:
    return f"2026-01-01T00:00:{second:02}.000Z"


def row(number: int, second: int, **values: str) -> dict[str, str]:
    """One record, as CSV writes it."""
    return {"Id": record_id(number), "IsDeleted": "false", "SystemModstamp": stamp(second), **values}


def page(rows: Sequence[dict[str, str]], fields: Sequence[str] = tuple(FIELDS)) -> bytes:
    """The CSV of a page: every value quoted."""
    lines = [list(fields), *([one.get(name, "") for name in fields] for one in rows)]
    quoted = [",".join('"' + value.replace('"', '""') + '"' for value in line) for line in lines]
    return ("\n".join(quoted) + "\n").encode()


@dataclass
class Wire:
    """A page on the wire, in chunks of any size."""

    data: bytes
    rows: int | None = None
    size: int = 1 << 16
    opened: int = field(default=0)

    def chunks(self) -> Iterator[bytes]:
        for start in range(0, len(self.data), self.size):
            yield self.data[start : start + self.size]

    @contextmanager
    def open(self) -> Iterator["Wire"]:
        self.opened += 1
        yield self


class Things:
    """The mirror of `Thing` in a test's database."""

    def __init__(self, database: Database, table: TableSpec | None = None) -> None:
        self.database = database
        self.spec = table or spec()
        with database.transaction() as session:
            tables.ensure_table(session, self.spec, SCHEMA)

    def target(self, read: int, staging: str | None = None) -> Target:
        identifier = sql.Identifier(SCHEMA, staging) if staging else None
        return Target(self.spec, SCHEMA, identifier, self.spec.names, 1, read)

    def load(self, wire: Wire, read: int = 1) -> intake.Taken:
        """Copy a page straight into the mirror, as a first load does."""
        with self.database.transaction() as session:
            tables.number_rows(session, self.spec, SCHEMA, read)
        with self.database.transaction() as session:
            return intake.take_in(session, self.target(read), wire.open)

    def merge(self, rows: Sequence[dict[str, str]], read: int) -> store.Merged:
        """Merge rows as a refresh does."""
        with self.database.transaction() as session:
            staged, _ = intake.look(session, self.target(read), [page(rows)])
            assert staged.staging is not None
            return store.merge(session, self.target(read), staged.staging, young=YOUNG)

    def query(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        with self.database.transaction() as session:
            cursor = raw(session).execute(statement.encode(), values or None)
            return cursor.fetchall() if cursor.description else []

    def names(self) -> dict[str, str]:
        """Id → name of the mirror's rows."""
        return dict(self.query("SELECT id, name FROM salesforce.thing"))

    def tombstones(self) -> dict[str, tuple[str, str | None]]:
        return {
            one[0]: (one[1], one[2]) for one in self.query("SELECT id, cause, winner_id FROM salesforce._tombstones")
        }
