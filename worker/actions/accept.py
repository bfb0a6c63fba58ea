"""Accepting actions: the one use case behind every door. Accepted means stored; Redis is not needed for it."""

import hashlib
import re
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar
from uuid import UUID

from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from worker.actions import exact, store
from worker.actions.check import Fault, canonical, faults, key_field
from worker.actions.deps import DELIVER, ActionDeps
from worker.actions.describes import describe_again, describe_of
from worker.errors import RejectedError, SyncError
from worker.log import get_logger
from worker.salesforce.describe import ObjectDescribe
from worker.salesforce.ids import key_prefix, to_18
from worker.salesforce.soql import name

log = get_logger(__name__)
T = TypeVar("T")

ACTIONS_AT_ONCE = 10_000
KEY_CHARACTERS = 255
UNSTORABLE = re.compile("[\x00\ud800-\udfff]")  # NUL, half a character
TRIES = 3  # after a deadlock, which the order of locks makes next to impossible


@dataclass(frozen=True, slots=True)
class Intent:
    """One write that a caller asks for.

    `record_id` is needed by update and delete, `external_id_field` and `external_id` by upsert. `order_key`: actions of one
    object with the same key are applied in the order of acceptance; default: the record, and for a create none.
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


@dataclass(frozen=True, slots=True)
class Accepted:
    """An action that is stored. `repeated`: it was before, under the same idempotency key."""

    id: UUID
    repeated: bool


class FaultyError(SyncError):
    """Something is wrong with what was asked: nothing was stored. `faults` has everything that is wrong with all of it."""

    def __init__(self, found: Sequence[Fault]) -> None:
        super().__init__("; ".join(f"{fault.code}: {fault.message}" for fault in found))
        self.faults = tuple(found)


class KeyReusedError(SyncError):
    """The idempotency key was used before for something else: nothing was stored."""

    def __init__(self, key: str, action_id: UUID | None) -> None:
        super().__init__(f"the idempotency key {key!r} was used before with other content")
        self.key = key
        self.action_id = action_id


def accept(
    deps: ActionDeps,
    connection_id: int,
    intents: Sequence[Intent],
    *,
    source: str,
    new_id: Callable[[], UUID] = uuid.uuid4,
) -> list[Accepted]:
    """Store actions, all or none, in the given order; what was stored, in that order too.

    The same key with the same content gives the action that is there. Raises FaultyError, KeyReusedError, and what asking
    the org for a describe may raise where none is kept.
    """
    asked, found = _normalised(intents)
    if found:
        raise FaultyError(found)
    hashes = [content_hash(one) for one in asked]
    known = _known(deps, connection_id, asked, hashes)
    fresh = [place for place, one in enumerate(asked) if one.idempotency_key not in known]
    checked = _checked(deps, connection_id, {place: asked[place] for place in fresh})
    chosen = deps.settings.external_key_field
    rows = [_new(new_id(), *checked[place], hashes[place], source, chosen) for place in fresh]
    made, queues = _stored(lambda: _store(deps, connection_id, rows))
    for queue_id in queues:
        deps.wake(DELIVER, queue_id)
    ids = {place: row.id for place, row in zip(fresh, rows, strict=True)}
    if len(made) < len(rows):  # somebody else stored the same keys in the meantime
        known = _known(deps, connection_id, asked, hashes)
    return [_accepted(ids.get(place), made, one.idempotency_key, known) for place, one in enumerate(asked)]


def _accepted(action_id: UUID | None, made: set[UUID], key: str | None, known: dict[str | None, UUID]) -> Accepted:
    if action_id is not None and action_id in made:
        return Accepted(action_id, repeated=False)
    return Accepted(known[key], repeated=True)


def _normalised(intents: Sequence[Intent]) -> tuple[list[Intent], list[Fault]]:
    """The intents with ids of 18 characters, and what is wrong with their form."""
    if not 1 <= len(intents) <= ACTIONS_AT_ONCE:
        raise FaultyError([Fault("LIMIT_EXCEEDED", f"1 to {ACTIONS_AT_ONCE:,} actions can be asked for at once.")])
    asked, found = [], []
    seen: dict[str, Intent] = {}
    for place, intent in enumerate(intents):
        try:
            one = _well_formed(intent)
        except ValueError as error:
            found.append(Fault("VALIDATION_ERROR", str(error), (), place))
            continue
        twin = seen.setdefault(one.idempotency_key, one) if one.idempotency_key else one
        if twin is not one:
            found.append(Fault("VALIDATION_ERROR", "The same idempotency key is given twice.", (), place))
        asked.append(one)
    return asked, found


def _well_formed(intent: Intent) -> Intent:
    """Raises ValueError with a sentence that says what is wrong."""
    if intent.operation not in ("create", "update", "upsert", "delete"):
        raise ValueError(f"{intent.operation!r} is no operation; choose create, update, upsert or delete.")
    name(intent.object)
    if (intent.record_id is None) == (intent.operation in ("update", "delete")):
        raise ValueError("An update or delete needs a record id; a create or upsert has none.")
    if (intent.external_id_field is None or not intent.external_id) == (intent.operation == "upsert"):
        raise ValueError("An upsert needs external_id_field and external_id; nothing else has them.")
    if intent.external_id_field is not None:
        name(intent.external_id_field)
    key = intent.idempotency_key
    if key is not None and not (0 < len(key) <= KEY_CHARACTERS and key.isprintable()):
        raise ValueError(f"An idempotency key has 1 to {KEY_CHARACTERS} printable characters.")
    if _is_unstorable([intent.fields, intent.external_id, intent.order_key]):
        raise ValueError("The text holds NUL or half a character, which neither Postgres nor the org can keep.")
    return replace(intent, record_id=to_18(intent.record_id) if intent.record_id else None)


def _is_unstorable(value: Any) -> bool:
    if isinstance(value, dict):
        return any(_is_unstorable(part) for pair in value.items() for part in pair)
    if isinstance(value, list):
        return any(_is_unstorable(part) for part in value)
    return isinstance(value, str) and UNSTORABLE.search(value) is not None


def content_hash(intent: Intent) -> bytes:
    """SHA-256 of what is asked for, the same for equal requests whatever the order of their fields."""
    content = [
        intent.object.lower(),
        intent.operation,
        intent.record_id,
        intent.external_id_field,
        intent.external_id,
        intent.fields,
        intent.order_key,
    ]
    return hashlib.sha256(exact.dumps(content, canonical=True).encode()).digest()


def _known(
    deps: ActionDeps, connection_id: int, asked: Sequence[Intent], hashes: Sequence[bytes]
) -> dict[str | None, UUID]:
    """Idempotency key → action, for the keys that are there with the same content; KeyReusedError for other content."""
    wanted = {one.idempotency_key: digest for one, digest in zip(asked, hashes, strict=True) if one.idempotency_key}
    if not wanted:
        return {}
    with deps.database.transaction() as session:
        known = store.known_keys(session, connection_id, wanted)
    for key, held in known.items():
        if held.content_hash != wanted[key]:
            raise KeyReusedError(key, held.id)
    return {key: held.id for key, held in known.items()}


def _checked(
    deps: ActionDeps, connection_id: int, asked: dict[int, Intent]
) -> dict[int, tuple[Intent, ObjectDescribe]]:
    """The intents under the org's own names, each with its describe; FaultyError with everything that is wrong."""
    checked: dict[int, tuple[Intent, ObjectDescribe]] = {}
    found: list[Fault] = []
    for object_name in {one.object.lower(): one.object for one in asked.values()}.values():
        part = {place: one for place, one in asked.items() if one.object.lower() == object_name.lower()}
        try:
            done, wrong = _check(deps, connection_id, object_name, part)
        except RejectedError as error:
            first = error.complaints[0]
            wrong, done = [Fault(first.code, first.message, (), place) for place in part], {}
        checked |= done
        found += wrong
    if found:
        raise FaultyError(sorted(found, key=lambda fault: fault.position))
    return checked


def _check(
    deps: ActionDeps, connection_id: int, object_name: str, asked: dict[int, Intent]
) -> tuple[dict[int, tuple[Intent, ObjectDescribe]], list[Fault]]:
    """By the kept describe; when that finds faults the org is asked whether it still holds, where it can be asked."""
    describe = describe_of(deps, connection_id, object_name)
    found = _all_faults(describe, asked)
    if found:
        try:
            describe = describe_again(deps, connection_id, object_name)
        except RejectedError:
            raise
        except SyncError as error:
            log.info("accept.describe_kept", object=object_name, error=type(error).__name__)
        else:
            found = _all_faults(describe, asked)
    return {place: (_canonical(describe, one), describe) for place, one in asked.items()}, found


def _all_faults(describe: ObjectDescribe, asked: dict[int, Intent]) -> list[Fault]:
    found = []
    for place, one in asked.items():
        wrong = faults(describe, one.operation, one.fields)
        if one.record_id and describe.key_prefix and key_prefix(one.record_id) != describe.key_prefix:
            message = f"{describe.name} ID: id value of incorrect type: {one.record_id}"
            wrong.append(Fault("MALFORMED_ID", message, ("Id",)))
        if one.external_id_field is not None:
            wrong += _external_id_faults(describe, one)
        found += [replace(fault, position=place) for fault in wrong]
    return found


def _external_id_faults(describe: ObjectDescribe, intent: Intent) -> list[Fault]:
    assert intent.external_id_field is not None
    named = describe.field(intent.external_id_field)
    if named is None or not (named.external_id or named.id_lookup):
        message = f"Field name provided, {intent.external_id_field} is not an External ID for {describe.name}"
        return [Fault("INVALID_FIELD", message, (intent.external_id_field,))]
    if intent.external_id_field.lower() in {given.lower() for given in intent.fields}:
        return [Fault("INVALID_FIELD", f"{named.name} is given as external id and among the fields.", (named.name,))]
    return []


def _canonical(describe: ObjectDescribe, intent: Intent) -> Intent:
    named = describe.field(intent.external_id_field) if intent.external_id_field else None
    return replace(
        intent,
        object=describe.name,
        fields=canonical(describe, intent.fields),
        external_id_field=named.name if named else intent.external_id_field,
    )


def _new(
    action_id: UUID, intent: Intent, describe: ObjectDescribe, digest: bytes, source: str, chosen: str
) -> store.New:
    """The row. A create carries its own id in the object's key field, where there is one that the caller leaves free."""
    external_field, external_id = intent.external_id_field, intent.external_id
    if intent.operation == "create":
        key = key_field(describe, chosen)
        external_field, external_id = (None, None) if key is None or key in intent.fields else (key, action_id.hex)
    return store.New(
        id=action_id,
        object=describe.name,
        operation=intent.operation,
        record_id=intent.record_id,
        external_id_field=external_field,
        external_id=external_id,
        fields=intent.fields,
        idempotency_key=intent.idempotency_key,
        content_hash=digest,
        order_key=_order_key(action_id, intent),
        alone=intent.operation == "create" and intent.order_key is None,
        priority=intent.priority,
        source=source,
    )


def _order_key(action_id: UUID, intent: Intent) -> str:
    if intent.order_key is not None:
        return f"key:{intent.order_key}"
    if intent.record_id is not None:
        return intent.record_id
    if intent.external_id is not None:
        # Two keys that differ in case may be one record to the org; taking them for one line is never wrong.
        return f"{intent.external_id_field}:{intent.external_id}".lower()
    return action_id.hex


def _store(deps: ActionDeps, connection_id: int, rows: Sequence[store.New]) -> tuple[set[UUID], list[int]]:
    if not rows:
        return set(), []
    with deps.database.transaction() as session:
        made = store.insert(session, connection_id, rows)
        _refuse_reused(session, connection_id, [row for row in rows if row.id not in made])
        objects = sorted({row.object for row in rows if row.id in made})
        return made, [store.awaken(session, connection_id, one) for one in objects]


def _refuse_reused(session: Session, connection_id: int, left_out: Sequence[store.New]) -> None:
    """Somebody stored these keys a moment before us: with other content nothing of ours is stored."""
    wanted = {row.idempotency_key: row.content_hash for row in left_out if row.idempotency_key}
    for key, held in (store.known_keys(session, connection_id, wanted) if wanted else {}).items():
        if held.content_hash != wanted[key]:
            raise KeyReusedError(key, held.id)


def _stored(work: Callable[[], T]) -> T:
    """Do it again when Postgres broke a deadlock: nothing was stored then."""
    for tries_left in reversed(range(TRIES)):
        try:
            return work()
        except OperationalError as error:
            if getattr(error.orig, "sqlstate", None) != "40P01" or not tries_left:
                raise
    raise AssertionError("unreachable")
