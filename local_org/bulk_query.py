"""Bulk API 2.0 query jobs. Source: Bulk API 2.0 and Bulk API Developer Guide, "Query Jobs"."""

import base64
import binascii
import sqlite3
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from local_org import bulk_csv, bulk_results
from local_org.bulk_faults import PAGE_KINDS
from local_org.bulk_jobs import (
    DELIMITERS,
    FINAL,
    LINE_ENDINGS,
    Control,
    Job,
    chosen,
    invalid_state,
    open_job,
    same_version,
)
from local_org.context import Answer, Context
from local_org.errors import ApiError
from local_org.query import translated, translated_for
from local_org.soql.plan import ChildRecords, Plan, TypedParent
from local_org.soql.runtime import run
from local_org.soql.sql import NOTHING, Sql, joined
from local_org.values import COMPOUNDS
from local_org.words import whole_number

if TYPE_CHECKING:
    from local_org.org import Org

MAX_JOBS_A_DAY = 10_000
MAX_PAGE_BYTES = 1_000_000_000
PAGES_AT_ONCE = 5
LIST_PAGE = 1_000
_DAY_MS = 86_400_000
_FETCH = 5_000


def _refused(text: str) -> ApiError:
    return ApiError(400, "API_ERROR", text)


# -- handlers


def create(ctx: Context) -> dict[str, Any]:
    """POST jobs/query."""
    body = ctx.json_object()
    operation = chosen(body, "operation", ("query", "queryAll"), "")
    chosen(body, "contentType", ("CSV",), "CSV")
    delimiter = chosen(body, "columnDelimiter", DELIMITERS, "COMMA")
    line_ending = chosen(body, "lineEnding", LINE_ENDINGS, "LF")
    soql = str(body.get("query") or "")
    with ctx.store.read() as conn:
        plan = translated(ctx, conn, soql, all_rows=operation == "queryAll")
    check(plan)
    jobs = ctx.org.jobs
    if jobs.count_since("query", ctx.store.clock.now_ms() - _DAY_MS) >= MAX_JOBS_A_DAY:
        raise ApiError(400, "LIMIT_EXCEEDED", f"Exceeded the limit of {MAX_JOBS_A_DAY} query jobs in 24 hours.")
    more = {"query": soql, "delimiter": delimiter, "line_ending": line_ending}
    job = open_job(ctx, "query", "UploadComplete", operation, plan.item.name, **more)
    jobs.start(job)
    return job.basics()


def check(plan: Plan) -> None:
    """Refuse what query jobs do not support."""
    if not plan.item.bulk:
        text = f"Entity '{plan.item.name}' is not supported by the Bulk API."
        raise ApiError(400, "INVALIDENTITY", text)
    if plan.kind != "records":
        raise _refused("Aggregate functions are not supported in Bulk Query")
    if any(isinstance(output, ChildRecords) for output in plan.outputs):
        raise _refused("Aggregate Relationships not supported in Bulk Query")
    if any(isinstance(output, TypedParent) for output in plan.outputs):
        raise _refused("TYPEOF is not supported in Bulk Query")
    if plan.offset is not None:
        raise _refused("OFFSET is not supported in Bulk Query")
    kinds = {column.field.type for column in plan.flat}
    if kinds & COMPOUNDS:
        raise _refused("Selecting compound data not supported in Bulk Query")
    if "base64" in kinds:
        raise _refused("Selecting binary data not supported in Bulk Query")


def listing(ctx: Context) -> dict[str, Any]:
    """GET jobs/query."""
    if ctx.query.get("jobType", "V2Query") != "V2Query":
        return {"done": True, "records": [], "nextRecordsUrl": None}
    return job_page(ctx, ctx.org.jobs.all("query"), "jobs/query")


def job_page(ctx: Context, jobs: list[Job], path: str) -> dict[str, Any]:
    """A thousand jobs from the place that `queryLocator` names."""
    start = _row(ctx.query.get("queryLocator"), len(jobs))
    end = start + LIST_PAGE
    following = ctx.url(f"{path}?queryLocator={_locator(end)}") if end < len(jobs) else None
    records = [job.details() for job in jobs[start:end]]
    return {"done": following is None, "records": records, "nextRecordsUrl": following}


def get(ctx: Context, job_id: str) -> dict[str, Any]:
    """GET jobs/query/{id}."""
    return _job(ctx, job_id).details()


def _job(ctx: Context, job_id: str) -> Job:
    return same_version(ctx.org.jobs.find("query", job_id), ctx.version)


def change(ctx: Context, job_id: str) -> dict[str, Any]:
    """PATCH jobs/query/{id}: {"state": "Aborted"}."""
    job = _job(ctx, job_id)
    if str(ctx.json_object().get("state")).lower() != "aborted":
        raise invalid_state("The state of a query job can only be changed to Aborted")
    return abort(ctx, job).basics()


def abort(ctx: Context, job: Job) -> Job:
    aborted = ctx.org.jobs.change(job.id, ("Open", "UploadComplete", "InProgress"), state="Aborted")
    if aborted is None:
        raise invalid_state(f"Aborting already {job.state} Job not allowed")
    ctx.org.jobs.stop(job.id)
    return aborted


def delete(ctx: Context, job_id: str) -> Answer:
    """DELETE jobs/query/{id}: only in a final state."""
    job = _job(ctx, job_id)
    if job.state not in FINAL:
        raise invalid_state(f"Deleting a job in state {job.state} is not allowed")
    ctx.org.jobs.forget(job.id)
    return Answer(204)


def results(ctx: Context, job_id: str) -> bulk_results.FileSlices:
    """GET jobs/query/{id}/results?maxRecords=&locator=."""
    job = _job(ctx, job_id)
    found = _results(ctx, job)
    start = _row(ctx.query.get("locator"), found.rows)
    end = found.page_end(start, _max_records(ctx), MAX_PAGE_BYTES)
    count, sent_end, last = end - start, end, end >= found.rows
    if (fault := ctx.org.jobs.faults.take(PAGE_KINDS, job.object)) is not None:
        count += fault.rows if fault.kind == "wrong_count" else 0
        sent_end = max(start, end - fault.rows) if fault.kind == "drop_rows" else end
        last = last or fault.kind == "early_end"
    headers = {"Sforce-NumberOfRecords": str(count), "Sforce-Locator": "null" if last else _locator(end)}
    gzip = "gzip" in ctx.headers.get("accept-encoding", "")
    return bulk_results.FileSlices(found.folder / "rows.csv", found.slices(start, sent_end), headers, gzip=gzip)


def _results(ctx: Context, job: Job) -> bulk_results.Results:
    if job.state != "JobComplete":
        raise invalid_state(f"Unable to get results for a job in state {job.state}")
    return bulk_results.Results(ctx.org.jobs.folder(job.id), job.processed)


def result_pages(ctx: Context, job_id: str) -> dict[str, Any]:
    """GET jobs/query/{id}/resultPages: up to five pages that may be fetched side by side."""
    found = _results(ctx, _job(ctx, job_id))
    asked = _max_records(ctx)
    start = _row(ctx.query.get("locator"), found.rows)
    pages: list[dict[str, str]] = []
    more = "" if asked is None else f"&maxRecords={asked}"
    base = f"jobs/query/{job_id}"
    while len(pages) < PAGES_AT_ONCE and (start < found.rows or not pages):
        pages.append({"resultUrl": ctx.url(f"{base}/results?locator={_locator(start)}{more}")})
        start = found.page_end(start, asked, MAX_PAGE_BYTES) if found.rows else 1
    done = start >= found.rows
    following = None if done else ctx.url(f"{base}/resultPages?locator={_locator(start)}{more}")
    return {"resultPages": pages, "nextRecordsUrl": following, "done": done}


def _max_records(ctx: Context) -> int | None:
    asked = ctx.query.get("maxRecords")
    number = None if asked is None else whole_number(asked)
    if asked is not None and not number:
        raise _refused(f"maxRecords must be a positive number: {asked}")
    return number


def _locator(row: int) -> str:
    return base64.urlsafe_b64encode(str(row).encode()).decode().rstrip("=")


def _row(locator: str | None, rows: int) -> int:
    """The row (from 0) that a locator names. Raises ApiError INVALID_QUERY_LOCATOR."""
    if locator is None:
        return 0
    try:
        row = int(base64.urlsafe_b64decode(locator + "=" * (-len(locator) % 4)))
    except (binascii.Error, ValueError):
        row = -1
    if not 0 <= row < max(rows, 1):
        raise ApiError(400, "INVALID_QUERY_LOCATOR", "invalid query locator")
    return row


# -- work


def job_plan(org: "Org", conn: sqlite3.Connection, job: Job) -> Plan:
    """The plan of a job's query, narrowed to its PK chunk if it has one."""
    plan = translated_for(org, job.user, conn, job.query or "", all_rows=job.operation == "queryAll")
    if job.id_range is None:
        return plan
    first, after = job.id_range
    chunk = Sql(f'{plan.row}."Id" >= ?', (first,))
    chunk += Sql(f' AND {plan.row}."Id" < ?', (after,)) if after else NOTHING
    return replace(plan, where=joined(" AND ", [plan.where, chunk]))


def render(org: "Org", job: Job, control: Control) -> Job:
    """Write the job's result file. `processed` of the job that is given back counts its rows."""
    started = time.monotonic()
    with org.store.read() as conn:
        plan = job_plan(org, conn, job)
        delimiter, line_ending = DELIMITERS[job.delimiter], LINE_ENDINGS[job.line_ending]
        found = run(conn, plan.of(bulk_csv.row_sql(plan.flat, delimiter, line_ending)))

        def chunks() -> Iterator[list[bytes]]:
            while rows := found.fetchmany(_FETCH):
                control.check()
                yield [row[0] for row in rows]

        header = bulk_csv.header(plan.flat, delimiter, line_ending)
        count = bulk_results.write(org.jobs.folder(job.id), header, chunks())
    return replace(job, processed=count, milliseconds=int((time.monotonic() - started) * 1000))
