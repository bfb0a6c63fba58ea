"""What a caller asks for: the form of it, and whether two requests are the same. Pure."""

import difflib
import hashlib
import re
import string
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Literal
from urllib.parse import urlsplit
from uuid import UUID

from worker import exact
from worker.salesforce.ids import to_18
from worker.salesforce.soql import name

KEY_CHARACTERS = 255
NAME_CHARACTERS = 255  # names and external ids stand in indexes, whose entries end near 2,700 bytes
URL_CHARACTERS = 2_000
LARGEST_PRIORITY = 32_767  # a smallint
LARGEST_EXPONENT = 399  # far beyond any field; written out, 1e999999999 would fill the memory
DEEPEST = 10  # levels below `fields`: a parent named by its external id takes two
EARLIEST = datetime(1, 1, 2, tzinfo=UTC)  # in any time zone a year of 1 to 9999, as LATEST
LATEST = datetime(9999, 12, 30, tzinfo=UTC)
UNSTORABLE = re.compile("[\x00\ud800-\udfff]")  # NUL, half a character

# Two external ids that differ in case may be one record to the org; taking them for one line is never wrong. Postgres must
# come to the same (sfsync.line_of), whatever its locale, so beyond ASCII no case is changed: such letters are all the same.
LOWER = str.maketrans(string.ascii_uppercase, string.ascii_lowercase)
CASED = re.compile(
    "[\u00c0-\u058f\u10a0-\u10ff\u1c80-\u1cbf\u1e00-\u214f\u2c00-\u2d2f\ua640-\ua7ff\uab30-\uabbf\ufb00-\ufb17"
    "\uff21-\uff5a\U00010400-\U0001e943]"
)

AfterFailure = Literal["go_on", "wait"]
Parent = UUID | str  # an action's id; or the idempotency key of one that was accepted before, or stands before it


@dataclass(frozen=True, slots=True)
class Intent:
    """One write that a caller asks for.

    `record_id` is needed by update and delete, `external_id_field` and `external_id` by upsert. `order_key`: actions of one
    object with the same key are applied in the order of acceptance; default: the record, and for a create none.
    `priority`: higher goes first among different records. `after_failure`: what the next action of the line does when this
    one is held or rejected. `mergeable`: a waiting update may be sent as one with its neighbour of the same record.
    `if_unmodified_since` (update and delete; the org's time): a record that was changed later gives a conflict.
    `parents`: field → the create or upsert whose record's id goes there; the action waits until that one is delivered.
    `callback_url`: told when the action is finished or held.
    """

    object: str
    operation: str
    fields: dict[str, Any] = field(default_factory=dict)
    record_id: str | None = None
    external_id_field: str | None = None
    external_id: str | None = None
    idempotency_key: str | None = None
    order_key: str | None = None
    priority: int = 0
    after_failure: AfterFailure = "go_on"
    mergeable: bool = False
    if_unmodified_since: datetime | None = None
    parents: Mapping[str, Parent] = field(default_factory=dict)
    callback_url: str | None = None


def content_hash(intent: Intent) -> bytes:
    """SHA-256 of what is asked for, the same for equal requests whatever the order of their fields.

    The SQL function computes the same (see models/migrations): one key is one action, whichever door it came through.
    What was not asked for (a default) is left out, so that an option that is added later changes no older hash.
    """
    since = intent.if_unmodified_since
    asked: dict[str, Any] = {
        "priority": intent.priority or None,
        "after_failure": None if intent.after_failure == "go_on" else intent.after_failure,
        "mergeable": intent.mergeable or None,
        "if_unmodified_since": since and since.astimezone(UTC).isoformat(timespec="microseconds"),
        "parents": {name: str(parent) for name, parent in intent.parents.items()} or None,
        "callback_url": intent.callback_url,
    }
    content = [
        intent.object.lower(),
        intent.operation,
        intent.record_id,
        intent.external_id_field,
        intent.external_id,
        intent.fields,
        intent.order_key,
        *([options] if (options := {name: value for name, value in asked.items() if value is not None}) else []),
    ]
    return hashlib.sha256(exact.dumps(content, canonical=True).encode()).digest()


def well_formed(intent: Intent) -> tuple[Intent, list[str]]:
    """The intent with an id of 18 characters and exact numbers; and a sentence for everything that is wrong with its form."""
    found = [sentence for sentence in _complaints(intent) if sentence]
    if found:
        return intent, found
    record_id = to_18(intent.record_id) if intent.record_id else None
    fields = _exact(intent.fields)
    if fields is intent.fields and record_id == intent.record_id:
        return intent, []
    return replace(intent, fields=fields, record_id=record_id), []


def _complaints(intent: Intent) -> list[str | None]:
    operation = intent.operation
    if operation not in ("create", "update", "upsert", "delete"):
        return [f"{operation!r} is no operation; choose create, update, upsert or delete."]
    found = [_no_name(intent.object), _wrong_record(intent), _wrong_key(intent.idempotency_key)]
    if (intent.external_id_field is None or not intent.external_id) == (operation == "upsert") or (
        operation != "upsert" and intent.external_id is not None
    ):
        found.append("An upsert needs external_id_field and external_id; nothing else has them.")
    elif intent.external_id_field is not None:
        found.append(_no_name(intent.external_id_field))
    if len(intent.external_id or "") > NAME_CHARACTERS:
        found.append(f"An external id has at most {NAME_CHARACTERS} characters.")
    if operation == "delete" and (intent.fields or intent.parents):
        found.append("A delete has no fields.")
    if intent.order_key is not None and not 0 < len(intent.order_key) <= KEY_CHARACTERS:
        found.append(f"An order key has 1 to {KEY_CHARACTERS} characters.")
    if abs(intent.priority) > LARGEST_PRIORITY:
        found.append(f"A priority is a whole number from -{LARGEST_PRIORITY} to {LARGEST_PRIORITY}.")
    found += _wrong_options(intent)
    if _is_deep(intent.fields):
        return [*found, f"The fields are nested more than {DEEPEST} levels deep."]
    if _is_unstorable([intent.fields, intent.external_id, intent.order_key, *map(str, intent.parents.values())]):
        found.append("The text holds NUL or half a character, which neither Postgres nor the org can keep.")
    return [*found, *_wrong_values(intent.fields)]


def _no_name(text: str) -> str | None:
    try:
        name(text)
    except (ValueError, TypeError) as error:
        return f"{error}."
    return f"{text[:40]!r}… is too long for an API name." if len(text) > NAME_CHARACTERS else None


def _wrong_record(intent: Intent) -> str | None:
    if (intent.record_id is None) == (intent.operation in ("update", "delete")):
        return "An update or delete needs a record id; a create or upsert has none."
    if intent.record_id is None:
        return None
    try:
        to_18(intent.record_id)
    except (ValueError, TypeError) as error:
        return f"{error}."
    return None


def _wrong_key(key: str | None) -> str | None:
    if key is None or (0 < len(key) <= KEY_CHARACTERS and key.isprintable()):
        return None
    return f"An idempotency key has 1 to {KEY_CHARACTERS} printable characters."


def _wrong_options(intent: Intent) -> list[str]:
    found = []
    if intent.after_failure not in ("go_on", "wait"):
        found.append(f"after_failure is go_on or wait, not {intent.after_failure!r}.")
    if intent.mergeable and (intent.operation != "update" or intent.if_unmodified_since):
        found.append("Only an update without if_unmodified_since can be mergeable.")
    if intent.if_unmodified_since is not None:
        if intent.operation not in ("update", "delete"):
            found.append("if_unmodified_since is for updates and deletes.")
        if intent.if_unmodified_since.tzinfo is None:
            found.append("if_unmodified_since needs a time zone, as in 2026-01-31T12:00:00Z.")
        elif not EARLIEST <= intent.if_unmodified_since <= LATEST:
            found.append("if_unmodified_since is a time of the years 1 to 9999.")
    for field_name in intent.parents:
        if _no_name(field_name) or "." in field_name:
            found.append(f"parents: {field_name!r} is no field name.")
        elif field_name.lower() in {given.lower() for given in intent.fields}:
            found.append(f"{field_name} is given as a parent and among the fields.")
    if intent.callback_url is not None and not _is_url(intent.callback_url):
        found.append("callback_url is an absolute http or https URL without user name or fragment.")
    return found


def _is_url(text: str) -> bool:
    try:
        parts = urlsplit(text)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False
    clean = text.isascii() and text.isprintable() and " " not in text and "\\" not in text
    return good and clean and len(text) <= URL_CHARACTERS and not (parts.username or parts.password or parts.fragment)


def _is_deep(value: Any, level: int = 0) -> bool:
    """Whether something stands more than `DEEPEST` levels below it: what walks through it must come back."""
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return bool(parts) and (level == DEEPEST or any(_is_deep(part, level + 1) for part in parts))


def _wrong_values(value: Any) -> list[str]:
    if isinstance(value, dict):
        found = [] if all(isinstance(key, str) for key in value) else ["Names of fields are text."]
        return found + [sentence for part in value.values() for sentence in _wrong_values(part)]
    if isinstance(value, list):
        return [sentence for part in value for sentence in _wrong_values(part)]
    if isinstance(value, float | Decimal):
        number = Decimal(value)
        fits = number.is_finite() and abs(number.adjusted()) <= LARGEST_EXPONENT
        return [] if fits else [f"{value} is no number that the org can hold."]
    return [] if value is None or isinstance(value, str | bool | int) else [f"{value!r} is no JSON value."]


def _exact(value: Any) -> Any:
    """Floats as the shortest decimal that reads back as the same. What has none is the same object."""
    if isinstance(value, dict):
        parts = {key: _exact(part) for key, part in value.items()}
        return parts if any(part is not value[key] for key, part in parts.items()) else value
    if isinstance(value, list):
        return [_exact(part) for part in value]
    return Decimal(repr(value)) if isinstance(value, float) else value


def _is_unstorable(value: Any) -> bool:
    if isinstance(value, str):
        return UNSTORABLE.search(value) is not None
    if isinstance(value, dict):
        value = [*value, *value.values()]
    if isinstance(value, list):
        return any(_is_unstorable(part) for part in value if part is not None)
    return False


def line_of(action_id: UUID, intent: Intent) -> str:
    """The order key of its line: actions with the same one are applied in the order of acceptance."""
    if intent.order_key is not None:
        return f"key:{intent.order_key}"
    if intent.record_id is not None:
        return intent.record_id
    if intent.external_id is not None:
        return CASED.sub("?", f"{intent.external_id_field}:{intent.external_id}".translate(LOWER))
    return action_id.hex


TYPES: Mapping[str, tuple[type, ...]] = {
    "object": (str,),
    "operation": (str,),
    "fields": (dict,),
    "record_id": (str,),
    "external_id_field": (str,),
    "external_id": (str,),
    "idempotency_key": (str,),
    "order_key": (str,),
    "priority": (int,),
    "after_failure": (str,),
    "mergeable": (bool,),
    "if_unmodified_since": (str, datetime),
    "parents": (dict,),
    "callback_url": (str,),
}
WORDS = {
    str: "text",
    dict: "a JSON object",
    int: "a whole number",
    bool: "true or false",
    datetime: "a time in ISO 8601",
}


class UnreadableError(ValueError):
    """A document is no intent. `sentences` says everything that is wrong with it."""

    def __init__(self, sentences: list[str]) -> None:
        super().__init__(" ".join(sentences))
        self.sentences = tuple(sentences)


def read_intent(document: Mapping[str, Any]) -> Intent:
    """A JSON object as every door takes it → Intent; a member that is null is as good as none. Raises UnreadableError."""
    given = {member: value for member, value in document.items() if value is not None}
    found = [_unknown(member) for member in given if member not in TYPES]
    for member, types in TYPES.items():
        value = given.get(member)
        if value is not None and (not isinstance(value, types) or (isinstance(value, bool) and bool not in types)):
            found.append(f"{member} is {' or '.join(WORDS[one] for one in types)}.")
    found += [f"{member} is missing." for member in ("object", "operation") if member not in given]
    since = given.get("if_unmodified_since")
    if isinstance(since, str):
        try:
            given["if_unmodified_since"] = datetime.fromisoformat(since)
        except ValueError:
            found.append(f"if_unmodified_since: {since!r} is no time in ISO 8601.")
    parents = given.get("parents")
    if isinstance(parents, dict) and not all(isinstance(one, str | UUID) for one in parents.values()):
        found.append("parents: each is an action's id or idempotency key.")
    if found:
        raise UnreadableError(found)
    return Intent(**given)


def _unknown(member: str) -> str:
    close = difflib.get_close_matches(str(member), TYPES, n=1)
    return f"{member!r} is no member of an action" + (f"; did you mean {close[0]}?" if close else ".")
