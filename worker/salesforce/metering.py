"""What a client tells whoever keeps an org's budget, and what it asks there before a call. worker.budget has the real one."""

import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from worker.errors import OverBudgetError
from worker.salesforce.usage import Usage

_FREE = re.compile(
    r"/services/(data/?$|oauth2/)"
)  # the list of versions needs no session; the token endpoint does not count
_LIMITS = re.compile(r"(?:^|/v[0-9.]+/)limits/?$")
_JOB = re.compile(r"(?:^|/)jobs/(query|ingest)/?$")


class Kind(Enum):
    """What a call costs beside itself."""

    FREE = "free"  # the org does not count it
    CALL = "call"
    LIMITS = "limits"  # asks for the org's own count: permitted also when nothing is left, for it ends the waiting
    QUERY_JOB = "query_job"  # begins one of the day's Bulk query jobs
    INGEST_JOB = "ingest_job"  # begins a Bulk ingest job


def kind_of(method: str, path: str) -> Kind:
    """A call's kind, by what it asks for. Pure."""
    place = path.split("?")[0]
    if _FREE.match(place):
        return Kind.FREE
    if method == "POST" and (job := _JOB.search(place)):
        return Kind.QUERY_JOB if job[1] == "query" else Kind.INGEST_JOB
    return Kind.LIMITS if _LIMITS.search(place) else Kind.CALL


@dataclass(slots=True)
class Permit:
    """Leave for one call. `used`: the call left this machine; one that did not is given back. `usage`: what its answer said."""

    used: bool = False
    usage: Usage | None = None


class Meter(Protocol):
    """One org's budget, as its client sees it. Safe between threads."""

    def check(self) -> None:
        """Raise OverBudgetError when a call would have to wait: to be asked before work is claimed for one."""

    def permit(self, kind: Kind) -> AbstractContextManager[Permit]:
        """Leave for one call, held until its answer is read. Raises OverBudgetError when the call must wait."""

    def refused(self, error: OverBudgetError) -> None:
        """The org itself refused a call because an allowance is spent."""

    def bulk(self, *, bytes: int = 0, ingest_rows: int = 0) -> None:  # noqa: A002
        """Bytes of Bulk results that were read, rows that were uploaded for ingest."""


MeterOf = Callable[[int], Meter]  # connection id → the meter of its org


class Unmetered:
    """No budget: for tools and tests."""

    def check(self) -> None:
        """Never."""

    @contextmanager
    def permit(self, kind: Kind) -> Iterator[Permit]:  # noqa: ARG002
        """Always."""
        yield Permit()

    def refused(self, error: OverBudgetError) -> None:
        """Nobody listens."""

    def bulk(self, *, bytes: int = 0, ingest_rows: int = 0) -> None:  # noqa: A002
        """Nobody counts."""


def unmetered(connection_id: int) -> Meter:  # noqa: ARG001
    """The meter of a connection whose calls nobody counts."""
    return Unmetered()
