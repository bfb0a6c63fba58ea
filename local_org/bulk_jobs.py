"""Bulk API 2.0 jobs: their rows, their states and the threads that do their work.

A job's state is a row of the store, so it survives a restart of the org: work that was cut begins again.
Source: Bulk API 2.0 and Bulk API Developer Guide, "How Requests Are Processed", "Get Information About a Job".
"""

import json
import logging
import shutil
import sqlite3
import threading
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from local_org.bulk_faults import JOB_KINDS, BulkFaults
from local_org.errors import ApiError, not_found, where
from local_org.ids import to_18
from local_org.values import datetime_text

if TYPE_CHECKING:
    from local_org.context import Context
    from local_org.org import Org

KEY_PREFIX = "750"
LIFETIME_MS = 7 * 86_400_000
BATCH_ROWS = 10_000
MAX_BATCHES_A_DAY = 15_000
FINAL = ("JobComplete", "Failed", "Aborted")
DELIMITERS = {"BACKQUOTE": "`", "CARET": "^", "COMMA": ",", "PIPE": "|", "SEMICOLON": ";", "TAB": "\t"}
LINE_ENDINGS = {"LF": "\n", "CRLF": "\r\n"}

_HANG_CHECK_MS = 20

_log = logging.getLogger(__name__)

Kind = Literal["query", "ingest", "classic", "batch"]

_TABLES = (
    """CREATE TABLE IF NOT EXISTS _bulk_jobs (
    id TEXT PRIMARY KEY, kind TEXT NOT NULL, state TEXT NOT NULL, created_ms INTEGER NOT NULL, data TEXT NOT NULL)""",
    """CREATE TABLE IF NOT EXISTS _bulk_rows (
    job TEXT NOT NULL, row INTEGER NOT NULL, record TEXT, created INTEGER NOT NULL, error TEXT,
    PRIMARY KEY (job, row)) WITHOUT ROWID""",
)


@dataclass(frozen=True, slots=True)
class Job:
    """One job. `version` is the path's at creation; `milliseconds` the time its work took.

    Bulk API 1.0: a job of kind "classic" has batches, which are jobs of kind "batch" with a `parent`. `content` is
    the format of their data; `chunk_rows` the size of PK chunks, `id_range` the chunk: first id, and the id after.
    """

    id: str
    kind: Kind
    user: str
    state: str
    created_ms: int
    changed_ms: int
    version: str
    operation: str
    object: str
    query: str | None = None
    external_id_field: str | None = None
    assignment_rule: str | None = None
    delimiter: str = "COMMA"
    line_ending: str = "LF"
    processed: int = 0
    failed: int = 0
    retries: int = 0
    milliseconds: int = 0
    error: str | None = None
    parent: str | None = None
    content: str = "CSV"
    chunk_rows: int | None = None
    id_range: tuple[str, str | None] | None = None

    def basics(self) -> dict[str, Any]:
        """The job's JSON as creation and changes answer it."""
        ingest: dict[str, Any] = {}
        if self.kind == "ingest":
            ingest["contentUrl"] = f"services/data/v{self.version}/jobs/ingest/{self.id}/batches"
            if self.external_id_field:
                ingest["externalIdFieldName"] = self.external_id_field
            if self.assignment_rule:
                ingest["assignmentRuleId"] = self.assignment_rule
        return {
            "id": self.id,
            "operation": self.operation,
            "object": self.object,
            "createdById": self.user,
            "createdDate": datetime_text(self.created_ms),
            "systemModstamp": datetime_text(self.changed_ms),
            "state": self.state,
            "concurrencyMode": "Parallel",
            "contentType": "CSV",
            "apiVersion": float(self.version),
            **ingest,
            "lineEnding": self.line_ending,
            "columnDelimiter": self.delimiter,
        }

    def details(self) -> dict[str, Any]:
        """The job's JSON with its progress."""
        details: dict[str, Any] = {
            **self.basics(),
            "jobType": "V2Query" if self.kind == "query" else "V2Ingest",
            "numberRecordsProcessed": self.processed,
            "retries": self.retries,
            "totalProcessingTime": self.milliseconds,
        }
        if self.kind == "query":
            details["isPkChunkingSupported"] = True
        else:
            details["numberRecordsFailed"] = self.failed
            details["apiActiveProcessingTime"] = self.milliseconds
            details["apexProcessingTime"] = 0
        if self.error is not None:
            details["errorMessage"] = self.error
        return details


def open_job(ctx: "Context", kind: Kind, state: str, operation: str, object_name: str, **more: Any) -> Job:
    """A new job of the caller, of either API; `more` are further fields of Job."""
    return ctx.org.jobs.create(
        lambda job_id, now_ms: Job(
            id=job_id,
            kind=kind,
            user=ctx.user,
            state=state,
            created_ms=now_ms,
            changed_ms=now_ms,
            version=ctx.version,
            operation=operation,
            object=object_name,
            **more,
        )
    )


class JobFailedError(Exception):
    """The job ends as Failed, with this text as its error message."""


class StoppedError(Exception):
    """The job was aborted, or the org is closing: its work ends early."""


@dataclass(frozen=True, slots=True)
class Control:
    """What a job's work asks while it runs."""

    stop: threading.Event

    def check(self) -> None:
        if self.stop.is_set():
            raise StoppedError

    def wait(self, milliseconds: float) -> None:
        if self.stop.wait(milliseconds / 1000):
            raise StoppedError


Work = Callable[["Org", Job, Control], Job]


class Jobs:
    """The org's Bulk jobs. `works` does the work of each kind: it gives the job back with its counters."""

    def __init__(self, org: "Org", works: dict[Kind, Work]) -> None:
        self._org = org
        self._store = org.store
        self._works = works
        self._running: dict[str, tuple[threading.Thread, threading.Event]] = {}
        self._lock = threading.Lock()
        self.faults = BulkFaults()
        with self._store.write() as conn:
            for table in _TABLES:
                conn.execute(table)

    # -- rows

    def create(self, job_of: Callable[[str, int], Job], *, key_prefix: str = KEY_PREFIX) -> Job:
        """Keep a new job, made from its id and the time."""
        with self._store.write() as conn:
            job = job_of(self._store.next_id(conn, key_prefix), self._store.clock.now_ms())
            conn.execute(
                "INSERT INTO _bulk_jobs VALUES (?, ?, ?, ?, ?)",
                (job.id, job.kind, job.state, job.created_ms, json.dumps(asdict(job))),
            )
        self.folder(job.id).mkdir(parents=True, exist_ok=True)
        return job

    def find(self, kind: Kind, job_id: str) -> Job:
        """Raises ApiError NOT_FOUND; jobs are kept for seven days."""
        oldest = self._store.clock.now_ms() - LIFETIME_MS
        with self._store.read() as conn:
            row = conn.execute(
                "SELECT data FROM _bulk_jobs WHERE id = ? AND kind = ? AND created_ms >= ?",
                (to_18(job_id) or job_id, kind, oldest),
            ).fetchone()
        if row is None:
            raise not_found()
        return Job(**json.loads(row[0]))

    def all(self, kind: Kind) -> list[Job]:
        """Jobs of the last seven days, newest first."""
        oldest = self._store.clock.now_ms() - LIFETIME_MS
        with self._store.read() as conn:
            rows = conn.execute(
                "SELECT data FROM _bulk_jobs WHERE kind = ? AND created_ms >= ? ORDER BY created_ms DESC, id DESC",
                (kind, oldest),
            ).fetchall()
        return [Job(**json.loads(row[0])) for row in rows]

    def count_since(self, kind: Kind, since_ms: int) -> int:
        with self._store.read() as conn:
            sql = "SELECT count(*) FROM _bulk_jobs WHERE kind = ? AND created_ms >= ?"
            return int(conn.execute(sql, (kind, since_ms)).fetchone()[0])

    def change(self, job_id: str, states: Iterable[str], **values: Any) -> Job | None:
        """Change a job that is in one of these states; None if it is in another, or gone."""
        with self._store.write() as conn:
            row = conn.execute("SELECT data FROM _bulk_jobs WHERE id = ?", (job_id,)).fetchone()
            job = None if row is None else Job(**json.loads(row[0]))
            if job is None or job.state not in states:
                return None
            job = replace(job, changed_ms=self._store.clock.now_ms(), **values)
            self._keep(conn, job)
        return job

    def _keep(self, conn: sqlite3.Connection, job: Job) -> None:
        data = json.dumps(asdict(job))
        conn.execute("UPDATE _bulk_jobs SET state = ?, data = ? WHERE id = ?", (job.state, data, job.id))

    def keep_progress(self, conn: sqlite3.Connection, job: Job) -> None:
        """Write a job's counters inside the transaction that made the progress; its state stays as it is."""
        sql = "UPDATE _bulk_jobs SET data = json_set(data, '$.processed', ?, '$.failed', ?) WHERE id = ?"
        conn.execute(sql, (job.processed, job.failed, job.id))

    def forget(self, job_id: str) -> None:
        with self._store.write() as conn:
            conn.execute("DELETE FROM _bulk_jobs WHERE id = ?", (job_id,))
            conn.execute("DELETE FROM _bulk_rows WHERE job = ?", (job_id,))
        shutil.rmtree(self.folder(job_id), ignore_errors=True)

    def folder(self, job_id: str) -> Path:
        return self._store.folder / "jobs" / job_id

    # -- work

    def resume(self) -> None:
        """Begin again what a stop of the org has cut."""
        for kind in self._works:
            for job in self.all(kind):
                if job.state in ("UploadComplete", "InProgress"):
                    self.start(job)
        self.forget_old()

    def forget_old(self) -> None:
        """Drop jobs that are older than seven days, with their files."""
        oldest = self._store.clock.now_ms() - LIFETIME_MS
        with self._store.read() as conn:
            rows = conn.execute("SELECT id FROM _bulk_jobs WHERE created_ms < ?", (oldest,)).fetchall()
        for (job_id,) in rows:
            self.forget(job_id)

    def start(self, job: Job) -> None:
        stop = threading.Event()
        thread = threading.Thread(target=self._run, args=(job, stop), name=f"bulk {job.id}", daemon=True)
        with self._lock:
            self._running[job.id] = (thread, stop)
        thread.start()

    def _run(self, job: Job, stop: threading.Event) -> None:
        control = Control(stop)
        try:
            self._work(job, control)
        except StoppedError:
            pass  # the state is already what whoever stopped it wanted
        except Exception as error:
            self._fail(job, error)
        finally:
            with self._lock:
                self._running.pop(job.id, None)

    def _fail(self, job: Job, error: Exception) -> None:
        match error:
            case JobFailedError():
                reason = str(error)
            case ApiError():
                reason = f"{error.code} : {error.message}"
            case _:
                _log.error("the work of job %s failed: %s", job.id, where(error))
                reason = f"InternalServerError : {error}"
        self.change(job.id, ("UploadComplete", "InProgress"), state="Failed", error=reason)

    def _work(self, job: Job, control: Control) -> None:
        pace = self._org.settings.bulk_pace_ms
        control.wait(pace)
        started = self.change(job.id, ("UploadComplete", "InProgress"), state="InProgress")
        if started is None:
            return
        control.wait(pace)
        self._spoil(started, control)
        done = self._works[job.kind](self._org, started, control)
        self.change(
            job.id,
            ("InProgress",),
            state="JobComplete",
            processed=done.processed,
            failed=done.failed,
            milliseconds=done.milliseconds,
        )

    def _spoil(self, job: Job, control: Control) -> None:
        """Fail or hang, where a rule says so; a hanging job goes on when its rule is cleared."""
        rule = self.faults.take(JOB_KINDS, job.object)
        if rule is None:
            return
        if rule.kind == "fail":
            raise JobFailedError(rule.message)
        while self.faults.in_force(rule):
            control.wait(_HANG_CHECK_MS)

    def stop(self, job_id: str) -> None:
        """Tell a job's work to end; its state is the caller's business."""
        with self._lock:
            running = self._running.get(job_id)
        if running is not None:
            running[1].set()

    def close(self) -> None:
        with self._lock:
            running = list(self._running.values())
        for _, stop in running:
            stop.set()
        for thread, _ in running:
            thread.join(timeout=10)


def batches_since(jobs: Jobs, since_ms: int) -> int:
    """Batches of ingest jobs (one for 10,000 rows) and of Bulk API 1.0, which share one allowance."""
    ingest = [job for job in jobs.all("ingest") if job.created_ms >= since_ms]
    return sum(-(-job.processed // BATCH_ROWS) for job in ingest) + jobs.count_since("batch", since_ms)


def invalid_state(text: str) -> ApiError:
    return ApiError(400, "INVALIDJOBSTATE", text)


def same_version(job: Job, version: str) -> Job:
    """All calls of a job keep the version of its creation."""
    if job.version != version:
        text = f"The requested version {version} does not match the version {job.version} of the job."
        raise ApiError(409, "API_VERSION_MISMATCH", text)
    return job


def chosen(body: dict[str, Any], name: str, allowed: Iterable[str], default: str) -> str:
    """An optional word of a job's creation. Raises ApiError API_ERROR for another than the allowed ones."""
    value = body.get(name, default)
    if not isinstance(value, str) or value not in allowed:
        raise ApiError(400, "API_ERROR", f"Unsupported value for {name}: {value}")
    return value
