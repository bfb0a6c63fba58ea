"""Bulk ingest jobs at rest: which rows they are, which actions they carry, and the claim under which a job is moved."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import text
from sqlalchemy.orm import Session

from worker import db
from worker.actions import ingest_rows
from worker.actions.batching import BULK, Head, Pending, cut
from worker.actions.claims import SENT, pendings
from worker.actions.queues import Queue
from worker.db import Claim, uuid_array
from worker.salesforce.limits import INGEST_BATCH_ROWS
from worker.steps import no_pause

JOB_BYTES = 20 * 1024 * 1024  # ours, far below the vendor's limit: a job's data is held in memory
OPENING = 0x5F5E  # an advisory lock, with the queue's id: threads that count at the same moment would all open one
JOBS_AT_ONCE = 2  # of one queue: what comes meanwhile goes by calls, so that a slow job holds nobody up


@dataclass(frozen=True, slots=True)
class Job:
    """One job's row. `job_id`: the org's, once it is known."""

    id: int
    operation: str
    external_id_field: str | None
    job_id: str | None
    stage: str
    rows: int
    attempts: int
    sent_at: datetime
    created_at: datetime


COLUMNS = "id, operation, external_id_field, job_id, stage, rows, attempts, sent_at, created_at"
DUE = """
SELECT {columns} FROM sfsync.ingest_jobs
 WHERE connection_id = :connection AND object = :object AND state = 'ready' AND due_at <= :now
   AND (claim_until IS NULL OR claim_until < statement_timestamp())
 ORDER BY due_at LIMIT 1
""".replace("{columns}", COLUMNS)
OPEN = """
SELECT count(*) FROM sfsync.ingest_jobs
 WHERE connection_id = :connection AND object = :object AND state = 'ready' AND stage <> 'lost'
"""
HEADS = """
SELECT {sent} FROM sfsync.actions a
 WHERE a.connection_id = :connection AND a.object = :object AND a.state = 'ready' AND a.due_at <= :now
   AND a.operation = :operation AND a.external_id_field IS NOT DISTINCT FROM :external_id_field
   AND a.if_unmodified_since IS NULL AND (a.operation <> 'create' OR a.external_id_field IS NOT NULL OR a.doubt_until IS NULL)
 ORDER BY a.priority DESC, a.created_at LIMIT :limit FOR UPDATE SKIP LOCKED
""".replace("{sent}", SENT)
INSERT = """
INSERT INTO sfsync.ingest_jobs (connection_id, object, operation, external_id_field, rows, sent_at)
VALUES (:connection, :object, :operation, :external_id_field, :rows, :sent_at) RETURNING {columns}
""".replace("{columns}", COLUMNS)
PUT_IN = """
UPDATE sfsync.actions SET state = 'sending', attempts = attempts + 1, sent_at = :sent_at, way = :way, ingest_job_id = :job,
       claim_token = NULL, claim_owner = NULL, claim_until = NULL
 WHERE id = ANY(CAST(:ids AS uuid[]))
"""
CARRIED = """
SELECT {sent} FROM sfsync.actions a WHERE a.ingest_job_id = :job AND a.state = 'sending' ORDER BY a.id
""".replace("{sent}", SENT)
KNOWN = "SELECT job_id FROM sfsync.ingest_jobs WHERE job_id = ANY(:ids)"


def due(session: Session, queue: Queue, *, now: datetime) -> Job | None:
    """A job of the queue that is to be moved now."""
    row = session.execute(text(DUE), {**_of(queue), "now": now}).mappings().first()
    return None if row is None else Job(**row)


def may_open(session: Session, queue: Queue) -> bool:
    """Whether the queue may have another job; if so, nobody else opens one of it until the transaction ends."""
    lock = text("SELECT pg_try_advisory_xact_lock(:kind, CAST(:queue % 2147483647 AS int))")
    free = session.scalar(lock, {"kind": OPENING, "queue": queue.id})
    return bool(free) and int(session.scalar(text(OPEN), _of(queue)) or 0) < JOBS_AT_ONCE


def heads(
    session: Session, queue: Queue, kind: Head, *, now: datetime, pause: Callable[[], None] = no_pause
) -> list[Pending]:
    """Ready heads of one kind that a job can carry, locked until the transaction ends; as many as one job takes."""
    values = {
        **_of(queue),
        "now": now,
        "operation": kind.operation,
        "external_id_field": kind.external_id_field,
        "limit": INGEST_BATCH_ROWS,
    }
    ready = pendings(session.execute(text(HEADS), values).all(), sending=True, pause=pause)
    found = [one for one in ready if ingest_rows.cells(one) is not None]
    sizes = [one.size for one in found]
    return found[: cut(sizes, records=INGEST_BATCH_ROWS, size=JOB_BYTES)] if found else []


def open_job(session: Session, queue: Queue, actions: Sequence[Pending], *, sent_at: datetime) -> Job:
    """A job's row, with its actions in it: nothing of it is in the org yet."""
    kind = actions[0]
    values = {
        **_of(queue),
        "operation": kind.operation,
        "external_id_field": kind.external_id_field,
        "rows": len(actions),
        "sent_at": sent_at,
    }
    job = Job(**session.execute(text(INSERT), values).mappings().one())
    given = {"ids": uuid_array(one.id for one in actions), "sent_at": sent_at, "way": BULK, "job": job.id}
    session.execute(text(PUT_IN), given)
    return job


def carried(session: Session, job: Job, pause: Callable[[], None] = no_pause) -> list[Pending]:
    """The actions that have no outcome of this job yet, always in the same order."""
    return pendings(session.execute(text(CARRIED), {"job": job.id}).all(), pause=pause)


def move(
    session: Session,
    claim: Claim,
    stage: str,
    *,
    job_id: str | None = None,
    after: timedelta | None = None,
    error: str = "",
) -> None:
    """The job's next stage, under the claim; `after`: give the claim back until then. `over` ends it."""
    db.guard(session, claim)
    values: dict[str, Any] = {
        "id": claim.id,
        "stage": stage,
        "job_id": job_id,
        "error": error or None,
        "over": stage == "over",
    }
    session.execute(
        text(
            """
            UPDATE sfsync.ingest_jobs
               SET stage = :stage, job_id = coalesce(:job_id, job_id), error = coalesce(:error, error), attempts = 0,
                   state = CASE WHEN :over THEN 'done' ELSE 'ready' END,
                   finished_at = CASE WHEN :over THEN clock_timestamp() END
             WHERE id = :id
            """
        ),
        values,
    )
    if after is not None or stage == "over":
        put_off(session, claim, after or timedelta(0))


def put_off(session: Session, claim: Claim, after: timedelta, *, error: str = "") -> None:
    """Give the claim back: the job is looked at again after a while."""
    query = """
        UPDATE sfsync.ingest_jobs SET claim_owner = NULL, claim_until = NULL, due_at = clock_timestamp() + :after,
               error = coalesce(:error, error)
         WHERE id = :id AND claim_token = :token
    """
    session.execute(text(query), {"id": claim.id, "token": claim.token, "after": after, "error": error or None})


def known(session: Session, job_ids: Collection[str]) -> set[str]:
    """Those of the org's job ids that a row of ours names."""
    return set(session.scalars(text(KNOWN), {"ids": list(job_ids)}))


def _of(queue: Queue) -> dict[str, Any]:
    return {"connection": queue.connection_id, "object": queue.object}
