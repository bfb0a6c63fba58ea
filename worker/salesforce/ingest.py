"""Bulk API 2.0 ingest jobs: create, upload, close, look, read results, abort. Each asks once and never waits.

Source: Bulk API 2.0 and Bulk API Developer Guide, "Bulk API 2.0 Ingest".
"""

import csv
import io
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import chain
from typing import Any

from worker.errors import OrgComplaint, TransientError
from worker.salesforce import bulk_jobs
from worker.salesforce.client import OrgClient
from worker.salesforce.ids import to_18
from worker.salesforce.rest import next_path, parse_instant
from worker.salesforce.soql import name
from worker.salesforce.transport import Deadline
from worker.steps import no_pause, paced

OPEN = "Open"
FINAL = ("JobComplete", "Failed", "Aborted")
NULL = "#N/A"  # a cell that empties its field; an empty cell leaves it alone
WRONG_STATE = "INVALIDJOBSTATE"

csv.field_size_limit(2**31 - 1)  # the module's own limit is smaller than the vendor's
_JOB_ID = re.compile(r"[A-Za-z0-9]{15,18}")
_ROW_ERROR = re.compile(r"(?P<code>[A-Z_0-9]+):(?P<message>.*?)(?::(?P<fields>[^:]*?)\s*--)?", re.DOTALL)


@dataclass(frozen=True, slots=True)
class IngestJob:
    """An ingest job. The two counts are what the org has said so far."""

    id: str
    state: str
    operation: str
    object: str
    created_by: str
    created_at: datetime | None
    processed: int
    failed: int
    error: str | None

    @property
    def over(self) -> bool:
        """Whether its results are final."""
        return self.state in FINAL


@dataclass(frozen=True, slots=True)
class ResultRow:
    """What became of one uploaded row. `cells`: the uploaded values by column, as the org gives them back."""

    cells: Mapping[str, str]
    success: bool
    id: str | None
    created: bool | None
    errors: tuple[OrgComplaint, ...]


@dataclass(frozen=True, slots=True)
class Results:
    """`tried`: rows that the org carried out or refused; `untried`: uploaded rows that it did not get to.

    `whole`: they are as many as were uploaded, each row in one of the lists. Half a result must not pass for all of it.
    """

    tried: list[ResultRow]
    untried: list[dict[str, str]]
    whole: bool


def create(
    client: OrgClient, object_name: str, operation: str, external_id_field: str | None, *, deadline: Deadline
) -> IngestJob:
    """Open a job (`insert`, `update`, `upsert`, `delete`); it does nothing before data is uploaded and it is closed."""
    body = {"object": name(object_name), "operation": operation, "contentType": "CSV", "lineEnding": "LF"}
    if external_id_field is not None:
        body["externalIdFieldName"] = name(external_id_field)
    return _job(client.call("POST", "jobs/ingest", json=body, idempotent=False, deadline=deadline).body)


def upload(client: OrgClient, job_id: str, data: bytes, *, rows: int, deadline: Deadline) -> None:
    """Upload the whole data, of so many rows. A second time is refused by the org (INVALIDJOBSTATE), so that nothing is doubled by asking again."""
    headers = {"Content-Type": "text/csv; charset=UTF-8"}
    client.call("PUT", f"{_path(job_id)}/batches", data=data, headers=headers, idempotent=False, deadline=deadline)
    client.meter.bulk(ingest_rows=rows)


def close(client: OrgClient, job_id: str) -> None:
    """Say that the data is whole: the org begins to work. RejectedError with INVALIDJOBSTATE when it is closed already."""
    client.call("PATCH", _path(job_id), json={"state": "UploadComplete"}, idempotent=True)


def abort(client: OrgClient, job_id: str) -> None:
    """Ask for a job's end. Nothing happens when it has ended or is gone."""
    bulk_jobs.abort(client, _path(job_id))


def delete(client: OrgClient, job_id: str) -> None:
    """Delete a job that is over, with its results. Nothing happens when it is gone or still at work."""
    bulk_jobs.delete(client, _path(job_id))


def get(client: OrgClient, job_id: str) -> IngestJob:
    """Look at a job. NotFoundError when it is gone (kept for 7 days)."""
    return _job(client.call("GET", _path(job_id), idempotent=True).body)


def listed(client: OrgClient) -> Iterator[IngestJob]:
    """The ingest jobs that this user may see, a call per page."""
    path: str | None = "jobs/ingest"
    params: dict[str, Any] | None = {"jobType": "V2Ingest"}
    while path:
        body = client.call("GET", path, params=params, idempotent=True).body
        if not isinstance(body, Mapping):
            raise _odd()
        yield from (_job(one) for one in body.get("records") or [])
        following = body.get("nextRecordsUrl")
        path = next_path(str(following)) if following and not body.get("done", True) else None
        params = None


def results(client: OrgClient, job: IngestJob, uploaded: int, pause: Callable[[], None] = no_pause) -> Results:
    """What became of the `uploaded` rows of a job that is over, in at most three calls.

    The job's own counts only save calls: of one that failed, or in an org that does not count, they may say nothing.
    """
    all_failed = 0 < job.processed == job.failed
    good = [] if all_failed else [_success(row) for row in paced(_rows(client, job.id, "successfulResults"), pause)]
    bad = []
    if len(good) < uploaded:
        bad = [_failure(row) for row in paced(_rows(client, job.id, "failedResults"), pause)]
    left = list(_rows(client, job.id, "unprocessedrecords")) if len(good) + len(bad) < uploaded else []
    return Results([*good, *bad], left, len(good) + len(bad) + len(left) == uploaded)


def to_csv(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> bytes:
    """The data of an upload: a header, then the rows. Every cell that holds something is quoted; an empty one is left empty."""
    lines = (",".join(_quoted(cell) for cell in row) for row in chain([columns], rows))
    return ("\n".join(lines) + "\n").encode()


def _quoted(cell: str) -> str:
    return '"' + cell.replace('"', '""') + '"' if cell else ""


def _rows(client: OrgClient, job_id: str, which: str) -> Iterator[dict[str, str]]:
    with client.open(f"{_path(job_id)}/{which}/", headers={"Accept": "text/csv"}) as opened:
        data = b"".join(opened.chunks())
    reader = csv.reader(io.StringIO(data.decode("utf-8-sig"), newline=""))
    header = next(reader, [])
    for line in reader:
        if not line:
            continue
        if len(line) != len(header):
            raise TransientError(f"the results of job {job_id} break off", code="RESULTS_NOT_WHOLE")
        yield dict(zip(header, line, strict=True))


def _success(row: dict[str, str]) -> ResultRow:
    return ResultRow(_cells(row), True, to_18(row["sf__Id"]), row.get("sf__Created", "").lower() == "true", ())


def _failure(row: dict[str, str]) -> ResultRow:
    record_id = row.get("sf__Id") or None
    return ResultRow(_cells(row), False, record_id and to_18(record_id), None, (row_error(row.get("sf__Error", "")),))


def _cells(row: dict[str, str]) -> dict[str, str]:
    return {key: value for key, value in row.items() if not key.startswith("sf__")}


def row_error(text: str) -> OrgComplaint:
    """`CODE:message:Field1,Field2 --` as the org's complaint."""
    match = _ROW_ERROR.fullmatch(text.strip())
    if match is None:
        return OrgComplaint("", text)
    fields = tuple(part.strip() for part in (match["fields"] or "").split(",") if part.strip())
    return OrgComplaint(match["code"], match["message"].strip(), fields)


def _path(job_id: str) -> str:
    if not _JOB_ID.fullmatch(job_id):
        raise ValueError(f"{job_id!r} is no job id")
    return f"jobs/ingest/{job_id}"


def _job(body: Any) -> IngestJob:
    if not isinstance(body, Mapping) or not body.get("id"):
        raise _odd()
    created = body.get("createdDate")
    return IngestJob(
        id=str(body["id"]),
        state=str(body.get("state") or OPEN),
        operation=str(body.get("operation") or ""),
        object=str(body.get("object") or ""),
        created_by=str(body.get("createdById") or ""),
        created_at=parse_instant(str(created)) if created else None,
        processed=int(body.get("numberRecordsProcessed") or 0),
        failed=int(body.get("numberRecordsFailed") or 0),
        error=str(body["errorMessage"]) if body.get("errorMessage") else None,
    )


def _odd() -> TransientError:
    return TransientError("the org's answer about a Bulk job has not the expected form", code="ODD_ANSWER")
