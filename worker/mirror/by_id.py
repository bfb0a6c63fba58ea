"""Read records by Id: the second look that decides about a suspect, and how delivered records are remembered."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import islice
from time import monotonic
from typing import Any, TypeVar

from worker.mirror.cursor import read_began
from worker.mirror.rows import to_csv
from worker.mirror.schema import TableSpec
from worker.salesforce import composite, rest, soql
from worker.salesforce.client import OrgClient
from worker.salesforce.limits import COLLECTION_RETRIEVE_IDS

IDS_PER_QUERY = 500  # 18 characters and quotes each: far below SOQL's limit, and one Composite call

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Found:
    """What the org said: rows as CSV pieces (deleted records among them, where the object tells), ids that it did not find."""

    data: list[bytes]
    gone: list[str]
    began: datetime  # the org's time when the reading was sent


def read(client: OrgClient, spec: TableSpec, ids: Sequence[str], fields: Sequence[str]) -> Found:
    """Read `ids` as they are now; those that are not there are looked for among the deleted."""
    records: list[dict[str, Any]] = []
    missing: list[str] = []
    start = monotonic()
    for some in batches(ids, COLLECTION_RETRIEVE_IDS):
        rows = composite.retrieve(client, spec.object, some, fields)
        missing += [one for one, row in zip(some, rows, strict=True) if row is None]
        records += [row for row in rows if row is not None]
    deleted = _deleted(client, spec, missing, fields) if spec.has("IsDeleted") else []
    seen = {row["Id"] for row in deleted}
    began = read_began(rest.org_now(client), timedelta(seconds=monotonic() - start))
    return Found([to_csv([*records, *deleted], fields)], [one for one in missing if one not in seen], began)


def _deleted(client: OrgClient, spec: TableSpec, ids: Sequence[str], fields: Sequence[str]) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for some in batches(ids, IDS_PER_QUERY):
        query = soql.select(spec.object, fields, where=soql.in_list("Id", some))
        page = rest.query(client, query, all_rows=True)
        rows += page.records
        while page.next_url is not None:
            page = rest.more(client, page.next_url)
            rows += page.records
    return rows


def batches(values: Sequence[T], size: int) -> Iterator[list[T]]:
    """`values` in lists of at most `size`."""
    rest_of = iter(values)
    while some := list(islice(rest_of, size)):
        yield some
