"""Record ids: 15 case-sensitive characters, or 18 with a check sum. We keep 18 everywhere; this is where they are made so.

Source: SOAP API guide, "ID Field Type".
"""

import re
from functools import lru_cache

_ID = re.compile(r"[A-Za-z0-9]{15}(?:[A-Za-z0-9]{3})?")
_CHECK = "ABCDEFGHIJKLMNOPQRSTUVWXYZ012345"
KEY_PREFIX_LENGTH = 3


def to_18(record_id: str) -> str:
    """The 18-character form of a 15- or 18-character id; ValueError when it has neither form.

    18 characters stay as they are, for the org is the authority on its ids, unless they lost their case on the way (all letters
    upper or all lower) and the check sum tells what it was.
    """
    if not _ID.fullmatch(record_id):
        raise ValueError(f"{record_id!r} is no record id")
    if len(record_id) == 15:
        return record_id + checksum(record_id)
    if record_id[15:] == checksum(record_id[:15]) or record_id not in (record_id.upper(), record_id.lower()):
        return record_id
    return _restore_case(record_id) or record_id


def is_id(text: str) -> bool:
    """Whether `to_18` would accept it."""
    try:
        to_18(text)
    except ValueError:
        return False
    return True


def key_prefix(record_id: str) -> str:
    """The first three characters: which object the record belongs to."""
    return record_id[:KEY_PREFIX_LENGTH]


def checksum(id_15: str) -> str:
    """The three characters that encode which of the fifteen are upper case: one for each five, first character lowest bit."""
    return _check_of(id_15[:5]) + _check_of(id_15[5:10]) + _check_of(id_15[10:])


@lru_cache(4_096)  # the records of one answer differ in their last characters alone
def _check_of(five: str) -> str:
    return _CHECK[sum(1 << bit for bit, char in enumerate(five) if "A" <= char <= "Z")]


def _restore_case(record_id: str) -> str | None:
    """What an id was before its letters were all made upper or lower case; None when the check sum does not fit any."""
    bits = [_CHECK.find(char) for char in record_id[15:].upper()]
    letters = [
        char.upper() if bits[place // 5] >> place % 5 & 1 else char.lower() for place, char in enumerate(record_id[:15])
    ]
    short = "".join(letters)
    return short + checksum(short) if checksum(short) == record_id[15:].upper() else None
