"""Rows of ours as JSON shows them."""

from collections.abc import Mapping
from datetime import date, datetime
from typing import Any
from uuid import UUID


def plain(row: Mapping[str, Any], *, without: tuple[str, ...] = ()) -> dict[str, Any]:
    """A row with times in ISO 8601 UTC and ids as text."""
    return {name: _plain(value) for name, value in row.items() if name not in without}


def _plain(value: Any) -> Any:
    match value:
        case datetime():
            return value.isoformat().replace("+00:00", "Z")
        case date() | UUID():
            return str(value)
        case _:
            return value
