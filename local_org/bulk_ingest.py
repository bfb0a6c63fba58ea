"""Bulk API 2.0 ingest jobs. Source: Bulk API 2.0 and Bulk API Developer Guide, "Bulk API 2.0 Ingest"."""

import json
import shutil
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

from local_org.bulk_jobs import (
    DELIMITERS,
    FINAL,
    LINE_ENDINGS,
    MAX_BATCHES_A_DAY,
    Job,
    JobFailedError,
    batches_since,
    chosen,
    invalid_state,
    open_job,
    same_version,
)
from local_org.bulk_query import abort, job_page
from local_org.bulk_results import FileSlices
from local_org.bulk_upload import UPLOAD, Upload, write_rows
from local_org.catalogue import ObjectType
from local_org.context import Answer, Context
from local_org.errors import ApiError, unreadable_json

OPERATIONS = ("insert", "update", "upsert", "delete", "hardDelete")
MAX_UPLOAD_BYTES = 150_000_000
MAX_INLINE_CHARACTERS = 100_000
_DAY_MS = 86_400_000


def _refused(text: str) -> ApiError:
    return ApiError(400, "INVALIDJOB", f"InvalidJob : {text}")


def upload_path(ctx: Context, job: Job) -> Upload:
    return Upload.of(job, ctx.org.jobs.folder(job.id) / UPLOAD)


# -- creation


def create(ctx: Context) -> dict[str, Any]:
    """POST jobs/ingest: JSON opens a job; multipart brings its data too and closes it."""
    if ctx.is_multipart():
        return _create_whole(ctx)
    return _create(ctx, ctx.json_object()).basics()


def _create(ctx: Context, body: dict[str, Any]) -> Job:
    operation = chosen(body, "operation", OPERATIONS, "")
    chosen(body, "contentType", ("CSV",), "CSV")
    delimiter = chosen(body, "columnDelimiter", DELIMITERS, "COMMA")
    line_ending = chosen(body, "lineEnding", LINE_ENDINGS, "LF")
    item = _object(ctx, str(body.get("object") or ""))
    key = _key(item, operation, body.get("externalIdFieldName"))
    _check_quota(ctx)
    return open_job(
        ctx,
        "ingest",
        "Open",
        operation,
        item.name,
        external_id_field=key,
        assignment_rule=body.get("assignmentRuleId"),
        delimiter=delimiter,
        line_ending=line_ending,
    )


def _object(ctx: Context, name: str) -> ObjectType:
    item = ctx.catalogue.object(name)
    if item is None:
        raise _refused(f"Unable to find object: {name}")
    if not item.bulk:
        text = f"Entity '{item.name}' is not supported by the Bulk API."
        raise ApiError(400, "INVALIDENTITY", text)
    return item


def _key(item: ObjectType, operation: str, name: Any) -> str | None:
    """The field by which an upsert finds its records."""
    if operation != "upsert":
        if name:
            raise _refused("External ID was specified for a non-upsert job")
        return None
    field = item.field(str(name or ""))
    if field is None or not (field.external_id or field.id_lookup or field.type == "id"):
        raise _refused(f"Field name provided, {name or ''} does not match an External ID for {item.name}")
    return field.name


def _check_quota(ctx: Context) -> None:
    """Batches of 10,000 rows in 24 hours. Source: "Limits", shared with Bulk API 1.0."""
    if batches_since(ctx.org.jobs, ctx.store.clock.now_ms() - _DAY_MS) >= MAX_BATCHES_A_DAY:
        raise ApiError(400, "LIMIT_EXCEEDED", "ExceededQuota : ApiBatchItems Limit exceeded.")


def _create_whole(ctx: Context) -> dict[str, Any]:
    parts = ctx.parts()
    if "job" not in parts or "content" not in parts:
        text = "Multipart requests need the parts job and content"
        raise ApiError(400, "INVALID_MULTIPART_REQUEST", text)
    try:
        body = json.loads(parts["job"])
    except ValueError as error:
        raise unreadable_json(f"Unexpected character: {error} at [line:1, column:1]") from None
    content = parts["content"]
    if len(content.decode("utf-8", "replace")) > MAX_INLINE_CHARACTERS:
        text = f"The content part holds more than {MAX_INLINE_CHARACTERS} characters"
        raise ApiError(400, "INVALID_MULTIPART_REQUEST", text)
    job = _create(ctx, body)
    upload_path(ctx, job).path.write_bytes(content)
    return _close(ctx, job).basics()


# -- a job


def _job(ctx: Context, job_id: str) -> Job:
    return same_version(ctx.org.jobs.find("ingest", job_id), ctx.version)


def listing(ctx: Context) -> dict[str, Any]:
    """GET jobs/ingest."""
    if ctx.query.get("jobType", "V2Ingest") != "V2Ingest":
        return {"done": True, "records": [], "nextRecordsUrl": None}
    return job_page(ctx, ctx.org.jobs.all("ingest"), "jobs/ingest")


def get(ctx: Context, job_id: str) -> dict[str, Any]:
    """GET jobs/ingest/{id}."""
    return _job(ctx, job_id).details()


def upload(ctx: Context, job_id: str) -> Answer:
    """PUT jobs/ingest/{id}/batches: the data, once."""
    job = _job(ctx, job_id)
    if not ctx.headers.get("content-type", "text/csv").lower().startswith("text/csv"):
        raise ApiError(400, "INVALID_CONTENT_TYPE", "Unsupported content type, expected text/csv")
    path = upload_path(ctx, job).path
    if job.state != "Open" or path.exists():
        text = f"Found multiple contents for job: <{job.id}>, please PUT data once, while the job is open"
        raise invalid_state(text)
    size = ctx.upload.stat().st_size if ctx.upload else len(ctx.body)
    if size > MAX_UPLOAD_BYTES:
        raise ApiError(413, "REQUEST_ENTITY_TOO_LARGE", f"The data is larger than {MAX_UPLOAD_BYTES} bytes")
    if ctx.upload:
        shutil.move(ctx.upload, path)
    else:
        path.write_bytes(ctx.body)
    return Answer(201)


def change(ctx: Context, job_id: str) -> dict[str, Any]:
    """PATCH jobs/ingest/{id}: {"state": "UploadComplete"} or {"state": "Aborted"}."""
    job = _job(ctx, job_id)
    state = str(ctx.json_object().get("state"))
    if state.lower() == "aborted":
        return abort(ctx, job).basics()
    if state.lower() != "uploadcomplete":
        raise invalid_state(f"Job cannot be changed to state {state}")
    return _close(ctx, job).basics()


def _close(ctx: Context, job: Job) -> Job:
    closed = ctx.org.jobs.change(job.id, ("Open",), state="UploadComplete")
    if closed is None:
        raise invalid_state(f"Closing already {job.state} Job not allowed")
    ctx.org.jobs.start(closed)
    return closed


def delete(ctx: Context, job_id: str) -> Answer:
    """DELETE jobs/ingest/{id}: while nothing works on it."""
    job = _job(ctx, job_id)
    if job.state not in (*FINAL, "UploadComplete"):
        raise invalid_state(f"Deleting a job in state {job.state} is not allowed")
    ctx.org.jobs.stop(job.id)
    ctx.org.jobs.forget(job.id)
    return Answer(204)


# -- results


def successful(ctx: Context, job_id: str) -> FileSlices:
    """GET jobs/ingest/{id}/successfulResults."""
    return _results(ctx, job_id, "successful", ["sf__Id", "sf__Created"])


def failed(ctx: Context, job_id: str) -> FileSlices:
    """GET jobs/ingest/{id}/failedResults."""
    return _results(ctx, job_id, "failed", ["sf__Id", "sf__Error"])


def unprocessed(ctx: Context, job_id: str) -> FileSlices:
    """GET jobs/ingest/{id}/unprocessedrecords."""
    return _results(ctx, job_id, "unprocessed", [])


def _results(ctx: Context, job_id: str, which: str, extra: list[str]) -> FileSlices:
    job = _job(ctx, job_id)
    if job.state not in FINAL:
        raise invalid_state(f"Unable to get results for a job in state {job.state}")
    source = upload_path(ctx, job)
    path = source.path.with_name(f"{which}.csv")
    if not path.exists():
        _write_results(ctx, job, source, path, extra)
    gzip = "gzip" in ctx.headers.get("accept-encoding", "")
    return FileSlices(path, [(0, path.stat().st_size)], {}, gzip=gzip)


def _write_results(ctx: Context, job: Job, source: Upload, path: Path, extra: list[str]) -> None:
    """One result file. Of data that is no CSV nothing was tried: it is unprocessed as it came."""
    which = path.stem
    try:
        header = source.header() if source.path.exists() else []
        write_rows(path, source, chain([[*extra, *header]], _result_lines(ctx, job, source, which)))
    except JobFailedError:
        if which == "unprocessed":
            shutil.copyfile(source.path, path)
        else:
            write_rows(path, source, [[*extra, *source.raw_header()]])


def _result_lines(ctx: Context, job: Job, source: Upload, which: str) -> Iterator[list[str]]:
    """Uploaded rows beside what became of them; those after the last that was tried are unprocessed."""
    if not source.path.exists():
        return
    with ctx.store.read() as conn:
        tried = conn.execute("SELECT record, created, error FROM _bulk_rows WHERE job = ? ORDER BY row", (job.id,))
        for line in source.readable_rows():
            record, created, error = tried.fetchone() or (None, None, None)
            if which == "unprocessed":
                if created is None:
                    yield line
            elif created is not None and (error is None) == (which == "successful"):
                detail = ("true" if created else "false") if error is None else error_text(json.loads(error))
                yield [record or "", detail, *line]


def error_text(error: dict[str, Any]) -> str:
    """A row error as CSV has it: CODE:message:fields --."""
    fields = f"{','.join(error['fields'])} " if error["fields"] else ""
    return f"{error['statusCode']}:{error['message']}:{fields}--"
