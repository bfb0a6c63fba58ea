"""The guard on mass removal: a read that would take too large a share of a mirror's records out stops and asks a person.

Records that the org calls deleted leave without asking. These are the others: a read of everything did not bring them,
and a read by Id does not show them, or not as the row filter wants them. One changed permission can do that to all.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from models.connection import Connection
from models.mirror import Mirror, Run
from worker.errors import SettingsError
from worker.log import get_logger
from worker.mirror import tables
from worker.mirror.by_id import Found
from worker.mirror.work import NOW, Work
from worker.steps import Done

log = get_logger(__name__)

FEWEST = 20  # so few may always leave
SAMPLE = 20  # ids that are shown
HELD = "held"  # option of a run that waits for a person: what it saw
CONFIRMED = "confirmed"  # option of a run whose removals a person has confirmed


class MassRemovalError(Exception):
    """A read would remove too much; `seen` is what it saw."""

    def __init__(self, seen: dict[str, Any]) -> None:
        super().__init__(
            f"about {seen['leaving']:,} of {seen['records']:,} records would leave without the org calling them deleted"
        )
        self.seen = seen


@dataclass(frozen=True, slots=True)
class Removal:
    """A held run, as a person is asked about it."""

    run_id: int
    user_id: str
    object: str
    kind: str
    leaving: int
    records: int
    sample: list[str]
    since: datetime


def is_too_much(leaving: int, records: int, share: float) -> bool:
    """Whether so many of so many records need a person's word."""
    return leaving > max(FEWEST, share * records)


def projected(so_far: int, absent: int, looked: int, left: int) -> int:
    """How many records will leave: those that did, and what the last look makes of those not looked at yet."""
    return so_far + absent + (absent * left // looked if looked else 0)


def check(session: Session, work: Work, found: Found, looked: int) -> dict[str, Any]:
    """Before what was looked at is merged: MassRemovalError when too much would leave; the run's options after it."""
    absent = [*found.gone, *found.filtered]
    options = work.run.options
    so_far, done = int(options.get("absent", 0)), int(options.get("looked", 0)) + looked
    total = int(options.get("suspects", 0))
    leaving = projected(so_far, len(absent), looked, max(0, total - done))
    share = work.deps.settings.removal_share
    if not options.get(CONFIRMED) and leaving > FEWEST:
        records = tables.count(session, work.schema, work.spec.table) + so_far
        if is_too_much(leaving, records, share):
            raise MassRemovalError({"leaving": leaving, "records": records, "sample": absent[:SAMPLE]})
    return work.option(absent=so_far + len(absent), looked=done)


def hold(work: Work, error: MassRemovalError) -> Done:
    """Park the run with what it saw; its list of suspects stays."""
    with work.deps.database.transaction() as session:
        work.set_mirror(session, state_reason=str(error))
        options = work.option(**{HELD: error.seen})
        work.set(session, state="parked", error=str(error), options=options, claim_until=None, claim_owner=None)
    log.warning("mirror.removal_held", object=work.mirror.object, **{k: error.seen[k] for k in ("leaving", "records")})
    return Done()


def removals(session: Session) -> list[Removal]:
    """What waits for a person."""
    query = (
        select(Run, Mirror.object, Connection.user_id)
        .join(Mirror, Mirror.id == Run.mirror_id)
        .join(Connection, Connection.id == Mirror.connection_id)
        .where(Run.state == "parked", Run.options.has_key(HELD))
        .order_by(Run.id)
    )
    return [_removal(run, name, user_id) for run, name, user_id in session.execute(query).all()]


def _removal(run: Run, name: str, user_id: str) -> Removal:
    seen = run.options[HELD]
    return Removal(run.id, user_id, name, run.kind, seen["leaving"], seen["records"], seen["sample"], run.created_at)


def confirm(session: Session, run_id: int) -> str:
    """Let a held run go on and remove what it saw, each record after one more look; its lane."""
    run = _held(session, run_id)
    options = {**{key: value for key, value in run.options.items() if key != HELD}, CONFIRMED: True}
    values = {"state": "ready", "options": options, "error": None, "due_at": NOW, "attempts": 0}
    try:
        with session.begin_nested():
            session.execute(update(Run).where(Run.id == run_id).values(**values))
    except IntegrityError:
        raise SettingsError(
            f"another {run.kind} of this mirror is under way: confirm again when it has ended"
        ) from None
    return run.lane


def refuse(session: Session, run_id: int) -> None:
    """Give a held run up: what it saw stays in the mirror. The next read of everything asks again."""
    run = _held(session, run_id)
    schema = session.scalar(
        select(Connection.schema_name)
        .join(Mirror, Mirror.connection_id == Connection.id)
        .where(Mirror.id == run.mirror_id)
    )
    assert schema is not None
    tables.drop_table(session, schema, f"_suspects_{run_id}")
    tables.drop_table(session, schema, run.staging)
    text = "a person refused the removal"
    session.execute(update(Run).where(Run.id == run_id).values(state="failed", error=text, finished_at=NOW))
    session.execute(update(Mirror).where(Mirror.id == run.mirror_id).values(state_reason=text))


def _held(session: Session, run_id: int) -> Run:
    run = session.scalar(select(Run).where(Run.id == run_id).with_for_update())
    if run is None or run.state != "parked" or HELD not in run.options:
        raise SettingsError(f"run {run_id} does not wait for a person: see sfsync removals list")
    return run
