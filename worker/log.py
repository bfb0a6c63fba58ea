"""Structured logs: events with fields, the ids of the work in hand bound to every line, secrets blanked.

Columns for people, JSON for machines (`SFSYNC_LOG_JSON=true`).
"""

import logging
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import structlog
from structlog.typing import EventDict, WrappedLogger

# Access tokens (15-character org id, "!"), refresh tokens, bearer headers and our own API keys.
SECRETS = re.compile(
    r"00D[A-Za-z0-9]{12,15}![A-Za-z0-9._]+|5Aep[A-Za-z0-9._]+|(?<=Bearer )\S+|sfsk_[A-Za-z0-9_-]+|(?<=://)[^/@\s]*:[^/@\s]+(?=@)"
)
STARS = "***"


def blank(text: str) -> str:
    """`text` with everything that looks like a token, key or password replaced by stars."""
    return SECRETS.sub(STARS, text)


def _blank_event(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    return {key: blank(value) if isinstance(value, str) else value for key, value in event.items()}


class _StandardError:
    """Whatever `sys.stderr` is at the moment of writing: it may be put aside and closed after logging was set up."""

    def write(self, text: str) -> int:
        return sys.stderr.write(text)

    def flush(self) -> None:
        sys.stderr.flush()


class BlankingFilter(logging.Filter):
    """The last line of defence for libraries' own log lines."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Blank secrets in the rendered message."""
        record.msg, record.args = blank(record.getMessage()), ()
        return True


def setup_logging(*, level: str = "INFO", as_json: bool = False) -> None:
    """Configure structlog and the standard library's logging, once per process, to standard error."""
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
        _blank_event,
    ]
    renderer: Any = (
        structlog.processors.JSONRenderer() if as_json else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    )
    standard_error: Any = _StandardError()
    structlog.configure(
        processors=[*shared, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=structlog.PrintLoggerFactory(standard_error),
    )
    handler = logging.StreamHandler(standard_error)
    handler.addFilter(BlankingFilter())
    handler.setFormatter(structlog.stdlib.ProcessorFormatter(processor=renderer, foreign_pre_chain=shared))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())


def get_logger(name: str) -> Any:
    """A logger for one module: `log.info("mirror.page_loaded", rows=50_000)`."""
    return structlog.get_logger(name)


@contextmanager
def bound(**ids: object) -> Iterator[None]:
    """Bind ids (run, connection, object) to every log line inside the block."""
    with structlog.contextvars.bound_contextvars(**ids):
        yield
