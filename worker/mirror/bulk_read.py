"""A Bulk read as stages of a run: ask for the job, look at it, load its pages, check that all came.

The job's id and every page are rows, so whoever takes the run over re-attaches to the job and reads only the pages
that are not loaded. Nothing waits: a job that is not finished puts the run off.
"""

import time
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from models.mirror import Run, RunPage
from worker.log import get_logger
from worker.mirror import suspects, tables
from worker.mirror.cursor import next_look
from worker.mirror.pages import free_pages, load_page
from worker.mirror.work import StartOverError, Work
from worker.salesforce import bulk
from worker.steps import Step

log = get_logger(__name__)

TOO_LARGE = frozenset({"QUERY_TIMEOUT", "OPERATION_TOO_LARGE", "QUERY_TOO_COMPLICATED"})  # ask for less at once
GAVE_UP = ("retries exceeded", "Retried more than")  # the org's words for a job that it began too often
SLICE_SECONDS = 20.0  # a step loads pages for so long, then lets its worker go
FREE_SLOT_SECONDS = 0.05  # how often a free thread looks for the next page, which another is about to announce
PAGES_PAUSE = timedelta(milliseconds=500)


def ask(work: Work, soql: str, *, all_rows: bool) -> None:
    """Create the job. Its read is numbered before it is sent; its own time of creation is where a cursor may start."""
    with work.deps.database.transaction() as session:
        number = work.number_read(session)
        if work.run.staging is None:
            tables.number_rows(session, work.spec, work.schema, number)
        work.set(session, read_number=number)
    job = bulk.create_query(work.client, soql, all_rows=all_rows)
    log.info("mirror.job_created", object=work.mirror.object, job=job.id, kind=work.run.kind)
    work.advance("wait", job_id=job.id, read_started_at=job.created_at, rows_expected=None)


def look(work: Work) -> Step | None:
    """Look at the job once. A query that was too much for one job is read page after page, each a range of keys."""
    assert work.run.job_id is not None
    job = bulk.get_query(work.client, work.run.job_id)
    if job.failed and _is_too_large(work, job.error or ""):
        log.warning("mirror.job_too_large", object=work.mirror.object, job=job.id, error=job.error)
        work.advance("paged", job_id=None)
        return None
    if job.failed:
        text = f"the org's Bulk job ended as {job.state}: {job.error or 'no reason given'}"
        raise StartOverError(text, describe=True)  # a field that went between its creation and its work fails it
    if not job.complete:
        now = work.client.org_time or datetime.now(UTC)
        return work.again(next_look(now - job.created_at, work.deps.settings.bulk_poll_seconds))
    with work.deps.database.transaction() as session:
        session.execute(insert(RunPage).values(run_id=work.run.id, number=1).on_conflict_do_nothing())
        work.set(session, stage="pages", rows_expected=job.records_processed)
    return work.again()


def _is_too_large(work: Work, error: str) -> bool:
    """Whether the org could not carry out the query as one job. What it gave up may be due to a bad hour: once more, then."""
    gave_up = any(words in error for words in GAVE_UP)
    return any(code in error for code in TOO_LARGE) or (gave_up and "restarts" in work.run.options)


def pages(work: Work) -> Step | None:
    """Load pages, several at once, until all are loaded or the step has had its time."""
    _load_some(work)
    work.keeper.check()
    with work.deps.database.transaction() as session:
        left = session.scalar(
            select(func.count()).where(RunPage.run_id == work.run.id, RunPage.state != "loaded").select_from(RunPage)
        )
        free = free_pages(session, work.run.id, 1)
    work.reload()  # after the count: what another worker commits between the two must not look like missing rows
    if work.run.stage != "pages":
        return None
    if left:
        return work.again(timedelta(0) if free else PAGES_PAUSE)
    if _incomplete(work.run):
        raise StartOverError(f"the pages hold {work.run.rows_read} rows, the job {work.run.rows_expected}")
    work.advance("loaded", attempts=0)
    return None


def _load_some(work: Work) -> None:
    threads, end = work.deps.settings.page_workers, time.monotonic() + SLICE_SECONDS
    running: dict[Future[Any], int] = {}
    with ThreadPoolExecutor(threads, thread_name_prefix=f"run-{work.run.id}") as pool:
        while True:
            if len(running) < threads and time.monotonic() < end and not work.keeper.lost.is_set():
                with work.deps.database.transaction() as session:
                    free = free_pages(session, work.run.id, threads)
                for page_id in [one for one in free if one not in running.values()][: threads - len(running)]:
                    running[pool.submit(load_page, work.deps, page_id)] = page_id
            if not running:
                return
            pause = FREE_SLOT_SECONDS if len(running) < threads else None
            for finished in wait(running, timeout=pause, return_when=FIRST_COMPLETED).done:
                del running[finished]
                finished.result()


def _incomplete(run: Run) -> bool:
    """Whether rows are missing, or too many, by the org's own count (0 also stands for an org that does not count)."""
    return bool(run.rows_expected) and run.rows_read != run.rows_expected


def lost(work: Work) -> Step | None:
    """The job or its columns are no longer what they were: a page said so."""
    raise StartOverError(work.run.error or "the Bulk job was lost", describe=True)


def check_staged(session: Session, work: Work) -> None:
    """StartOverError unless staging still holds every row that was loaded: a crash of the server empties unlogged tables."""
    assert work.run.staging is not None
    if tables.count(session, work.schema, work.run.staging) != work.run.rows_read - work.run.rows_rejected:
        raise StartOverError("the staged rows were lost when Postgres stopped")


def check_suspects(session: Session, work: Work) -> dict[str, int]:
    """How many suspects got each verdict; StartOverError unless all of them are still there."""
    counts = suspects.counts(session, work.schema, work.suspects)
    if sum(counts.values()) != work.run.options.get("suspects", 0):
        raise StartOverError("the list of suspects was lost when Postgres stopped")
    return counts
