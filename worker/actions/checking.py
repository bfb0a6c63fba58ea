"""Checking what is asked for against the org's describe: the kept one first, for the door must not depend on the org."""

from collections.abc import Mapping
from dataclasses import replace
from uuid import UUID

from worker.actions import store
from worker.actions.check import Fault, canonical, faults, key_field, value_fault
from worker.actions.deps import ActionDeps
from worker.actions.describes import describe_again, describe_of
from worker.actions.intent import Intent
from worker.errors import RejectedError, SyncError
from worker.log import get_logger
from worker.salesforce.describe import ObjectDescribe
from worker.salesforce.ids import key_prefix

log = get_logger(__name__)

Parents = Mapping[str, store.Parent]
SOME_ID = "000000000000000AAA"  # stands for the id that a parent will get


def check(
    deps: ActionDeps, connection_id: int, asked: Mapping[int, Intent], parents: Mapping[int, Parents]
) -> tuple[dict[int, Intent], dict[int, list[Fault]], ObjectDescribe]:
    """Actions of one object: what is right, under the org's own names; what is wrong with the others; the describe.

    When the kept describe finds faults, the org is asked whether it still holds, where it can be asked. Raises RejectedError
    when the org has no such object.
    """
    object_name = next(iter(asked.values())).object
    describe = describe_of(deps, connection_id, object_name)
    wrong = _all_faults(describe, asked, parents)
    if wrong:
        try:
            describe = describe_again(deps, connection_id, object_name)
        except RejectedError:
            raise
        except SyncError as error:
            log.info("accept.describe_kept", object=object_name, error=type(error).__name__)
        else:
            wrong = _all_faults(describe, asked, parents)
    return {place: _canonical(describe, one) for place, one in asked.items() if place not in wrong}, wrong, describe


def _all_faults(
    describe: ObjectDescribe, asked: Mapping[int, Intent], parents: Mapping[int, Parents]
) -> dict[int, list[Fault]]:
    found = {place: intent_faults(describe, one, parents[place]) for place, one in asked.items()}
    return {place: wrong for place, wrong in found.items() if wrong}


def intent_faults(describe: ObjectDescribe, one: Intent, parents: Parents) -> list[Fault]:
    """Everything that describe says is wrong with one action."""
    found = faults(describe, one.operation, {**one.fields, **dict.fromkeys(parents, SOME_ID)})
    if one.record_id and describe.key_prefix and key_prefix(one.record_id) != describe.key_prefix:
        message = f"{describe.name} ID: id value of incorrect type: {one.record_id}"
        found.append(Fault("MALFORMED_ID", message, ("Id",)))
    if one.external_id_field is not None:
        found += _external_id_faults(describe, one)
    return found + [fault for name, parent in parents.items() for fault in _parent_faults(describe, name, parent)]


def _parent_faults(describe: ObjectDescribe, name: str, parent: store.Parent) -> list[Fault]:
    field = describe.field(name)
    if field is None:  # said already
        return []
    if field.type != "reference":
        return [Fault("INVALID_PARENT", f"{field.name} is no look-up field.", (field.name,))]
    looked_up = {target.lower() for target in field.reference_to}
    if looked_up and parent.object.lower() not in looked_up:
        message = f"{field.name} looks up {', '.join(field.reference_to)}, not {parent.object}."
        return [Fault("INVALID_PARENT", message, (field.name,))]
    return []


def _external_id_faults(describe: ObjectDescribe, intent: Intent) -> list[Fault]:
    assert intent.external_id_field is not None
    named = describe.field(intent.external_id_field)
    if named is None or not (named.external_id or named.id_lookup):
        message = f"Field name provided, {intent.external_id_field} is not an External ID for {describe.name}"
        return [Fault("INVALID_FIELD", message, (intent.external_id_field,))]
    if intent.external_id_field.lower() in {given.lower() for given in intent.fields}:
        return [Fault("INVALID_FIELD", f"{named.name} is given as external id and among the fields.", (named.name,))]
    wrong = value_fault(named, intent.external_id)
    return [wrong] if wrong else []


def _canonical(describe: ObjectDescribe, intent: Intent) -> Intent:
    named = describe.field(intent.external_id_field) if intent.external_id_field else None
    fields = canonical(describe, intent.fields)
    field = named.name if named else intent.external_id_field
    if (intent.object, intent.external_id_field) == (describe.name, field) and fields.keys() == intent.fields.keys():
        return intent
    return replace(intent, object=describe.name, fields=fields, external_id_field=field)


def external_key(
    describe: ObjectDescribe, intent: Intent, action_id: UUID, chosen: str
) -> tuple[str | None, str | None]:
    """External-id field and value that an action is sent with.

    A create carries its own id in the object's key field, where there is one that the caller leaves free.
    """
    if intent.operation != "create":
        named = describe.field(intent.external_id_field) if intent.external_id_field else None
        return (named.name if named else intent.external_id_field), intent.external_id
    key = key_field(describe, chosen)
    return (None, None) if key is None or key in intent.fields else (key, action_id.hex)
