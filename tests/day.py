"""A simulated day of an org with few calls: real ledger, planner and schedule, real Postgres; only the clock and the org are ours.

Each refresh finds changes. What is scheduled is spent: a call for each refresh and each settle read, or one for up to five together, as Composite counts.
The org counts the calls of the last 24 hours, as the vendor does. Nothing here reads the machine's clock.
"""

from collections import deque
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import psycopg
from sqlalchemy import text

from worker.attribution import attributed
from worker.budget import plan as planning
from worker.budget.ledger import Ledger
from worker.db import Database
from worker.errors import OverBudgetError
from worker.mirror.due import schedule_refreshes
from worker.salesforce.limits import COMPOSITE_QUERIES
from worker.salesforce.metering import Kind
from worker.salesforce.usage import Usage
from worker.settings import Settings

START = datetime(2026, 11, 28, 0, 0, tzinfo=UTC)
DAY = timedelta(days=1)
MOMENT = timedelta(seconds=1)

DUE = """
SELECT r.id, r.kind, m.id AS mirror_id, m.object FROM sfsync.runs r JOIN sfsync.mirrors m ON m.id = r.mirror_id
 WHERE r.state = 'ready' ORDER BY r.id
"""
SOON = """
SELECT min(at) FROM sfsync.mirrors, unnest(ARRAY[next_refresh_at, next_settle_at]) AS at WHERE at > :now
"""
DONE = """
WITH done AS (UPDATE sfsync.runs SET state = 'done', finished_at = :now WHERE id = :id RETURNING mirror_id, kind)
UPDATE sfsync.mirrors m SET rated_at = :now, refresh_calls = refresh_calls * 0.8 + :calls * 0.2,
       next_settle_at = least(next_settle_at, :now + make_interval(secs => :settle * greatest(1, coalesce(m.effective_seconds, 0) / m.refresh_seconds)))
  FROM done
 WHERE m.id = done.mirror_id AND done.kind = 'refresh'
"""
SETTLED = "UPDATE sfsync.mirrors SET settle_calls = settle_calls * 0.8 + :calls * 0.2 WHERE id = :mirror_id"


class Day:
    """An org that counts a rolling day, mirrors that want a minute, and a clock. `shared`: refreshes share Composite calls."""

    def __init__(
        self, database: Database, settings: Settings, allowed: int, *, step: timedelta, shared: bool = False
    ) -> None:
        self.database = database
        self.settings = settings
        self.allowed = allowed
        self.step = step
        self.shared = shared
        self.now = START
        self.calls: deque[datetime] = deque()
        self.exceeded = 0
        self.fewest_left = allowed
        self.refreshed: dict[int, list[datetime]] = {}
        self.ledger = Ledger(
            database, settings, now=lambda _: self.now, clock=lambda: self.now.timestamp(), writes_itself=False
        )

    def used(self) -> int:
        while self.calls and self.calls[0] <= self.now - DAY:
            self.calls.popleft()
        return len(self.calls)

    def call(self, lane: str, cause: str, name: str, kind: Kind = Kind.CALL) -> bool:
        """One call to the org, if the ledger permits it."""
        try:
            with attributed(object=name, lane=lane, cause=cause):
                self._spend(lane, kind)
        except OverBudgetError:
            return False
        return True

    def _spend(self, lane: str, kind: Kind) -> None:
        with self.ledger.meter(1).permit(kind) as permit:
            self.calls.append(self.now)
            self.exceeded += self.used() > self.allowed
            permit.used, permit.usage = True, Usage(self.used(), self.allowed, self.now)
        if lane != "actions":
            self.fewest_left = min(self.fewest_left, self.allowed - self.used())

    def go_on(self) -> None:
        """The org's own count, the planner, and every read that is due; then the clock goes on to what is due next, by a step at most."""
        planning.ask_limits(self.database, lambda _: _Client(self), now=self.now)  # type: ignore[arg-type, return-value]
        self.ledger.write()
        planning.plan(self.database, self.settings, now=self.now)
        with self.database.transaction() as session:
            schedule_refreshes(session, self.settings.settle_seconds, self.now)
            due = session.execute(text(DUE)).all()
        together = COMPOSITE_QUERIES if self.shared else 1
        for kind in ("refresh", "settle"):
            rows = [row for row in due if row.kind == kind]
            for first in range(0, len(rows), together):
                self._read(rows[first : first + together])
        self.ledger.write()
        with self.database.transaction() as session:
            soon = session.scalar(text(SOON), {"now": self.now}) or self.now + self.step
        self.now = min(self.now + self.step, max(soon, self.now + MOMENT))

    def _read(self, rows: Sequence[Any]) -> None:
        """These runs by one call; those that were refused stay ready, and come again with the next step."""
        if not self.call("refresh", f"{rows[0].kind}/timetable", rows[0].object):
            return
        values = {"now": self.now, "settle": self.settings.settle_seconds}
        with self.database.transaction() as session:
            for row in rows:
                session.execute(text(DONE), {**values, "id": row.id, "calls": 1 / len(rows)})
                if row.kind == "settle":
                    session.execute(text(SETTLED), {"mirror_id": row.mirror_id, "calls": 1 / len(rows)})
        for row in rows:
            if row.kind == "refresh":
                self.refreshed.setdefault(row.mirror_id, []).append(self.now)

    def gaps(self, since: datetime) -> list[float]:
        """Seconds between the refreshes of each mirror."""
        return [
            (later - earlier).total_seconds()
            for times in self.refreshed.values()
            for earlier, later in pairwise(times)
            if earlier >= since
        ]

    def best(self) -> float:
        """The shortest interval of five mirrors that an even spending allows: what is not kept for actions and for GET /limits,
        shared by refreshes and the settle reads that belong to them."""
        calls = self.allowed * (1 - self.settings.reserve_share) - DAY / planning.LIMITS_EVERY
        cycle = (1 if self.shared else 5) * (1 + 60 / self.settings.settle_seconds)
        return max(60.0, 86_400 * cycle / calls)


class _Client:
    """What asks the org for its limits."""

    def __init__(self, day: Day) -> None:
        self._day = day

    def call(self, *_: object, **__: object) -> Any:
        self._day._spend("upkeep", Kind.LIMITS)
        left = self._day.allowed - self._day.used()
        return SimpleNamespace(body={"DailyApiRequests": {"Max": self._day.allowed, "Remaining": left}})


def prepare(url: str, *, mirrors: int = 5) -> None:
    """One connection with mirrors that want a minute."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(
            f"""
            INSERT INTO salesforce_oauth_tokens (user_id, grant_type, login_url, schema_name, access_token, organization_id)
            VALUES ('u', 'refresh_token', 'https://login.salesforce.com', 's', 'x', '00D');
            INSERT INTO sfsync.mirrors (connection_id, object, table_name, state, fresh_cursor, refresh_seconds,
                                        next_refresh_at, next_settle_at, rated_at, change_rate)
            SELECT c.id, 'Object' || n, 'object' || n, 'live', '{START}', 60, '{START}', '{START}', '{START}', 10
              FROM salesforce_oauth_tokens c, generate_series(1, {mirrors}) n
            """.encode()
        )
