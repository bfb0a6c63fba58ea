"""Reading a mirror as the org's own REST API would answer: Salesforce's field names, `attributes`, values in its formats.

Source of the formats: REST API Developer Guide, "sObject Rows"; fact: datetimes end in +0000, times in Z.
"""

from dataclasses import dataclass
from datetime import UTC, date, datetime, time
from decimal import Decimal
from typing import Any

from psycopg import sql
from psycopg.rows import dict_row
from sqlalchemy import text
from sqlalchemy.orm import Session

from worker.db import raw
from worker.mirror.schema import COMPOUND


@dataclass(frozen=True, slots=True)
class Table:
    """A mirror that can be read: where it is, and the org's name of each of its columns."""

    object: str
    schema: str
    table: str
    fields: dict[str, str]  # column → field
    state: str
    fresh_lag: float | None  # seconds
    version: str  # of the API, for the records' URLs


FIND = """
SELECT m.object, c.schema_name, m.table_name, m.state, m.describe -> 'fields' AS fields,
       extract(epoch FROM clock_timestamp() - m.fresh_cursor) AS fresh_lag
  FROM sfsync.mirrors m JOIN salesforce_oauth_tokens c ON c.id = m.connection_id
 WHERE m.connection_id = :connection AND lower(m.object) = lower(:object)
"""

COLUMNS = """
SELECT column_name FROM information_schema.columns WHERE table_schema = :schema AND table_name = :table
"""


def find_table(session: Session, connection_id: int, object_name: str, *, version: str) -> Table | None:
    """The mirror of an object (any case); None when there is none or it was not described yet."""
    row = session.execute(text(FIND), {"connection": connection_id, "object": object_name}).mappings().first()
    if row is None or row["fields"] is None:
        return None
    held = set(session.scalars(text(COLUMNS), {"schema": row["schema_name"], "table": row["table_name"]}))
    named = {field["name"].lower(): field["name"] for field in row["fields"] if field["type"] not in COMPOUND}
    return Table(
        object=row["object"],
        schema=row["schema_name"],
        table=row["table_name"],
        fields={column: field for column, field in named.items() if column in held},
        state=row["state"],
        fresh_lag=None if row["fresh_lag"] is None else float(row["fresh_lag"]),
        version=version,
    )


def list_records(
    session: Session, table: Table, *, order_by: str, descending: bool = False, limit: int, offset: int = 0
) -> list[dict[str, Any]]:
    """Up to `limit` records, ordered by a column and the id; nulls last."""
    direction = sql.SQL("DESC NULLS LAST" if descending else "ASC NULLS LAST")
    query = sql.SQL("SELECT {} FROM {} ORDER BY {} {}, id LIMIT %s OFFSET %s").format(
        _columns(table), sql.Identifier(table.schema, table.table), sql.Identifier(order_by), direction
    )
    return _read(session, table, query, (limit, offset))


def get_record(session: Session, table: Table, record_id: str) -> dict[str, Any] | None:
    """One record by its 18-character id; None when the mirror has none."""
    query = sql.SQL("SELECT {} FROM {} WHERE id = %s").format(
        _columns(table), sql.Identifier(table.schema, table.table)
    )
    return next(iter(_read(session, table, query, (record_id,))), None)


def _columns(table: Table) -> sql.Composable:
    return sql.SQL(", ").join(map(sql.Identifier, table.fields))


def _read(session: Session, table: Table, query: sql.Composed, values: tuple[Any, ...]) -> list[dict[str, Any]]:
    with raw(session).cursor(row_factory=dict_row) as cursor:
        return [as_record(table, row) for row in cursor.execute(query, values)]


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
        case Decimal():
            return float(value)
        case _:
            return value
