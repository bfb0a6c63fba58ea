"""The work of an ingest job: each uploaded row through the same rules as REST, 200 rows a transaction.

What became of a row is written in the transaction that wrote the row: after a stop of the org the job goes on
with the first row that has no outcome, and no row is written twice.
"""

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from local_org import deletion, dml
from local_org.bulk_faults import HALFWAY_KINDS
from local_org.bulk_jobs import Control, Job, JobFailedError
from local_org.bulk_upload import UPLOAD, Upload
from local_org.catalogue import ObjectType
from local_org.collections import as_row_error
from local_org.dml import Change
from local_org.errors import ApiError, WrongKindError, not_found
from local_org.ids import to_18
from local_org.locks import LockedError
from local_org.schema import quoted

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
    end = org.jobs.faults.take(HALFWAY_KINDS, job.object)
    if end is not None:
        rows = islice(rows, end.rows)
    for chunk in _chunks(islice(rows, job.processed, None)):
        control.check()
        job = _carry_out(org, job, item, chunk, control)
    if end is not None:
        raise JobFailedError(end.message)
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
    except (ValueError, RecursionError) as error:
        raise JobFailedError(f"InvalidBatch : Failed to parse JSON data: {error}") from None
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise JobFailedError("InvalidBatch : Failed to parse JSON data: a batch is a list of objects")
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
        found = item.field(name)
        if found is None:
            raise JobFailedError(f"InvalidBatch : Field name not found : {name}")
        return InputColumn(found.name)
    names = (f.relationship_name for f in item.fields.values() if f.relationship_name)
    parent = next((n for n in names if n.lower() == relationship.lower()), None)
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


def _carry_out(org: "Org", job: Job, item: ObjectType, rows: list[Values], control: Control) -> Job:
    """One chunk in one transaction; where another writer holds a row, the chunk waits and is tried again."""
    deadline = time.monotonic() + org.settings.lock_wait_ms / 1000
    while True:
        try:
            assigns = job.assignment_rule is not None
            with org.writing(job.user, assigns=assigns, patient=time.monotonic() < deadline) as change:
                chunk = _Chunk(change, job, item, org.access.row_filter(job.user, item.name, "t"))
                outcomes = [chunk.outcome(row) for row in rows]
                failed = sum(outcome.error is not None for outcome in outcomes)
                done = replace(job, processed=job.processed + len(rows), failed=job.failed + failed)
                change.at_end.append(partial(_keep, org, change, job, done, outcomes))
            return done
        except LockedError:
            control.check()
            org.locks.wait(deadline)


def _keep(org: "Org", change: Change, job: Job, done: Job, outcomes: list[Outcome]) -> None:
    change.conn.executemany(
        "INSERT INTO _bulk_rows VALUES (?, ?, ?, ?, ?)",
        [(job.id, job.processed + n, o.record, o.created, o.error) for n, o in enumerate(outcomes)],
    )
    org.jobs.keep_progress(change.conn, done)


Operation = Callable[[Change, Job, ObjectType, Values], Outcome]


@dataclass(slots=True)
class _Chunk:
    """Rows of one transaction. `hidden` is the condition that sharing puts on rows, "" for none."""

    change: Change
    job: Job
    item: ObjectType
    hidden: str
    seen: set[str] = field(default_factory=set)

    def outcome(self, row: Values) -> Outcome:
        """Carry out one row; what it did is undone if it fails."""
        record = row.get("Id") if self.job.operation != "upsert" else None
        try:
            with dml.saving(self.change, self.item if self.job.operation in _SAVES else None):
                self._check_id(row, record)
                self._check_key(row)
                return _OPERATIONS[self.job.operation](self.change, self.job, self.item, row)
        except WrongKindError as error:
            return Outcome(record, 0, json.dumps(error.in_row().row_error()))
        except ApiError as error:
            return Outcome(record, 0, json.dumps(as_row_error(error).row_error()))

    def _check_id(self, row: Values, record: str | None) -> None:
        """No record twice; one that sharing hides from the user is as unknown as one that never was."""
        if record is not None:
            if record[:15] in self.seen:
                raise ApiError(400, "DUPLICATE_VALUE", "duplicate id in list")
            self.seen.add(record[:15])
        if self.hidden and row.get("Id"):
            sql = f'SELECT 1 FROM {quoted(self.item.name)} AS t WHERE t."Id" = ? AND {self.hidden}'
            if self.change.conn.execute(sql, (to_18(row["Id"]),)).fetchone() is None:
                raise not_found()

    def _check_key(self, row: Values) -> None:
        """No key of an upsert twice in one chunk."""
        key = self.job.external_id_field if self.job.operation == "upsert" else None
        value = row.get(key) if key else None
        if value is None:
            return
        if f"{key}={value}".lower() in self.seen:
            raise ApiError(400, "DUPLICATE_VALUE", f"Duplicate external id specified: {value}", [str(key)])
        self.seen.add(f"{key}={value}".lower())


def _insert(change: Change, _job: Job, item: ObjectType, row: Values) -> Outcome:
    return Outcome(dml.insert(change, item, row), 1)


def _update(change: Change, _job: Job, item: ObjectType, row: Values) -> Outcome:
    record, values = _split_id(row, "update")
    dml.update(change, item, record, values)
    return Outcome(record, 0)


def _delete(change: Change, _job: Job, item: ObjectType, row: Values) -> Outcome:
    record, _ = _split_id(row, "delete")
    deletion.delete(change, item, record)
    return Outcome(record, 0)


def _hard_delete(change: Change, _job: Job, item: ObjectType, row: Values) -> Outcome:
    record, _ = _split_id(row, "delete")
    deletion.purge(change, item, str(dml.living(change, item, record)["Id"]))
    return Outcome(record, 0)


def _split_id(row: Values, call: str) -> tuple[str, Values]:
    record = row.get("Id")
    if record is None:
        raise ApiError(400, "MISSING_ARGUMENT", f"Id not specified in an {call} call")
    return to_18(str(record)) or str(record), {key: value for key, value in row.items() if key != "Id"}


def _upsert(change: Change, job: Job, item: ObjectType, row: Values) -> Outcome:
    key = item.field(job.external_id_field or "Id")
    if key is None:
        raise JobFailedError(f"InvalidBatch : Field name not found : {job.external_id_field}")
    value = row.get(key.name)
    values = {name: v for name, v in row.items() if name != key.name}
    if value is None and key.type != "id":
        raise ApiError(400, "MISSING_ARGUMENT", f"{key.name} not specified")
    record, created = dml.upsert(change, item, key, value, values)
    return Outcome(record, int(created))


_SAVES = frozenset({"insert", "update", "upsert"})
_OPERATIONS: dict[str, Operation] = {
    "insert": _insert,
    "update": _update,
    "upsert": _upsert,
    "delete": _delete,
    "hardDelete": _hard_delete,
}
