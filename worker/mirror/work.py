"""A run in hand: what its steps read and how they write. Every write is fenced by the claim's token."""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, cast

from psycopg import sql
from sqlalchemy import CursorResult, DateTime, delete, func, literal, select, update
from sqlalchemy.orm import Session

from models.connection import Connection
from models.mirror import CHANGE_RATE_SECONDS, Mirror, Reject, Run, RunPage, read_numbers
from worker.db import Claim, Keeper
from worker.errors import FencedError
from worker.mirror import tables
from worker.mirror.cursor import restart_pause
from worker.mirror.deps import STEP, MirrorDeps
from worker.mirror.intake import Taken
from worker.mirror.schema import TableSpec, table_spec
from worker.mirror.store import Target, lock_mirror
from worker.salesforce.client import OrgClient
from worker.salesforce.describe import parse
from worker.steps import Again, Done, Step

NOW = func.clock_timestamp()
MOST_RESTARTS = 5
PROGRESS = frozenset({"place", "covered", "suspects", "absent", "looked"})  # options that say how far a read has come


class StartOverError(Exception):
    """What this run has read is no longer whole: read everything again. `describe`: the object changed, too."""

    def __init__(self, message: str, *, describe: bool = False) -> None:
        super().__init__(message)
        self.describe = describe


class LostObjectError(Exception):
    """The org no longer shows the object to this connection."""


@dataclass
class Work:
    """One claimed run with its mirror, its connection and a client. `step` moves another run (verify refreshes first)."""

    deps: MirrorDeps
    claim: Claim
    keeper: Keeper
    client: OrgClient
    run: Run
    mirror: Mirror
    connection: Connection
    step: Callable[[int], Step]
    shared: float = 0.0  # what this run's share of a shared call is more, or less, than it is booked
    _counted: int = field(default=0)

    @property
    def schema(self) -> str:
        """The Postgres schema of the connection's mirrors."""
        return self.connection.schema_name

    @property
    def spec(self) -> TableSpec:
        """The mirror's table as last described; a step `begin` has described it."""
        return spec_of(self.mirror)

    @property
    def began(self) -> datetime:
        """The org's time when the run's read was asked for."""
        assert self.run.read_started_at is not None
        return self.run.read_started_at

    @property
    def covered(self) -> datetime | None:
        """What the org called final before the run's read was asked for; see finality."""
        text = self.run.options.get("covered")
        return datetime.fromisoformat(text) if text else None

    @property
    def suspects(self) -> str:
        """Name of the run's suspects table."""
        return f"_suspects_{self.run.id}"

    @property
    def uncounted(self) -> int:
        """Org calls of this step that the run's row does not count yet."""
        return self.client.calls - self._counted

    def target(self) -> Target:
        """Where this run's rows go."""
        return target_of(self.run, self.mirror, self.schema)

    def target_numbered(self, number: int) -> Target:
        """The mirror itself, for rows of a read of its own number."""
        return target_of(self.run, self.mirror, self.schema, mirror_as=number)

    def reload(self) -> None:
        """Read run and mirror again, after a commit."""
        with self.deps.database.transaction() as session:
            run, mirror = session.get(Run, self.run.id), session.get(Mirror, self.mirror.id)
        if run is None or mirror is None:
            raise FencedError(f"run {self.run.id} was removed with its mirror")
        self.run, self.mirror = run, mirror

    def lock_mirror(self, session: Session) -> None:
        """Read the mirror's row again and hold it until the transaction ends: for who decides by it what to write into it.

        Behind the lock of merges, in which order whoever takes both must take them.
        """
        lock_mirror(session, self.mirror.id)
        query = select(Mirror).where(Mirror.id == self.mirror.id).with_for_update(key_share=True)
        mirror = session.scalar(query.execution_options(populate_existing=True))
        if mirror is None:
            raise FencedError(f"run {self.run.id} was removed with its mirror")
        session.expunge(mirror)  # changed by set_mirror alone
        self.mirror = mirror

    def set(self, session: Session, **values: Any) -> None:
        """Change the run; FencedError when it is no longer ours. The last write of a transaction, or near it: it locks
        the run's row, which the keeper must be able to renew meanwhile."""
        changed = session.execute(
            update(Run)
            .where(Run.id == self.run.id, Run.claim_token == self.claim.token, Run.state == "ready")
            .values(calls=Run.calls + self.uncounted, **values)
        )
        if cast(CursorResult[Any], changed).rowcount != 1:
            raise FencedError(f"run {self.run.id} is no longer ours")
        self._counted = self.client.calls

    def counted_elsewhere(self, calls: int) -> None:
        """So many calls of our client are another run's."""
        self._counted += calls

    def set_mirror(self, session: Session, **values: Any) -> None:
        """Change the mirror, in a transaction that `set` fences."""
        session.execute(update(Mirror).where(Mirror.id == self.mirror.id).values(**values))

    def move_cursors(self, session: Session, *, fresh: datetime | None = None, settled: datetime | None = None) -> None:
        """Move the mirror's cursors, in a transaction that `set` fences. They never go back: the row itself decides, for
        another run may have moved them since ours read it."""
        moved = {"fresh_cursor": fresh, "settled_cursor": settled}
        row = {name: func.greatest(getattr(Mirror, name), to) for name, to in moved.items() if to is not None}
        self.set_mirror(session, **row)

    def advance(self, stage: str, **values: Any) -> None:
        """Commit the next stage."""
        with self.deps.database.transaction() as session:
            self.set(session, stage=stage, **values)

    def option(self, **values: Any) -> dict[str, Any]:
        """The run's options with some of them changed."""
        return {**self.run.options, **values}

    def again(self, after: timedelta = timedelta(0), *, progress: bool = True, **values: Any) -> Again:
        """Release the run until `after` from now."""
        with self.deps.database.transaction() as session:
            released = {"claim_until": None, "claim_owner": None, "due_at": NOW + after}
            self.set(session, **released, **({"attempts": 0} if progress else {}), **values)
        if not after:
            self.deps.wake(STEP, self.run.id, self.run.lane)
        return Again()

    def finish(self, session: Session, **values: Any) -> None:
        """Write the run's end, in the transaction that made it true."""
        tables.drop_table(session, self.schema, self.run.staging)
        tables.drop_table(session, self.schema, self.suspects)
        self.set_mirror(session, state_reason=None, **self._rate(values))
        self.set(session, state="done", error=None, finished_at=NOW, claim_until=None, claim_owner=None, **values)

    def _rate(self, counters: dict[str, Any]) -> dict[str, Any]:
        """How much the object changes and what its reads cost, all smoothed: its interval is planned by them."""
        calls = (self.run.calls + self.uncounted + self.shared) * 0.2
        if self.run.kind == "settle":
            return {"settle_calls": Mirror.settle_calls * 0.8 + calls}
        if self.run.kind != "refresh":
            return {}
        changed = sum(counters.get(name, getattr(self.run, name)) for name in ("rows_changed", "rows_deleted"))
        passed = func.extract("epoch", NOW - func.coalesce(Mirror.rated_at, NOW))
        faded = Mirror.change_rate * func.exp(-passed / CHANGE_RATE_SECONDS)
        return {
            "change_rate": faded + changed * 3600 / CHANGE_RATE_SECONDS,
            "refresh_calls": Mirror.refresh_calls * 0.8 + calls,
            "rated_at": NOW,
        }

    def end(self, state: str, error: str) -> Done:
        """Give the run up: failed (it cannot be done) or parked (a person may ask again)."""
        with self.deps.database.transaction() as session:
            tables.drop_table(session, self.schema, self.run.staging)
            tables.drop_table(session, self.schema, self.suspects)
            self.set_mirror(session, state_reason=error)
            ended = {"finished_at": NOW} if state == "failed" else {}
            self.set(session, state=state, error=error, claim_until=None, claim_owner=None, **ended)
        return Done()

    def restart(self, error: str, *, describe: bool = False) -> Step | None:
        """Read everything again, with a new job: at once the first time, then after ever longer pauses, for whatever spoilt
        the read may last. After too many restarts the run is parked."""
        restarts = int(self.run.options.get("restarts", 0)) + 1
        if restarts > MOST_RESTARTS:
            return self.end("parked", error)
        with self.deps.database.transaction() as session:
            pages = delete(RunPage).where(RunPage.run_id == self.run.id)
            while cast(CursorResult[Any], session.execute(pages)).rowcount:
                pass  # a page in hand elsewhere may announce the next one while we wait for it: see what it left
            counters = dict.fromkeys(("rows_read", "rows_rejected", "nul_bytes"), 0)
            kept = {name: value for name, value in self.run.options.items() if name not in PROGRESS}
            options = {**kept, "restarts": restarts, "describe": describe}
            window = dict.fromkeys(("window_start", "window_end", "job_id", "rows_expected"))
            self.set(session, stage="begin", error=error, options=options, **window, **counters)
        pause = restart_pause(restarts)
        return self.again(pause) if pause else None

    def org_now(self) -> datetime:
        """About the org's time now, without a call: Postgres's clock and what we know of the org's."""
        return self.deps.database.now() + timedelta(seconds=self.mirror.clock_skew_seconds)

    def note_skew(self, session: Session) -> None:
        """Keep how far the org's clock is ahead of Postgres's: lags are measured by the org's own."""
        if self.client.org_time is not None:
            ahead = func.extract("epoch", literal(self.client.org_time, DateTime(timezone=True)) - NOW)
            self.set_mirror(session, clock_skew_seconds=func.round(ahead))

    def number_read(self, session: Session) -> int:
        """A number for the read that is about to be sent."""
        return cast(int, session.scalar(select(read_numbers.next_value())))


def spec_of(mirror: Mirror) -> TableSpec:
    """The table of a mirror that was described."""
    assert mirror.describe is not None
    return table_spec(
        parse(mirror.describe),
        chosen=mirror.fields,
        table=mirror.table_name,
        layout=mirror.layout,
        row_filter=mirror.row_filter,
    )


def target_of(run: Run, mirror: Mirror, schema: str, *, mirror_as: int | None = None) -> Target:
    """Where a run's rows go; with `mirror_as`, the mirror itself, for a read of that number."""
    number = run.read_number if mirror_as is None else mirror_as
    assert number is not None
    staging = sql.Identifier(schema, run.staging) if run.staging and mirror_as is None else None
    columns = tuple(name.lower() for name in run.columns or ())
    return Target(spec_of(mirror), schema, staging, columns, mirror.id, number)


def keep_rejects(session: Session, mirror_id: int, run_id: int | None, taken: Taken) -> None:
    """Store the records that no column could hold."""
    for reject in taken.rejects:
        row = Reject(mirror_id=mirror_id, run_id=run_id, record_id=reject["id"], record=reject["record"])
        row.reason = reject["reason"]
        session.add(row)
