"""How a run asks: the question of its window or of everything, by REST while it is small, else by Bulk, or by REST page
after page where Bulk does not serve the object.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from time import monotonic
from typing import Any

from sqlalchemy.orm import Session

from worker.errors import NotFoundError, RejectedError, SyncError, TransientError
from worker.log import get_logger
from worker.mirror import asking, bulk_read, finality, intake, rest_read, store, tables
from worker.mirror.asking import Question, Window
from worker.mirror.bulk_read import TOO_LARGE
from worker.mirror.cursor import read_began, young_since
from worker.mirror.rows import to_csv
from worker.mirror.store import FILTERED, Merged
from worker.mirror.work import Work, keep_rejects
from worker.salesforce import rest
from worker.salesforce.rest import Part, QueryPage
from worker.steps import Step

log = get_logger(__name__)

MOVES_CURSORS = ("load", "refresh", "settle")  # kinds of runs that may read everything and then say how far it is final
BULK_REFUSES = frozenset({"INVALIDENTITY", "API_ERROR", "InvalidEntity", "FUNCTIONALITY_NOT_ENABLED"})
DELETED = "deleted"  # a cause; see ddl.CAUSES
MOST_BYTES = 32 << 20  # of rows that are held in memory: records with long texts may be few and large


@dataclass(frozen=True, slots=True)
class Answer:
    """The first pages of what a window's read brought; `changed` only for mirrors with a row filter."""

    number: int  # of the read, taken before it was sent
    began: datetime  # the org's time
    changed: QueryPage | None
    rows: QueryPage


def question(work: Work) -> Question:
    """What this run reads."""
    spec, fields = work.spec, work.run.columns or ()
    if work.run.window_start is None:
        return asking.everything(spec, fields)
    return asking.changes(spec, fields, window(work))


def window(work: Work) -> Window:
    """The run's window."""
    assert work.run.window_start is not None
    return Window(work.run.window_start, work.run.window_end)


def questions(work: Work) -> list[Question]:
    """The queries of the run's window, in the order in which they must be asked."""
    rows = question(work)
    return [rows] if work.spec.row_filter is None else [asking.changed_ids(work.spec, window(work)), rows]


def parts(asked: Sequence[Question]) -> list[Part]:
    """As parts of a Composite call."""
    return [rest.query_part(one.soql(), all_rows=one.all_rows) for one in asked]


def number(work: Work) -> int:
    """A number for the read that is about to be sent, committed."""
    with work.deps.database.transaction() as session:
        return work.number_read(session)


def ask_window(work: Work) -> Answer:
    """Ask for the run's window: one call."""
    numbered, asked, start = number(work), questions(work), monotonic()
    if len(asked) == 1:
        pages = [rest.query(work.client, asked[0].soql(), all_rows=asked[0].all_rows)]
    else:
        pages = [rest.part_page(work.client, body) for body in rest.together(work.client, parts(asked))]
    return answer(numbered, pages, read_began(pages[0].org_time, timedelta(seconds=monotonic() - start)))


def answer(numbered: int, pages: Sequence[QueryPage], began: datetime) -> Answer:
    """What the first pages of `questions` brought."""
    return Answer(numbered, began, pages[0] if len(pages) > 1 else None, pages[-1])


def answered(work: Work, numbered: int, bodies: Sequence[Any], began: datetime) -> Answer | SyncError:
    """What the bodies of `parts` brought, or what one of them met."""
    try:
        return answer(numbered, [rest.part_page(work.client, body) for body in bodies], began)
    except SyncError as error:
        return error


def is_too_large(error: Exception) -> bool:
    """Whether the org could not answer so much at once."""
    return isinstance(error, (TransientError, RejectedError)) and error.code in TOO_LARGE


def is_large(work: Work, found: Answer) -> bool:
    """Whether Bulk should bring this answer: by its first page's count."""
    counts = [page.total_size for page in (found.changed, found.rows) if page is not None]
    return max(counts) > work.deps.settings.bulk_threshold_rows


def by_bulk(work: Work, columns: Sequence[str]) -> None:
    """Read the run's window by Bulk, or page by page, into staging. With a row filter: everything that meets it, because
    what left it can then be told by its absence."""
    staging = f"_staging_{work.run.id}"
    whole = {"window_start": None, "window_end": None, "columns": list(work.spec.fields)}
    chosen: dict[str, Any] = whole if work.spec.row_filter else {"columns": list(columns)}
    with work.deps.database.transaction() as session:
        tables.make_staging(session, work.spec, work.schema, staging)
        work.set(session, stage="ask", staging=staging, **chosen)


def ask(work: Work) -> Step | None:
    """Ask Bulk for what this run reads; an object that Bulk does not serve is read by REST, now and from now on."""
    if work.run.window_start is None and work.run.kind in MOVES_CURSORS:
        final = finality.ask(work)
        work.advance("ask", options=work.option(covered=final.isoformat() if final else None))
        work.reload()
    if work.mirror.route == "rest":
        work.advance("paged")
        return None
    asked = question(work)
    try:
        bulk_read.ask(work, asked.soql(ordered=False), all_rows=asked.all_rows)
    except RejectedError as error:
        if error.code not in BULK_REFUSES and not isinstance(error, NotFoundError):  # an org may have no Bulk at all
            raise
        log.info("mirror.bulk_refused", object=work.mirror.object, error=str(error))
        with work.deps.database.transaction() as session:
            work.set_mirror(session, route="rest")
            work.set(session, stage="paged")
    return None


@dataclass(frozen=True, slots=True)
class WindowRows:
    """A window's whole answer, ready to be merged. `left`: ids that changed and do not meet the filter any more."""

    number: int
    began: datetime
    data: list[bytes]
    rows: int
    left: list[str]
    deleted: list[str]  # of those, the deleted ones


def gather(work: Work, found: Answer) -> WindowRows | None:
    """All pages of an answer, at most `bulk_threshold_rows` rows; None where they take more than MOST_BYTES all the same."""
    *before, asked = questions(work)
    loose = work.spec.loose
    data: list[bytes] = []
    matching: set[str] = set()
    rows = held = 0
    for page in rest_read.pages(work.client, asked, found.rows):
        work.keeper.check()
        data.append(to_csv(page.records, asked.fields, with_header=not data, loose=loose))
        rows += len(page.records)
        held += len(data[-1])
        if held > MOST_BYTES:
            return None
        if before:
            matching.update(row["Id"] for row in page.records)
    left, deleted = [], []
    for changed in before:
        for page in rest_read.pages(work.client, changed, found.changed):
            outside = [row for row in page.records if row["Id"] not in matching]
            left += [row["Id"] for row in outside if not row.get("IsDeleted")]
            deleted += [row["Id"] for row in outside if row.get("IsDeleted")]
    return WindowRows(found.number, found.began, data, rows, left, deleted)


def merge(session: Session, work: Work, found: WindowRows) -> dict[str, int]:
    """Merge a window's rows into the mirror; the run's counters."""
    target = work.target_numbered(found.number)
    merged, rejects, nul_bytes = Merged(0, 0), 0, 0
    if found.rows:
        staged, taken = intake.look(session, target, found.data)
        assert staged.staging is not None
        merged = store.merge(session, target, staged.staging, young=young_since(found.began))
        keep_rejects(session, work.mirror.id, work.run.id, taken)
        rejects, nul_bytes = len(taken.rejects), taken.nul_bytes
    left = store.leave(session, target, found.left, found.began, cause=FILTERED)
    left += store.leave(session, target, found.deleted, found.began, cause=DELETED)
    return {
        "rows_read": found.rows,
        "rows_changed": merged.changed,
        "rows_deleted": merged.deleted + left,
        "rows_rejected": rejects,
        "nul_bytes": nul_bytes,
    }
