"""Accepting actions: the one use case behind every door. Accepted means stored; Redis is not needed for it."""

import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, overload
from uuid import UUID

from sqlalchemy.orm import Session

from worker.actions import family, store
from worker.actions.check import Fault
from worker.actions.checking import check, external_key
from worker.actions.deps import DELIVER, ActionDeps
from worker.actions.intent import Intent, content_hash, line_of, well_formed
from worker.db import DEADLOCK, DUPLICATE, persist
from worker.errors import RejectedError, SyncError
from worker.salesforce.describe import ObjectDescribe

__all__ = ["Accepted", "FaultyError", "Intent", "KeyReusedError", "Sorted", "accept"]

ACTIONS_AT_ONCE = 10_000
KEY_REUSED = "IDEMPOTENCY_KEY_REUSED"
# Somebody stored one of our keys a moment before us, or Postgres broke a deadlock (which the order of locks makes next to
# impossible): nothing of ours was stored, and at the next try their keys are known.
AGAIN = (DUPLICATE, DEADLOCK)


@dataclass(frozen=True, slots=True)
class Accepted:
    """An action that is stored. `repeated`: it was before, under the same idempotency key. `state` None: look for it."""

    id: UUID
    repeated: bool
    state: str | None = None


@dataclass(frozen=True, slots=True)
class Sorted:
    """What became of each action that was asked for: accepted, by its place from 0, or faulty."""

    accepted: Mapping[int, Accepted]
    faults: tuple[Fault, ...]


class FaultyError(SyncError):
    """Something is wrong with what was asked: nothing was stored. `faults` has everything that is wrong with all of it."""

    def __init__(self, found: Sequence[Fault]) -> None:
        super().__init__("; ".join(f"{fault.code}: {fault.message}" for fault in found))
        self.faults = tuple(found)


class KeyReusedError(SyncError):
    """An idempotency key was used before for something else, and nothing else is wrong: nothing was stored."""

    def __init__(self, key: str, action_id: UUID | None, found: Sequence[Fault] = ()) -> None:
        super().__init__(f"the idempotency key {key!r} was used before with other content")
        self.key = key
        self.action_id = action_id
        self.faults = tuple(found)


@overload
def accept(
    deps: ActionDeps,
    connection_id: int,
    intents: Sequence[Intent],
    *,
    source: str,
    new_id: Callable[[], UUID] = ...,
    only_valid: Literal[False] = ...,
) -> list[Accepted]: ...
@overload
def accept(
    deps: ActionDeps,
    connection_id: int,
    intents: Sequence[Intent],
    *,
    source: str,
    new_id: Callable[[], UUID] = ...,
    only_valid: Literal[True],
) -> Sorted: ...
def accept(
    deps: ActionDeps,
    connection_id: int,
    intents: Sequence[Intent],
    *,
    source: str,
    new_id: Callable[[], UUID] = uuid.uuid4,
    only_valid: bool = False,
) -> list[Accepted] | Sorted:
    """Store actions in the given order, all or none; what was stored, in that order too.

    With `only_valid` what is right is stored, and what is wrong is told beside it. The same key with the same content gives
    the action that is there. Raises FaultyError, KeyReusedError, and what asking the org for a describe may raise where
    none is kept.
    """
    if not 1 <= len(intents) <= ACTIONS_AT_ONCE:
        raise FaultyError([Fault("LIMIT_EXCEEDED", f"1 to {ACTIONS_AT_ONCE:,} actions can be asked for at once.")])
    accepted, wrong = persist(
        lambda: _accept(deps, connection_id, intents, source, new_id, only_valid=only_valid), AGAIN
    )
    if only_valid:
        return Sorted(accepted, tuple(wrong))
    return [accepted[place] for place in range(len(intents))]


def _accept(
    deps: ActionDeps,
    connection_id: int,
    intents: Sequence[Intent],
    source: str,
    new_id: Callable[[], UUID],
    *,
    only_valid: bool,
) -> tuple[dict[int, Accepted], list[Fault]]:
    """One try; what is accepted by its place, and what is wrong with the rest."""
    request = _Request(connection_id)
    accepted, ids, parents, described = _examine(deps, request, intents, new_id)
    if request.faults and not only_valid:
        raise request.error()
    chosen = deps.settings.external_key_field
    rows = [
        _new(ids[place], one, described[place], request.hashes[place], source, chosen, parents[place])
        for place, one in request.asked.items()
    ]
    if rows:
        with deps.database.transaction() as session:
            store.insert(session, connection_id, rows)
            _fail_with_parents(session, connection_id, rows)
            queues = [store.awaken(session, connection_id, one) for one in sorted({row.object for row in rows})]
        for queue in queues:
            deps.wake(DELIVER, queue.id, urgent=queue.slept)
    states = {row.id: "ready" if row.alone else None for row in rows}
    accepted |= {place: Accepted(ids[place], repeated=False, state=states[ids[place]]) for place in request.asked}
    return accepted, sorted(request.faults, key=lambda fault: fault.position)


def _fail_with_parents(session: Session, connection_id: int, rows: Sequence[store.New]) -> None:
    """A parent that failed since it was looked at takes its new children along now: nobody else does."""
    children = [row for row in rows if row.parents]
    if children:
        lines = {(row.object, row.order_key) for row in children}
        family.settle(session, connection_id, [row.id for row in children], lines)


def find_faults(deps: ActionDeps, connection_id: int, intents: Sequence[Intent]) -> tuple[Fault, ...]:
    """Everything that `accept` would find wrong; nothing is stored."""
    request = _Request(connection_id)
    _examine(deps, request, intents, uuid.uuid4)
    return tuple(sorted(request.faults, key=lambda fault: fault.position))


def _examine(
    deps: ActionDeps, request: "_Request", intents: Sequence[Intent], new_id: Callable[[], UUID]
) -> tuple[dict[int, Accepted], dict[int, UUID], dict[int, dict[str, store.Parent]], dict[int, ObjectDescribe]]:
    """Look at everything that is asked: what is there already; of the rest ids, parents and describes, by place."""
    _read(request, intents)
    _check_callbacks(deps, request)
    keys = request.keys()
    with deps.database.alone() as session:  # which asks nothing where there are neither keys nor parents
        known = store.known_keys(session, request.connection_id, keys) if keys else {}
        accepted = _set_aside_known(request, known)
        ids = {place: new_id() for place in request.asked}
        parents = _resolve_parents(session, request, intents, ids)
    described = _check_all(deps, request, parents)
    _refuse_orphans(request, parents)
    return accepted, ids, parents, described


class _Request:
    """What is asked for, by its place; what is found to be wrong leaves `asked`."""

    def __init__(self, connection_id: int) -> None:
        self.connection_id = connection_id
        self.asked: dict[int, Intent] = {}
        self.hashes: dict[int, bytes] = {}
        self.faults: list[Fault] = []
        self.reused: list[tuple[str, UUID]] = []

    def keys(self) -> dict[str, int]:
        """Idempotency key → place."""
        return {one.idempotency_key: place for place, one in self.asked.items() if one.idempotency_key}

    def refuse(self, place: int, *found: Fault) -> None:
        """An action is wrong."""
        self.asked.pop(place, None)
        self.faults += [replace(fault, position=place) for fault in found]

    def error(self) -> SyncError:
        """For a request of which nothing is stored."""
        if len(self.faults) == len(self.reused):
            return KeyReusedError(*self.reused[0], self.faults)
        return FaultyError(sorted(self.faults, key=lambda fault: fault.position))


def _read(request: _Request, intents: Sequence[Intent]) -> None:
    """The intents in their proper form; a key that is given twice is refused from the second time on."""
    seen: set[str] = set()
    for place, intent in enumerate(intents):
        one, sentences = well_formed(intent)
        if one.idempotency_key in seen:
            sentences = [*sentences, "The same idempotency key is given twice."]
        if sentences:
            request.refuse(place, *(Fault("VALIDATION_ERROR", sentence) for sentence in sentences))
            continue
        if one.idempotency_key:
            seen.add(one.idempotency_key)
        request.asked[place] = one
        request.hashes[place] = content_hash(one)


def _check_callbacks(deps: ActionDeps, request: _Request) -> None:
    urls = {one.callback_url for one in request.asked.values() if one.callback_url}
    wrong = {url: sentence for url in urls if (sentence := deps.wrong_callback(request.connection_id, url))}
    for place, one in list(request.asked.items()):
        if one.callback_url in wrong:
            request.refuse(place, Fault("VALIDATION_ERROR", wrong[one.callback_url]))


def _set_aside_known(request: _Request, known: Mapping[str, store.Known]) -> dict[int, Accepted]:
    """Actions that are there already, by their place; a key with other content is refused."""
    accepted = {}
    for key, place in request.keys().items():
        held = known.get(key)
        if held is None:
            continue
        if held.content_hash == request.hashes[place]:
            accepted[place] = Accepted(held.id, repeated=True)
            del request.asked[place]
        else:
            request.reused.append((key, held.id))
            request.refuse(place, Fault(KEY_REUSED, f"The idempotency key {key!r} was used before with other content."))
    return accepted


def _resolve_parents(
    session: Session, request: _Request, intents: Sequence[Intent], ids: Mapping[int, UUID]
) -> dict[int, dict[str, store.Parent]]:
    """Of each action, which action makes the record that a field is to name. A text is a key before it is an id."""
    named = {str(parent) for one in request.asked.values() for parent in one.parents.values()}
    stored = store.find_parents(session, request.connection_id, named) if named else {}
    keys = request.keys()
    resolved: dict[int, dict[str, store.Parent]] = {}
    for place, one in list(request.asked.items()):
        resolved[place] = {}
        for field_name, named_by in one.parents.items():
            name = str(named_by)
            beside = keys.get(name, place)
            if beside < place:
                maker = intents[beside]
                parent: store.Parent | None = store.Parent(
                    ids[beside], maker.object, maker.operation, "waiting", beside
                )
            else:
                parent = stored.get(name)
            if parent is not None:
                resolved[place][field_name] = parent
            if wrong := _wrong_parent(name, parent):
                request.refuse(place, Fault("INVALID_PARENT", f"{field_name}: {wrong}.", (field_name,)))
    return resolved


def _wrong_parent(name: str, parent: store.Parent | None) -> str | None:
    if parent is None:
        return f"no action {name!r} was accepted before or stands before this one"
    if parent.operation not in ("create", "upsert"):
        return f"action {name!r} makes no record: it is a {parent.operation}"
    if parent.state in ("rejected", "conflict", "cancelled"):
        return f"action {name!r} is {parent.state}"
    return None


def _check_all(
    deps: ActionDeps, request: _Request, parents: Mapping[int, Mapping[str, store.Parent]]
) -> dict[int, ObjectDescribe]:
    """Put the org's own names into what is right, and refuse what describe says is wrong; the describe of each."""
    described: dict[int, ObjectDescribe] = {}
    by_object: dict[str, dict[int, Intent]] = {}
    for place, one in request.asked.items():
        by_object.setdefault(one.object.lower(), {})[place] = one
    for part in by_object.values():
        try:
            right, wrong, describe = check(deps, request.connection_id, part, {place: parents[place] for place in part})
        except RejectedError as error:
            first = error.complaints[0]
            right, wrong = {}, {place: [Fault(first.code, first.message)] for place in part}
        else:
            described |= dict.fromkeys(part, describe)
        request.asked |= right
        for place, found in wrong.items():
            request.refuse(place, *found)
    request.asked = dict(sorted(request.asked.items()))
    return described


def _refuse_orphans(request: _Request, parents: Mapping[int, Mapping[str, store.Parent]]) -> None:
    """What has a parent beside it that is refused is refused, too: in order of place, so that grandchildren follow."""
    for place in list(request.asked):
        for field_name, parent in parents[place].items():
            if parent.beside is not None and parent.beside not in request.asked and place in request.asked:
                message = f"{field_name}: its parent, action {parent.beside + 1} of this request, is refused."
                request.refuse(place, Fault("INVALID_PARENT", message, (field_name,)))


def _new(
    action_id: UUID,
    intent: Intent,
    describe: ObjectDescribe,
    digest: bytes,
    source: str,
    chosen: str,
    parents: Mapping[str, store.Parent],
) -> store.New:
    external_id_field, external_id = external_key(describe, intent, action_id, chosen)
    return store.New(
        id=action_id,
        object=describe.name,
        operation=intent.operation,
        record_id=intent.record_id,
        external_id_field=external_id_field,
        external_id=external_id,
        fields=intent.fields,
        idempotency_key=intent.idempotency_key,
        content_hash=digest,
        order_key=line_of(action_id, intent),
        alone=intent.operation == "create" and intent.order_key is None and not parents,
        priority=intent.priority,
        source=source,
        after_failure=intent.after_failure,
        mergeable=intent.mergeable,
        if_unmodified_since=intent.if_unmodified_since,
        callback_url=intent.callback_url,
        parents={_field_name(describe, name): parent.id for name, parent in parents.items()},
    )


def _field_name(describe: ObjectDescribe, name: str) -> str:
    found = describe.field(name)
    return found.name if found else name
