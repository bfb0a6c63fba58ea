"""An org over the wire, a database, and one connected mirror: what the tests of the use cases share."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import text, update

from models.connection import Connection
from models.mirror import Mirror
from tests.org import Org
from tests.waiting import LIMIT_SECONDS
from worker.db import Database, raw
from worker.errors import DisconnectedError, SyncError
from worker.mirror import due, steps
from worker.mirror.deps import MirrorDeps
from worker.mirror.requests import ensure_mirror, request_run
from worker.salesforce.client import OrgClient, http_options
from worker.salesforce.exchange import AccessToken
from worker.salesforce.metering import MeterOf, unmetered
from worker.settings import Settings

KEY = "A" * 43 + "="
SMALL = "Account=40,Contact=120,Opportunity=30"  # seeds of the orgs that these tests share
LARGE = "Account=300,Contact=2500,Opportunity=600"


@dataclass
class OrgToken:
    """A token of the org; another when the org no longer takes it (its clock may have been moved by hours)."""

    org: Org
    token: AccessToken

    def current(self) -> AccessToken:
        return self.token

    def renew(self, stale: AccessToken) -> AccessToken:
        if self.token.version == stale.version:
            self.token = AccessToken(self.org.token(), self.org.url, stale.version + 1)
        return self.token

    def refused(self, token: AccessToken, reason: str) -> SyncError:
        return DisconnectedError(reason)


@dataclass
class World:
    """Use cases as a worker runs them, without the worker."""

    org: Org
    database: Database
    settings: Settings
    connection_id: int
    tokens: OrgToken
    woken: list[tuple[str, int]] = field(default_factory=list)
    meter: MeterOf = unmetered

    @property
    def deps(self) -> MirrorDeps:
        return MirrorDeps(self.database, self.settings, self.client, self.wake)

    def client(self, connection_id: int) -> OrgClient:
        assert connection_id == self.connection_id
        return OrgClient(self.tokens, http_options(self.settings), meter=self.meter(connection_id))

    def wake(self, name: str, row_id: int, lane: str | None = None) -> None:
        self.woken.append((name, row_id))

    def ask(self, name: str, kind: str = "load", **options: Any) -> int:
        """Ask for a run."""
        with self.database.transaction() as session:
            mirror_id = ensure_mirror(session, self.connection_id, name)
            return request_run(session, mirror_id, kind, "timetable", options)

    def mirror(self, name: str, **columns: Any) -> int:
        """Make a mirror, with these columns of its row (row_filter, …); its id."""
        with self.database.transaction() as session:
            mirror_id = ensure_mirror(session, self.connection_id, name)
            if columns:
                session.execute(update(Mirror).where(Mirror.id == mirror_id).values(**columns))
            return mirror_id

    def write(self, name: str, record_id: str, **fields: Any) -> None:
        """Change a record over the org's API, as somebody else would."""
        client = self.client(self.connection_id)
        client.call("PATCH", f"sobjects/{name}/{record_id}", json=fields, idempotent=False)
        client.close()

    def schedule(self) -> list[int]:
        """Ask for everything that is due; ids of the runs."""
        with self.database.transaction() as session:
            return due.schedule_refreshes(session, self.settings.settle_seconds)

    def calls(self, pattern: str) -> int:
        """How many calls of the org's ledger have this in their path."""
        return sum(pattern in call["path"] for call in self.org.control.ledger())

    def finish(self, run_id: int) -> dict[str, Any]:
        """Take steps until the run has ended; its row."""
        return finish(lambda: self.run(run_id), lambda: steps.step(self.deps, run_id))

    def do(self, name: str, kind: str = "load", **options: Any) -> dict[str, Any]:
        """Ask for a run and see it to its end, which must be good."""
        run = self.finish(self.ask(name, kind, **options))
        assert run["state"] == "done", run["error"]
        return run

    def verify(self, name: str, **options: Any) -> dict[str, Any]:
        """Verify a mirror; its verification."""
        run = self.do(name, "verify", **options)
        return self.one("SELECT * FROM sfsync.verifications WHERE run_id = :id", id=run["id"])

    def run(self, run_id: int) -> dict[str, Any]:
        return self.one("SELECT * FROM sfsync.runs WHERE id = :id", id=run_id)

    def one(self, statement: str, **values: Any) -> dict[str, Any]:
        with self.database.transaction() as session:
            return dict(session.execute(text(statement), values).mappings().one())

    def query(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        with self.database.transaction() as session:
            cursor = raw(session).execute(statement.encode(), values or None)
            return cursor.fetchall() if cursor.description else []

    def due_runs(self, lane: str) -> list[int]:
        with self.database.transaction() as session:
            return [row.id for row in due.due_runs(session, lane, 10)]


def finish(look: Callable[[], dict[str, Any]], step: Callable[[], object]) -> dict[str, Any]:
    """Steps until the run has ended, whatever pauses it asks for; its row. Fails when it meets the same trouble for ever."""
    met, since = "", time.monotonic()
    while (run := look())["state"] == "ready":
        trouble = f"{run['stage']} {run['rows_read']} {run['options']} {run['error']}"
        if run["error"] is None or trouble != met:
            met, since = trouble, time.monotonic()
        assert time.monotonic() < since + LIMIT_SECONDS, (
            f"{run['kind']} of mirror {run['mirror_id']} is stuck: {trouble}"
        )
        step()
    return run


@contextmanager
def make_world(org: Org, database: Database, **settings: Any) -> Iterator[World]:
    """A connection to `org`, made without OAuth's front door."""
    token = AccessToken(org.token(), org.url, 1)
    with database.transaction() as session:
        connection = Connection(
            user_id="tester",
            grant_type="client_credentials",
            login_url=org.url,
            schema_name="salesforce",
            access_token="x",
        )
        session.add(connection)
        session.flush()
        connection_id = connection.id
    given = {
        "database_url": database.url,
        "encryption_key": KEY,
        "salesforce_allowed_hosts": (org.url,),
        "bulk_page_rows": 1000,
        "bulk_poll_seconds": 0.2,
        "claim_seconds": 30,
    }
    yield World(org, database, Settings(**{**given, **settings}), connection_id, OrgToken(org, token))
