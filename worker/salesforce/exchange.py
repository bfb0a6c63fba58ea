"""What a client of an org is given, and what it gives back: tokens, answers."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from worker.errors import SyncError


@dataclass(frozen=True, slots=True)
class AccessToken:
    """What lets us call an org. `version` grows with every stored pair; who asks for a renewal names the version that failed."""

    value: str = field(repr=False)
    instance_url: str
    version: int


class TokenSource(Protocol):
    """Where tokens come from; worker.tokens has the real one."""

    def current(self) -> AccessToken:
        """The token to use now. Raises DisconnectedError or TransientError."""

    def renew(self, stale: AccessToken) -> AccessToken:
        """A newer token than `stale`. Raises DisconnectedError or TransientError."""

    def refused(self, token: AccessToken, reason: str) -> SyncError:
        """The org refused a token that was renewed a moment ago: the error to raise."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A successful answer. `body` is parsed JSON (numbers exact: int or Decimal), None for an empty one."""

    status: int
    headers: Mapping[str, str]  # case-insensitive
    body: Any


@dataclass(frozen=True, slots=True)
class Opened:
    """An answer whose body is still on the wire."""

    status: int
    headers: Mapping[str, str]
    chunks: Callable[[], Iterator[bytes]]
