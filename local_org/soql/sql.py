"""A piece of SQL with the values bound to it, in order."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Sql:
    """`text` has one ? for each of `values`. Text comes from the catalogue and from us, never from a query."""

    text: str
    values: tuple[Any, ...] = ()

    def __add__(self, other: "Sql | str") -> "Sql":
        if isinstance(other, str):
            return Sql(self.text + other, self.values)
        return Sql(self.text + other.text, self.values + other.values)

    def __radd__(self, before: str) -> "Sql":
        return Sql(before + self.text, self.values)

    def __bool__(self) -> bool:
        return bool(self.text)

    def in_parentheses(self) -> "Sql":
        return Sql(f"({self.text})", self.values)


NOTHING = Sql("")


def joined(separator: str, parts: Iterable[Sql]) -> Sql:
    """The pieces that are not empty, in order, with `separator` between them."""
    pieces = [part for part in parts if part]
    values = tuple(value for part in pieces for value in part.values)
    return Sql(separator.join(part.text for part in pieces), values)
