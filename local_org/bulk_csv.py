"""Rows as CSV text, made inside SQLite by one expression.

Source: Bulk API 2.0 and Bulk API Developer Guide, "Prepare CSV Files": every value quoted, null is empty, quotes
doubled, datetimes end in Z.
"""

from collections.abc import Sequence

from local_org.soql.plan import Column
from local_org.values import INTEGERS, NUMBERS

# SQLite takes at most 100 arguments to a function, the format being one of them.
_MAX_VALUES = 99
_GROUP = 100
_PLAIN = frozenset({"id", "reference", "date", "boolean", "datetime", "time"}) | NUMBERS | INTEGERS


def header(columns: Sequence[Column], delimiter: str, line_ending: str) -> bytes:
    return (delimiter.join(f'"{column.path}"' for column in columns) + line_ending).encode()


def row_sql(columns: Sequence[Column], delimiter: str, line_ending: str) -> str:
    """The expression that gives a whole line as a blob.

    printf is the fastest way that SQLite has, but it ends a text at a NUL; rows that hold one, which are rare, are
    put together by || instead.
    """
    texts = [column.sql for column in columns if column.field.type not in _PLAIN]
    fast = _by_printf(columns, delimiter, line_ending)
    if not texts:
        return f"CAST({fast} AS BLOB)"
    has_nul = _chained(" OR ", [f"instr({sql}, char(0))" for sql in texts])
    return (
        f"CAST(CASE WHEN {has_nul} THEN {_by_concatenation(columns, delimiter, line_ending)} ELSE {fast} END AS BLOB)"
    )


def _by_printf(columns: Sequence[Column], delimiter: str, line_ending: str) -> str:
    pieces = []
    for start in range(0, len(columns), _MAX_VALUES):
        some = columns[start : start + _MAX_VALUES]
        values = ", ".join(f"ifnull({_text(c)}, '')" for c in some)
        layout = delimiter.join('"%s"' if c.field.type in _PLAIN else '"%w"' for c in some)
        pieces.append(f"printf('{layout}', {values})")
    between = f" || '{delimiter}' || "
    return f"{between.join(pieces)} || '{line_ending}'"


def _by_concatenation(columns: Sequence[Column], delimiter: str, line_ending: str) -> str:
    values = _chained(f" || '\"{delimiter}\"' || ", [f"replace(ifnull({_text(c)}, ''), '\"', '\"\"')" for c in columns])
    return f"'\"' || {values} || '\"{line_ending}'"


def _chained(operator: str, terms: Sequence[str]) -> str:
    """Terms with an operator between them, in groups: SQLite takes expressions that are 1,000 deep, and a chain is as deep as long."""
    groups = [operator.join(terms[n : n + _GROUP]) for n in range(0, len(terms), _GROUP)]
    return operator.join(f"({group})" for group in groups)


def _text(column: Column) -> str:
    """The value as text; null stays null."""
    sql, kind = column.sql, column.field.type
    if kind == "boolean":
        return f"CASE {sql} WHEN 1 THEN 'true' WHEN 0 THEN 'false' END"
    if kind == "datetime":
        return f"strftime('%Y-%m-%dT%H:%M:%S', {sql} / 1000, 'unixepoch') || '.000Z'"
    if kind == "time":
        return f"strftime('%H:%M:%f', {sql} / 1000.0, 'unixepoch') || 'Z'"
    if kind in NUMBERS:
        return _number(sql, column.field.scale)
    return sql


def _number(sql: str, scale: int) -> str:
    """Digits of a scaled integer with at least one decimal: 950000000.0, -0.25."""
    if scale == 0:
        return f"{sql} || '.0'"
    unit = 10**scale
    fraction = f"abs({sql}) % {unit}"
    decimals = f"CASE {fraction} WHEN 0 THEN '0' ELSE rtrim(printf('%0{scale}d', {fraction}), '0') END"
    return f"CASE WHEN {sql} < 0 THEN '-' ELSE '' END || (abs({sql}) / {unit}) || '.' || {decimals}"
