"""Records ↔ the CSV of a Bulk page. JSON answers become CSV too, so that all rows come in by one way. Pure."""

import codecs
import csv
import io
import re
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from decimal import Decimal
from typing import Any

from worker import exact

MOMENT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+0000", re.ASCII)  # as JSON writes it; Bulk ends it with Z


def to_csv(
    records: Iterable[Mapping[str, Any]],
    fields: Sequence[str],
    *,
    with_header: bool = True,
    loose: Collection[str] = (),
) -> bytes:
    """UTF-8, header first, every value quoted, an empty field for null.

    `loose`: fields of any type, which are kept as text: their moments are written as Bulk writes them.
    """
    buffer = io.StringIO()
    writer = csv.writer(buffer, quoting=csv.QUOTE_ALL, lineterminator="\n")
    if with_header:
        writer.writerow(fields)
    rows = list(records)
    columns = [_column([row.get(field) for row in rows], loose=field in loose) for field in fields]
    writer.writerows(zip(*columns, strict=True))
    return buffer.getvalue().encode("utf-8", "surrogatepass")  # halves of a pair go the way that those of CSV go


def _column(values: list[Any], *, loose: bool) -> list[Any]:
    """Values of one field as csv is to write them. Most fields hold nothing else than what it writes as it is meant."""
    if loose:
        return [_as_bulk(_plain(value)) for value in values]
    return values if _WRITTEN.issuperset(map(type, values)) else [_plain(value) for value in values]


_WRITTEN = frozenset({str, int, type(None)})


def _as_bulk(value: str) -> str:
    return f"{value[:-5]}Z" if MOMENT.fullmatch(value) else value


def _plain(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (dict, list)):  # of a type that is no compound known to us: kept as the JSON that it is
        return exact.dumps(value)
    return format(value, "f") if isinstance(value, Decimal) else str(value)


def header(line: bytes) -> list[str]:
    """Column names of a page: the fields of its first line, lower case."""
    return [name.strip().lower() for name in next(csv.reader([line.decode("utf-8-sig")]), [])]


def parsed(chunks: Iterable[bytes]) -> Iterator[dict[str, str | None]]:
    """The records of a page (column → value, an empty field is None). Slow: for what COPY refused.

    Bytes that are no UTF-8 (halves of a surrogate pair) become U+FFFD: no text of Postgres can hold them.
    """
    csv.field_size_limit(sys.maxsize)
    reader = csv.reader(_lines(codecs.iterdecode(iter(chunks), "utf-8-sig", errors="replace")))
    names = [name.strip().lower() for name in next(reader, [])]
    for values in reader:
        yield {name: value or None for name, value in zip(names, values, strict=True)}


def _lines(pieces: Iterable[str]) -> Iterator[str]:
    """Lines with their ends; broken at line feeds alone, for values may hold every other separator."""
    held = ""
    for piece in pieces:
        *lines, held = (held + piece).split("\n")
        for line in lines:
            yield line + "\n"
    if held:
        yield held
