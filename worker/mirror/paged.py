"""A read of any size by REST, page after page: for objects that Bulk does not serve. Flat memory, resumable.

Each page's rows and the place behind them commit together: a kill costs one page. The org's cursor is used while it
lasts; without it the question is asked again for what comes behind the last record. A query that runs too long is
asked for fewer records at once.
"""

import time
from contextlib import nullcontext
from datetime import timedelta
from typing import Any

from models.mirror import Run
from worker.errors import RejectedError, SyncError
from worker.mirror import intake, rest_read, tables
from worker.mirror.asking import Question
from worker.mirror.bulk_read import SLICE_SECONDS
from worker.mirror.cursor import read_began
from worker.mirror.intake import MemoryPage
from worker.mirror.reading import is_too_large, question
from worker.mirror.rows import to_csv
from worker.mirror.work import StartOverError, Work, keep_rejects
from worker.salesforce import rest
from worker.salesforce.limits import QUERY_PAGE_RECORDS
from worker.salesforce.rest import QueryPage, parse_instant
from worker.steps import Step

Place = dict[str, Any]  # "after": values of the order's fields, "next": the org's cursor, "limit": records at once


def pages(work: Work) -> Step | None:
    """Read pages until all are here or the step has had its time."""
    end = time.monotonic() + SLICE_SECONDS
    if "place" not in work.run.options:
        _begin(work)
    while time.monotonic() < end:
        work.keeper.check()
        work.reload()
        if _page(work):
            return None
    return work.again()


def _begin(work: Work) -> None:
    with work.deps.database.transaction() as session:
        number = work.number_read(session)
        if work.run.staging is None:
            tables.number_rows(session, work.spec, work.schema, number)
        work.set(session, read_number=number, read_started_at=None, options=work.option(place={}))


def _page(work: Work) -> bool:
    """Read one page and commit it with the place behind it; whether it was the last."""
    place: Place = work.run.options["place"]
    asked, start = question(work), time.monotonic()
    try:
        page = _ask(work, asked, place)
    except SyncError as error:
        smaller = _smaller(asked, place, error)
        work.advance("paged", options=work.option(place=smaller))
        return False
    began = work.run.read_started_at or read_began(page.org_time, timedelta(seconds=time.monotonic() - start))
    limit = place.get("limit")
    over = page.next_url is None and (limit is None or len(page.records) < limit)
    after = rest_read.position(page.records, asked.order)
    behind = {
        "after": [str(one) for one in after] if after else place.get("after"),
        "next": page.next_url,
        "limit": limit,
    }
    data = to_csv(page.records, asked.fields, loose=work.spec.loose)
    with work.deps.database.transaction() as session:
        taken = intake.take_in(session, work.target(), lambda: nullcontext(MemoryPage([data], len(page.records))))
        keep_rejects(session, work.mirror.id, work.run.id, taken)
        counters = {
            "rows_read": Run.rows_read + taken.rows,
            "rows_rejected": Run.rows_rejected + len(taken.rejects),
            "nul_bytes": Run.nul_bytes + taken.nul_bytes,
            "rows_expected": work.run.rows_expected if place else page.total_size,
        }
        stage, options = "loaded" if over else "paged", work.option(place=behind)
        work.set(session, stage=stage, options=options, read_started_at=began, attempts=0, **counters)
    return over


def _ask(work: Work, asked: Question, place: Place) -> QueryPage:
    if place.get("next") is not None:
        return rest.more(work.client, place["next"])
    after = [*map(parse_instant, place["after"][:-1]), place["after"][-1]] if place.get("after") else None
    return rest.query(work.client, asked.soql(after=after, limit=place.get("limit")), all_rows=asked.all_rows)


def _smaller(asked: Question, place: Place, error: SyncError) -> Place:
    """Where to go on after a cursor was lost or a query ran too long; raises what is neither."""
    uncursored = isinstance(error, RejectedError) and error.code in rest_read.LOST
    if uncursored and place.get("next") is not None:
        if not asked.order:
            raise StartOverError(f"{asked.object} has no order to go on in: {error}") from error
        return {**place, "next": None}
    limit = (place.get("limit") or 2 * QUERY_PAGE_RECORDS) // 2
    if (uncursored or is_too_large(error)) and asked.order and limit > 0:
        return {**place, "next": None, "limit": limit}
    raise error
