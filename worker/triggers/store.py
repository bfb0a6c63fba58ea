"""Triggers and firings in their tables: what callers see, and how triggers are added, changed and removed."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import RowMapping, delete, select, text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from models.connection import Connection
from models.trigger import MISSED_POLICIES, OVERLAP_POLICIES, TRIGGER_TYPES, Trigger
from worker import exact
from worker.errors import SyncError
from worker.triggers.schedule import Schedule, ScheduleError, check, due_times
from worker.triggers.work import WorkError, check_unattended, work_of

NAME_CHARACTERS = 200
MOST_MISSED = 1_000
FIRINGS_SHOWN = 1_000


class FaultyTriggerError(SyncError):
    """What was asked of a trigger is wrong; the message says what and how to mend it. Nothing was changed."""


class NameTakenError(SyncError):
    """This user has another trigger of that name."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A trigger as asked for. A scheduled one has `cron` (in `time_zone`) or `every_seconds`; a manual one has neither.

    `overlap` None: skip for a scheduled trigger, allow for a manual one.
    """

    name: str
    type: str
    workflow_action: str
    cron: str | None = None
    time_zone: str | None = None
    every_seconds: float | None = None
    capability: str | None = None
    parameters: dict[str, Any] | None = None
    actions: list[dict[str, Any]] | None = None
    objects: list[str] | None = None
    missed: str = "once"
    missed_limit: int = 10
    grace_seconds: float = 60.0
    overlap: str | None = None
    enabled: bool = True


ASKED = frozenset(Asked.__dataclass_fields__)
SCHEDULING = frozenset({"type", "cron", "time_zone", "every_seconds"})
WORKING = frozenset({"workflow_action", "capability", "parameters", "actions", "objects"})


@dataclass(frozen=True, slots=True)
class Checked:
    """The columns of a trigger that was asked for, found right."""

    columns: dict[str, Any]
    work: dict[str, Any] = field(repr=False)


def checked(asked: Asked, now: datetime, capabilities: Collection[str]) -> Checked:
    """What to store; FaultyTriggerError says what is wrong."""
    try:
        return _checked(asked, now, capabilities)
    except (ScheduleError, WorkError) as error:
        raise FaultyTriggerError(str(error)) from None


def _checked(asked: Asked, now: datetime, capabilities: Collection[str]) -> Checked:
    _check_words(asked)
    schedule = Schedule(asked.cron, asked.time_zone or "UTC", _every(asked), now)
    work = work_of(asked.workflow_action, asdict(asked), capabilities)
    if asked.type == "scheduled_trigger":
        check(schedule)
        check_unattended(work)
    columns = {
        "name": asked.name.strip(),
        "type": asked.type,
        "cron": " ".join(asked.cron.split()) if asked.cron else None,
        "time_zone": schedule.time_zone,
        "every_seconds": asked.every_seconds,
        "workflow_action": asked.workflow_action,
        "missed": asked.missed,
        "missed_limit": asked.missed_limit,
        "grace_seconds": asked.grace_seconds,
        "overlap": asked.overlap or ("skip" if asked.type == "scheduled_trigger" else "allow"),
        "enabled": asked.enabled,
    }
    return Checked(columns, work)


def _check_words(asked: Asked) -> None:
    if not 1 <= len(asked.name.strip()) <= NAME_CHARACTERS or not asked.name.isprintable():
        raise WorkError(f"a trigger's name has 1 to {NAME_CHARACTERS} printable characters")
    for name, value, words in (
        ("type", asked.type, TRIGGER_TYPES),
        ("missed", asked.missed, MISSED_POLICIES),
        ("overlap", asked.overlap or "skip", OVERLAP_POLICIES),
    ):
        if value not in words:
            raise WorkError(f"{name} is one of {', '.join(words)}, not {value!r}")
    if not 1 <= asked.missed_limit <= MOST_MISSED:
        raise WorkError(f"missed_limit is 1 to {MOST_MISSED:,}")
    if not 1 <= asked.grace_seconds <= 86_400:
        raise WorkError("grace_seconds is 1 to 86,400")


def _every(asked: Asked) -> timedelta | None:
    timed = (asked.cron is not None) + (asked.every_seconds is not None)
    if asked.type == "manual_trigger" and (timed or asked.time_zone is not None):
        raise ScheduleError("a manual trigger has no cron line, time zone or interval: it fires when it is asked to")
    if asked.type == "scheduled_trigger" and timed != 1:
        raise ScheduleError("a scheduled trigger needs a cron line or an interval, and not both")
    if asked.time_zone is not None and asked.cron is None:
        raise ScheduleError("a time zone goes with a cron line; an interval needs none")
    if asked.every_seconds is None:
        return None
    if not 0 < asked.every_seconds < 1e9:
        raise ScheduleError("an interval is 5 seconds at least and 366 days at most")
    return timedelta(seconds=asked.every_seconds)


def schedule_of(row: Trigger) -> Schedule:
    """A stored trigger's schedule."""
    every = timedelta(seconds=row.every_seconds) if row.every_seconds is not None else None
    return Schedule(row.cron, row.time_zone, every, row.anchor)


def next_due(row: Trigger, now: datetime) -> datetime | None:
    """A trigger's first due time after `now`; None for one that is manual or not enabled."""
    if row.type != "scheduled_trigger" or not row.enabled:
        return None
    return next(due_times(schedule_of(row), now), None)


def upcoming(row: Trigger, now: datetime, count: int) -> list[datetime]:
    """The next due times, in the trigger's time zone."""
    if row.type != "scheduled_trigger":
        return []
    return [at for at, _ in zip(due_times(schedule_of(row), now), range(count), strict=False)]


def add(session: Session, connection_id: int, new: Checked, now: datetime) -> Trigger:
    """Store a new trigger. Due times count from `now`. NameTakenError."""
    row = Trigger(connection_id=connection_id, anchor=now, work={}, **new.columns)
    row.next_due_at = next_due(row, now)
    _save(session, row, new.work)
    return row


def alter(
    session: Session,
    trigger_id: int,
    changes: Mapping[str, Any],
    now: datetime,
    capabilities: Collection[str],
    *,
    whole: bool = False,
    allow: Callable[[Asked], None] = lambda _: None,
) -> Trigger | None:
    """Change a trigger as it stands, locked: two changes at a time both hold. None when there is no such trigger.

    `whole`: what is not given goes back to its default. `allow` raises when the caller may not have such a trigger.
    FaultyTriggerError, NameTakenError.
    """
    found = find(session, trigger_id, lock=True)
    if found is None:
        return None
    asked = Asked(**changes) if whole else asked_of(shown(session, trigger_id=trigger_id)[0], changes)
    allow(asked)
    change(session, found[0], checked(asked, now, capabilities), now)
    return found[0]


def change(session: Session, row: Trigger, new: Checked, now: datetime) -> None:
    """Replace what a trigger does and when. Due times that passed meanwhile are forgotten when its schedule changes."""
    before = (row.type, row.cron, row.time_zone, row.every_seconds, row.enabled)
    for name, value in new.columns.items():
        setattr(row, name, value)
    if before != (row.type, row.cron, row.time_zone, row.every_seconds, row.enabled):
        row.anchor = now
        row.next_due_at = next_due(row, now)
    _save(session, row, new.work)


def _save(session: Session, row: Trigger, work: Mapping[str, Any]) -> None:
    """The row with its work, whose numbers stay exact."""
    name = row.name  # after a failed flush the row cannot be asked
    try:
        with session.begin_nested():
            session.add(row)
            session.flush()
    except IntegrityError as error:
        if "uq_triggers_connection_id_name" not in str(error.orig):
            raise
        raise NameTakenError(f"there is a trigger {name!r} already; choose another name or change that one") from None
    put = "UPDATE sfsync.triggers SET work = CAST(:work AS jsonb) WHERE id = :id"
    session.execute(text(put), {"id": row.id, "work": exact.dumps(work)})


def enable(row: Trigger, now: datetime, *, enabled: bool) -> None:
    """Switch a trigger on or off. What fell due while it was off does not count as missed."""
    if row.enabled != enabled:
        row.enabled = enabled
        row.next_due_at = next_due(row, now)


def remove(session: Session, trigger_id: int) -> None:
    """Forget a trigger with its history. What it started goes on."""
    session.execute(delete(Trigger).where(Trigger.id == trigger_id))


def find(session: Session, trigger_id: int, *, lock: bool = False) -> tuple[Trigger, str] | None:
    """A trigger and its user_id; locked until the transaction ends when it is to be changed."""
    query = select(Trigger, Connection.user_id).join(Connection, Connection.id == Trigger.connection_id)
    query = query.where(Trigger.id == trigger_id)
    found = session.execute(query.with_for_update(of=Trigger) if lock else query).one_or_none()
    return None if found is None else (found[0], found[1])


def id_of(session: Session, user_id: str, name: str) -> int | None:
    """The id of a user's trigger by its name."""
    query = select(Trigger.id).join(Connection, Connection.id == Trigger.connection_id)
    return session.scalar(query.where(Connection.user_id == user_id, Trigger.name == name))


def connection_of(session: Session, user_id: str) -> int | None:
    """A user's connection, whatever its state."""
    return session.scalar(select(Connection.id).where(Connection.user_id == user_id))


LIST = """
SELECT t.id, c.user_id, t.name, t.type, t.cron, t.time_zone, t.every_seconds, t.workflow_action, t.work::text AS work,
       t.missed, t.missed_limit, t.grace_seconds, t.overlap, t.enabled, t.next_due_at, t.created_at, t.updated_at,
       c.state AS connection_state, f.state AS last_state, coalesce(f.due_at, f.fired_at) AS last_at, f.reason AS last_reason
  FROM sfsync.triggers t JOIN salesforce_oauth_tokens c ON c.id = t.connection_id
  LEFT JOIN LATERAL (SELECT * FROM sfsync.firings f WHERE f.trigger_id = t.id ORDER BY f.id DESC LIMIT 1) f ON true
 WHERE (CAST(:users AS text[]) IS NULL OR c.user_id = ANY(:users)) AND (CAST(:id AS bigint) IS NULL OR t.id = :id)
 ORDER BY c.user_id, t.name
"""

FIRINGS = """
SELECT id, trigger_id, cause, due_at, idempotency_key, parameters::text AS parameters, work::text AS work, state, reason, missed,
       run_ids, action_ids, result::text AS result, attempts, fired_at, finished_at
  FROM sfsync.firings
 WHERE (CAST(:trigger_id AS bigint) IS NULL OR trigger_id = :trigger_id) AND (CAST(:id AS bigint) IS NULL OR id = :id)
 ORDER BY id DESC LIMIT :limit
"""


def shown(
    session: Session, *, users: Collection[str] | None = None, trigger_id: int | None = None
) -> list[dict[str, Any]]:
    """Triggers as people see them, each with its last firing; of these users, or one by its id."""
    values = {"users": list(users) if users is not None else None, "id": trigger_id}
    return [_shown(row) for row in session.execute(text(LIST), values).mappings()]


def _shown(row: RowMapping) -> dict[str, Any]:
    """`work` laid out as it was asked for; what does not concern the trigger's type is left out."""
    values = dict(row)
    work: dict[str, Any] = exact.loads(values.pop("work"))
    if values["every_seconds"] is not None or values["type"] == "manual_trigger":
        values.pop("time_zone")
    return {name: value for name, value in values.items() if value is not None or name == "next_due_at"} | work


def firings(session: Session, trigger_id: int, limit: int = 20) -> list[dict[str, Any]]:
    """A trigger's firings, newest first, with the runs and actions that they caused."""
    values = {"trigger_id": trigger_id, "id": None, "limit": min(limit, FIRINGS_SHOWN)}
    return [_shown_firing(row) for row in session.execute(text(FIRINGS), values).mappings()]


def firing(session: Session, firing_id: int) -> dict[str, Any] | None:
    """One firing as people see it."""
    values = {"trigger_id": None, "id": firing_id, "limit": 1}
    row = session.execute(text(FIRINGS), values).mappings().one_or_none()
    return None if row is None else _shown_firing(row)


def _shown_firing(row: RowMapping) -> dict[str, Any]:
    exactly = {name: exact.loads(row[name]) for name in ("parameters", "work", "result") if row[name] is not None}
    shown: dict[str, Any] = {**row, **exactly}
    return shown


def asked_of(shown_trigger: Mapping[str, Any], changes: Mapping[str, Any]) -> Asked:
    """A stored trigger as it would be asked for now, with some things changed.

    A new schedule takes the place of the former one, new work that of the former work.
    """
    kept = {name: shown_trigger[name] for name in ASKED if name in shown_trigger}
    if changes.keys() & {"type", "cron", "every_seconds"}:
        kept = {name: value for name, value in kept.items() if name not in ("cron", "every_seconds")}
        if changes.get("cron") is None:
            kept.pop("time_zone", None)
    if changes.keys() & (WORKING - {"parameters"}):
        kept = {name: value for name, value in kept.items() if name not in WORKING - {"workflow_action"}}
    return Asked(**(kept | dict(changes)))


FORGET = """
DELETE FROM sfsync.firings WHERE id IN (
  SELECT id FROM sfsync.firings WHERE finished_at < statement_timestamp() - CAST(:age AS interval) ORDER BY finished_at LIMIT 5000)
"""


def forget_old(session: Session, keep: timedelta) -> None:
    """Drop firings that finished longer ago than `keep`."""
    session.execute(text(FORGET), {"age": keep})
