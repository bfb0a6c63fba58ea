"""(status, errorCode) → our errors, in one table. Status alone does not decide: 403 is "no permission" and "allowance spent".

Sources: REST API guide, "Status Codes and Error Responses"; SOAP API guide, "API Fault Element" and "StatusCode".
"""

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from worker.errors import (
    CrowdedError,
    DisconnectedError,
    NotFoundError,
    OrgComplaint,
    OverBudgetError,
    RejectedError,
    SchemaChangedError,
    SettingsError,
    SyncError,
    TransientError,
    UnknownOutcomeError,
)
from worker.log import blank

MESSAGE_CHARACTERS = 2_000  # of an org's message that we keep

# What a code means wherever it stands: in an answer's body, in a row of a collection, in a Bulk result.
BY_CODE: dict[str, type[SyncError]] = {
    # the same call may work later
    "UNABLE_TO_LOCK_ROW": TransientError,
    "SERVER_UNAVAILABLE": TransientError,
    "UNKNOWN_EXCEPTION": TransientError,
    "REQUEST_RUNNING_TOO_LONG": TransientError,
    "QUERY_TIMEOUT": TransientError,
    "TXN_SECURITY_METERING_ERROR": TransientError,
    "TOO_MANY_REQUESTS": TransientError,
    # another record of the same batch failed: nothing is wrong with this one
    "ALL_OR_NONE_OPERATION_ROLLED_BACK": TransientError,
    "PROCESSING_HALTED": TransientError,
    "BATCH_PROCESSING_HALTED": TransientError,
    # the allowance is spent
    "REQUEST_LIMIT_EXCEEDED": OverBudgetError,
    "LIMIT_EXCEEDED": OverBudgetError,
    "EXCEEDED_MAX_JOBS": OverBudgetError,
    # our describe is out of date
    "INVALID_FIELD": SchemaChangedError,
    "INVALID_TYPE": SchemaChangedError,
    # not there
    "NOT_FOUND": NotFoundError,
    "ENTITY_IS_DELETED": NotFoundError,
    # a person must act before anything of this connection works
    "INVALID_SESSION_ID": DisconnectedError,
    "INVALID_AUTH_HEADER": DisconnectedError,
    "API_DISABLED_FOR_ORG": DisconnectedError,
    "API_CURRENTLY_DISABLED": DisconnectedError,
    "ORG_LOCKED": DisconnectedError,
    "INACTIVE_ORG_OR_USER": DisconnectedError,
    "INVALID_OPERATION_WITH_EXPIRED_PASSWORD": DisconnectedError,
}

# What a status means when its body has no code of the table above.
BY_STATUS: dict[int, type[SyncError]] = {
    401: DisconnectedError,
    404: NotFoundError,
    406: TransientError,  # seen on bursts of describe calls
    408: TransientError,
    410: SettingsError,
    420: TransientError,  # the edge does not know the host now
    425: TransientError,
    429: TransientError,
}

RETRY_STATUSES = frozenset({406, 408, 420, 425, 429, 500, 502, 503, 504})
CONCURRENT_LIMIT_PAUSE = timedelta(seconds=30)  # 25 requests of 20 s or longer are running: let some end
DAILY_LIMIT_PAUSE = timedelta(minutes=15)  # the allowance is a rolling day: look again now and then
# 401 with INVALID_SESSION_ID that no renewal cures: the grant lacks the scope, or belongs to something else.
INCURABLE = ("not valid for use with the REST API", "is not attached to Agent")


def complaints(body: Any) -> tuple[OrgComplaint, ...]:
    """What the org complains about, from any of its shapes: a list of errors, one error, OAuth's object, text."""
    if isinstance(body, Mapping):
        body = body.get("errors") or [body]
    if isinstance(body, (list, tuple)):
        return tuple(_complaint(item) for item in body if item)
    return ()


def _complaint(item: Any) -> OrgComplaint:
    if not isinstance(item, Mapping):
        return OrgComplaint("", _text(item))
    fields = item.get("fields")
    return OrgComplaint(
        code=str(
            item.get("errorCode") or item.get("statusCode") or item.get("error") or item.get("exceptionCode") or ""
        ),
        message=_text(item.get("message") or item.get("error_description") or ""),
        fields=tuple(str(field) for field in fields) if isinstance(fields, (list, tuple)) else (),
    )


def _text(value: Any) -> str:
    return blank(str(value))[:MESSAGE_CHARACTERS]


def row_class(code: str) -> type[SyncError]:
    """What one row's code in a collection or Bulk result means for that row; RejectedError unless the table says more."""
    return BY_CODE.get(code, RejectedError)


def needs_renewal(status: int, found: tuple[OrgComplaint, ...]) -> bool:
    """Whether a fresh token may cure this answer. A 401 without a readable body is taken for an expired session."""
    if status != 401:
        return False
    codes = {complaint.code for complaint in found}
    if found and not codes & {"INVALID_SESSION_ID", "invalid_token", ""}:
        return False
    return not any(text in complaint.message for complaint in found for text in INCURABLE)


def error_for(status: int, body: Any, *, write: bool = False, retry_after: timedelta | None = None) -> SyncError:
    """The error of an answer that is no success. `write`: the call was not safe to repeat.

    After a 5xx to a write nobody knows whether it was applied, except where the code says that it was not.
    """
    found = complaints(body)
    first = found[0] if found else OrgComplaint(f"HTTP_{status}", f"the org answered with status {status}")
    kind = next((BY_CODE[complaint.code] for complaint in found if complaint.code in BY_CODE), None)
    if 300 <= status < 400 and status != 300:
        return TransientError(f"the org answered with a redirect ({status}); none is followed", code="REDIRECTED")
    if status >= 500 and first.code not in NOT_APPLIED:
        kind = UnknownOutcomeError if write else TransientError
    return _make(kind or BY_STATUS.get(status, RejectedError), status, found, first, retry_after)


NOT_APPLIED = frozenset({"UNABLE_TO_LOCK_ROW", "REQUEST_LIMIT_EXCEEDED", "LIMIT_EXCEEDED"})  # said even with a 500


def _make(
    kind: type[SyncError],
    status: int,
    found: tuple[OrgComplaint, ...],
    first: OrgComplaint,
    retry_after: timedelta | None,
) -> SyncError:
    text = f"{first.code or f'HTTP_{status}'}: {first.message}"
    code = first.code or f"HTTP_{status}"
    if kind is OverBudgetError and "concurrent" in text.lower():
        return CrowdedError(text, code=code, retry_after=retry_after or CONCURRENT_LIMIT_PAUSE)
    if kind is OverBudgetError:
        return OverBudgetError(text, code=code, retry_after=retry_after or DAILY_LIMIT_PAUSE)
    if issubclass(kind, TransientError):
        return kind(text, code=code, retry_after=retry_after)
    if issubclass(kind, RejectedError):
        return kind(status, found or (first,))
    if kind is SettingsError:
        return SettingsError(f"SALESFORCE_API_VERSION: the org no longer serves it ({text})")
    return kind(text)
