"""Reading a mirror as the org's own REST API would answer: Salesforce's field names, `attributes`, values in its formats.

Numbers stay as exact as Postgres keeps them (Decimal). Source of the formats: REST API Developer Guide, "sObject Rows"; fact:
datetimes end in +0000, times in Z.
"""

from dataclasses import dataclass
from datetime import UTC, date, datetime, time
from typing import Any

from psycopg import sql
from psycopg.rows import dict_row
from sqlalchemy import text
from sqlalchemy.orm import Session

from worker.db import raw
from worker.mirror.question import Question, Table, columns_of, make_cursor, statements
from worker.mirror.schema import STAMPS

READ_SECONDS = 20  # a list that Postgres cannot answer in this time is given up


@dataclass(frozen=True, slots=True)
class Page:
    """Records of one page, and the cursor of the next; None after the last."""

    records: list[dict[str, Any]]
    next_cursor: str | None


FIND = """
SELECT m.object, c.schema_name, m.table_name, m.state, m.stamp_field,
       ARRAY(SELECT field ->> 'name' FROM jsonb_array_elements(m.describe -> 'fields') AS field) AS fields,
       sfsync.lag(m.fresh_cursor, m.clock_skew_seconds) AS fresh_lag,
       sfsync.lag(m.settled_cursor, m.clock_skew_seconds) AS settled_lag
  FROM sfsync.mirrors m JOIN salesforce_oauth_tokens c ON c.id = m.connection_id
 WHERE m.connection_id = :connection AND lower(m.object) = lower(:object) AND m.describe IS NOT NULL
"""

COLUMNS = """
SELECT column_name, data_type FROM information_schema.columns
 WHERE table_schema = :schema AND table_name = :table ORDER BY ordinal_position
"""


def find_table(session: Session, connection_id: int, object_name: str, *, version: str) -> Table | None:
    """The mirror of an object (any case); None when there is none, or no table yet."""
    row = session.execute(text(FIND), {"connection": connection_id, "object": object_name}).mappings().first()
    if row is None:
        return None
    held = session.execute(text(COLUMNS), {"schema": row["schema_name"], "table": row["table_name"]}).all()
    named = {name.lower(): name for name in row["fields"]}
    types = {column: kind for column, kind in held if column in named}
    if "id" not in types:
        return None
    stamp = next((name.lower() for name in (row["stamp_field"], *STAMPS) if name and name.lower() in types), None)
    return Table(
        object=row["object"],
        schema=row["schema_name"],
        table=row["table_name"],
        fields={column: named[column] for column in types},
        types=types,
        state=row["state"],
        stamp=stamp,
        fresh_lag=_seconds(row["fresh_lag"]),
        settled_lag=_seconds(row["settled_lag"]),
        version=version,
    )


def _seconds(value: Any) -> float | None:
    return None if value is None else max(0.0, round(float(value), 3))


def list_page(session: Session, table: Table, question: Question) -> Page:
    """One page of records. RequestError for what cannot be asked."""
    found: list[dict[str, Any]] = []
    for part in statements(table, question):
        wanted = question.limit + 1 - len(found)
        if wanted > 0:
            found += _rows(session, part.query, (*part.values, wanted))
    page = found[: question.limit]
    places = [(row.pop("_place"), row["id"]) for row in page]
    following = make_cursor(table, question, places[-1]) if len(found) > question.limit else None
    return Page([as_record(table, row) for row in page], following)


def get_record(
    session: Session, table: Table, record_id: str, fields: tuple[str, ...] | None = None
) -> dict[str, Any] | None:
    """One record by its 18-character id; None when the mirror has none."""
    columns = sql.SQL(", ").join(map(sql.Identifier, columns_of(table, fields)))
    query = sql.SQL("SELECT {} FROM {} WHERE id = %s").format(columns, sql.Identifier(table.schema, table.table))
    row = next(iter(_rows(session, query, (record_id,))), None)
    return None if row is None else as_record(table, row)


def _rows(session: Session, query: sql.Composed, values: tuple[Any, ...]) -> list[dict[str, Any]]:
    session.execute(text(f"SET LOCAL statement_timeout = '{READ_SECONDS}s'"))
    with raw(session).cursor(row_factory=dict_row) as cursor:
        return cursor.execute(query, values).fetchall()


def as_record(table: Table, row: dict[str, Any]) -> dict[str, Any]:
    """One row as the org's REST API shows the record."""
    url = f"/services/data/v{table.version}/sobjects/{table.object}/{row['id']}"
    record: dict[str, Any] = {"attributes": {"type": table.object, "url": url}}
    return record | {table.fields[column]: as_json(value) for column, value in row.items()}


def as_json(value: Any) -> Any:
    """A column's value in the format of the org's REST API."""
    match value:
        case datetime():
            utc = value.astimezone(UTC)
            return f"{utc:%Y-%m-%dT%H:%M:%S}.{utc.microsecond // 1000:03}+0000"
        case date():
            return value.isoformat()
        case time():
            return f"{value:%H:%M:%S}.{value.microsecond // 1000:03}Z"
        case _:
            return value
