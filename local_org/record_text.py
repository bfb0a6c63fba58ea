"""Many records as JSON text, column by column: the same text as `dumps` makes of them one by one, in a fraction of the time."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from local_org.values import Json, text_of

Row = Sequence[Any]
Show = Callable[[Any], Any]
Step = tuple[str, int, Show | None]  # a name; a column, or -1 for the whole row; what makes a value of it
_EXACT_KINDS = frozenset({int, str, type(None)})


def texts(object_name: str, base: str, steps: Sequence[Step], blobs: Sequence[str], rows: Sequence[Row]) -> list[Json]:
    """The records of `rows`, whose first column is the id. `base` and an id make a URL; `blobs` show a URL below it."""
    if not rows:
        return []
    columns = list(zip(*rows, strict=True))
    ids = columns[0]
    parts: dict[str, str | list[str]] = {}
    for name, index, show in steps:
        parts[name] = (
            _column(columns[index], show) if index >= 0 else [text_of(show(row) if show else row) for row in rows]
        )
    for name in blobs:
        urls = [text_of(f"{base}{record_id}/{name}") for record_id in ids]
        shown = parts[name]
        given = [shown] * len(ids) if isinstance(shown, str) else shown
        parts[name] = [text if text == "null" else url for text, url in zip(given, urls, strict=True)]
    urls = [text_of(base + record_id) for record_id in ids]
    form = _literal(f'{{"attributes":{{"type":{text_of(object_name)},"url":') + "%s" + _literal("}")
    for name, part in parts.items():
        form += _literal(f",{text_of(name)}:") + (_literal(part) if isinstance(part, str) else "%s")
    form += _literal("}")
    varying = [part for part in parts.values() if not isinstance(part, str)]
    return [Json(form % values) for values in zip(urls, *varying, strict=True)]


def a_list(items: Iterable[Json]) -> Json:
    """JSON texts as a JSON list."""
    return Json(f"[{','.join(items)}]")


def _literal(text: str) -> str:
    return text.replace("%", "%%")


def _column(values: Sequence[Any], show: Show | None) -> str | list[str]:
    """The texts of a column's values; one text where it is the same for all."""
    distinct = set(values)
    if any(value.__class__ is not str for value in distinct) and not _EXACT_KINDS.issuperset(map(type, values)):
        return [text_of(show(value) if show else value) for value in values]  # 1 and 1.0 are equal, and look different
    known = {value: text_of(show(value) if show else value) for value in distinct}
    if len(known) == 1:
        return next(iter(known.values()))
    return list(map(known.__getitem__, values))
