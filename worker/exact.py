"""JSON with exact numbers. Pure.

Python's json reads 1234567890123456.78 into a float and cannot write a Decimal; amounts must pass unchanged.
"""

import json
import re
import secrets
from decimal import Decimal
from typing import Any

MOST_DIGITS = 400  # more than any float has
_MARK = secrets.token_hex(16)  # unguessable: no text that comes in can pass for a number
_MARKED = re.compile(f'"{_MARK}:([^"]*)"')


def dumps(value: Any, *, canonical: bool = False) -> str:
    """JSON text; Decimals as the numbers they are. `canonical`: the same text for equal values (keys sorted, 1.50 as 1.5),

    which `sfsync.canonical_json` in Postgres makes of them, too.
    """

    text = (_CANONICAL if canonical else _ENCODER).encode(value)
    return _MARKED.sub(r"\1", text) if _MARK in text else text


def loads(text: str | bytes) -> Any:
    """JSON → values, numbers with a point as Decimal. ValueError for anything else than JSON, NaN included.

    Also for a number like 1e999999999, which is short as long as nobody writes it out.
    """
    if not isinstance(text, str):
        text = text.decode(json.detect_encoding(text), "surrogatepass")
    return _DECODER.decode(text)


def _number(text: str) -> Decimal:
    number = Decimal(text)
    if number and not -MOST_DIGITS < number.adjusted() < MOST_DIGITS:
        raise ValueError("the number is out of range")
    return number


def _canonical(number: Decimal) -> str:
    if not number:
        return "0"  # -0.00, too
    text = format(number, "f")
    return text.rstrip("0").rstrip(".") if "." in text else text


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is no JSON")


_DECODER = json.JSONDecoder(parse_float=_number, parse_constant=_refuse)  # `json.loads` would make one each time


def _marked(item: Any) -> str:
    return f"{_MARK}:{_exact(item):f}"


def _marked_canonical(item: Any) -> str:
    return f"{_MARK}:{_canonical(_exact(item))}"


def _exact(item: Any) -> Decimal:
    if not isinstance(item, Decimal) or not item.is_finite():
        raise TypeError(f"{type(item).__name__} has no place in JSON")
    return item


# `json.dumps` would make one each time, too.
_ENCODER = json.JSONEncoder(default=_marked, allow_nan=False, separators=(",", ":"))
_CANONICAL = json.JSONEncoder(
    default=_marked_canonical, sort_keys=True, ensure_ascii=False, allow_nan=False, separators=(",", ":")
)
