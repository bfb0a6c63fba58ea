"""The syntax tree of a SOQL query. `at` is an offset into the query text, for error messages."""

from dataclasses import dataclass
from datetime import date
from decimal import Decimal


@dataclass(frozen=True, slots=True)
class Path:
    """A field or a path to one: ("Account", "Owner", "Name")."""

    parts: tuple[str, ...]
    at: int

    @property
    def text(self) -> str:
        return ".".join(self.parts)


@dataclass(frozen=True, slots=True)
class Call:
    """A function call: COUNT(Id), CALENDAR_YEAR(convertTimezone(CreatedDate)), FIELDS(ALL)."""

    name: str
    arguments: "tuple[Argument, ...]"
    at: int

    @property
    def text(self) -> str:
        return f"{self.name}({', '.join(a.text for a in self.arguments)})"


@dataclass(frozen=True, slots=True)
class Text:
    """A string, its escapes read. `pattern` keeps the backslash before % and _, for LIKE."""

    value: str
    pattern: str
    at: int

    @property
    def text(self) -> str:
        return f"'{self.value}'"


@dataclass(frozen=True, slots=True)
class Number:
    value: Decimal
    at: int
    currency: str | None = None

    @property
    def text(self) -> str:
        return str(self.value)


Expression = Path | Call
Argument = Path | Call | Text | Number


@dataclass(frozen=True, slots=True)
class Null:
    at: int


@dataclass(frozen=True, slots=True)
class Boolean:
    value: bool
    at: int


@dataclass(frozen=True, slots=True)
class Date:
    value: date
    at: int


@dataclass(frozen=True, slots=True)
class DateTime:
    ms: int
    at: int


@dataclass(frozen=True, slots=True)
class Time:
    """A time of day in milliseconds since midnight, UTC."""

    ms: int
    at: int


@dataclass(frozen=True, slots=True)
class NamedDate:
    """TODAY, LAST_N_DAYS:5 ...: `name` in upper case, `n` None where the name takes no number."""

    name: str
    n: int | None
    at: int


Value = Text | Number | Null | Boolean | Date | DateTime | Time | NamedDate


@dataclass(frozen=True, slots=True)
class Comparison:
    """`operator` is one of = != < <= > >= LIKE."""

    left: Expression
    operator: str
    value: Value


@dataclass(frozen=True, slots=True)
class InList:
    left: Expression
    values: tuple[Value, ...]
    negated: bool


@dataclass(frozen=True, slots=True)
class InQuery:
    """A semi-join or, negated, an anti-join."""

    left: Expression
    query: "Query"
    negated: bool
    at: int


@dataclass(frozen=True, slots=True)
class Includes:
    """INCLUDES or, negated, EXCLUDES, of a multi-select picklist."""

    left: Expression
    values: tuple[Value, ...]
    negated: bool


@dataclass(frozen=True, slots=True)
class Not:
    condition: "Condition"


@dataclass(frozen=True, slots=True)
class AllOf:
    conditions: "tuple[Condition, ...]"


@dataclass(frozen=True, slots=True)
class AnyOf:
    conditions: "tuple[Condition, ...]"


Condition = Comparison | InList | InQuery | Includes | Not | AllOf | AnyOf


@dataclass(frozen=True, slots=True)
class FieldItem:
    expression: Expression
    alias: str | None


@dataclass(frozen=True, slots=True)
class ChildQuery:
    query: "Query"


@dataclass(frozen=True, slots=True)
class When:
    object: str
    fields: tuple[Path, ...]


@dataclass(frozen=True, slots=True)
class TypeOf:
    path: Path
    whens: tuple[When, ...]
    otherwise: tuple[Path, ...]


SelectItem = FieldItem | ChildQuery | TypeOf


@dataclass(frozen=True, slots=True)
class Source:
    """What follows FROM: the object (in a child query its relationship), an alias, and aliases of parents."""

    path: Path
    alias: str | None
    parents: tuple[tuple[Path, str], ...] = ()


@dataclass(frozen=True, slots=True)
class OrderItem:
    expression: Expression
    descending: bool
    nulls_last: bool


@dataclass(frozen=True, slots=True)
class Query:
    select: tuple[SelectItem, ...]
    source: Source
    at: int
    scope: str | None = None
    where: Condition | None = None
    group: tuple[Expression, ...] = ()
    having: Condition | None = None
    order: tuple[OrderItem, ...] = ()
    limit: int | None = None
    offset: int | None = None
    offset_at: int = 0
    all_rows_at: int | None = None
