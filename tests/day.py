"""A simulated day of an org with few calls: real ledger, real planner, real Postgres; only the clock is ours.

Refreshes are spent as their intervals say; the org counts the calls of the last 24 hours, as the vendor does.
"""

from collections import deque
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import psycopg
from sqlalchemy import text

from worker.attribution import attributed
from worker.budget import plan as planning
from worker.budget.ledger import Ledger
from worker.db import Database
from worker.errors import OverBudgetError
from worker.salesforce.metering import Kind
from worker.salesforce.usage import Usage
from worker.settings import Settings

START = datetime(2026, 11, 28, 0, 0, tzinfo=UTC)
DAY = timedelta(days=1)


class Day:
    """An org that counts a rolling day, five mirrors that want a minute, and a clock."""

    def __init__(self, database: Database, settings: Settings, allowed: int, *, step: timedelta) -> None:
        self.database = database
        self.settings = settings
        self.allowed = allowed
        self.step = step
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
        try:
            with attributed(object=name, lane=lane, cause=cause), self.ledger.meter(1).permit(kind) as permit:
                self.calls.append(self.now)
                self.exceeded += self.used() > self.allowed
                permit.used, permit.usage = True, Usage(self.used(), self.allowed, self.now)
        except OverBudgetError:
            return False
        if lane != "actions":
            self.fewest_left = min(self.fewest_left, self.allowed - self.used())
        return True

    def go_on(self) -> None:
        """One step of the clock: the planner, and every refresh that is due."""
        if (
            self.calls and self.now - self.calls[-1] >= planning.LIMITS_WHEN_SHORT
        ):  # as upkeep asks an org that is short
            self.call("upkeep", "limits", "", Kind.LIMITS)
            self.ledger.write()
        planning.plan(self.database, self.settings, now=self.now)
        with self.database.transaction() as session:
            due = session.execute(
                text(
                    "UPDATE sfsync.mirrors SET next_refresh_at = greatest(next_refresh_at, CAST(:now AS timestamptz) - CAST(:step AS interval))"
                    " + make_interval(secs => coalesce(effective_seconds, refresh_seconds)), rated_at = :now"
                    " WHERE next_refresh_at <= :now RETURNING id, object"
                ),
                {"now": self.now, "step": self.step},
            ).all()
        for row in due:
            if self.call("refresh", "refresh/timetable", row.object):
                self.refreshed.setdefault(row.id, []).append(self.now)
        self.ledger.write()
        self.now += self.step

    def gaps(self, since: datetime) -> list[float]:
        """Seconds between the refreshes of each mirror."""
        return [
            (later - earlier).total_seconds()
            for times in self.refreshed.values()
            for earlier, later in pairwise(times)
            if earlier >= since
        ]


def prepare(url: str, *, mirrors: int = 5) -> None:
    """One connection with mirrors that want a minute."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(
            f"""
            INSERT INTO salesforce_oauth_tokens (user_id, grant_type, login_url, schema_name, access_token, organization_id)
            VALUES ('u', 'refresh_token', 'https://login.salesforce.com', 's', 'x', '00D');
            INSERT INTO sfsync.mirrors (connection_id, object, table_name, state, fresh_cursor, refresh_seconds,
                                        next_refresh_at, rated_at, change_rate)
            SELECT c.id, 'Object' || n, 'object' || n, 'live', '{START}', 60, '{START}', '{START}', 10
              FROM salesforce_oauth_tokens c, generate_series(1, {mirrors}) n
            """.encode()
        )
