"""What a caller may ask of a mirror, and the statement that answers it. Pure.

Pages are cut by the value of the order column and the id of the last record shown, never by counting: records that come, go
or change meanwhile neither repeat nor hide one that stays. Nulls come last; ties are ordered by id.
"""

import base64
import binascii
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, time
from decimal import Decimal, InvalidOperation
from typing import Any

from psycopg import sql

from worker.errors import RequestError

LONGEST_VALUE = 4000  # characters of one filter value
LONGEST_ORDER_VALUE = 400  # characters of the order column's value that go into a cursor
MOST_VALUES = 200  # of one `in`
COMPARISONS = {"eq": "=", "ne": "<>", "lt": "<", "lte": "<=", "gt": ">", "gte": ">="}
PATTERNS = {"contains": "%{}%", "starts": "{}%"}
OPERATORS = (*COMPARISONS, "in", "null", *PATTERNS)
BIGGEST_INTEGER = 2**63 - 1


@dataclass(frozen=True, slots=True)
class Table:
    """A mirror that can be read: where it is, its columns, and the org's name of each. Lags are in seconds."""

    object: str
    schema: str
    table: str
    fields: dict[str, str]  # column → field
    types: dict[str, str]  # column → Postgres type
    state: str
    stamp: str | None  # column that orders versions
    fresh_lag: float | None
    settled_lag: float | None
    version: str  # of the API, for the records' URLs

    def column(self, field: str) -> str:
        """The column of a field (any case); RequestError when it is not mirrored."""
        if field.lower() not in self.fields:
            raise RequestError(
                "INVALID_FIELD", f"{self.object} has no field {field[:80]} in the mirror.", fields=(field,)
            )
        return field.lower()


@dataclass(frozen=True, slots=True)
class Filter:
    """One condition: `operator` is one of OPERATORS; `value` as text, or a plain JSON value."""

    field: str
    operator: str
    value: Any


@dataclass(frozen=True, slots=True)
class Question:
    """What a list is asked for. `fields` None: all. `cursor`: where the page before ended."""

    limit: int
    order_by: str = "Id"
    descending: bool = False
    filters: tuple[Filter, ...] = ()
    fields: tuple[str, ...] | None = None
    updated_since: datetime | None = None
    cursor: str | None = None


@dataclass(frozen=True, slots=True)
class Statement:
    """One part of a page's answer, with the values of its parameters; LIMIT is the last one and not yet among them."""

    query: sql.Composed
    values: tuple[Any, ...]


Place = tuple[str | None, str]  # the order column's value as text (None: null), the id


def columns_of(table: Table, fields: tuple[str, ...] | None) -> list[str]:
    """The columns to show: the id first, then what was asked for, or everything."""
    if fields is None:
        return list(table.fields)
    return list(dict.fromkeys(["id", *(table.column(field) for field in fields)]))


def statements(table: Table, question: Question) -> list[Statement]:
    """The parts of one page, in order: what has a value in the order column, then what has none.

    Each part selects `_place` (the order column as text) before the columns. RequestError for what cannot be asked.
    """
    order = table.column(question.order_by)
    place = read_cursor(table, question)
    condition, values = _where(table, question)
    parts = []
    if place is None or place[0] is not None:
        parts.append(_part(table, question, order, condition, values, place))
    if order != "id":
        after = place if place is not None and place[0] is None else None
        parts.append(_null_part(table, question, order, condition, values, after))
    return parts


def _part(
    table: Table, question: Question, order: str, condition: sql.Composable, values: list[Any], place: Place | None
) -> Statement:
    column, direction = sql.Identifier(order), sql.SQL("DESC" if question.descending else "ASC")
    conditions, given = [condition], list(values)
    if order != "id":
        conditions.append(sql.SQL("{} IS NOT NULL").format(column))
    if place is not None:
        sign = sql.SQL("<" if question.descending else ">")
        kind = sql.SQL(table.types[order])  # Postgres's own name of it, never input
        conditions.append(sql.SQL("({}, id) {} (CAST(%s AS {}), %s)").format(column, sign, kind))
        given += [place[0], place[1]]
    ordering = sql.SQL("{} {}, id {}").format(column, direction, direction)
    return Statement(_select(table, question, order, conditions, ordering), tuple(given))


def _null_part(
    table: Table, question: Question, order: str, condition: sql.Composable, values: list[Any], place: Place | None
) -> Statement:
    direction, sign = (sql.SQL("DESC"), sql.SQL("<")) if question.descending else (sql.SQL("ASC"), sql.SQL(">"))
    conditions, given = [condition, sql.SQL("{} IS NULL").format(sql.Identifier(order))], list(values)
    if place is not None:
        conditions.append(sql.SQL("id {} %s").format(sign))
        given.append(place[1])
    return Statement(_select(table, question, order, conditions, sql.SQL("id {}").format(direction)), tuple(given))


def _select(
    table: Table, question: Question, order: str, conditions: list[sql.Composable], ordering: sql.Composable
) -> sql.Composed:
    return sql.SQL("SELECT CAST({} AS text) AS _place, {} FROM {} WHERE {} ORDER BY {} LIMIT %s").format(
        sql.Identifier(order),
        sql.SQL(", ").join(map(sql.Identifier, columns_of(table, question.fields))),
        sql.Identifier(table.schema, table.table),
        sql.SQL(" AND ").join(conditions),
        ordering,
    )


def _where(table: Table, question: Question) -> tuple[sql.Composable, list[Any]]:
    conditions: list[sql.Composable] = [sql.SQL("true")]
    values: list[Any] = []
    for one in question.filters:
        condition, given = _condition(table, one)
        conditions.append(condition)
        values += given
    if question.updated_since is not None:
        if table.stamp is None:
            raise RequestError("INVALID_FIELD", f"{table.object} has no stamp, so updated_since cannot be answered.")
        conditions.append(sql.SQL("{} >= %s").format(sql.Identifier(table.stamp)))
        values.append(question.updated_since)
    return sql.SQL(" AND ").join(conditions), values


def _condition(table: Table, one: Filter) -> tuple[sql.Composable, list[Any]]:
    column = table.column(one.field)
    name, kind = sql.Identifier(column), table.types[column]
    if one.operator in COMPARISONS:
        sign = sql.SQL(COMPARISONS[one.operator])
        if one.value is None and one.operator in ("eq", "ne"):
            return sql.SQL("{} IS NULL" if one.operator == "eq" else "{} IS NOT NULL").format(name), []
        return sql.SQL("{} {} %s").format(name, sign), [typed(one, kind, one.value)]
    if one.operator == "null":
        wanted = typed(one, "boolean", one.value)
        return sql.SQL("{} IS NULL" if wanted else "{} IS NOT NULL").format(name), []
    if one.operator == "in":
        parts = one.value if isinstance(one.value, list) else str(one.value).split(",")
        if not 0 < len(parts) <= MOST_VALUES:
            raise _wrong(one, f"give 1 to {MOST_VALUES} values")
        return sql.SQL("{} = ANY(%s)").format(name), [[typed(one, kind, part) for part in parts]]
    if one.operator in PATTERNS:
        if kind != "text":
            raise _wrong(one, f"{one.operator} is for text, and this field is {kind}")
        text = str(typed(one, kind, one.value))
        escaped = text.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
        return sql.SQL("{} ILIKE %s").format(name), [PATTERNS[one.operator].format(escaped)]
    raise _wrong(one, f"the operator is one of {', '.join(OPERATORS)}")


def typed(one: Filter, kind: str, value: Any) -> Any:
    """A filter's value as the column's type wants it; RequestError when it is none."""
    if isinstance(value, dict | list) or value is None:
        raise _wrong(one, "give one plain value")
    text = str(value).lower() if isinstance(value, bool) else str(value)
    if len(text) > LONGEST_VALUE or "\x00" in text or any("\ud800" <= c <= "\udfff" for c in text):
        raise _wrong(one, "the value is too long or no text")
    try:
        return _PARSERS.get(kind, str)(text)
    except (ValueError, InvalidOperation, OverflowError):
        raise _wrong(one, f"{text[:40]!r} is no {kind}") from None


def _boolean(text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise ValueError(text)
    return text.lower() == "true"


def _integer(text: str) -> int:
    if len(text) > 20 or abs(number := int(text)) > BIGGEST_INTEGER:
        raise ValueError(text)
    return number


def _decimal(text: str) -> Decimal:
    number = Decimal(text)
    if not number.is_finite() or not -400 < number.adjusted() < 400:
        raise ValueError(text)
    return number


def instant(text: str) -> datetime:
    """ISO 8601 → aware UTC; without an offset it is UTC. ValueError for anything else."""
    found = datetime.fromisoformat(text.strip().replace(" ", "+"))  # a + that was not escaped in a query
    return found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)


_PARSERS: Mapping[str, Any] = {
    "boolean": _boolean,
    "bigint": _integer,
    "numeric": _decimal,
    "date": date.fromisoformat,
    "timestamp with time zone": instant,
    "time without time zone": lambda text: time.fromisoformat(text.removesuffix("Z")),
}


def _wrong(one: Filter, why: str) -> RequestError:
    return RequestError("VALIDATION_ERROR", f"Filter {one.field[:80]}: {why}.", fields=(one.field,))


def make_cursor(table: Table, question: Question, place: Place) -> str:
    """An opaque cursor after `place`. It belongs to this object, order and these filters."""
    if place[0] is not None and len(place[0]) > LONGEST_ORDER_VALUE:
        raise RequestError(
            "INVALID_FIELD", f"{question.order_by} is too long to order by.", fields=(question.order_by,)
        )
    content = json.dumps([_digest(table, question), *place], separators=(",", ":"))
    return base64.urlsafe_b64encode(content.encode()).rstrip(b"=").decode()


def read_cursor(table: Table, question: Question) -> Place | None:
    """Where the page before ended; None for the first page. RequestError for a cursor that is not of this question."""
    if question.cursor is None:
        return None
    text = question.cursor
    try:
        digest, value, record_id = json.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
    except (binascii.Error, ValueError, TypeError, RecursionError):
        raise _foreign() from None
    if digest != _digest(table, question) or not isinstance(record_id, str) or not isinstance(value, str | None):
        raise _foreign()
    kind = table.types[table.column(question.order_by)]
    if value is not None and kind != "text":
        try:
            _PARSERS.get(kind, str)(value)
        except (ValueError, InvalidOperation, OverflowError):
            raise _foreign() from None
    if "\x00" in f"{value}{record_id}" or any("\ud800" <= c <= "\udfff" for c in f"{value}{record_id}"):
        raise _foreign()
    return value, record_id


def _foreign() -> RequestError:
    message = "The cursor is not of this list: use next_cursor of the page before, with the same filters and order."
    return RequestError("INVALID_CURSOR", message)


def _digest(table: Table, question: Question) -> str:
    asked = [table.object, question.order_by.lower(), question.descending, str(question.updated_since)]
    asked += sorted(f"{one.field.lower()} {one.operator} {one.value}" for one in question.filters)
    return hashlib.sha256(json.dumps(asked).encode()).hexdigest()[:16]
