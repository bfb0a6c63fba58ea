"""Bulk API 2.0 query jobs: create, look, open a page, abort, delete. Each asks once and never waits.

Source: Bulk API 2.0 and Bulk API Developer Guide, "Query".
"""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from worker.errors import TransientError
from worker.salesforce import bulk_jobs
from worker.salesforce.client import OrgClient
from worker.salesforce.exchange import Opened
from worker.salesforce.rest import org_now, parse_instant

RUNNING = ("UploadComplete", "InProgress")
COMPLETE = "JobComplete"
FAILED = ("Failed", "Aborted")
_JOB_ID = re.compile(r"[A-Za-z0-9]{15,18}")


@dataclass(frozen=True, slots=True)
class QueryJob:
    """A query job. `created_at` is the org's time; `records_processed` is None until the org says it."""

    id: str
    state: str
    created_at: datetime
    records_processed: int | None
    error: str | None
    retries: int

    @property
    def complete(self) -> bool:
        """Whether its result can be read."""
        return self.state == COMPLETE

    @property
    def failed(self) -> bool:
        """Whether it will never have a result."""
        return self.state in FAILED


class PageStream:
    """A result page on the wire.

    `rows`: what the org says it holds (None if it does not). `next_locator`: None after the last page. `received`: bytes handed out.
    """

    def __init__(self, opened: Opened) -> None:
        rows = opened.headers.get("Sforce-NumberOfRecords", "")
        locator = opened.headers.get("Sforce-Locator", "").strip()
        self.rows = int(rows) if rows.isdigit() else None
        self.next_locator = None if locator in ("", "null") else locator
        self.received = 0
        self._opened = opened

    def chunks(self) -> Iterator[bytes]:
        """The CSV in pieces of about half a megabyte, to be read once. TransientError when the page breaks off."""
        for chunk in self._opened.chunks():
            self.received += len(chunk)
            yield chunk


def create_query(client: OrgClient, soql: str, *, all_rows: bool = False) -> QueryJob:
    """Create a query job; `all_rows` includes deleted and archived rows.

    A lost answer leaves a job without an owner, which costs one of the day's jobs and nothing else.
    """
    body = {
        "operation": "queryAll" if all_rows else "query",
        "query": soql,
        "contentType": "CSV",
        "columnDelimiter": "COMMA",
        "lineEnding": "LF",
    }
    return _job(client, client.call("POST", "jobs/query", json=body, idempotent=False).body)


def get_query(client: OrgClient, job_id: str) -> QueryJob:
    """Look at a job. NotFoundError when it is gone (kept for 7 days)."""
    return _job(client, client.call("GET", _path(job_id), idempotent=True).body)


@contextmanager
def open_page(client: OrgClient, job_id: str, locator: str | None, max_records: int) -> Iterator[PageStream]:
    """One page of a finished job. `locator` is None for the first; a page may be read again while the job exists.

    Raises TransientError while the job is not finished, NotFoundError when it is gone.
    """
    params: dict[str, Any] = {"maxRecords": max_records}
    if locator is not None:
        params["locator"] = locator
    with client.open(f"{_path(job_id)}/results", params=params, headers={"Accept": "text/csv"}) as opened:
        stream = PageStream(opened)
        try:
            yield stream
        finally:
            client.meter.bulk(bytes=stream.received)


def abort(client: OrgClient, job_id: str) -> None:
    """Ask for a job's end. Nothing happens when it has ended or is gone."""
    bulk_jobs.abort(client, _path(job_id))


def delete(client: OrgClient, job_id: str) -> None:
    """Delete a finished job and its result. Nothing happens when it is gone or still running."""
    bulk_jobs.delete(client, _path(job_id))


def _path(job_id: str) -> str:
    if not _JOB_ID.fullmatch(job_id):
        raise ValueError(f"{job_id!r} is no job id")
    return f"jobs/query/{job_id}"


def _job(client: OrgClient, body: Any) -> QueryJob:
    if not isinstance(body, Mapping) or not body.get("id"):
        raise TransientError("the org's answer about a Bulk job has not the expected form", code="ODD_ANSWER")
    created = body.get("createdDate")
    processed = body.get("numberRecordsProcessed")
    return QueryJob(
        id=str(body["id"]),
        state=str(body.get("state") or "UploadComplete"),
        created_at=parse_instant(created) if created else org_now(client),
        records_processed=int(processed) if processed is not None else None,
        error=str(body["errorMessage"]) if body.get("errorMessage") else None,
        retries=int(body.get("retries") or 0),
    )
