"""What the triggers' use cases are given."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol
from uuid import UUID

from sqlalchemy.orm import Session

from worker.db import Database
from worker.settings import Settings

FIRE = "triggers.fire"  # task name: wake-ups carry a firing's id
FIRE_DUE = "triggers.fire_due"  # task name: beat asks, and the poller at each look


class Wake(Protocol):
    """Sends a wake-up after a commit: best effort, never raises."""

    def __call__(self, name: str, row_id: int, lane: str | None = None) -> None: ...


@dataclass(frozen=True, slots=True)
class Started:
    """What a capability began, or what it answered at once."""

    action_ids: Sequence[UUID] = ()
    run_ids: Sequence[int] = ()
    result: Any = None


WakeUp = tuple[str, int, str]  # task name, row id, lane: what `Wake` is called with after the commit


class Refresh(Protocol):
    """Asks for runs that bring objects (none named: all that are mirrored) up to date, in the caller's transaction.

    The runs' ids, and the wake-ups that are enough for them.
    """

    def __call__(
        self, session: Session, connection_id: int, objects: Sequence[str]
    ) -> tuple[Sequence[int], Sequence[WakeUp]]: ...


class Write(Protocol):
    """Accepts actions, all or none; the same `key` again gives the same actions."""

    def __call__(self, connection_id: int, actions: Sequence[Mapping[str, Any]], *, key: str) -> Sequence[UUID]: ...


class Execute(Protocol):
    """Executes a capability by name; the same `key` again begins nothing new."""

    def __call__(self, connection_id: int, capability: str, parameters: Mapping[str, Any], *, key: str) -> Started: ...


@dataclass(frozen=True)
class TriggerDeps:
    """`capabilities`: names of what `execute` can do. What other use cases do is handed in as functions."""

    database: Database
    settings: Settings
    capabilities: Collection[str]
    refresh: Refresh
    write: Write
    execute: Execute
    wake: Wake
