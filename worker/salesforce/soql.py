"""SOQL, built and quoted. Pure.

Only names that look like API names and values that are quoted here get into a query.
"""

import re
from collections.abc import Iterable, Sequence
from datetime import UTC, date, datetime
from decimal import Decimal

NAME = re.compile(r"[A-Za-z]\w*(?:\.[A-Za-z]\w*)*", re.ASCII)
_ESCAPES = str.maketrans(
    {"\\": "\\\\", "'": "\\'", '"': '\\"', "\n": "\\n", "\r": "\\r", "\t": "\\t", "\b": "\\b", "\f": "\\f"}
)

Value = str | bool | int | Decimal | float | datetime | date | None


def name(text: str) -> str:
    """`text` if it can be an object's or field's API name (`Name`, `Ext__c`, `Owner.Name`); ValueError otherwise."""
    if not NAME.fullmatch(text):
        raise ValueError(f"{text!r} is no API name")
    return text


def literal(value: Value) -> str:
    """One value as SOQL writes it: 'it\\'s', true, 12.50, 2026-01-01T00:00:00Z, 2026-01-01, null.

    Datetimes must be aware; parts of a second are kept in milliseconds where there are any.
    """
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return quote(value)
    if isinstance(value, datetime):
        return instant(value)
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, Decimal):
        return format(value, "f")
    return repr(value)


def instant(value: datetime) -> str:
    """A datetime literal, UTC: 2026-01-01T00:00:00Z. ValueError when `value` is naive."""
    if value.tzinfo is None:
        raise ValueError("a naive datetime has no instant")
    utc = value.astimezone(UTC)
    text = utc.strftime("%Y-%m-%dT%H:%M:%S")
    return f"{text}.{utc.microsecond // 1000:03d}Z" if utc.microsecond >= 1000 else f"{text}Z"


def quote(text: str) -> str:
    """A string literal with everything escaped that SOQL gives a meaning."""
    return f"'{text.translate(_ESCAPES)}'"


def quote_like(text: str) -> str:
    """A string for LIKE in which % and _ mean themselves."""
    escaped = text.translate(_ESCAPES).replace("%", "\\%").replace("_", "\\_")
    return f"'{escaped}'"


def in_list(field: str, values: Iterable[Value]) -> str:
    """`Field IN ('a','b')`; ValueError for no values (SOQL has no empty list)."""
    items = [literal(value) for value in values]
    if not items:
        raise ValueError(f"{field} IN needs at least one value")
    return f"{name(field)} IN ({','.join(items)})"


def all_of(*conditions: str | None) -> str | None:
    """The conditions joined by AND, each in parentheses when there are several; None when there are none."""
    kept = [condition for condition in conditions if condition]
    if len(kept) < 2:
        return kept[0] if kept else None
    return " AND ".join(f"({condition})" for condition in kept)


def select(
    object_name: str,
    fields: Sequence[str],
    *,
    where: str | None = None,
    order_by: Sequence[str] = (),
    limit: int | None = None,
) -> str:
    """SELECT fields FROM object. `where` is SOQL built here (or an operator's row filter); `order_by` are field names."""
    parts = [f"SELECT {','.join(name(field) for field in fields)} FROM {name(object_name)}"]  # noqa: S608 (names are checked)
    if where:
        parts.append(f"WHERE {where}")
    if order_by:
        parts.append(f"ORDER BY {','.join(name(field) for field in order_by)}")
    if limit is not None:
        parts.append(f"LIMIT {limit:d}")
    return " ".join(parts)


def count(object_name: str, *, where: str | None = None) -> str:
    """SELECT COUNT() FROM object: its answer's totalSize is the number."""
    return f"SELECT COUNT() FROM {name(object_name)}" + (f" WHERE {where}" if where else "")  # noqa: S608
