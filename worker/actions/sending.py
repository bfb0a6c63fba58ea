"""One call to the org for a batch of one kind, by the way that was chosen for it; a verdict for each of its rows."""

from collections.abc import Sequence

from worker.actions import outcome
from worker.actions.batching import COLLECTION, CONDITIONAL, UPSERT, Pending, Row, body, headers_for, merged
from worker.actions.outcome import Verdict
from worker.errors import RejectedError
from worker.salesforce import composite, ui_records
from worker.salesforce.client import OrgClient
from worker.salesforce.transport import Deadline


def send(client: OrgClient, object_name: str, way: str, rows: Sequence[Row], *, seconds: float) -> list[Verdict]:
    """A verdict per row, in order. Raises what the call as a whole may raise."""
    deadline = Deadline.after(seconds)
    actions = [merged(row) for row in rows]
    match way:
        case "idempotency_key":
            return [_by_key(client, object_name, actions[0], deadline)]
        case "conditional":
            return _conditional(client, object_name, actions, deadline)
        case _:
            return _collection(client, object_name, way, actions, deadline)


def _collection(
    client: OrgClient, object_name: str, way: str, actions: Sequence[Pending], deadline: Deadline
) -> list[Verdict]:
    assert way in (COLLECTION, UPSERT)
    kind = actions[0]
    records = [body(one) for one in actions]
    headers = headers_for(object_name, actions)
    if kind.operation == "delete":
        results = composite.delete(client, [str(one.record_id) for one in actions], deadline=deadline)
    elif kind.operation == "update":
        results = composite.update(client, object_name, records, headers=headers, deadline=deadline)
    elif kind.external_id_field is not None:
        results = composite.upsert(
            client, object_name, kind.external_id_field, records, headers=headers, deadline=deadline
        )
    else:
        results = composite.create(client, object_name, records, headers=headers, deadline=deadline)
    return [
        outcome.judge(one.operation, one.record_id, result, doubted=one.doubted)
        for one, result in zip(actions, results, strict=True)
    ]


def _by_key(client: OrgClient, object_name: str, action: Pending, deadline: Deadline) -> Verdict:
    """Under its own key the org makes one record of it, however often it is asked.

    What is refused here goes the common way next: the UI API takes less than that does, and hides its reasons. Not after a
    doubt, for then only the key tells what the first sending did.
    """
    try:
        return outcome.Delivered(ui_records.create(client, object_name, action.fields, action.id, deadline=deadline))
    except RejectedError as error:
        if action.doubted:
            raise
        return outcome.NotThisWay(outcome.problem_of(error))


def _conditional(client: OrgClient, object_name: str, actions: Sequence[Pending], deadline: Deadline) -> list[Verdict]:
    assert all(one.if_unmodified_since is not None for one in actions), CONDITIONAL + " without a condition"
    if actions[0].operation == "delete":
        (action,) = actions
        moment = action.if_unmodified_since
        assert moment is not None
        results = [composite.delete_unchanged(client, object_name, str(action.record_id), moment, deadline=deadline)]
    else:
        records = [(str(one.record_id), one.fields, one.if_unmodified_since) for one in actions]
        given = [(record_id, fields, since) for record_id, fields, since in records if since is not None]
        headers = headers_for(object_name, actions)
        results = composite.update_unchanged(client, object_name, given, headers=headers, deadline=deadline)
    return [
        outcome.judge(one.operation, one.record_id, result, doubted=one.doubted)
        for one, result in zip(actions, results, strict=True)
    ]
