"""What Bulk API 1.0 answers look like: job and batch information and errors, as JSON or XML.

Source: Bulk API 2.0 and Bulk API Developer Guide, "Bulk API", "Bulk API Errors".
"""

from typing import Any
from xml.sax.saxutils import escape

from starlette.responses import Response

from local_org.bulk_jobs import Job
from local_org.values import datetime_text, dumps

NAMESPACE = "http://www.force.com/2009/06/asyncapi/dataload"

# Of a batch's state the machinery of jobs has its own words.
BATCH_STATES = {
    "UploadComplete": "Queued",
    "InProgress": "InProgress",
    "JobComplete": "Completed",
    "Failed": "Failed",
    "Aborted": "NotProcessed",
}


def job_info(job: Job, batches: list[Job]) -> dict[str, Any]:
    """jobInfo, with counters over its batches."""

    def count(*states: str) -> int:
        return sum(batch.state in states for batch in batches)

    return {
        "apexProcessingTime": 0,
        "apiActiveProcessingTime": sum(batch.milliseconds for batch in batches),
        "apiVersion": float(job.version),
        "assignmentRuleId": job.assignment_rule,
        "concurrencyMode": "Parallel",
        "contentType": job.content,
        "createdById": job.user,
        "createdDate": datetime_text(job.created_ms),
        "externalIdFieldName": job.external_id_field,
        "fastPathEnabled": False,
        "id": job.id,
        "numberBatchesCompleted": count("JobComplete"),
        "numberBatchesFailed": count("Failed"),
        "numberBatchesInProgress": count("InProgress"),
        "numberBatchesQueued": count("UploadComplete"),
        "numberBatchesTotal": len(batches),
        "numberRecordsFailed": sum(batch.failed for batch in batches),
        "numberRecordsProcessed": sum(batch.processed for batch in batches),
        "numberRetries": 0,
        "object": job.object,
        "operation": job.operation,
        "state": job.state,
        "systemModstamp": datetime_text(job.changed_ms),
        "totalProcessingTime": sum(batch.milliseconds for batch in batches),
    }


def batch_info(batch: Job) -> dict[str, Any]:
    """batchInfo."""
    return {
        "apexProcessingTime": 0,
        "apiActiveProcessingTime": batch.milliseconds,
        "createdDate": datetime_text(batch.created_ms),
        "id": batch.id,
        "jobId": batch.parent,
        "numberRecordsFailed": batch.failed,
        "numberRecordsProcessed": batch.processed,
        "state": BATCH_STATES[batch.state],
        "stateMessage": batch.error,
        "systemModstamp": datetime_text(batch.changed_ms),
        "totalProcessingTime": batch.milliseconds,
    }


def answer(root: str, value: Any, *, as_json: bool, status: int = 200) -> Response:
    """One value under the name `root` (which JSON leaves out), or a list of (name, value) pairs for lists."""
    if as_json:
        # Without a charset: some clients compare the whole header.
        return Response(dumps(value), status, media_type="application/json")
    text = f'<?xml version="1.0" encoding="UTF-8"?><{root} xmlns="{NAMESPACE}">{_xml(value)}</{root}>'
    return Response(text, status, media_type="application/xml")


def _xml(value: Any) -> str:
    """Elements of an object; nulls are left out; lists repeat their element."""
    if isinstance(value, dict):
        return "".join(
            f"<{name}>{_xml(part)}</{name}>"
            for name, parts in value.items()
            for part in (parts if isinstance(parts, list) else [parts])
            if part is not None
        )
    if isinstance(value, bool):
        return str(value).lower()
    return escape(str(value))


def error(code: str, message: str, *, as_json: bool, status: int = 400) -> Response:
    """{"exceptionCode": ..., "exceptionMessage": ...}."""
    value = {"exceptionCode": code, "exceptionMessage": message}
    return answer("error", value, as_json=as_json, status=status)


def invalid_session(content_type: str) -> Response:
    """What a missing or ended session draws from this API."""
    return error("InvalidSessionId", "Invalid session id", as_json="json" in content_type)
