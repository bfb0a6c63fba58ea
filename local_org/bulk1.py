"""Bulk API 1.0: jobs of batches under /services/async. Some clients still use nothing else.

JSON and CSV data; XML data is not taken. Source: Bulk API 2.0 and Bulk API Developer Guide, "Bulk API".
"""

import json
import re
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from starlette.responses import Response

from local_org import bulk1_forms as forms
from local_org import bulk_ingest, bulk_query, bulk_rows
from local_org.bulk_jobs import Control, Job, open_job
from local_org.bulk_results import FileSlices
from local_org.bulk_upload import UPLOAD, Upload, write_rows
from local_org.context import Context
from local_org.errors import ApiError
from local_org.query import translated
from local_org.records import Rendering
from local_org.schema import quoted
from local_org.soql.runtime import run
from local_org.values import dumps

if TYPE_CHECKING:
    from local_org.org import Org

BATCH_PREFIX = "751"
RESULT_PREFIX = "752"
MAX_BATCH_BYTES = 10_000_000
DEFAULT_CHUNK_ROWS = 100_000
MAX_CHUNK_ROWS = 250_000
NO_ROWS = b"Records not found for this query"

_QUERIES = ("query", "queryAll")
_CHUNKING = re.compile(r"^\s*true\b|chunkSize\s*=", re.IGNORECASE)
_CHUNK_SIZE = re.compile(r"chunkSize\s*=\s*(\d+)", re.IGNORECASE)
_PATH = re.compile(
    r"job(?:/(?P<job>\w+)(?P<batches>/batch(?:/(?P<batch>\w+)(?:/(?P<part>result|request)(?:/(?P<result>\w+))?)?)?)?)?/?"
)

Answer = Response | FileSlices


def _invalid(code: str, text: str) -> ApiError:
    return ApiError(400, code, text)


def handle(ctx: Context, path: str) -> Answer:
    """One call: `path` is what follows /services/async/{version}/."""
    as_json = "json" in ctx.headers.get("content-type", "")
    match = _PATH.fullmatch(path)
    try:
        if match is None:
            raise _invalid("InvalidUrl", f"Unknown path: {path}")
        return _handle(ctx, match.groupdict(), as_json)
    except ApiError as error:
        return forms.error(error.code, error.message, as_json=as_json)


def _handle(ctx: Context, parts: dict[str, str | None], as_json: bool) -> Answer:
    posted = ctx.method == "POST"
    if parts["job"] is None:
        return forms.answer("jobInfo", forms.job_info(_create(ctx), []), as_json=as_json, status=201)
    job = _find(ctx, "classic", parts["job"])
    if parts["batches"] is None:
        job = _change(ctx, job) if posted else job
        return forms.answer("jobInfo", forms.job_info(job, _batches(ctx, job)), as_json=as_json)
    as_json = job.content == "JSON"
    if parts["batch"] is None:
        if posted:
            info = forms.batch_info(_add_batch(ctx, job))
            return forms.answer("batchInfo", info, as_json=as_json, status=201)
        infos = [forms.batch_info(batch) for batch in _batches(ctx, job)]
        return forms.answer("batchInfoList", {"batchInfo": infos}, as_json=as_json)
    batch = _find(ctx, "batch", parts["batch"])
    if parts["part"] is None:
        return forms.answer("batchInfo", forms.batch_info(batch), as_json=as_json)
    if parts["part"] == "request":
        return _whole(ctx, batch, UPLOAD)
    return _result(ctx, batch, parts["result"])


# -- jobs


def _find(ctx: Context, kind: Any, job_id: str) -> Job:
    try:
        return ctx.org.jobs.find(kind, job_id)
    except ApiError:
        name = "batch" if kind == "batch" else "job"
        raise _invalid(f"Invalid{name.capitalize()}", f"Unable to find {name} with id: {job_id}") from None


def _batches(ctx: Context, job: Job) -> list[Job]:
    found = [batch for batch in ctx.org.jobs.all("batch") if batch.parent == job.id]
    return sorted(found, key=lambda batch: batch.id)


def _create(ctx: Context) -> Job:
    body = _body(ctx)
    operation = str(body.get("operation", ""))
    if operation not in (*_QUERIES, *bulk_ingest.OPERATIONS):
        raise _invalid("InvalidJob", f"Invalid operation: {operation}")
    item = ctx.catalogue.object(str(body.get("object", "")))
    if item is None or not item.bulk:
        raise _invalid("InvalidEntity", f"Entity '{body.get('object')}' is not supported by the Bulk API.")
    content = str(body.get("contentType", "XML"))
    if content not in ("CSV", "JSON"):
        raise _invalid("InvalidJob", f"The content type {content} is not supported by this org")
    return open_job(
        ctx,
        "classic",
        "Open",
        operation,
        item.name,
        external_id_field=body.get("externalIdFieldName"),
        assignment_rule=body.get("assignmentRuleId"),
        content=content,
        chunk_rows=_chunk_rows(ctx),
    )


def _body(ctx: Context) -> dict[str, Any]:
    """The request's object, from JSON or from flat XML."""
    if "json" in ctx.headers.get("content-type", ""):
        return ctx.json_object()
    text = ctx.body.decode("utf-8", "replace")
    return dict(re.findall(r"<(\w+)>\s*([^<]*?)\s*</\1>", text))


def _chunk_rows(ctx: Context) -> int | None:
    asked = ctx.headers.get("sforce-enable-pkchunking", "")
    if not _CHUNKING.search(asked):
        return None
    size = _CHUNK_SIZE.search(asked)
    return min(max(int(size[1]) if size else DEFAULT_CHUNK_ROWS, 1), MAX_CHUNK_ROWS)


def _change(ctx: Context, job: Job) -> Job:
    state = _body(ctx).get("state")
    if state not in ("Closed", "Aborted"):
        raise _invalid("InvalidJobState", f"Invalid job state: {state}")
    changed = ctx.org.jobs.change(job.id, ("Open", "Closed"), state=state)
    if changed is None:
        raise _invalid("InvalidJobState", f"Job is in state {job.state}")
    if state == "Aborted":
        for batch in _batches(ctx, job):
            ctx.org.jobs.change(batch.id, ("UploadComplete", "InProgress"), state="Aborted")
            ctx.org.jobs.stop(batch.id)
    return changed


# -- batches


def _add_batch(ctx: Context, job: Job) -> Job:
    if job.state != "Open":
        raise _invalid("InvalidJobState", f"Job is in state {job.state}")
    data = ctx.upload.read_bytes() if ctx.upload else ctx.body
    if len(data) > MAX_BATCH_BYTES:
        raise _invalid("InvalidBatch", f"The batch is larger than {MAX_BATCH_BYTES} bytes")
    if job.operation not in _QUERIES:
        return _start(ctx, _new_batch(ctx, job, data))
    soql = data.decode("utf-8").strip()
    with ctx.store.read() as conn:
        bulk_query.check(translated(ctx, conn, soql, all_rows=job.operation == "queryAll"))
    if job.chunk_rows is None:
        return _start(ctx, _new_batch(ctx, job, data, query=soql))
    whole = _new_batch(ctx, job, data, query=soql, state="Aborted")
    for id_range in _ranges(ctx, job, job.chunk_rows):
        _start(ctx, _new_batch(ctx, job, data, query=soql, id_range=id_range))
    return whole


def _new_batch(ctx: Context, job: Job, data: bytes, **more: Any) -> Job:
    values = {"state": "UploadComplete", "parent": job.id, "kind": "batch"} | more
    batch = ctx.org.jobs.create(
        lambda batch_id, now_ms: replace(job, id=batch_id, created_ms=now_ms, changed_ms=now_ms, **values),
        key_prefix=BATCH_PREFIX,
    )
    (ctx.org.jobs.folder(batch.id) / UPLOAD).write_bytes(data)
    return batch


def _start(ctx: Context, batch: Job) -> Job:
    ctx.org.jobs.start(batch)
    return batch


def _ranges(ctx: Context, job: Job, rows: int) -> list[tuple[str, str | None]]:
    """Ids at which chunks begin, each with the one after its end."""
    sql = f'SELECT "Id" FROM (SELECT "Id", row_number() OVER (ORDER BY "Id") AS n FROM {quoted(job.object)})'
    with ctx.store.read() as conn:
        starts = [row[0] for row in conn.execute(f"{sql} WHERE (n - 1) % ? = 0", (rows,))]
    return list(zip(starts, [*starts[1:], None], strict=True))


# -- results


def _result(ctx: Context, batch: Job, result: str | None) -> Answer:
    if batch.state != "JobComplete":
        raise _invalid("InvalidBatch", f"Batch not completed: {batch.id}")
    if batch.operation not in _QUERIES:
        return _row_results(ctx, batch)
    only = RESULT_PREFIX + batch.id[3:]
    if result is None:
        as_json = batch.content == "JSON"
        return forms.answer("result-list", [only] if as_json else {"result": [only]}, as_json=as_json)
    if result not in (only, only[:15]):
        raise _invalid("InvalidBatch", f"Unable to find result with id: {result}")
    return _whole(ctx, batch, "rows.json" if batch.content == "JSON" else "rows.csv")


def _whole(ctx: Context, batch: Job, name: str) -> FileSlices:
    path = ctx.org.jobs.folder(batch.id) / name
    gzip = "gzip" in ctx.headers.get("accept-encoding", "")
    found = FileSlices(path, [(0, path.stat().st_size)], {}, gzip=gzip)
    found.media_type = "application/json" if batch.content == "JSON" else "text/csv"
    return found


def _row_results(ctx: Context, batch: Job) -> Answer:
    with ctx.store.read() as conn:
        sql = "SELECT record, created, error FROM _bulk_rows WHERE job = ? ORDER BY row"
        rows = conn.execute(sql, (batch.id,)).fetchall()
    if batch.content == "JSON":
        entries = [_entry(*row) for row in rows]
        return forms.answer("results", entries, as_json=True)
    path = ctx.org.jobs.folder(batch.id) / "results.csv"
    lines = [[record or "", *_csv_entry(created, error)] for record, created, error in rows]
    upload = Upload.of(batch, ctx.org.jobs.folder(batch.id) / UPLOAD)
    write_rows(path, upload, [["Id", "Success", "Created", "Error"], *lines])
    return _whole(ctx, batch, "results.csv")


def _entry(record: str | None, created: int, error: str | None) -> dict[str, Any]:
    errors = [] if error is None else [{**json.loads(error), "extendedErrorDetails": None}]
    return {"success": error is None, "created": bool(created), "id": record, "errors": errors}


def _csv_entry(created: int, error: str | None) -> list[str]:
    text = "" if error is None else bulk_ingest.error_text(json.loads(error))
    return [str(error is None).lower(), str(bool(created)).lower(), text]


# -- work


def work(org: "Org", batch: Job, control: Control) -> Job:
    """The work of one batch."""
    if batch.operation not in _QUERIES:
        return bulk_rows.process(org, batch, control)
    if batch.content == "JSON":
        return _render_json(org, batch, control)
    done = bulk_query.render(org, batch, control)
    if not done.processed:
        (org.jobs.folder(batch.id) / "rows.csv").write_bytes(NO_ROWS)
    return done


def _render_json(org: "Org", batch: Job, control: Control) -> Job:
    """An array of records as the query resource has them, but datetimes are epoch milliseconds."""
    started, count = time.monotonic(), 0
    rendering = Rendering(batch.version, "UTC", lambda *_: None, numeric_datetimes=True)
    with org.store.read() as conn, (org.jobs.folder(batch.id) / "rows.json").open("wb") as file:
        plan = bulk_query.job_plan(org, conn, batch)
        for row in run(conn, plan.rows()):
            control.check()
            file.write((b"," if count else b"[") + dumps(rendering.record(plan, row)))
            count += 1
        file.write(b"]" if count else b"[]")
    return replace(batch, processed=count, milliseconds=int((time.monotonic() - started) * 1000))
