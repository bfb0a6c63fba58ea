"""What a trigger does: checked when it is stored, filled with the caller's parameters when it fires. Pure.

`execute_service`: {"capability": name, "parameters": {…}} or {"actions": [{"object", "operation", "fields", …}, …]}, whose
"parents" may name actions before them by their number: {"AccountId": 1}.
`process_data`: {"objects": [API name, …]}; an empty list means everything that the connection mirrors.

A text {{name}} stands for the caller's parameter of that name, {{due_at}} and {{due_date}} for the firing's due time (ISO 8601 UTC)
and its date in the trigger's time zone.
"""

import re
from collections.abc import Collection, Iterator, Mapping
from datetime import UTC, datetime, tzinfo
from typing import Any

Work = Mapping[str, Any]

PLACEHOLDER = re.compile(r"\{\{\s*(\w{1,64})\s*\}\}")
BUILT_IN = frozenset({"due_at", "due_date"})
ACTION_FIELDS = frozenset(
    {
        "object", "operation", "fields", "record_id", "external_id_field", "external_id", "order_key", "priority",
        "after_failure", "mergeable", "parents", "callback_url",
    }
)  # fmt: skip
OPERATIONS = ("create", "update", "upsert", "delete")
NAME = re.compile(r"[A-Za-z]\w{0,79}", re.ASCII)
ACTIONS_AT_ONCE = 1_000


class WorkError(ValueError):
    """The work or the parameters of a trigger are wrong; the message says what and how to mend it."""


def work_of(workflow_action: str, given: Mapping[str, Any], capabilities: Collection[str]) -> dict[str, Any]:
    """The work of a new trigger, from "capability", "parameters", "actions" and "objects" as given (None: not given)."""
    named = {name for name in ("capability", "parameters", "actions", "objects") if given.get(name) is not None}
    if workflow_action == "process_data":
        if named - {"objects"}:
            raise WorkError(f"process_data refreshes objects; it has no {sorted(named - {'objects'})[0]}")
        return {"objects": _objects(given.get("objects") or [])}
    if workflow_action != "execute_service":
        raise WorkError(f"{workflow_action!r} is no workflow action; choose execute_service or process_data")
    if "objects" in named or ("capability" in named) == ("actions" in named):
        raise WorkError("execute_service needs either a capability with parameters or a list of actions")
    if "actions" in named:
        if "parameters" in named:
            raise WorkError("parameters go with a capability; an action has fields")
        return {"actions": _actions(given["actions"])}
    if given["capability"] not in capabilities:
        raise WorkError(f"{given['capability']!r} is no capability; choose from {', '.join(sorted(capabilities))}")
    parameters = {} if given.get("parameters") is None else given["parameters"]
    if not isinstance(parameters, dict):
        raise WorkError("parameters are an object of names and values")
    return {"capability": given["capability"], "parameters": parameters}


def _objects(given: Any) -> list[str]:
    if not isinstance(given, list) or not all(isinstance(name, str) and NAME.fullmatch(name) for name in given):
        raise WorkError("objects is a list of API names, such as Contact or Invoice__c; empty: all that is mirrored")
    return list({name.lower(): name for name in given}.values())


def _actions(given: Any) -> list[dict[str, Any]]:
    if not isinstance(given, list) or not 1 <= len(given) <= ACTIONS_AT_ONCE:
        raise WorkError(f"actions is a list of 1 to {ACTIONS_AT_ONCE:,} actions")
    for number, action in enumerate(given, start=1):
        if not isinstance(action, dict):
            raise WorkError(f"action {number} is no object")
        if unknown := sorted(set(action) - ACTION_FIELDS):
            raise WorkError(
                f"action {number}: {unknown[0]!r} is not known; known are {', '.join(sorted(ACTION_FIELDS))}"
            )
        if not isinstance(action.get("object"), str) or not NAME.fullmatch(action["object"]):
            raise WorkError(f"action {number}: object is the API name of what is written, such as Contact")
        if action.get("operation") not in OPERATIONS:
            raise WorkError(f"action {number}: operation is one of {', '.join(OPERATIONS)}")
        if not isinstance(action.get("fields", {}), dict):
            raise WorkError(f"action {number}: fields are an object of names and values")
        parents = action.get("parents", {})
        if not isinstance(parents, dict) or not all(_is_parent(parent, number) for parent in parents.values()):
            raise WorkError(f"action {number}: parents name, for a field, the number of an action before this one")
    return given


def _is_parent(parent: Any, number: int) -> bool:
    if isinstance(parent, bool):
        return False
    return isinstance(parent, str) or (isinstance(parent, int) and 0 < parent < number)


def placeholders(work: Work) -> set[str]:
    """Names of all placeholders in the work."""
    return {name for text in _texts(work) for name in PLACEHOLDER.findall(text)}


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for part in value.values():
            yield from _texts(part)
    elif isinstance(value, list):
        for part in value:
            yield from _texts(part)


def check_unattended(work: Work) -> None:
    """Raise WorkError when the work needs a caller's parameters: a timetable gives none."""
    if missing := sorted(placeholders(work) - BUILT_IN):
        raise WorkError(f"nobody gives {{{{{missing[0]}}}}} when the timetable fires; make it a manual trigger")


def built_in(due_at: datetime, zone: tzinfo) -> dict[str, Any]:
    """What {{due_at}} and {{due_date}} stand for."""
    return {
        "due_at": due_at.astimezone(UTC).isoformat().replace("+00:00", "Z"),
        "due_date": due_at.astimezone(zone).date().isoformat(),
    }


def fill(work: Work, given: Mapping[str, Any], known: Mapping[str, Any]) -> dict[str, Any]:
    """The work of one firing: placeholders filled from `given` and `known`, the rest of `given` laid over the parameters.

    WorkError for a placeholder that nobody fills and for a parameter that has no place.
    """
    wanted = placeholders(work)
    if missing := sorted(wanted - set(given) - set(known)):
        raise WorkError(
            f"the parameter {missing[0]} is missing: this trigger needs {', '.join(sorted(wanted - BUILT_IN))}"
        )
    filled: dict[str, Any] = _filled(dict(work), {**known, **given})
    rest = {name: value for name, value in given.items() if name not in wanted}
    if "capability" in work:
        return {**filled, "parameters": {**filled["parameters"], **rest}}
    if "objects" in rest and "objects" in work:
        filled["objects"] = _objects(rest.pop("objects"))
    if rest:
        raise WorkError(f"this trigger has no place for the parameter {min(rest)}")
    return filled


def _filled(value: Any, values: Mapping[str, Any]) -> Any:
    if isinstance(value, dict):
        return {name: _filled(part, values) for name, part in value.items()}
    if isinstance(value, list):
        return [_filled(part, values) for part in value]
    if not isinstance(value, str):
        return value
    whole = PLACEHOLDER.fullmatch(value)  # then the value keeps its type
    return values[whole[1]] if whole else PLACEHOLDER.sub(lambda found: str(values[found[1]]), value)
