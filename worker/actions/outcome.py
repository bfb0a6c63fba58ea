"""The org's answer → one verdict per action. Pure: one table of codes (worker/salesforce/errors.py) decides, not the status."""

from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Protocol

from worker.errors import (
    DisconnectedError,
    NotFoundError,
    OrgComplaint,
    OverBudgetError,
    SettingsError,
    SyncError,
    TransientError,
    UnknownOutcomeError,
)
from worker.salesforce.errors import DAILY_LIMIT_PAUSE, row_class

# The row is well, its batch was not: Apex triggers and partial failures. Source: REST guide, "sObject Collections".
TRIGGER_RETRIES = "Too many batch retries"
PRECONDITION_FAILED = "PRECONDITION_FAILED"  # the code of 412
NOT_KNOWN = "INVALID_CROSS_REFERENCE_KEY"  # what a delete is told of a record that is not even in the recycle bin


@dataclass(frozen=True, slots=True)
class Problem:
    """What went wrong, in the org's words where it has some."""

    code: str
    message: str
    fields: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """For the action's `error`."""
        return {"code": self.code, "message": self.message, "fields": list(self.fields)}


@dataclass(frozen=True, slots=True)
class Delivered:
    """The org holds it. `created` None: it does not say. `adopted`: found there after an unanswered sending."""

    record_id: str
    created: bool | None = None
    adopted: bool = False

    def as_json(self) -> dict[str, Any]:
        """For the action's `outcome`."""
        known = {} if self.created is None else {"created": self.created}
        return {"id": self.record_id, "success": True, **known} | ({"adopted": True} if self.adopted else {})


@dataclass(frozen=True, slots=True)
class Rejected:
    """The org understood and refused."""

    problem: Problem


@dataclass(frozen=True, slots=True)
class TryAgain:
    """It was not applied and may work later."""

    problem: Problem
    after: timedelta | None = None


@dataclass(frozen=True, slots=True)
class Waits:
    """It was not applied and nothing is wrong with it: allowance spent, or the connection is down. No attempt is counted."""

    problem: Problem
    after: timedelta


@dataclass(frozen=True, slots=True)
class Conflict:
    """The record was changed since the moment that the caller named: nothing was applied."""

    problem: Problem


@dataclass(frozen=True, slots=True)
class NotThisWay:
    """It was not applied; it goes another way next."""

    problem: Problem


@dataclass(frozen=True, slots=True)
class InDoubt:
    """Nobody knows whether it was applied. `busy`: the org said that it was overloaded; no attempt is counted."""

    problem: Problem
    after: timedelta | None = None
    busy: bool = False


Verdict = Delivered | Rejected | Conflict | TryAgain | Waits | NotThisWay | InDoubt

# The org, or what stands before it, has too much to do: nothing is wrong with what was sent.
THROTTLED = frozenset(
    {"TOO_MANY_REQUESTS", "SERVER_UNAVAILABLE", "REQUEST_LIMIT_EXCEEDED", "TXN_SECURITY_METERING_ERROR"}
    | {f"HTTP_{status}" for status in (420, 425, 429, 502, 503)}
)
THROTTLE_PAUSE = timedelta(seconds=5)  # where the org does not say for how long
SETTINGS_PAUSE = timedelta(minutes=5)  # until a person has mended a setting: nothing is wrong with what was sent


class Result(Protocol):
    """One row of a collection's answer."""

    @property
    def success(self) -> bool: ...
    @property
    def id(self) -> str | None: ...
    @property
    def created(self) -> bool | None: ...
    @property
    def errors(self) -> tuple[OrgComplaint, ...]: ...


def judge(operation: str, record_id: str | None, result: Result, *, doubted: bool) -> Verdict:
    """What one row's result means for its action. `doubted`: an earlier sending of it had no answer."""
    known = result.id or record_id
    if result.success and known:
        adopted = doubted and operation == "create" and result.created is False
        return Delivered(known, result.created, adopted)
    if result.success:
        return InDoubt(Problem("ODD_ANSWER", "the org reports success without a record id"))
    complaint = result.errors[0] if result.errors else OrgComplaint("", "the org gave no reason")
    problem = Problem(complaint.code or "UNKNOWN", complaint.message, complaint.fields)
    if complaint.code == PRECONDITION_FAILED:
        return Conflict(problem)
    kind = row_class(complaint.code)
    missing = issubclass(kind, NotFoundError) or complaint.code == NOT_KNOWN
    if operation == "delete" and doubted and record_id and missing:
        return Delivered(record_id, adopted=True)  # the unanswered sending did it
    return _refusal(kind, problem)


def _refusal(kind: type[SyncError], problem: Problem) -> Verdict:
    if issubclass(kind, OverBudgetError) and problem.code != "REQUEST_LIMIT_EXCEEDED":
        return TryAgain(problem)  # a limit of the record's own: if time does not lift it, a person looks at it
    if issubclass(kind, (OverBudgetError, DisconnectedError)):
        return Waits(problem, DAILY_LIMIT_PAUSE)
    if issubclass(kind, TransientError) or TRIGGER_RETRIES in problem.message:
        return TryAgain(problem)
    return Rejected(problem)


def of_error(error: SyncError) -> Verdict:
    """What an error of the whole call means for each action of its batch; a refusal of the whole is the caller's to split."""
    problem = problem_of(error)
    throttled = problem.code in THROTTLED
    match error:
        case UnknownOutcomeError():
            return InDoubt(problem, error.retry_after, busy=throttled)
        case OverBudgetError():
            return Waits(problem, error.retry_after or DAILY_LIMIT_PAUSE)
        case DisconnectedError():
            return Waits(problem, timedelta(0))  # the connection is not served until a person reconnects it
        case SettingsError():
            return Waits(problem, SETTINGS_PAUSE)
        case TransientError():
            if throttled:
                return Waits(problem, error.retry_after or THROTTLE_PAUSE)
            return TryAgain(problem, error.retry_after)
        case _:
            return Rejected(problem)


def problem_of(error: SyncError) -> Problem:
    """What went wrong with a whole call: the org's first complaint, where there is one."""
    complaints = getattr(error, "complaints", ())
    if complaints:
        return Problem(complaints[0].code or "UNKNOWN", complaints[0].message, complaints[0].fields)
    code = getattr(error, "code", None) or type(error).__name__.removesuffix("Error").upper()
    return Problem(str(code), str(error).removeprefix(f"{code}: "))
