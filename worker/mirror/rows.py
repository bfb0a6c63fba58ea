"""Records of JSON answers → the CSV that a Bulk page would have, so that all rows come in by one way. Pure."""

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from typing import Any


def to_csv(records: Iterable[Mapping[str, Any]], fields: Sequence[str], *, with_header: bool = True) -> bytes:
    """UTF-8, header first, every value quoted, an empty field for null."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, quoting=csv.QUOTE_ALL, lineterminator="\n")
    if with_header:
        writer.writerow(fields)
    for record in records:
        writer.writerow([_plain(record.get(field)) for field in fields])
    return buffer.getvalue().encode()


def _plain(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    return format(value, "f") if isinstance(value, Decimal) else str(value)


def header(line: bytes) -> list[str]:
    """Column names of a page: the fields of its first line, lower case."""
    return [name.strip().lower() for name in next(csv.reader([line.decode("utf-8-sig")]), [])]
