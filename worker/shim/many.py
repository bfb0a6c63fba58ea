"""Many writes in one request: reading them from JSON or NDJSON, accepting them, and telling what became of each."""

import base64
import binascii
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any
from uuid import UUID

from pydantic import Field

from worker import exact
from worker.actions import store
from worker.actions.accept import ACTIONS_AT_ONCE, FaultyError, Sorted
from worker.actions.check import Fault
from worker.actions.deps import ActionDeps
from worker.actions.intent import Intent, UnreadableError, read_intent
from worker.actions.lifecycle import SETTLED
from worker.errors import RequestError
from worker.records import accept_for
from worker.shim.bodies import Body

UNREADABLE = Intent("", "")  # stands where no action could be read, so that the others keep their places


class Asked(Body):
    """What a request for many writes holds. Each action is read by itself, so that every fault is told with its place."""

    user_id: str
    actions: list[Any] = Field(min_length=1, max_length=ACTIONS_AT_ONCE)
    only_valid: bool = False
    callback_url: str | None = None


def from_lines(raw: bytes, user_id: str | None, *, only_valid: bool, callback_url: str | None) -> Asked:
    """NDJSON, an action a line; a line that is no JSON is kept as None, which is no action. Empty lines are passed over."""
    lines = [line for line in raw.split(b"\n") if line.strip()]
    if not 1 <= len(lines) <= ACTIONS_AT_ONCE:
        raise RequestError("VALIDATION_ERROR", f"Send 1 to {ACTIONS_AT_ONCE:,} lines, each an action.")
    actions = [_line(line) for line in lines]
    return Asked(user_id=user_id or "", actions=actions, only_valid=only_valid, callback_url=callback_url)


def _line(line: bytes) -> Any:
    try:
        return exact.loads(line)
    except (ValueError, RecursionError):
        return None


def accept_many(deps: ActionDeps, user_id: str, asked: Asked, key: str | None) -> Sorted:
    """Store them. FaultyError with every fault of every action, unless only what is valid is to be stored; KeyReusedError.

    `key`: for all; an action without a key of its own gets it with its position.
    """
    intents, unreadable = _read(asked, key)
    try:
        found = accept_for(deps, user_id, intents, source="http", only_valid=asked.only_valid)
    except FaultyError as error:
        raise FaultyError(_merged(error.faults, unreadable)) from None
    if isinstance(found, Sorted):
        return replace(found, faults=tuple(_merged(found.faults, unreadable)))
    return Sorted(dict(enumerate(found)), ())


def _read(asked: Asked, key: str | None) -> tuple[list[Intent], list[Fault]]:
    intents, unreadable = [], []
    for place, document in enumerate(asked.actions):
        try:
            intent = read_intent(document if isinstance(document, Mapping) else {})
        except UnreadableError as error:
            sentences = error.sentences if isinstance(document, Mapping) else ("An action is a JSON object.",)
            unreadable += [Fault("VALIDATION_ERROR", sentence, (), place) for sentence in sentences]
            intents.append(UNREADABLE)
            continue
        if key is not None and intent.idempotency_key is None:
            intent = replace(intent, idempotency_key=f"{key}/{place}")
        if asked.callback_url is not None and intent.callback_url is None:
            intent = replace(intent, callback_url=asked.callback_url)
        intents.append(intent)
    return intents, unreadable


def _merged(faults: Sequence[Fault], unreadable: Sequence[Fault]) -> list[Fault]:
    """What is said of a place that could not be read is what reading it said."""
    places = {fault.position for fault in unreadable}
    others = [fault for fault in faults if fault.position not in places]
    return sorted([*others, *unreadable], key=lambda fault: fault.position)


def shown(deps: ActionDeps, found: Sorted, *, with_states: bool) -> tuple[dict[str, Any], bool]:
    """The answer's data, and whether nothing more happens by itself with any of the actions."""
    states: dict[UUID, dict[str, Any]] = {}
    if with_states:
        with deps.database.transaction() as session:
            states = store.states(session, [one.id for one in found.accepted.values()])
    actions = [
        {"position": place, "id": str(one.id), "repeated": one.repeated, **states.get(one.id, {})}
        for place, one in sorted(found.accepted.items())
    ]
    data = {"accepted": len(actions), "actions": actions, "errors": [fault.as_json() for fault in found.faults]}
    return data, with_states and all(one["state"] in SETTLED for one in states.values())


def make_cursor(action: Mapping[str, Any]) -> str:
    """An opaque cursor after this action of a list."""
    content = json.dumps([action["created_at"].isoformat(), str(action["id"])])
    return base64.urlsafe_b64encode(content.encode()).rstrip(b"=").decode()


def read_cursor(cursor: str | None) -> tuple[datetime, UUID] | None:
    """Where the page before ended. RequestError for what is no cursor."""
    if cursor is None:
        return None
    try:
        at, action_id = json.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
        moment = datetime.fromisoformat(at)
        if moment.tzinfo is None:
            raise ValueError(at)
        return moment, UUID(action_id)
    except (binascii.Error, ValueError, TypeError, AttributeError, RecursionError):
        message = "The cursor is not of this list: use next_cursor of the page before."
        raise RequestError("INVALID_CURSOR", message) from None
