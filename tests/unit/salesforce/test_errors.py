"""The table of errors, and the shapes in which an org complains."""

from datetime import timedelta
from typing import Any

import pytest

from worker.errors import (
    CrowdedError,
    DisconnectedError,
    NotFoundError,
    OrgComplaint,
    OverBudgetError,
    RejectedError,
    SchemaChangedError,
    SettingsError,
    TransientError,
    UnknownOutcomeError,
)
from worker.salesforce.errors import CONCURRENT_LIMIT_PAUSE, complaints, error_for, needs_renewal, row_class


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ([{"message": "m", "errorCode": "C", "fields": ["F"]}], (OrgComplaint("C", "m", ("F",)),)),
        ([{"message": "m", "statusCode": "C"}], (OrgComplaint("C", "m"),)),
        ({"error": "invalid_grant", "error_description": "d"}, (OrgComplaint("invalid_grant", "d"),)),
        ({"message": "m", "errorCode": "C"}, (OrgComplaint("C", "m"),)),
        (["/services/data/v62.0/sobjects/A/1"], (OrgComplaint("", "/services/data/v62.0/sobjects/A/1"),)),
        ([{"errorCode": None, "message": None, "fields": None}], (OrgComplaint("", ""),)),
        (None, ()),
        ("text", ()),
        ([], ()),
    ],
)
def test_complaints_are_read_from_any_shape(body: Any, expected: tuple[OrgComplaint, ...]) -> None:
    assert complaints(body) == expected


@pytest.mark.parametrize(
    ("status", "code", "write", "kind"),
    [
        (400, "FIELD_CUSTOM_VALIDATION_EXCEPTION", True, RejectedError),
        (400, "DUPLICATE_VALUE", True, RejectedError),
        (400, "INVALID_QUERY_LOCATOR", False, RejectedError),
        (400, "QUERY_TIMEOUT", False, TransientError),
        (400, "LIMIT_EXCEEDED", True, OverBudgetError),
        (404, "", False, NotFoundError),
        (401, "", False, DisconnectedError),
        (403, "", False, RejectedError),
        (410, "", False, SettingsError),
        (414, "", False, RejectedError),
        (500, "UNKNOWN_EXCEPTION", False, TransientError),
        (500, "UNKNOWN_EXCEPTION", True, UnknownOutcomeError),
        (400, "UNKNOWN_EXCEPTION", True, TransientError),
        (503, "SERVER_UNAVAILABLE", True, UnknownOutcomeError),
        (503, "REQUEST_LIMIT_EXCEEDED", True, OverBudgetError),
        (504, "", True, UnknownOutcomeError),
        (300, "", True, RejectedError),
        (307, "", True, TransientError),
        (418, "", True, RejectedError),
    ],
)
def test_what_an_answer_means(status: int, code: str, write: bool, kind: type[Exception]) -> None:
    body = [{"errorCode": code, "message": "m"}] if code else None
    assert type(error_for(status, body, write=write)) is kind


def test_any_complaint_of_several_may_decide() -> None:
    body = [{"errorCode": "OTHER", "message": ""}, {"errorCode": "INVALID_FIELD", "message": ""}]
    assert isinstance(error_for(400, body), SchemaChangedError)


def test_too_many_at_once_is_a_pause_and_no_spent_allowance() -> None:
    body = [
        {
            "errorCode": "REQUEST_LIMIT_EXCEEDED",
            "message": "ConcurrentRequests (Concurrent API Requests) Limit exceeded.",
        }
    ]
    error = error_for(403, body)
    assert type(error) is CrowdedError
    assert error.retry_after == CONCURRENT_LIMIT_PAUSE


def test_the_orgs_own_advice_is_kept() -> None:
    error = error_for(429, None, retry_after=timedelta(seconds=7))
    assert isinstance(error, TransientError)
    assert error.retry_after == timedelta(seconds=7)


def test_rows_of_a_collection_are_classed_by_their_code_alone() -> None:
    assert row_class("UNABLE_TO_LOCK_ROW") is TransientError
    assert row_class("REQUIRED_FIELD_MISSING") is RejectedError
    assert row_class("ENTITY_IS_DELETED") is NotFoundError


def test_tokens_in_a_complaint_are_blanked() -> None:
    found = complaints([{"errorCode": "X", "message": "token 00D000000000001!AQsecret was wrong"}])
    assert "AQsecret" not in found[0].message


def test_only_a_401_asks_for_renewal() -> None:
    expired = complaints([{"errorCode": "INVALID_SESSION_ID", "message": "Session expired or invalid"}])
    assert needs_renewal(401, expired)
    assert needs_renewal(401, ())
    assert not needs_renewal(403, expired)
