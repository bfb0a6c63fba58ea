"""JSON as it goes to the org. Pure."""

import json
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any


def dumps(value: Any) -> bytes:
    """JSON for the org. Decimals stay exact: as a number where a float carries it, else as text, which the org reads too."""
    return json.dumps(value, default=_plain, ensure_ascii=False, separators=(",", ":")).encode()


def _plain(value: Any) -> Any:
    if isinstance(value, Decimal):
        if value == value.to_integral_value() and abs(value) < 10**15:
            return int(value)
        return float(value) if Decimal(repr(float(value))) == value else format(value, "f")
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    if hasattr(value, "isoformat"):
        return value.isoformat()
    raise TypeError(f"{type(value).__name__} has no place in JSON")
