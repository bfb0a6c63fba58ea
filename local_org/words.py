"""The words of a JSON document against the dataclass that they are for."""

import re
import types
from collections.abc import Mapping
from dataclasses import fields
from functools import cache
from typing import Any, get_args, get_origin, get_type_hints

API_NAME = re.compile(r"[A-Za-z]\w{0,79}", re.ASCII)
MAX_DIGITS = 18  # of a number that the store can hold
MAX_NUMBER = 2**53  # what JSON readers agree on
_KINDS = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "a text",
    dict: "an object",
    types.NoneType: "null",
}


def check_words(kind: type, words: Mapping[str, Any], what: str) -> None:
    """Raises ValueError for a word that the dataclass `kind` does not have, or a value that is not of its type."""
    hints = _hints(kind)
    unknown = sorted(set(words) - set(hints))
    if unknown:
        raise ValueError(f"{what}: unknown words {', '.join(unknown)}; it has {', '.join(hints)}")
    for name, value in words.items():
        wanted = hints[name]
        if not any(_fits(one, value) for one in wanted):
            raise ValueError(f"{what}: {name} must be {' or '.join(_named(one) for one in wanted)}")


@cache
def _hints(kind: type) -> dict[str, tuple[Any, ...]]:
    """The types that each word may have."""
    hints = get_type_hints(kind)
    union = types.UnionType
    return {
        item.name: get_args(hints[item.name]) if get_origin(hints[item.name]) is union else (hints[item.name],)
        for item in fields(kind)
    }


def _fits(wanted: Any, value: Any) -> bool:
    if get_origin(wanted) is tuple:
        return isinstance(value, list | tuple) and all(isinstance(item, str) for item in value)
    if wanted in (int, float):
        number = isinstance(value, int) or (wanted is float and isinstance(value, float))
        return number and not isinstance(value, bool) and abs(value) <= MAX_NUMBER
    return wanted is Any or isinstance(value, get_origin(wanted) or wanted)


def _named(wanted: Any) -> str:
    return "a list of texts" if get_origin(wanted) is tuple else _KINDS.get(get_origin(wanted) or wanted, str(wanted))


def whole_number(text: str) -> int | None:
    """The number that a parameter spells, None if it spells none."""
    return int(text) if text.isascii() and text.isdigit() and len(text) <= MAX_DIGITS else None
