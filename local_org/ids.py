"""Record ids: 15 case-sensitive characters, or 18 with a checksum that survives case-folding.

Source: Salesforce Help, "What are the different ID formats"; the first three characters name the object.
"""

import re
from functools import lru_cache

ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
CHECKSUM = "ABCDEFGHIJKLMNOPQRSTUVWXYZ012345"
INSTANCE = "Lo0"
COUNTER_DIGITS = 9

_SHAPE = re.compile(r"[0-9A-Za-z]{15}(?:[0-9A-Za-z]{3})?")
_PAIRS = tuple(high + low for high in ALPHABET for low in ALPHABET)
_PAIR_COUNT = len(_PAIRS)
_PAIR_CAPITALS = tuple(("A" <= pair[0] <= "Z") | ("A" <= pair[1] <= "Z") << 1 for pair in _PAIRS)


def checksum(id15: str) -> str:
    """The three characters that turn a 15-character id into its 18-character form."""
    return _check(id15[:5]) + _check(id15[5:10]) + _check(id15[10:])


@lru_cache(65_536)
def _check(group: str) -> str:
    """One checksum character: bit i is set if character i of the group is a capital."""
    return CHECKSUM[sum(1 << i for i, char in enumerate(group) if "A" <= char <= "Z")]


def to_18(text: str) -> str | None:
    """The 18-character form of an id in either form; None if `text` is not an id.

    The last three characters of an 18-character id restore the case of the others.
    """
    if not _SHAPE.fullmatch(text):
        return None
    if len(text) == 15:
        return text + checksum(text)
    if checksum(text[:15]) == text[15:]:
        return text
    id15 = _restore_case(text[:15], text[15:].upper())
    return None if id15 is None else id15 + checksum(id15)


def _restore_case(id15: str, check: str) -> str | None:
    if any(char not in CHECKSUM for char in check):
        return None
    upper = [(CHECKSUM.index(check[i // 5]) >> (i % 5)) & 1 for i in range(15)]
    letters = [char.upper() if up else char.lower() for char, up in zip(id15, upper, strict=True)]
    restored = "".join(letters)
    return restored if checksum(restored) == check else None


def numbered(prefix: str, number: int) -> str:
    """The 18-character id of the `number`-th record (from 0) with this key prefix in this org."""
    high, low = divmod(number, _PAIR_COUNT)
    first, middle = divmod(high, _PAIR_COUNT)
    if first >= len(ALPHABET):  # beyond 916 million records of an object
        return _numbered_far(prefix, number)
    # `first` is one character, the second of the pair "0?"
    capitals = _PAIR_CAPITALS[first] >> 1 | _PAIR_CAPITALS[middle] << 1 | _PAIR_CAPITALS[low] << 3
    head, check = _head(prefix)
    return head + ALPHABET[first] + _PAIRS[middle] + _PAIRS[low] + check + CHECKSUM[capitals]


@lru_cache(1_024)
def _head(prefix: str) -> tuple[str, str]:
    """The first ten characters of an id with a small number, and their two characters of checksum."""
    head = f"{prefix}{INSTANCE}".ljust(10, "0")
    return head, _check(head[:5]) + _check(head[5:])


def _numbered_far(prefix: str, number: int) -> str:
    digits = ""
    while number:
        number, rest = divmod(number, _PAIR_COUNT)
        digits = _PAIRS[rest] + digits
    id15 = f"{prefix}{INSTANCE}" + digits.rjust(COUNTER_DIGITS, "0")[-COUNTER_DIGITS:]
    return id15 + checksum(id15)


def number_of(id18: str) -> int | None:
    """The counter inside an id of this org; None for ids that another org made."""
    if id18[3:6] != INSTANCE:
        return None
    number = 0
    for char in id18[6:15]:
        number = number * 62 + ALPHABET.index(char)
    return number
