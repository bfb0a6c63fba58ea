"""Field values: as stored, as REST JSON, and back.

Stored: text as text, booleans as 0/1, numbers as integers scaled by 10**scale, dates as YYYY-MM-DD, times as
milliseconds since midnight, datetimes as epoch milliseconds UTC (whole seconds), ids with 18 characters.
Source of the JSON forms: REST API Developer Guide; SOAP API Developer Guide, "Primitive Data Types".
"""

import base64
import binascii
import json
import re
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from decimal import ROUND_HALF_UP, Decimal, InvalidOperation
from functools import lru_cache
from json.encoder import encode_basestring
from typing import Any

from local_org.catalogue import Field
from local_org.errors import ApiError, WrongKindError
from local_org.ids import to_18

Stored = str | int | None

NUMBERS = frozenset({"double", "currency", "percent"})
INTEGERS = frozenset({"int", "long"})
COMPOUNDS = frozenset({"address", "location"})

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_EXACT = "\ue000"
_EXACT_TEXT = re.compile('"\ue000(-?[0-9.]+)"')
_DATETIME = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)[T ](\d\d):(\d\d)(?::(\d\d)(\.\d{1,9})?)?(Z|[+-]\d\d:?\d\d)?", re.IGNORECASE
)
_ANY_MOMENT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")
_BROKEN = re.compile("[\ud800-\udfff]")  # halves of a surrogate pair: no text that UTF-8 can carry
_TIME = re.compile(r"(\d\d):(\d\d)(?::(\d\d)(?:\.(\d{1,3}))?)?Z?")


class Exact(str):
    """A number that a float cannot carry; `dumps` writes its digits unquoted."""

    __slots__ = ()


_ENCODER = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))


class Json(str):
    """JSON text as `dumps` makes it."""

    __slots__ = ()


def dumps(value: Any) -> bytes:
    """JSON as the org sends it: UTF-8, no spaces, decimals with all their digits."""
    return text_of(value).encode("utf-8", "surrogatepass")


def text_of(value: Any) -> str:
    """The same as text."""
    if isinstance(value, Json):
        return value
    text = encode_basestring(value) if value.__class__ is str else _ENCODER.encode(value)
    return _EXACT_TEXT.sub(r"\1", text) if _EXACT in text else text


def number_text(stored: int, scale: int) -> str:
    """Digits of a scaled integer with at least one decimal: 950000000.0, 12.34."""
    sign, digits = ("-", str(-stored)) if stored < 0 else ("", str(stored))
    if scale == 0:
        return f"{sign}{digits}.0"
    digits = digits.rjust(scale + 1, "0")
    return f"{sign}{digits[:-scale]}.{digits[-scale:].rstrip('0') or '0'}"


def _number_json(field: Field, stored: Any) -> float | Exact:
    if -(10**15) < stored < 10**15:
        number = float(stored / 10**field.scale)
        if number == 0 or abs(number) >= 0.0001:
            return number
    return Exact(_EXACT + number_text(stored, field.scale))


@lru_cache(65_536)  # a record has several stamps of one moment, and so have its neighbours
def datetime_text(stored_ms: int) -> str:
    """REST form: 2020-10-22T21:03:23.000+0000."""
    days, rest = divmod(stored_ms, 86_400_000)
    return f"{_day_text(days)}T{time_text(rest)[:-1]}+0000"


@lru_cache(65_536)
def _day_text(days: int) -> str:
    return (_EPOCH.date() + timedelta(days=days)).isoformat()


def time_text(stored_ms: int) -> str:
    seconds, millis = divmod(stored_ms, 1000)
    return f"{seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}.{millis:03d}Z"


def _any_json(_: Field, stored: str) -> str:
    """A value of any type is kept as Bulk writes it; JSON writes its moments with an offset."""
    return f"{stored[:-1]}+0000" if _ANY_MOMENT.fullmatch(stored) else stored


_TO_JSON: dict[str, Callable[[Field, Any], Any]] = {
    "anyType": _any_json,
    "boolean": lambda _, stored: bool(stored),
    "datetime": lambda _, stored: datetime_text(stored),
    "time": lambda _, stored: time_text(stored),
    **dict.fromkeys(NUMBERS, _number_json),
}


def shower(field: Field) -> Callable[[Any], Any] | None:
    """What makes the JSON value of this field's stored values; None where they are the same."""
    if field.type == "boolean":
        return bool
    render = _TO_JSON.get(field.type)
    return None if render is None else lambda stored: None if stored is None else render(field, stored)


def to_json(field: Field, stored: Any) -> Any:
    """The JSON value of one stored value. Compound fields are put together by the caller."""
    if stored is None:
        return False if field.type == "boolean" else None
    render = _TO_JSON.get(field.type)
    return stored if render is None else render(field, stored)


def from_json(field: Field, value: Any) -> Stored:
    """The stored form of a value of a request body. Text is read as the field's type, as the platform does.

    Raises ApiError: JSON_PARSER_ERROR for a value of the wrong kind, MALFORMED_ID for a bad id,
    NUMBER_OUTSIDE_VALID_RANGE for a number that has too many digits.
    """
    if value is None or value == "":
        return 0 if field.type == "boolean" else None
    if isinstance(value, dict):
        raise _wrong_kind(field, "START_OBJECT", "{")
    if isinstance(value, list):
        raise _wrong_kind(field, "START_ARRAY", "[")
    return _FROM_JSON.get(field.type, _text_value)(field, value)


def _wrong_kind(field: Field, token: str, value: Any) -> ApiError:
    return WrongKindError(field.type, token, value, field.label, field.name)


def _token(value: Any) -> str:
    if isinstance(value, bool):
        return "VALUE_TRUE" if value else "VALUE_FALSE"
    if isinstance(value, str):
        return "VALUE_STRING"
    return "VALUE_NUMBER_INT" if isinstance(value, int) else "VALUE_NUMBER_FLOAT"


def _text_value(field: Field, value: Any) -> Stored:
    if not isinstance(value, str):
        raise _wrong_kind(field, _token(value), value)
    if field.type == "base64":
        return _blob_value(field, value)
    value = _BROKEN.sub("\ufffd", value.replace("\x00", ""))
    text = value if field.type == "textarea" else value.strip()
    return text if text.strip() else None


def _blob_value(field: Field, value: str) -> str:
    try:
        return base64.b64encode(base64.b64decode("".join(value.split()), validate=True)).decode()
    except binascii.Error:
        raise _wrong_kind(field, "VALUE_STRING", value[:40]) from None


def _boolean_value(field: Field, value: Any) -> Stored:
    if isinstance(value, bool):
        return int(value)
    text = str(value).strip().lower()
    if text in ("true", "1"):
        return 1
    if text in ("false", "0"):
        return 0
    raise _wrong_kind(field, _token(value), value)


def _decimal(field: Field, value: Any) -> Decimal:
    if isinstance(value, bool):
        raise _wrong_kind(field, _token(value), value)
    try:
        number = Decimal(str(value).strip())
    except InvalidOperation:
        raise _wrong_kind(field, _token(value), value) from None
    if not number.is_finite():
        raise _wrong_kind(field, _token(value), value)
    return number


def _out_of_range(field: Field) -> ApiError:
    text = f"{field.label}: value outside of valid range on numeric field: "
    return ApiError(400, "NUMBER_OUTSIDE_VALID_RANGE", text + "too many digits", [field.name])


def _number_value(field: Field, value: Any) -> Stored:
    number = _decimal(field, value)
    if number.adjusted() > field.precision - field.scale and number != 0:
        raise _out_of_range(field)
    scaled = int((number * 10**field.scale).to_integral_value(ROUND_HALF_UP))
    if abs(scaled) >= 10 ** min(field.precision or 18, 18):
        raise _out_of_range(field)
    return scaled


def _integer_value(field: Field, value: Any) -> Stored:
    number = _decimal(field, value)
    if number != number.to_integral_value():
        raise _wrong_kind(field, _token(value), value)
    limit = 10**18 if field.type == "long" else 2**31
    if abs(number) >= limit:
        raise _out_of_range(field)
    return int(number)


def _id_value(field: Field, value: Any) -> Stored:
    record_id = to_18(value.strip()) if isinstance(value, str) else None
    if record_id is None:
        text = f"{field.label}: id value of incorrect type: {value}"
        raise ApiError(400, "MALFORMED_ID", text, [field.name])
    return record_id


def _date_value(field: Field, value: Any) -> Stored:
    text = str(value).strip()
    try:
        parsed = _iso_date(text[:10])
    except ValueError:
        raise _wrong_kind(field, _token(value), value) from None
    if len(text) > 10 and parse_datetime(text) is None:
        raise _wrong_kind(field, _token(value), value)
    return _known_year(field, parsed).isoformat()


def _iso_date(text: str) -> date:
    """2026-11-28; the other forms of ISO 8601 are none of the platform's. Raises ValueError."""
    if text[4:5] != "-" or text[7:8] != "-":
        raise ValueError(text)
    return date.fromisoformat(text)


def _known_year(field: Field, moment: date) -> date:
    if not 1700 <= moment.year <= 4000:
        text = f"{field.label}: invalid date: {moment}"
        raise ApiError(400, "INVALID_TYPE_ON_FIELD_IN_RECORD", text, [field.name])
    return moment


def parse_datetime(text: str) -> int | None:
    """Epoch milliseconds of an ISO 8601 moment or date, UTC where no zone is given; None for other text."""
    match = _DATETIME.fullmatch(text.strip())
    if match is None:
        try:
            day = _iso_date(text.strip())
        except ValueError:
            return None
        return (day - _EPOCH.date()).days * 86_400_000
    year, month, day_, hour, minute, second, fraction, zone = match.groups()
    try:
        moment = datetime(int(year), int(month), int(day_), int(hour), int(minute), int(second or 0), tzinfo=UTC)
    except ValueError:
        return None
    millis = int((fraction or ".0")[1:4].ljust(3, "0"))
    return int((moment - _EPOCH).total_seconds()) * 1000 + millis - _zone_ms(zone)


def _zone_ms(zone: str | None) -> int:
    if zone is None or zone in ("Z", "z"):
        return 0
    digits = zone[1:].replace(":", "")
    minutes = int(digits[:2]) * 60 + int(digits[2:])
    return minutes * 60_000 * (-1 if zone[0] == "-" else 1)


def _datetime_value(field: Field, value: Any) -> Stored:
    parsed = parse_datetime(str(value))
    if parsed is None:
        raise _wrong_kind(field, _token(value), value)
    _known_year(field, (_EPOCH + timedelta(milliseconds=parsed)).date())
    return parsed // 1000 * 1000


def _time_value(field: Field, value: Any) -> Stored:
    match = _TIME.fullmatch(str(value).strip())
    if match is None:
        raise _wrong_kind(field, _token(value), value)
    hour, minute, second, millis = (int(part or 0) for part in match.groups())
    if hour > 23 or minute > 59 or second > 59:
        raise _wrong_kind(field, _token(value), value)
    millis *= (100, 10, 1)[len(match.group(4) or "000") - 1]
    return ((hour * 60 + minute) * 60 + second) * 1000 + millis


_FROM_JSON: dict[str, Callable[[Field, Any], Stored]] = {
    "boolean": _boolean_value,
    "id": _id_value,
    "reference": _id_value,
    "date": _date_value,
    "datetime": _datetime_value,
    "time": _time_value,
    **dict.fromkeys(NUMBERS, _number_value),
    **dict.fromkeys(INTEGERS, _integer_value),
}
