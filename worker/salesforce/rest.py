"""REST: query, describe, getUpdated, getDeleted. Each function makes one call and returns plain values."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime, parsedate_to_datetime
from typing import Any
from urllib.parse import quote, urlsplit

from worker.errors import RejectedError, SyncError, TransientError
from worker.salesforce.client import OrgClient
from worker.salesforce.errors import error_for
from worker.salesforce.limits import (
    COMPOSITE_SUBREQUESTS,
    QUERY_PAGE_RECORDS,
    QUERY_PAGE_RECORDS_MIN,
    URL_BYTES_SAFE,
)
from worker.salesforce.soql import name


@dataclass(frozen=True, slots=True)
class QueryPage:
    """One page of a query. `total_size` counts all pages; numbers are int or Decimal; `org_time` is the answer's Date."""

    total_size: int
    records: list[dict[str, Any]] = field(repr=False)
    next_url: str | None
    org_time: datetime
    done: bool


@dataclass(frozen=True, slots=True)
class Describe:
    """A describe answer, for `describe.parse`; `last_modified` is what to ask with next time."""

    json: dict[str, Any] = field(repr=False)
    last_modified: datetime | None


@dataclass(frozen=True, slots=True)
class Updated:
    """getUpdated: ids created or changed in the window, and how far the org vouches for it."""

    ids: list[str]
    latest_date_covered: datetime


@dataclass(frozen=True, slots=True)
class Deleted:
    """getDeleted: (id, when) of the window. A log that begins after your last look has a hole: `earliest_date_available`."""

    records: list[tuple[str, datetime]]
    earliest_date_available: datetime | None
    latest_date_covered: datetime


def query(client: OrgClient, soql: str, *, all_rows: bool = False, batch_size: int = QUERY_PAGE_RECORDS) -> QueryPage:
    """The first page of a query; `all_rows` includes deleted and archived rows.

    A query too long for a URL is posted inside a Composite call, where it counts as one call too (and `batch_size`, a hint at
    best, cannot be given). Raises SchemaChangedError for a field or object that is not there.
    """
    resource = "queryAll" if all_rows else "query"
    encoded = quote(soql, safe="")
    if len(encoded) > URL_BYTES_SAFE:
        (body,) = together(client, [query_part(soql, all_rows=all_rows)])
    else:
        size = min(max(batch_size, QUERY_PAGE_RECORDS_MIN), QUERY_PAGE_RECORDS)
        headers = {"Sforce-Query-Options": f"batchSize={size}"} if size != QUERY_PAGE_RECORDS else {}
        body = client.call("GET", resource, params={"q": soql}, headers=headers, idempotent=True).body
    return _page(client, _raised(body))


def more(client: OrgClient, next_url: str) -> QueryPage:
    """The page at `QueryPage.next_url`. RejectedError with code INVALID_QUERY_LOCATOR when the cursor has expired."""
    return _page(client, client.call("GET", next_path(next_url), idempotent=True).body)


def next_path(url: str) -> str:
    """Path and query of a `nextRecordsUrl`: the token goes to our instance alone, whatever host an answer names."""
    parts = urlsplit(url)
    if not parts.path.startswith("/services/data/"):
        raise ValueError("a next page is a path below /services/data/")
    return parts._replace(scheme="", netloc="").geturl()


@dataclass(frozen=True, slots=True)
class Part:
    """One GET of a Composite call: a path below the API version's base, and what to ask with."""

    path: str
    params: Mapping[str, str]

    def url(self, version: str) -> str:
        """As a subrequest writes it."""
        query = "&".join(f"{key}={quote(value, safe='')}" for key, value in self.params.items())
        return f"/services/data/v{version}/{self.path}?{query}"


def query_part(soql: str, *, all_rows: bool = False) -> Part:
    """A query, as a part of a Composite call; at most COMPOSITE_QUERIES of these fit into one."""
    return Part("queryAll" if all_rows else "query", {"q": soql})


def updated_part(object_name: str, start: datetime, end: datetime) -> Part:
    """See `get_updated`."""
    return Part(f"sobjects/{name(object_name)}/updated/", {"start": _iso(start), "end": _iso(end)})


def deleted_part(object_name: str, start: datetime, end: datetime) -> Part:
    """See `get_deleted`."""
    return Part(f"sobjects/{name(object_name)}/deleted/", {"start": _iso(start), "end": _iso(end)})


def together(client: OrgClient, parts: Sequence[Part]) -> list[Any]:
    """Several GETs in one Composite call, which counts once; they are carried out in this order.

    For each its body, or the SyncError that it alone met. Raises what the call itself met.
    """
    if len(parts) > COMPOSITE_SUBREQUESTS:
        raise ValueError(f"{len(parts)} parts are more than {COMPOSITE_SUBREQUESTS}")
    requests = [
        {"method": "GET", "url": part.url(client.options.version), "referenceId": f"r{number}"}
        for number, part in enumerate(parts)
    ]
    body = {"allOrNone": False, "collateSubrequests": False, "compositeRequest": requests}
    answer = client.call("POST", "composite", json=body, idempotent=True).body
    try:
        found = {str(one["referenceId"]): one for one in answer["compositeResponse"]}
        return [_part_body(found[request["referenceId"]]) for request in requests]
    except (LookupError, TypeError, ValueError):
        raise _odd("composite") from None


def _part_body(result: Mapping[str, Any]) -> Any:
    status, body = int(result["httpStatusCode"]), result.get("body")
    return error_for(status, body) if status >= 300 else body


def part_page(client: OrgClient, body: Any) -> QueryPage:
    """The page that a query's part brought; raises its error."""
    return _page(client, _raised(body))


def part_updated(body: Any, end: datetime) -> Updated:
    """What `updated_part` brought; raises its error."""
    return _updated(_replicated(_raised(body), "updated"), end)


def part_deleted(body: Any, end: datetime) -> Deleted:
    """What `deleted_part` brought; raises its error."""
    return _deleted(_replicated(_raised(body), "deleted"), end)


def _raised(body: Any) -> Any:
    if isinstance(body, SyncError):
        raise body
    return body


def _page(client: OrgClient, body: Any) -> QueryPage:
    if not isinstance(body, Mapping):
        raise _odd("query")
    records = body.get("records") or []
    next_url = body.get("nextRecordsUrl") or None
    done = bool(body.get("done", next_url is None))
    if not done and not next_url:
        raise _odd("query")
    return QueryPage(
        int(body.get("totalSize", len(records))), records, None if done else next_url, org_now(client), done
    )


def describe(client: OrgClient, object_name: str, *, if_modified_since: datetime | None = None) -> Describe | None:
    """Describe an object; None when nothing changed since `if_modified_since`. NotFoundError when it is hidden or gone."""
    headers = {"If-Modified-Since": http_date(if_modified_since)} if if_modified_since else {}
    answer = client.call("GET", f"sobjects/{name(object_name)}/describe", headers=headers, idempotent=True)
    if answer.status == 304:
        return None
    if not isinstance(answer.body, dict):
        raise _odd("describe")
    return Describe(answer.body, _http_date(answer.headers.get("Last-Modified")))


def describe_global(client: OrgClient) -> list[dict[str, Any]]:
    """The entries of all objects that this user may see (name, label, keyPrefix, queryable, …)."""
    body = client.call("GET", "sobjects", idempotent=True).body
    return list(body.get("sobjects") or []) if isinstance(body, Mapping) else []


def get_updated(client: OrgClient, object_name: str, start: datetime, end: datetime) -> Updated:
    """Ids created or changed in start ≤ t < end (whole minutes, at most 30 days back). Both aware."""
    return _updated(_replication(client, object_name, "updated", start, end), end)


def get_deleted(client: OrgClient, object_name: str, start: datetime, end: datetime) -> Deleted:
    """Records deleted in start ≤ t < end (whole minutes, more than one apart, at most 15 days back). Both aware."""
    return _deleted(_replication(client, object_name, "deleted", start, end), end)


def _replication(client: OrgClient, object_name: str, which: str, start: datetime, end: datetime) -> Mapping[str, Any]:
    params = {"start": _iso(start), "end": _iso(end)}
    path = f"sobjects/{name(object_name)}/{which}/"
    return _replicated(client.call("GET", path, params=params, idempotent=True).body, which)


def _replicated(body: Any, which: str) -> Mapping[str, Any]:
    if not isinstance(body, Mapping):
        raise _odd(which)
    return body


def _updated(body: Mapping[str, Any], end: datetime) -> Updated:
    return Updated([str(one) for one in body.get("ids") or []], _covered(body, end))


def _deleted(body: Mapping[str, Any], end: datetime) -> Deleted:
    records = [(str(one["id"]), parse_instant(one["deletedDate"])) for one in body.get("deletedRecords") or []]
    earliest = body.get("earliestDateAvailable")
    return Deleted(records, parse_instant(earliest) if earliest else None, _covered(body, end))


def _covered(body: Mapping[str, Any], end: datetime) -> datetime:
    """latestDateCovered, never later than the end that was asked for."""
    value = body.get("latestDateCovered")
    if not value:
        raise _odd("latestDateCovered")
    return min(parse_instant(value), end)


def org_time(client: OrgClient) -> datetime:
    """The org's clock, by a call that costs little: the list of API versions needs no session. A refusal bears a date, too."""
    try:
        client.call("GET", "/services/data", idempotent=True)
    except RejectedError as error:
        if client.org_time is None:
            raise TransientError(f"{client.host} does not tell its time: {error}", code="NO_DATE") from None
    return org_now(client)


def org_now(client: OrgClient) -> datetime:
    """The Date of the last answer; TransientError when there was none, for nothing about the mirror may use our own clock."""
    if client.org_time is None:
        raise TransientError(f"{client.host} sends no Date header", code="NO_DATE")
    return client.org_time


def parse_instant(text: str) -> datetime:
    """`2026-11-08T21:20:00.000+0000` or `…Z`, aware UTC. ValueError otherwise."""
    value = datetime.fromisoformat(text)
    if value.tzinfo is None:
        raise ValueError(f"{text!r} has no zone")
    return value.astimezone(UTC)


def http_date(value: datetime) -> str:
    """Mon, 23 Nov 2026 10:00:00 GMT."""
    return format_datetime(value.astimezone(UTC), usegmt=True)


def _http_date(text: str | None) -> datetime | None:
    try:
        return parsedate_to_datetime(text).astimezone(UTC) if text else None
    except ValueError:
        return None


def _iso(value: datetime) -> str:
    if value.tzinfo is None:
        raise ValueError("a naive datetime has no instant")
    return value.astimezone(UTC).isoformat(timespec="seconds")


def _odd(what: str) -> TransientError:
    return TransientError(
        f"the org's answer to {what} has not the expected form", code="ODD_ANSWER", retry_after=timedelta(seconds=5)
    )
