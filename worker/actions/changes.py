"""What a verdict makes of an action: its next state, and when. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any
from uuid import UUID

from worker.actions.batching import Pending, Row
from worker.actions.lifecycle import is_exhausted, pause
from worker.actions.outcome import (
    Conflict,
    Delivered,
    InDoubt,
    NotThisWay,
    Problem,
    Rejected,
    TryAgain,
    Verdict,
    Waits,
)

REFUSED = "refused"  # in an action's error: a later sending was refused, while the first may have landed, or land yet


@dataclass(frozen=True, slots=True)
class Change:
    """What becomes of one claimed action. `doubt`: for how long an unanswered sending of it may still land."""

    id: UUID
    state: str
    after: timedelta = timedelta(0)
    outcome: Mapping[str, Any] | None = None
    problem: Problem | None = None
    details: Mapping[str, Any] | None = None  # added to the problem
    record_id: str | None = None
    attempt_back: bool = False
    doubt: timedelta | None = None
    certain: bool = False  # no earlier sending of it can land any more
    alone: bool = False  # from now on it is merged with no other


def changes_for(row: Row, verdict: Verdict, *, settling: timedelta, chance: float) -> list[Change]:
    """What a verdict makes of the actions that shared a record of the call.

    What was refused together is sent one by one, so that each gets its own outcome.
    """
    if len(row) > 1 and isinstance(verdict, Rejected):
        return [Change(one.id, "ready", problem=verdict.problem, attempt_back=True, alone=True) for one in row]
    changes = [change_for(one, verdict, settling=settling, chance=chance) for one in row]
    if len(row) > 1 and isinstance(verdict, Delivered):
        return [replace(one, outcome={**(one.outcome or {}), "merged": len(row)}) for one in changes]
    return changes


def change_for(action: Pending, verdict: Verdict, *, settling: timedelta, chance: float) -> Change:
    """What a verdict makes of a sent action."""
    match verdict:
        case Delivered():
            return Change(action.id, "delivered", outcome=verdict.as_json(), record_id=verdict.record_id)
        case Rejected():
            if action.doubted and action.operation == "create":  # the unanswered sending may be there, or come yet
                return Change(action.id, "in_doubt", problem=verdict.problem, details={REFUSED: True})
            return Change(action.id, "rejected", problem=verdict.problem)
        case Conflict():
            if (
                action.doubted and action.operation == "update"
            ):  # it may be the unanswered sending that changed the record
                return Change(action.id, "in_doubt", problem=verdict.problem, details={REFUSED: True})
            return Change(action.id, "conflict", problem=verdict.problem)
        case Waits():
            return Change(action.id, "ready", after=verdict.after, problem=verdict.problem, attempt_back=True)
        case NotThisWay():
            return Change(action.id, "ready", problem=verdict.problem)
        case InDoubt():
            repeated = pause(action.attempts - 1, chance) if action.attempts > 1 else timedelta(0)
            after = max(verdict.after or timedelta(0), repeated)
            return Change(
                action.id, "in_doubt", after, problem=verdict.problem, doubt=settling, attempt_back=verdict.busy
            )
        case TryAgain():
            if is_exhausted(action.attempts):
                return Change(action.id, "held", problem=verdict.problem)
            after = max(pause(action.attempts, chance), verdict.after or timedelta(0))
            return Change(action.id, "ready", after=after, problem=verdict.problem)
