"""What a step of work answers: the row in Postgres already holds what comes next; these values tell its caller whether to go on."""

from dataclasses import dataclass


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
