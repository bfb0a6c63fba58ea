"""Read records by Id: the second look that decides about a suspect, and how delivered records are remembered."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import islice
from time import monotonic
from typing import Any, TypeVar

from sqlalchemy.orm import Session

from worker.mirror import asking, intake, rest_read, store
from worker.mirror.cursor import read_began, young_since
from worker.mirror.intake import Taken
from worker.mirror.rows import to_csv
from worker.mirror.schema import TableSpec
from worker.mirror.store import Merged, Target
from worker.salesforce import composite, rest
from worker.salesforce.client import OrgClient
from worker.salesforce.limits import COLLECTION_RETRIEVE_IDS

IDS_PER_QUERY = 500  # 18 characters and quotes each: far below SOQL's limit, and one Composite call

T = TypeVar("T")
Record = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Found:
    """What the org said: rows as CSV pieces (deleted records among them, where the object tells), ids that it did not find,
    and ids of records that are there but do not meet the mirror's row filter."""

    data: list[bytes]
    gone: list[str]
    filtered: list[str]
    began: datetime  # the org's time when the reading was sent


def read(client: OrgClient, spec: TableSpec, ids: Sequence[str], fields: Sequence[str]) -> Found:
    """Read `ids` as they are now; those that are not there are looked for among the deleted."""
    start = monotonic()
    records: list[Record] = []
    missing: list[str] = []
    for some in batches(ids, COLLECTION_RETRIEVE_IDS):
        asked = _matching if spec.row_filter or not spec.retrieveable else _retrieved
        here = asked(client, spec, some, fields)
        records += here
        seen = {row["Id"] for row in here}
        missing += [one for one in some if one not in seen]
    others = _all_rows(client, spec, missing, fields) if spec.has("IsDeleted") or spec.row_filter else []
    began = read_began(rest.org_now(client), timedelta(seconds=monotonic() - start))
    # What is neither deleted nor met the filter a moment ago does not meet it. Without a filter it was archived.
    filtered = [row["Id"] for row in others if spec.row_filter and not row.get("IsDeleted")]
    records += [row for row in others if row["Id"] not in set(filtered)]
    seen = {row["Id"] for row in others}
    return Found(
        [to_csv(records, fields, loose=spec.loose)], [one for one in missing if one not in seen], filtered, began
    )


def _retrieved(client: OrgClient, spec: TableSpec, ids: Sequence[str], fields: Sequence[str]) -> list[Record]:
    return [row for row in composite.retrieve(client, spec.object, ids, fields) if row is not None]


def _matching(client: OrgClient, spec: TableSpec, ids: Sequence[str], fields: Sequence[str]) -> list[Record]:
    return [
        row
        for some in batches(ids, IDS_PER_QUERY)
        for page in rest_read.pages(client, asking.by_ids(spec, _with_deleted(spec, fields), some, filtered=True))
        for row in page.records
    ]


def _all_rows(client: OrgClient, spec: TableSpec, ids: Sequence[str], fields: Sequence[str]) -> list[Record]:
    return [
        row
        for some in batches(ids, IDS_PER_QUERY)
        for page in rest_read.pages(client, asking.by_ids(spec, _with_deleted(spec, fields), some, filtered=False))
        for row in page.records
    ]


def _with_deleted(spec: TableSpec, fields: Sequence[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys([*fields, *(["IsDeleted"] if spec.has("IsDeleted") else [])]))


def merge(session: Session, target: Target, found: Found) -> tuple[Merged, Taken]:
    """Bring the mirror to what the org said of these records: their rows, and those that it does not show any more."""
    staged, taken = intake.look(session, target, found.data)
    assert staged.staging is not None
    merged = store.merge(session, target, staged.staging, young=young_since(found.began))
    left = store.leave(session, target, found.gone, found.began)
    left += store.leave(session, target, found.filtered, found.began, cause=store.FILTERED)
    return Merged(merged.changed, merged.deleted + left), taken


def batches(values: Sequence[T], size: int) -> Iterator[list[T]]:
    """`values` in lists of at most `size`."""
    rest_of = iter(values)
    while some := list(islice(rest_of, size)):
        yield some
