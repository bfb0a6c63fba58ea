"""Whose call it is: the object, lane and cause that every call to an org is booked under.

Bound around a step, read where the call is made (worker.salesforce.client). A new thread starts without it: whoever
hands work to threads binds it there.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class Attribution:
    """`object`: API name, empty where a call concerns none. `lane`: whose slots and which share of the allowance.
    `cause`: why, in a few fixed words such as `refresh/timetable`, `deliver`, `describe`."""

    object: str = ""
    lane: str = ""
    cause: str = ""


NOTHING = Attribution()
_current: ContextVar[Attribution] = ContextVar("attribution", default=NOTHING)


def current() -> Attribution:
    """What is bound in this thread."""
    return _current.get()


@contextmanager
def attributed(*, object: str | None = None, lane: str | None = None, cause: str | None = None) -> Iterator[None]:  # noqa: A002
    """Bind the parts that are given for the length of the block; the others stay as they are."""
    given = {"object": object, "lane": lane, "cause": cause}
    token = _current.set(replace(_current.get(), **{key: value for key, value in given.items() if value is not None}))
    try:
        yield
    finally:
        _current.reset(token)
