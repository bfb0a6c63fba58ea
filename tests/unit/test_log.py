"""Logs: whatever looks like a token, a key or a password is blanked."""

import pytest

from worker.log import STARS, blank


@pytest.mark.parametrize(
    "secret",
    [
        "00D5g000004ABCD!AQEAQabc.def_123",
        "5Aep861abcDEF.123_x",
        "Bearer abc.def-ghi",
        "sfsk_ab12_c0ffee",
        "postgresql://user:hunter2@localhost/db",
        "redis://:hunter2@localhost:6379/0",
    ],
)
def test_secrets_are_blanked(secret: str) -> None:
    shown = blank(f"before {secret} after")
    assert STARS in shown
    assert shown.startswith("before ")
    assert shown.endswith(" after")
    assert "hunter2" not in shown
    assert "AQEA" not in shown
    assert "861abc" not in shown
    assert "c0ffee" not in shown


@pytest.mark.parametrize("text", ["0015g00000000G8AAI", "https://login.salesforce.com/services", "a: b@c"])
def test_what_is_no_secret_stays(text: str) -> None:
    assert blank(text) == text
