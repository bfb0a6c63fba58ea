"""Records as callers ask for them, by name of the user: lists and single records from the mirror, writes as actions.

One level above the mirror and the actions, and what the HTTP door, the capabilities and the triggers share.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal, overload
from uuid import UUID

from sqlalchemy import select, text
from sqlalchemy.orm import Session

from models.connection import Connection
from worker.actions import store
from worker.actions.accept import Accepted, Intent, Sorted, accept
from worker.actions.deps import ActionDeps
from worker.actions.describes import describe_of
from worker.errors import DisconnectedError, NotMirroredError, RejectedError, RequestError
from worker.mirror.deps import STEP
from worker.mirror.question import Question, Table
from worker.mirror.read import Page, find_table, get_record, list_page
from worker.mirror.requests import LANES, ensure_mirror, request_run
from worker.salesforce.ids import to_18

LARGEST_PAGE = 2000
USER_CHARACTERS = 255
READABLE = ("live", "paused")  # a mirror that holds a whole copy


@dataclass(frozen=True, slots=True)
class Collection:
    """A family of records under a name of its own. `required` and `missing`: what a create must have, and what it is told otherwise."""

    path: str
    object: str
    order_by: str
    descending: bool
    required: tuple[str, ...]
    missing: str


COLLECTIONS: Mapping[str, Collection] = MappingProxyType(
    {
        one.path: one
        for one in (
            Collection(
                "contacts", "Contact", "Name", False, ("LastName",), "LastName is required to create a contact."
            ),
            Collection("accounts", "Account", "Name", False, ("Name",), "Name is required to create an account."),
            Collection(
                "opportunities",
                "Opportunity",
                "CloseDate",
                True,
                ("Name", "StageName", "CloseDate"),
                "Name, StageName, and CloseDate are required to create an opportunity.",
            ),
            Collection(
                "leads",
                "Lead",
                "Name",
                False,
                ("LastName", "Company"),
                "LastName and Company are required to create a lead.",
            ),
        )
    }
)
_BY_OBJECT = {one.object.lower(): one for one in COLLECTIONS.values()}


@dataclass(frozen=True, slots=True)
class Listing:
    """One page of a list, with the mirror that it came from."""

    table: Table
    page: Page


def check_user(user_id: Any) -> str:
    """`user_id` if it can be one; RequestError otherwise."""
    if not isinstance(user_id, str) or not user_id.strip():
        raise RequestError("VALIDATION_ERROR", "user_id is required.", fields=("user_id",))
    if len(user_id) > USER_CHARACTERS or not user_id.isprintable():
        message = f"user_id has at most {USER_CHARACTERS} printable characters."
        raise RequestError("VALIDATION_ERROR", message, fields=("user_id",))
    return user_id


def check_id(record_id: Any) -> str:
    """The 18-character form of a record id; RequestError when it is none."""
    try:
        return to_18(record_id)
    except (ValueError, TypeError):
        raise RequestError(
            "VALIDATION_ERROR", "That is no Salesforce record id: 15 or 18 letters and digits."
        ) from None


def connection_of(session: Session, user_id: str) -> int:
    """The user's connection; DisconnectedError when there is none that works."""
    found = session.scalar(select(Connection.id).where(Connection.user_id == user_id, Connection.state == "active"))
    if found is None:
        raise DisconnectedError(f"{user_id} is not connected")
    return found


def default_order(table: Table) -> tuple[str, bool]:
    """How a list is ordered when the caller does not say: order field, descending."""
    known = _BY_OBJECT.get(table.object.lower())
    return (known.order_by, known.descending) if known and known.order_by.lower() in table.fields else ("Id", False)


def list_records(
    deps: ActionDeps, user_id: str, object_name: str, question: Question, *, ordered: bool = True
) -> Listing:
    """One page of an object's records. `ordered` False: in the object's default order, whatever the question says.

    Raises DisconnectedError, NotMirroredError (the mirror is asked for) and RequestError.
    """
    table = table_of(deps, user_id, object_name)
    if not ordered:
        order_by, descending = default_order(table)
        question = Question(
            question.limit,
            order_by,
            descending,
            question.filters,
            question.fields,
            question.updated_since,
            question.cursor,
        )
    with deps.database.transaction() as session:
        return Listing(table, list_page(session, table, question))


def read_record(
    deps: ActionDeps, user_id: str, object_name: str, record_id: str, fields: tuple[str, ...] | None = None
) -> dict[str, Any]:
    """One record. Raises as `list_records`; RequestError with NOT_FOUND when the mirror has none."""
    table = table_of(deps, user_id, object_name)
    wanted = check_id(record_id)
    with deps.database.transaction() as session:
        record = get_record(session, table, wanted, fields)
    if record is None:
        raise RequestError("NOT_FOUND", f"The mirror has no {table.object} {wanted}.")
    return record


def table_of(deps: ActionDeps, user_id: str, object_name: str) -> Table:
    """The mirror of an object. When there is no whole copy yet it is asked for: NotMirroredError."""
    version = deps.settings.salesforce_api_version
    with deps.database.transaction() as session:
        connection_id = connection_of(session, user_id)
        table = find_table(session, connection_id, object_name, version=version)
    if table is not None and table.state in READABLE:
        return table
    name = table.object if table is not None else known_name(deps, connection_id, object_name)
    raise _start(deps, connection_id, name)


def known_name(deps: ActionDeps, connection_id: int, object_name: str) -> str:
    """The org's own name of an object that can be mirrored; RequestError with NOT_FOUND for a misspelt one."""
    if object_name.lower() in _BY_OBJECT:
        return _BY_OBJECT[object_name.lower()].object
    try:
        describe = describe_of(deps, connection_id, object_name)
    except ValueError:
        raise RequestError("NOT_FOUND", f"{object_name[:80]!r} is no name of an object.") from None
    except RejectedError as error:
        raise RequestError("NOT_FOUND", f"{error.complaints[0].message}") from None
    if not describe.queryable:
        raise RequestError("NOT_FOUND", f"{describe.name} cannot be queried, so it cannot be mirrored.")
    return describe.name


# A first load that gave up is not begun anew by every reader: its reason is told, and after a minute one more try is made.
LAST_LOAD = """
SELECT r.state, r.error, r.created_at > clock_timestamp() - interval '60 seconds' AS recent FROM sfsync.runs r
 WHERE r.mirror_id = :mirror AND r.kind = 'load' ORDER BY r.id DESC LIMIT 1
"""


def _start(deps: ActionDeps, connection_id: int, name: str) -> NotMirroredError:
    with deps.database.transaction() as session:
        mirror_id = ensure_mirror(session, connection_id, name, refresh_seconds=deps.settings.refresh_seconds)
        last = session.execute(text(LAST_LOAD), {"mirror": mirror_id}).first()
        if last is not None and last.state in ("failed", "parked") and last.recent:
            reason = last.error or "no reason given"
            return NotMirroredError(name, f"{name} could not be mirrored: {reason}", failed=True)
        run_id = request_run(session, mirror_id, "load", "manual")
    deps.wake(STEP, run_id, LANES["load"])
    return NotMirroredError(name, f"{name} is being mirrored for the first time; try again.")


def create_intent(collection: Collection, fields: Mapping[str, Any], **options: Any) -> Intent:
    """A create of one of the collections; RequestError when a required field is missing."""
    if any(fields.get(name) in (None, "") for name in collection.required):
        missing = tuple(name for name in collection.required if fields.get(name) in (None, ""))
        raise RequestError("VALIDATION_ERROR", collection.missing, fields=missing)
    return Intent(collection.object, "create", dict(fields), **options)


def update_intent(object_name: str, record_id: Any, fields: Mapping[str, Any], **options: Any) -> Intent:
    """An update; RequestError when it changes nothing."""
    if not fields:
        raise RequestError("VALIDATION_ERROR", "At least one field is required to update a record.")
    return Intent(object_name, "update", dict(fields), record_id=check_id(record_id), **options)


def delete_intent(object_name: str, record_id: Any, **options: Any) -> Intent:
    """A delete."""
    return Intent(object_name, "delete", record_id=check_id(record_id), **options)


@overload
def accept_for(
    deps: ActionDeps, user_id: str, intents: Sequence[Intent], *, source: str, only_valid: Literal[False] = ...
) -> list[Accepted]: ...
@overload
def accept_for(
    deps: ActionDeps, user_id: str, intents: Sequence[Intent], *, source: str, only_valid: bool
) -> list[Accepted] | Sorted: ...
def accept_for(
    deps: ActionDeps, user_id: str, intents: Sequence[Intent], *, source: str, only_valid: bool = False
) -> list[Accepted] | Sorted:
    """Store writes of a user; raises DisconnectedError and as `accept`."""
    with deps.database.alone() as session:
        connection_id = connection_of(session, user_id)
    if only_valid:
        return accept(deps, connection_id, intents, source=source, only_valid=True)
    return accept(deps, connection_id, intents, source=source)


def read_action(deps: ActionDeps, action_id: UUID) -> dict[str, Any] | None:
    """One action, as `store.read` gives it."""
    with deps.database.alone() as session:
        return store.read(session, action_id)
