"""sObject Collections: up to 200 records written, or 2,000 read, in one call that counts once. And Composite, for conditions.

Every write returns one result per record, in the order of the records. Source: REST API guide, "sObject Collections".
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeVar

from worker.errors import OrgComplaint, UnknownOutcomeError
from worker.salesforce.client import OrgClient
from worker.salesforce.errors import complaints
from worker.salesforce.ids import to_18
from worker.salesforce.limits import COLLECTION_RECORDS, COLLECTION_RETRIEVE_IDS, COMPOSITE_SUBREQUESTS
from worker.salesforce.rest import http_date
from worker.salesforce.soql import name
from worker.salesforce.transport import Deadline

PRECONDITION_FAILED = "PRECONDITION_FAILED"
S = TypeVar("S", bound=Sequence[Any])


@dataclass(frozen=True, slots=True)
class RowResult:
    """What the org did with one record. `created` is None where the org does not say (all but upserts)."""

    success: bool
    id: str | None
    created: bool | None
    errors: tuple[OrgComplaint, ...]


def create(
    client: OrgClient,
    object_name: str,
    records: Sequence[Mapping[str, Any]],
    *,
    headers: Mapping[str, str] | None = None,
    deadline: Deadline | None = None,
) -> list[RowResult]:
    """Create up to 200 records. Never repeated here: UnknownOutcomeError when no whole answer came."""
    return _write(client, "POST", "composite/sobjects", object_name, records, headers, deadline)


def update(
    client: OrgClient,
    object_name: str,
    records: Sequence[Mapping[str, Any]],
    *,
    headers: Mapping[str, str] | None = None,
    deadline: Deadline | None = None,
) -> list[RowResult]:
    """Update up to 200 records, each with its `Id`, which the resource calls `id`."""
    named = [{"id" if key == "Id" else key: value for key, value in record.items()} for record in records]
    return _write(client, "PATCH", "composite/sobjects", object_name, named, headers, deadline)


def upsert(
    client: OrgClient,
    object_name: str,
    external_id_field: str,
    records: Sequence[Mapping[str, Any]],
    *,
    headers: Mapping[str, str] | None = None,
    deadline: Deadline | None = None,
) -> list[RowResult]:
    """Create or update up to 200 records by an external id, which each record carries."""
    path = f"composite/sobjects/{name(object_name)}/{name(external_id_field)}"
    return _write(client, "PATCH", path, object_name, records, headers, deadline)


def _write(
    client: OrgClient,
    method: str,
    path: str,
    object_name: str,
    records: Sequence[Mapping[str, Any]],
    headers: Mapping[str, str] | None,
    deadline: Deadline | None,
) -> list[RowResult]:
    """One Collections call that carries records; some may fail while others succeed."""
    attributes = {"type": name(object_name)}
    body = {"allOrNone": False, "records": [{"attributes": attributes, **record} for record in _limited(records)]}
    answer = client.call(method, path, json=body, headers=headers, idempotent=False, deadline=deadline)
    return _results(answer.body, len(records))


def delete(
    client: OrgClient,
    ids: Sequence[str],
    *,
    headers: Mapping[str, str] | None = None,
    deadline: Deadline | None = None,
) -> list[RowResult]:
    """Delete up to 200 records by id."""
    params = {"ids": ",".join(to_18(one) for one in _limited(ids)), "allOrNone": "false"}
    answer = client.call(
        "DELETE", "composite/sobjects", params=params, headers=headers, idempotent=False, deadline=deadline
    )
    return _results(answer.body, len(ids))


def update_unchanged(
    client: OrgClient,
    object_name: str,
    records: Sequence[tuple[str, Mapping[str, Any], datetime]],
    *,
    headers: Mapping[str, str] | None = None,
    deadline: Deadline | None = None,
) -> list[RowResult]:
    """Update up to 25 records, given as (id, fields, moment), each only if it was not changed after its moment.

    The condition is the org's own (If-Unmodified-Since, whole seconds); where it does not hold the error's code is
    PRECONDITION_FAILED. Counts as one call. Source: REST API guide, "Conditional Requests", "Composite".
    """
    parts = [
        _part(client, place, "PATCH", object_name, record_id, fields, since, headers)
        for place, (record_id, fields, since) in enumerate(records)
    ]
    answers = _composite(client, parts, deadline, all_or_none=False)
    return [_row_of(*answer, record_id) for answer, (record_id, _, _) in zip(answers, records, strict=True)]


def delete_unchanged(
    client: OrgClient, object_name: str, record_id: str, since: datetime, *, deadline: Deadline | None = None
) -> RowResult:
    """Delete one record only if it was not changed after `since`.

    A delete takes no condition, so an update without fields does, in the same transaction: it locks the record as well.
    """
    parts = [
        _part(client, 0, "PATCH", object_name, record_id, {}, since),
        _part(client, 1, "DELETE", object_name, record_id, None, None),
    ]
    check, done = _composite(client, parts, deadline, all_or_none=True)
    return _row_of(*(done if check[0] < 300 or _is_halted(check[1]) else check), record_id)


def _part(
    client: OrgClient,
    place: int,
    method: str,
    object_name: str,
    record_id: str,
    fields: Mapping[str, Any] | None,
    since: datetime | None,
    headers: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """One subrequest on a record."""
    url = f"/services/data/v{client.options.version}/sobjects/{name(object_name)}/{to_18(record_id)}"
    part: dict[str, Any] = {"method": method, "url": url, "referenceId": f"r{place}"}
    if fields is not None:
        part["body"] = dict(fields)
    if since is not None:
        part["httpHeaders"] = {"If-Unmodified-Since": http_date(since), **(headers or {})}
    return part


def _composite(
    client: OrgClient, parts: Sequence[Mapping[str, Any]], deadline: Deadline | None, *, all_or_none: bool
) -> list[tuple[int, Any]]:
    """Status and body of each part of one Composite call, in order."""
    if not 1 <= len(parts) <= COMPOSITE_SUBREQUESTS:
        raise ValueError(f"{len(parts)} parts do not fit into a call of 1 to {COMPOSITE_SUBREQUESTS}")
    body = {"allOrNone": all_or_none, "collateSubrequests": False, "compositeRequest": list(parts)}
    answer = client.call("POST", "composite", json=body, idempotent=False, deadline=deadline).body
    try:
        found = {
            one["referenceId"]: (int(one["httpStatusCode"]), one.get("body")) for one in answer["compositeResponse"]
        }
        return [found[str(part["referenceId"])] for part in parts]
    except (LookupError, TypeError, ValueError):
        raise _odd() from None


def _row_of(status: int, body: Any, record_id: str) -> RowResult:
    """The result of one record's part."""
    if status < 300:
        return RowResult(True, to_18(record_id), None, ())
    found = complaints(body) or (OrgComplaint(f"HTTP_{status}", f"the org answered with status {status}"),)
    if status == 412:
        found = (OrgComplaint(PRECONDITION_FAILED, found[0].message, found[0].fields),)
    return RowResult(False, None, None, found)


def _is_halted(body: Any) -> bool:
    return any(one.code == "PROCESSING_HALTED" for one in complaints(body))


def retrieve(
    client: OrgClient, object_name: str, ids: Sequence[str], fields: Sequence[str]
) -> list[dict[str, Any] | None]:
    """Up to 2,000 records by id, in that order; None where there is none that this user may see. ([] for no ids.)"""
    if not ids:
        return []
    if len(ids) > COLLECTION_RETRIEVE_IDS:
        raise ValueError(f"{len(ids)} ids are more than {COLLECTION_RETRIEVE_IDS}")
    body = {"ids": [to_18(one) for one in ids], "fields": [name(field) for field in fields]}
    answer = client.call("POST", f"composite/sobjects/{name(object_name)}", json=body, idempotent=True).body
    if not isinstance(answer, list) or len(answer) != len(ids):
        raise _odd()
    return [row if isinstance(row, dict) and row else None for row in answer]


def _limited(records: S) -> S:
    if not 1 <= len(records) <= COLLECTION_RECORDS:
        raise ValueError(f"{len(records)} records do not fit into a call of 1 to {COLLECTION_RECORDS}")
    return records


def _results(body: Any, expected: int) -> list[RowResult]:
    """One result per record: an answer of another length says nothing of which record is which."""
    if not isinstance(body, list) or len(body) != expected:
        raise _odd()
    return [_result(row) for row in body]


def _result(row: Any) -> RowResult:
    if not isinstance(row, Mapping):
        raise _odd()
    record_id = row.get("id")
    created = row.get("created")
    return RowResult(
        success=row.get("success") is True,
        id=to_18(record_id) if record_id else None,
        created=None if created is None else bool(created),
        errors=complaints(row.get("errors") or []),
    )


def _odd() -> UnknownOutcomeError:
    return UnknownOutcomeError("the org's answer to a collection has not the expected form", code="ODD_ANSWER")
