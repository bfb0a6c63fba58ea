"""Logs: whatever looks like a token, a key or a password is blanked."""

import io
import logging
import sys
from collections.abc import Iterator

import pytest
import structlog

from worker.log import STARS, blank, get_logger, setup_logging


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


@pytest.fixture
def logging_put_back() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


@pytest.mark.usefixtures("logging_put_back")
def test_lines_go_to_the_standard_error_of_the_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = io.StringIO(), io.StringIO()
    monkeypatch.setattr(sys, "stderr", first)
    setup_logging(as_json=True)
    log = get_logger("tests")
    log.info("early", token="Bearer abc")
    monkeypatch.setattr(sys, "stderr", second)
    first.close()
    log.info("late", url="redis://:hunter2@localhost:6379/0")
    logging.getLogger("library").warning("late too")
    assert [line in second.getvalue() for line in ('"event": "late"', '"event": "late too"')] == [True, True]
    assert "hunter2" not in second.getvalue()
