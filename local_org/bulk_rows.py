"""The work of an ingest job: each uploaded row through the same rules as REST, 200 rows a transaction.

What became of a row is written in the transaction that wrote the row: after a stop of the org the job goes on
with the first row that has no outcome, and no row is written twice.
"""

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from local_org import deletion, dml
from local_org.bulk_jobs import Control, Job, JobFailedError
from local_org.bulk_upload import UPLOAD, Upload
from local_org.catalogue import ObjectType
from local_org.errors import ApiError
from local_org.ids import to_18

if TYPE_CHECKING:
    from local_org.org import Org

CHUNK_ROWS = 200  # Bulk API 2.0 and Bulk API Developer Guide, "General Guidelines": rows that fire triggers together
NULL = "#N/A"

Values = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a row: `created` 1 or 0, `error` (JSON of a row error) None where it succeeded."""

    record: str | None
    created: int
    error: str | None = None


def process(org: "Org", job: Job, control: Control) -> Job:
    """Carry out the rows that are left; the job with its counters."""
    started = time.monotonic()
    item = org.access.catalogue(job.user).object(job.object)
    if item is None:
        raise JobFailedError(f"InvalidJob : Unable to find object: {job.object}")
    rows = _input(org, job, item)
    for chunk in _chunks(islice(rows, job.processed, None)):
        control.check()
        job = _carry_out(org, job, item, chunk)
    return replace(job, milliseconds=job.milliseconds + int((time.monotonic() - started) * 1000))


def _input(org: "Org", job: Job, item: ObjectType) -> Iterator[Values]:
    """The uploaded rows as JSON bodies would have them."""
    path = org.jobs.folder(job.id) / UPLOAD
    if not path.exists():
        return
    if job.content == "JSON":
        yield from _json_rows(path)
        return
    upload = Upload.of(job, path)
    columns = _columns(item, upload.header(), job.operation)
    for line in upload.rows():
        yield _values(columns, line)


def _json_rows(path: Path) -> Iterator[Values]:
    try:
        rows = json.loads(path.read_bytes())
    except ValueError as error:
        raise JobFailedError(f"InvalidBatch : Failed to parse JSON data: {error}") from None
    for row in rows:
        yield {("Id" if key.lower() == "id" else key): row[key] for key in row if key != "attributes"}


def _chunks(rows: Iterator[Values]) -> Iterator[list[Values]]:
    left = iter(rows)
    while chunk := list(islice(left, CHUNK_ROWS)):
        yield chunk


# -- columns


@dataclass(frozen=True, slots=True)
class InputColumn:
    """Where a cell goes: a field, or (with `parent`) the key of a parent record."""

    field: str
    parent: str | None = None


def _columns(item: ObjectType, header: list[str], operation: str) -> list[InputColumn]:
    if operation in ("delete", "hardDelete") and [name.lower() for name in header] != ["id"]:
        raise JobFailedError(f"InvalidBatch : The {operation} operation takes the column Id only")
    return [_column(item, name) for name in header]


def _column(item: ObjectType, name: str) -> InputColumn:
    """A field's name, or Relationship.Key, or Object:Relationship.Key for polymorphic references."""
    relationship, dot, key = name.rpartition(":")[2].partition(".")
    if not dot:
        field = item.field(name)
        if field is None:
            raise JobFailedError(f"InvalidBatch : Field name not found : {name}")
        return InputColumn(field.name)
    found = (f.relationship_name for f in item.fields.values() if f.relationship_name)
    parent = next((n for n in found if n.lower() == relationship.lower()), None)
    if parent is None:
        raise JobFailedError(f"InvalidBatch : Field name not found : {name}")
    return InputColumn(key, parent)


def _values(columns: list[InputColumn], line: list[str]) -> Values:
    """The row as a JSON body would have it: empty cells are left out, #N/A is null."""
    values: Values = {}
    for column, cell in zip(columns, line, strict=True):
        if cell == "":
            continue
        value = None if cell == NULL else cell
        if column.parent is None:
            values[column.field] = value
        else:
            values[column.parent] = None if value is None else {column.field: value}
    return values


# -- rows


def _carry_out(org: "Org", job: Job, item: ObjectType, rows: list[Values]) -> Job:
    with org.store.write() as conn:
        change = dml.Change(
            org.store,
            conn,
            job.user,
            org.store.clock.now_ms(),
            org.access.catalogue(job.user),
            cascade_stamps=org.settings.cascade_stamps,
        )
        one = _OPERATIONS[job.operation]
        seen: set[str] = set()
        outcomes = [_outcome(change, job, item, row, one, seen) for row in rows]
        conn.executemany(
            "INSERT INTO _bulk_rows VALUES (?, ?, ?, ?, ?)",
            [(job.id, job.processed + n, o.record, o.created, o.error) for n, o in enumerate(outcomes)],
        )
        failed = sum(outcome.error is not None for outcome in outcomes)
        job = replace(job, processed=job.processed + len(rows), failed=job.failed + failed)
        org.jobs.keep_progress(conn, job)
    return job


Operation = Callable[["dml.Change", Job, ObjectType, Values], Outcome]


def _outcome(change: "dml.Change", job: Job, item: ObjectType, row: Values, one: Operation, seen: set[str]) -> Outcome:
    record = row.get("Id") if job.operation != "upsert" else None
    if record is not None and str(record)[:15] in seen:
        return _failure(str(record), ApiError(400, "DUPLICATE_VALUE", "duplicate id in list"))
    seen.add(str(record)[:15])
    try:
        with dml.savepoint(change):
            return one(change, job, item, row)
    except ApiError as error:
        return _failure(record, error)


def _failure(record: str | None, error: ApiError) -> Outcome:
    return Outcome(record, 0, json.dumps(error.row_error()))


def _insert(change: "dml.Change", _job: Job, item: ObjectType, row: Values) -> Outcome:
    return Outcome(dml.insert(change, item, row), 1)


def _update(change: "dml.Change", _job: Job, item: ObjectType, row: Values) -> Outcome:
    record, values = _split_id(row, "update")
    dml.update(change, item, record, values)
    return Outcome(record, 0)


def _delete(change: "dml.Change", _job: Job, item: ObjectType, row: Values) -> Outcome:
    record, _ = _split_id(row, "delete")
    deletion.delete(change, item, record)
    return Outcome(record, 0)


def _hard_delete(change: "dml.Change", _job: Job, item: ObjectType, row: Values) -> Outcome:
    record, _ = _split_id(row, "delete")
    deletion.purge(change, item, str(dml.living(change, item, record)["Id"]))
    return Outcome(record, 0)


def _split_id(row: Values, call: str) -> tuple[str, Values]:
    record = row.get("Id")
    if record is None:
        raise ApiError(400, "MISSING_ARGUMENT", f"Id not specified in an {call} call")
    return to_18(str(record)) or str(record), {key: value for key, value in row.items() if key != "Id"}


def _upsert(change: "dml.Change", job: Job, item: ObjectType, row: Values) -> Outcome:
    key = item.field(job.external_id_field or "Id")
    if key is None:
        raise JobFailedError(f"InvalidBatch : Field name not found : {job.external_id_field}")
    value = row.get(key.name)
    values = {name: v for name, v in row.items() if name != key.name}
    if value is None and key.type != "id":
        raise ApiError(400, "MISSING_ARGUMENT", f"{key.name} not specified")
    record, created = dml.upsert(change, item, key, value, values)
    return Outcome(record, int(created))


_OPERATIONS: dict[str, Operation] = {
    "insert": _insert,
    "update": _update,
    "upsert": _upsert,
    "delete": _delete,
    "hardDelete": _hard_delete,
}
