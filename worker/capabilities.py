"""What the service `salesforce_service` can do, by name: for the registry, the chat, and workflows that fire by a timetable.

Reads answer at once; writes are accepted as actions and answer with the action's id.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any
from uuid import UUID

from sqlalchemy import text

from worker.actions.accept import Intent
from worker.actions.deps import ActionDeps
from worker.errors import RequestError
from worker.mirror.question import Filter, Question, instant
from worker.records import (
    COLLECTIONS,
    LARGEST_PAGE,
    accept_for,
    check_user,
    create_intent,
    list_records,
    read_record,
    update_intent,
)

FIRST_PAGE = 100  # records of a list when the caller does not say
Parameters = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Result:
    """What came of it: `data` as JSON shows it; `action_id` of a write, which is accepted and not yet carried out."""

    data: dict[str, Any]
    action_id: UUID | None = None


@dataclass(frozen=True, slots=True)
class Context:
    """For whom and how a capability is executed. `source`: http or trigger."""

    deps: ActionDeps
    user_id: str
    source: str
    idempotency_key: str | None = None
    callback_url: str | None = None


@dataclass(frozen=True, slots=True)
class Capability:
    """One thing the service can do. `scope`: read or write. `parameters`: a JSON schema."""

    name: str
    summary: str
    scope: str
    parameters: dict[str, Any]
    run: Callable[[Context, Parameters], Result]


def execute(
    deps: ActionDeps,
    capability: str,
    user_id: str,
    parameters: Parameters | None = None,
    *,
    source: str,
    idempotency_key: str | None = None,
    callback_url: str | None = None,
) -> Result:
    """Execute a capability by name.

    Raises RequestError (no such capability, wrong parameters), DisconnectedError, NotMirroredError, and for writes as
    `worker.actions.accept.accept`.
    """
    known = find(capability)
    if parameters is not None and not isinstance(parameters, Mapping):
        raise RequestError("VALIDATION_ERROR", "parameters must be an object.", fields=("parameters",))
    context = Context(deps, check_user(user_id), source, idempotency_key, callback_url)
    return known.run(context, parameters or {})


def find(capability: Any) -> Capability:
    """The capability of that name; RequestError when there is none."""
    found = CAPABILITIES.get(capability) if isinstance(capability, str) else None
    if found is None:
        names = ", ".join(CAPABILITIES)
        raise RequestError(
            "UNKNOWN_CAPABILITY", f"There is no such capability; there are: {names}.", fields=("capability",)
        )
    return found


# ------------------------------------------------------------------------------------------------ connection

CONNECTION = """
SELECT id, state, state_reason, username, organization_id, environment, instance_url, expires_at, schema_name
  FROM salesforce_oauth_tokens WHERE user_id = :user_id
"""
MIRRORS = """
SELECT object, state, state_reason, verified_at,
       sfsync.lag(fresh_cursor, clock_skew_seconds) AS lag_seconds,
       sfsync.lag(settled_cursor, clock_skew_seconds) AS settled_lag_seconds
  FROM sfsync.mirrors WHERE connection_id = :id ORDER BY object
"""


def connection_state(deps: ActionDeps, user_id: str) -> dict[str, Any]:
    """Whether a user is connected, to what, and how fresh the mirrors are. Never a token."""
    with deps.database.transaction() as session:
        row = session.execute(text(CONNECTION), {"user_id": user_id}).mappings().first()
        if row is None:
            return {"connected": False, "user_id": user_id, "state": "not_connected", "mirrors": []}
        mirrors = [_plain(one) for one in session.execute(text(MIRRORS), {"id": row["id"]}).mappings()]
    shown = _plain({name: value for name, value in row.items() if name != "id"})
    return {"connected": row["state"] == "active", "user_id": user_id, **shown, "mirrors": mirrors}


def _plain(row: Mapping[Any, Any]) -> dict[str, Any]:
    return {
        str(name): value.isoformat().replace("+00:00", "Z") if hasattr(value, "isoformat") else value
        for name, value in row.items()
    }


def _client(context: Context, _parameters: Parameters) -> Result:
    return Result(connection_state(context.deps, context.user_id))


# ------------------------------------------------------------------------------------------------ reads


def question_of(
    parameters: Parameters, *, largest: int = LARGEST_PAGE, usual: int = FIRST_PAGE
) -> tuple[Question, bool]:
    """A list's parameters → the question, and whether it says an order. RequestError for wrong ones."""
    order_by = _text(parameters, "order_by")
    fields = parameters.get("fields")
    if isinstance(fields, str):
        fields = [part.strip() for part in fields.split(",")]
    if fields is not None and not (isinstance(fields, list) and fields and all(isinstance(one, str) for one in fields)):
        raise _invalid("fields", "give field names, separated by commas")
    question = Question(
        limit=_limit(parameters.get("limit", usual), largest),
        order_by=(order_by or "Id").removeprefix("-"),
        descending=(order_by or "").startswith("-"),
        filters=tuple(_filters(parameters.get("filters") or {})),
        fields=tuple(fields) if fields is not None else None,
        updated_since=_instant(parameters),
        cursor=_text(parameters, "cursor"),
    )
    return question, order_by is not None


def _limit(value: Any, largest: int) -> int:
    text_value = str(value)
    if isinstance(value, bool) or not (text_value.isascii() and text_value.isdigit() and len(text_value) < 10):
        raise _invalid("limit", f"give a number from 1 to {largest}")
    if not 1 <= int(text_value) <= largest:
        raise _invalid("limit", f"give a number from 1 to {largest}")
    return int(text_value)


def _text(parameters: Parameters, name: str) -> str | None:
    value = parameters.get(name)
    if value is not None and not (isinstance(value, str) and value and len(value) < 4000):
        raise _invalid(name, "give a text")
    return value


def _instant(parameters: Parameters) -> Any:
    value = _text(parameters, "updated_since")
    try:
        return None if value is None else instant(value)
    except (ValueError, OverflowError):
        raise _invalid("updated_since", "give a time as 2027-03-31T12:00:00Z") from None


def _filters(given: Any) -> list[Filter]:
    """`{"StageName": "Closed Won", "Amount": {"gte": 1000}}` → filters."""
    if not isinstance(given, Mapping):
        raise _invalid("filters", "give an object: field → value, or field → {operator: value}")
    found = []
    for field, value in given.items():
        conditions = value.items() if isinstance(value, Mapping) else [("eq", value)]
        found += [Filter(str(field), str(operator), wanted) for operator, wanted in conditions]
    return found


def _invalid(name: str, why: str) -> RequestError:
    return RequestError("VALIDATION_ERROR", f"{name}: {why}.", fields=(name,))


def _list(path: str) -> Callable[[Context, Parameters], Result]:
    collection = COLLECTIONS[path]

    def run(context: Context, parameters: Parameters) -> Result:
        question, ordered = question_of(parameters)
        listing = list_records(context.deps, context.user_id, collection.object, question, ordered=ordered)
        return Result(
            {
                path: listing.page.records,
                "next_cursor": listing.page.next_cursor,
                "lag_seconds": listing.table.fresh_lag,
                "settled_lag_seconds": listing.table.settled_lag,
            }
        )

    return run


def _record_id(parameters: Parameters) -> tuple[Any, dict[str, Any]]:
    """The id that is named, and the parameters without it."""
    names = [name for name in ("id", "Id", "opportunity_id") if name in parameters]
    if len(names) != 1:
        raise _invalid("id", "name the record's id")
    rest = {name: value for name, value in parameters.items() if name != names[0]}
    return parameters[names[0]], rest


def _get_opportunity(context: Context, parameters: Parameters) -> Result:
    record_id, _ = _record_id(parameters)
    return Result(read_record(context.deps, context.user_id, "Opportunity", record_id))


# ------------------------------------------------------------------------------------------------ writes


def _accepted(context: Context, intent: Intent) -> Result:
    intent = replace(intent, idempotency_key=context.idempotency_key, callback_url=context.callback_url)
    stored = accept_for(context.deps, context.user_id, [intent], source=context.source)[0]
    return Result({"action_id": str(stored.id), "repeated": stored.repeated}, stored.id)


def _create(path: str) -> Callable[[Context, Parameters], Result]:
    def run(context: Context, parameters: Parameters) -> Result:
        return _accepted(context, create_intent(COLLECTIONS[path], parameters))

    return run


def _update_opportunity(context: Context, parameters: Parameters) -> Result:
    record_id, fields = _record_id(parameters)
    return _accepted(context, update_intent("Opportunity", record_id, fields))


# ------------------------------------------------------------------------------------------------ the registry

_LIST = {
    "type": "object",
    "properties": {
        "limit": {"type": "integer", "minimum": 1, "maximum": LARGEST_PAGE, "default": FIRST_PAGE},
        "cursor": {"type": "string", "description": "next_cursor of the page before"},
        "fields": {"type": "string", "description": "field names, separated by commas"},
        "filters": {"type": "object", "description": "field → value, or field → {operator: value}"},
        "order_by": {"type": "string", "description": "a field; -Field for descending"},
        "updated_since": {"type": "string", "format": "date-time"},
    },
}
_ID = {"type": "object", "required": ["id"], "properties": {"id": {"type": "string"}}}


def _fields(*required: str) -> dict[str, Any]:
    properties = {name: {"type": "string"} for name in required}
    return {"type": "object", "required": list(required), "properties": properties, "additionalProperties": True}


CAPABILITIES: Mapping[str, Capability] = MappingProxyType(
    {
        one.name: one
        for one in (
            Capability(
                "get_salesforce_client", "State of the connection and its mirrors", "read", {"type": "object"}, _client
            ),
            Capability("list_contacts", "Contacts by name", "read", _LIST, _list("contacts")),
            Capability("list_accounts", "Accounts by name", "read", _LIST, _list("accounts")),
            Capability(
                "list_opportunities", "Opportunities, latest close date first", "read", _LIST, _list("opportunities")
            ),
            Capability("create_contact", "Create a contact", "write", _fields("LastName"), _create("contacts")),
            Capability("create_account", "Create an account", "write", _fields("Name"), _create("accounts")),
            Capability(
                "create_opportunity",
                "Create an opportunity",
                "write",
                _fields("Name", "StageName", "CloseDate"),
                _create("opportunities"),
            ),
            Capability(
                "update_opportunity",
                "Change fields of an opportunity",
                "write",
                {**_ID, "additionalProperties": True},
                _update_opportunity,
            ),
            Capability("get_opportunity", "One opportunity", "read", _ID, _get_opportunity),
            Capability("create_lead", "Create a lead", "write", _fields("LastName", "Company"), _create("leads")),
        )
    }
)


# ------------------------------------------------------------------------------------------------ chat


@dataclass(frozen=True, slots=True)
class Command:
    """A sentence a chat understands, the capability behind it and what it says of the result."""

    text: str
    capability: str
    summary: str
    say: Callable[[dict[str, Any]], str]


def _say_connection(data: dict[str, Any]) -> str:
    if not data["connected"]:
        reason = {"not_connected": "not connected yet"}.get(data["state"], data["state"])
        return f"Salesforce is {reason}. Please connect your Salesforce account."
    mirrors = [
        f"{one['object']} ({one['state']}" + (f", {one['lag_seconds']:.0f} s behind)" if one["lag_seconds"] else ")")
        for one in data["mirrors"]
    ]
    return f"Connected to Salesforce as {data['username'] or data['user_id']}. " + (
        f"Mirrors: {', '.join(mirrors)}." if mirrors else "Nothing is mirrored yet."
    )


def _say_contacts(data: dict[str, Any]) -> str:
    names = [str(one.get("Name") or one["Id"]) for one in data["contacts"]]
    more = ", and more" if data["next_cursor"] else ""
    return f"{len(names)} contacts: {', '.join(names)}{more}." if names else "There are no contacts."


def _say_accepted(data: dict[str, Any]) -> str:
    if data.get("success"):
        return f"The account is created: {data['id']}."
    return f"The account will be created; action {data['action_id']}."


COMMANDS: Mapping[str, Command] = MappingProxyType(
    {
        one.text: one
        for one in (
            Command("use salesforce", "get_salesforce_client", "Connection, mirrors, lag", _say_connection),
            Command("access salesforce", "get_salesforce_client", "Connection, mirrors, lag", _say_connection),
            Command("get salesforce contacts", "list_contacts", "The first page of contacts", _say_contacts),
            Command("create salesforce account", "create_account", "Create an account; parameter Name", _say_accepted),
        )
    }
)


def find_command(command: Any) -> Command:
    """The chat command, whatever its case and spacing; RequestError when there is none."""
    found = COMMANDS.get(" ".join(command.lower().split())) if isinstance(command, str) else None
    if found is None:
        known = ", ".join(repr(one) for one in COMMANDS)
        raise RequestError("UNKNOWN_COMMAND", f"There is no such command; there are: {known}.", fields=("command",))
    return found
