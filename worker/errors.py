"""Errors, named by what to do next.

SyncError                    what we raise on purpose; anything else is a bug and is left to surface
├── SettingsError            a setting or argument is wrong              → say which and how to mend it; do not start
├── RequestError             a caller asked for what cannot be           → tell the caller what to change; nothing was done
├── TransientError           the same call may work later                → try again (after `retry_after`, if known)
│   ├── OverBudgetError      an allowance of the org is spent            → wait for the window, count no attempt
│   │   └── CrowdedError     too many calls of one org at once           → wait a moment, count no attempt
│   ├── NotMirroredError     there is no whole copy of the object yet    → it was asked for; ask again
│   └── UnknownOutcomeError  a write was sent and no answer came         → find out before sending again
├── RejectedError            the org understood and refused              → record the outcome; never retry
│   ├── SchemaChangedError   a field or object is no longer there        → describe again, then repeat
│   └── NotFoundError        the record or resource is not there         → treat as gone only after a second look
├── DisconnectedError        the org's consent is gone                   → stop this connection; a person must reconnect
└── FencedError              another worker owns this work now           → stop, write nothing
"""

from dataclasses import dataclass
from datetime import timedelta


class SyncError(Exception):
    """What we raise on purpose."""


class SettingsError(SyncError):
    """A setting or an argument is wrong; the message says which and how to mend it."""


class RequestError(SyncError):
    """What a caller asked for cannot be done as asked. `code` is stable, `fields` the field names it is about."""

    def __init__(self, code: str, message: str, *, fields: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.code = code
        self.fields = fields


class TransientError(SyncError):
    """The same call may work later. `retry_after` is the org's own advice, where it gave one."""

    def __init__(self, message: str, *, code: str | None = None, retry_after: timedelta | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.retry_after = retry_after


class OverBudgetError(TransientError):
    """An allowance of the org is spent, or kept for actions: wait, do not count it as a failure."""


class CrowdedError(OverBudgetError):
    """As many calls of the org are under way as it, or we, allow at once: wait a moment."""


class NotMirroredError(TransientError):
    """An object has no whole copy here yet; `failed` when the last attempt to make one ended without."""

    def __init__(self, object_name: str, message: str, *, failed: bool = False) -> None:
        super().__init__(
            message, code="MIRROR_FAILED" if failed else "MIRROR_NOT_READY", retry_after=timedelta(seconds=5)
        )
        self.object = object_name


class UnknownOutcomeError(TransientError):
    """A write may or may not have been applied: the connection broke or timed out after it was sent."""


@dataclass(frozen=True, slots=True)
class OrgComplaint:
    """One error as the org words it. `code` is the org's `errorCode` or `statusCode`."""

    code: str
    message: str
    fields: tuple[str, ...] = ()


# No answer at all, or one of whatever stands before an org that does not serve: a maintenance may last for hours.
AWAY = frozenset({"NO_ANSWER", "SERVER_UNAVAILABLE", *(f"HTTP_{status}" for status in (420, 429, 502, 503, 504))})


def is_away(error: Exception) -> bool:
    """Whether the org cannot be reached now, so that nothing is known of what was asked for."""
    return isinstance(error, TransientError) and error.code in AWAY


class RejectedError(SyncError):
    """The org understood and refused; `complaints` are its own words."""

    def __init__(self, status: int, complaints: tuple[OrgComplaint, ...]) -> None:
        first = complaints[0] if complaints else OrgComplaint(f"HTTP_{status}", "no message")
        super().__init__(f"{first.code}: {first.message}")
        self.status = status
        self.complaints = complaints or (first,)

    @property
    def code(self) -> str:
        """The first complaint's code."""
        return self.complaints[0].code


class SchemaChangedError(RejectedError):
    """INVALID_FIELD or INVALID_TYPE: our describe is out of date."""


class NotFoundError(RejectedError):
    """404: the record or resource does not exist, or this user may not see it."""


class DisconnectedError(SyncError):
    """The grant is revoked, expired or refused: a person must reconnect."""


class FencedError(SyncError):
    """Our claim is no longer valid: another worker owns this work; nothing may be written under it."""
