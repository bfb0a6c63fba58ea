"""Which records of the org are the creates that got no answer. Pure.

A create without a key that was sent and not answered may be there. It is compared with the records that our user created
since, field by field as the org normalises values; equal actions and equal records are paired one to one. Where two
different actions could both be a record's origin nobody can tell, and nothing is paired.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, time
from decimal import ROUND_HALF_UP, Context, Decimal, InvalidOperation
from typing import Any, Generic, TypeVar
from uuid import UUID

from worker.salesforce.describe import FieldDescribe, ObjectDescribe
from worker.salesforce.ids import is_id, to_18

Values = Mapping[str, Any]
T = TypeVar("T")
NOT_COMPARED = frozenset({"encryptedstring", "base64", "address", "location", "anyType", "complexvalue"})
DIGITS = Context(prec=15, rounding=ROUND_HALF_UP)  # a number may pass through a double on its way


@dataclass(frozen=True, slots=True)
class Suspect:
    """A create in doubt: the values it sent, normalised (`comparable`). Its record cannot be older than `since`."""

    id: UUID
    values: Values
    since: datetime


@dataclass(frozen=True, slots=True)
class Found:
    """A record of the org that no outcome names, with the values of its fields, normalised (`comparable`)."""

    id: str
    values: Values
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Pairing:
    """`adopted`: action → record. `under_way`: records that a sending whose answer is still to come may have made.

    `unexplained`: records that are nobody's for certain.
    """

    adopted: dict[UUID, str]
    under_way: tuple[str, ...]
    unexplained: tuple[str, ...]


def pair(suspects: Sequence[Suspect], records: Sequence[Found], in_flight: Iterable[Values] = ()) -> Pairing:
    """Pair what can only be so. A record that a create still under way could have made is left alone.

    Of equal suspects the one that was sent first takes the oldest record. What one pairing leaves may make another certain:
    a suspect that has its record is nobody else's.
    """
    flying = _Groups((values, None) for values in in_flight)
    under_way = {one.id for one in records if flying.fitting(one)}
    left = sorted((one for one in records if one.id not in under_way), key=lambda one: (one.created_at, one.id))
    adopted: dict[UUID, str] = {}
    waiting = _Groups((one.values, one) for one in sorted(suspects, key=lambda one: one.since))
    progress = True
    while progress:
        unpaired = []
        for record in left:
            equal = [group for group in waiting.fitting(record) if group[0].since <= record.created_at]
            if len(equal) == 1:  # the first of a group was sent first
                adopted[equal[0].pop(0).id] = record.id
            else:
                unpaired.append(record)
        progress = len(unpaired) < len(left)
        left = unpaired
    return Pairing(adopted, tuple(sorted(under_way)), tuple(one.id for one in left))


class _Groups(Generic[T]):
    """Things by the values that they sent: those that a record may come from are found without looking at all, for there may
    be thousands of both. What sent nothing that can be compared fits no record.
    """

    def __init__(self, sent: Iterable[tuple[Values, T]]) -> None:
        self._by_names: dict[tuple[str, ...], dict[tuple[Any, ...], list[T]]] = {}
        for values, one in sent:
            if names := tuple(sorted(values)):
                groups = self._by_names.setdefault(names, {})
                groups.setdefault(tuple(values[name] for name in names), []).append(one)

    def fitting(self, record: Found) -> list[list[T]]:
        """The groups, each of equal values and not empty, whose values the record holds."""
        found = []
        for names, groups in self._by_names.items():
            group = groups.get(tuple(record.values.get(name) for name in names))
            if group:
                found.append(group)
        return found


def comparable(describe: ObjectDescribe, fields: Mapping[str, Any]) -> dict[str, Any]:
    """Values by canonical field name, as the org would store them; without empty ones and those that cannot be compared."""
    values: dict[str, Any] = {}
    for name, value in fields.items():
        field = describe.field(name)
        if field is None or value is None or isinstance(value, (dict, list)):
            continue
        normal = normalise(field, value)
        if normal is not None:
            values[field.name] = normal
    return values


def normalise(field: FieldDescribe, value: Any) -> Any:
    """One value as the org keeps it: trimmed, to the field's scale, ids in 18 characters, e-mail in lower case.

    None for what is empty, and for what the org never gives back as it was sent (masked or rewritten text).
    """
    text = str(value).strip()
    if text == "" or field.encrypted or field.type in NOT_COMPARED or field.extra_type_info == "richtextarea":
        return None
    match field.type:
        case "boolean":
            return text.lower() in ("true", "1")
        case "double" | "currency" | "percent" | "int" | "long":
            return _number(field, text)
        case "reference" | "id":
            return to_18(text) if is_id(text) else text
        case "email":
            return text.lower()
        case "date":
            return text[:10]
        case "datetime":
            return _instant(text)
        case "time":
            return _time(text)
        case "picklist" | "combobox":
            return text.casefold()
        case "multipicklist":
            return ";".join(sorted(part.strip().casefold() for part in text.split(";")))
        case _:
            return text.replace("\r\n", "\n").replace("\r", "\n")


def _number(field: FieldDescribe, text: str) -> Any:
    """To the field's scale, and to the digits that every way through the org keeps."""
    try:
        scaled = Decimal(text).quantize(Decimal(1).scaleb(-field.scale), rounding=ROUND_HALF_UP)
        return DIGITS.plus(scaled).normalize()
    except InvalidOperation:
        return text


def _instant(text: str) -> Any:
    try:
        value = datetime.fromisoformat(text)
        aware = value if value.tzinfo else value.replace(tzinfo=UTC)
        return aware.astimezone(UTC).replace(microsecond=0)
    except (ValueError, OverflowError):  # no moment, or one before the year 1
        return text


def _time(text: str) -> Any:
    try:
        value = time.fromisoformat(text.removesuffix("Z"))
    except ValueError:
        return text
    return value.replace(microsecond=value.microsecond // 1000 * 1000, tzinfo=None)
