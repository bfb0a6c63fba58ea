"""What a step of work answers: the row in Postgres already holds what comes next; these values tell its caller whether to go on."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")
PAUSE_EVERY = 50  # rows: they take a millisecond or two


@dataclass(frozen=True, slots=True)
class Done:
    """The work is finished, or was no longer there to do."""


@dataclass(frozen=True, slots=True)
class Again:
    """There is more to do: the row is ready again, from its `due_at` on."""


@dataclass(frozen=True, slots=True)
class Busy:
    """Another worker holds the claim, or the row is not due: nothing was done."""


Step = Done | Again | Busy


def no_pause() -> None:
    """For who is alone."""


def paced(items: Iterable[T], pause: Callable[[], None]) -> Iterator[T]:
    """The items, with a `pause` after every few of them: computing over thousands of rows holds up all else of a process."""
    for number, item in enumerate(items, start=1):
        yield item
        if number % PAUSE_EVERY == 0:
            pause()
