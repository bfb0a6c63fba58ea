"""Load one page of a Bulk result: a unit of work that any worker may claim.

The next page's row is written as soon as this page's headers name its locator, so several pages load at once. A page's
rows and its state commit together: a kill costs one page.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, cast

import psycopg
from sqlalchemy import CursorResult, func, or_, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from models.connection import Connection
from models.mirror import Mirror, Run, RunPage
from worker import db
from worker.attribution import attributed
from worker.db import Claim, Keeper
from worker.errors import DisconnectedError, FencedError, OverBudgetError, RejectedError, SyncError, is_away
from worker.log import get_logger
from worker.mirror import intake
from worker.mirror.cursor import next_pause
from worker.mirror.deps import PAGE, STEP, MirrorDeps
from worker.mirror.intake import Taken
from worker.mirror.store import Target
from worker.mirror.work import NOW, keep_rejects, target_of
from worker.salesforce import bulk
from worker.salesforce.client import OrgClient
from worker.steps import Again, Busy, Done, Step

log = get_logger(__name__)

MOST_ATTEMPTS = 8  # of a page without success: then the whole read is begun anew
AWAY_PAUSE = timedelta(seconds=10)  # before an org that is away is asked for a page again
FREE = or_(RunPage.claim_until.is_(None), RunPage.claim_until < NOW)


def free_pages(session: Session, run_id: int, limit: int) -> list[int]:
    """Pages of a run that nobody holds, first ones first; none where the run has gone another way."""
    query = select(RunPage.id).join(Run, Run.id == RunPage.run_id)
    free = query.where(Run.id == run_id, Run.state == "ready", Run.stage == "pages", RunPage.state == "ready", FREE)
    return list(session.scalars(free.order_by(RunPage.number).limit(limit)))


def load_page(deps: MirrorDeps, page_id: int) -> Step:
    """Load one page, if nobody else does. Asking twice, or late, is harmless."""
    with deps.database.transaction() as session:
        claim = db.take(session, "run_pages", page_id, deps.settings.claim_ttl)
        if claim is None:
            return Busy()
        page = session.get_one(RunPage, page_id)
        run = session.get_one(Run, page.run_id)
        mirror = session.get_one(Mirror, run.mirror_id)
        connection = session.get_one(Connection, mirror.connection_id)
        if run.state != "ready" or run.stage != "pages" or connection.state != "active":
            db.release(session, claim)
            return Done()
    loader = PageLoader(deps, claim, page, run, target_of(run, mirror, connection.schema_name), mirror.object)
    try:
        with (
            attributed(object=mirror.object, lane=run.lane, cause=f"{run.kind}/{run.cause}"),
            Keeper(deps.database, claim, deps.settings.claim_ttl) as keeper,
        ):
            return loader.load(deps.client(connection.id), keeper)
    except FencedError:
        return Busy()
    except (SyncError, psycopg.Error, DBAPIError) as error:
        return loader.fail(error)


class PageLoader:
    """One claimed page in hand."""

    def __init__(self, deps: MirrorDeps, claim: Claim, page: RunPage, run: Run, target: Target, name: str) -> None:
        self.deps = deps
        self.claim = claim
        self.page = page
        self.run = run
        self.target = target
        self.object = name
        self.next_page: int | None = None

    def load(self, client: OrgClient, keeper: Keeper) -> Step:
        """Read, copy, commit."""
        keeper.on_lost(client.close)
        try:
            with self.deps.database.transaction() as session:
                taken = intake.take_in(session, self.target, lambda: self._open(client))
                left = self._commit(session, taken, client.calls)
        finally:
            client.close()
        log.info("mirror.page_loaded", object=self.object, page=self.page.number, rows=taken.rows, bytes=taken.bytes)
        if left:
            return Done()
        self.deps.wake(STEP, self.run.id, self.run.lane)
        return Done()

    @contextmanager
    def _open(self, client: OrgClient) -> Iterator[bulk.PageStream]:
        assert self.run.job_id is not None
        rows = self.deps.settings.bulk_page_rows
        with bulk.open_page(client, self.run.job_id, self.page.locator, rows) as stream:
            if stream.next_locator is not None and self.next_page is None:
                self._announce(stream.next_locator)
            yield stream

    def _announce(self, locator: str) -> None:
        number = self.page.number + 1
        with self.deps.database.transaction() as session:
            row = insert(RunPage).values(run_id=self.run.id, number=number, locator=locator)
            session.execute(row.on_conflict_do_nothing())
            self.next_page = session.scalar(
                select(RunPage.id).where(RunPage.run_id == self.run.id, RunPage.number == number)
            )
            db.guard(session, self.claim)
        if self.next_page is not None:
            self.deps.wake(PAGE, self.next_page, self.run.lane)

    def _commit(self, session: Session, taken: Taken, calls: int) -> int:
        """Write the page's end with its rows; how many pages of the run are left."""
        keep_rejects(session, self.target.mirror_id, self.run.id, taken)
        loaded: dict[str, Any] = {"state": "loaded", "loaded_at": NOW, "rows": taken.rows, "bytes": taken.bytes}
        self._update(session, **loaded, claim_until=None, claim_owner=None)
        left = session.scalar(
            select(func.count()).select_from(RunPage).where(RunPage.run_id == self.run.id, RunPage.state != "loaded")
        )
        counters = {
            "rows_read": Run.rows_read + taken.rows,
            "rows_rejected": Run.rows_rejected + len(taken.rejects),
            "nul_bytes": Run.nul_bytes + taken.nul_bytes,
            "calls": Run.calls + calls,
        }
        session.execute(
            update(Run).where(Run.id == self.run.id).values(**counters, **({} if left else {"due_at": NOW}))
        )
        return left or 0

    def _update(self, session: Session, **values: Any) -> None:
        mine = update(RunPage).where(
            RunPage.id == self.claim.id, RunPage.claim_token == self.claim.token, RunPage.state == "ready"
        )
        if cast(CursorResult[Any], session.execute(mine.values(**values))).rowcount != 1:
            raise FencedError(f"page {self.claim.id} is no longer ours")

    def fail(self, error: Exception) -> Step:
        """What comes next after a failure: the page again a little later, or the whole read from its beginning."""
        text = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        log.warning("mirror.page_failed", object=self.object, page=self.page.number, error=text)
        waits = isinstance(error, OverBudgetError) or is_away(error)  # nothing is wrong with the page: not counted
        hopeless = not waits and (isinstance(error, RejectedError) or self.page.attempts >= MOST_ATTEMPTS)
        pause = timedelta(seconds=next_pause(2.0 ** (self.page.attempts - 3)))
        if waits:
            pause = getattr(error, "retry_after", None) or AWAY_PAUSE
        try:
            with self.deps.database.transaction() as session:
                attempts = RunPage.attempts - (1 if waits else 0)
                self._update(session, claim_until=NOW + pause, claim_owner=None, attempts=attempts)
                if hopeless and not isinstance(error, DisconnectedError):
                    same_job = (Run.id == self.run.id, Run.job_id == self.run.job_id, Run.stage == "pages")
                    session.execute(update(Run).where(*same_job).values(stage="lost", error=text, due_at=NOW))
        except FencedError:
            return Busy()
        return Again()
