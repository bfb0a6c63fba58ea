"""Formula fields: a useful part of the formula language, as SQL that is computed on read.

Source: Salesforce Help, "Formula Operators and Functions". Numbers are computed as reals and rounded to the field's scale.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

from local_org.catalogue import STRINGS, Catalogue, Field, ObjectType

_TOKEN = re.compile(
    r"\s*(?:(?P<number>\d+(?:\.\d+)?)|(?P<text>\"(?:[^\"\\]|\\.)*\"|'(?:[^'\\]|\\.)*')|(?P<name>[A-Za-z]\w*(?:\.\w+)*)"
    r"|(?P<sign>&&|\|\||<>|!=|<=|>=|==|[-+*/&=<>!(),]))"
)
_LEVELS: tuple[dict[str, str], ...] = (
    {"||": "OR"},
    {"&&": "AND"},
    {"=": "IS", "==": "IS", "<>": "IS NOT", "!=": "IS NOT", "<": "<", ">": ">", "<=": "<=", ">=": ">="},
    {"+": "+", "-": "-", "&": "||"},
    {"*": "*", "/": "/"},
)


class FormulaError(ValueError):
    """The formula cannot be read; the message says where."""


@dataclass(frozen=True, slots=True)
class Term:
    """SQL and what it gives: number, text, boolean, date, datetime or null."""

    sql: str
    kind: str


def _call(template: str, kind: str) -> Callable[[list[Term]], Term]:
    return lambda args: Term(template.format(*(arg.sql for arg in args)), kind)


def _joined(word: str) -> Callable[[list[Term]], Term]:
    return lambda args: Term("(" + f" {word} ".join(arg.sql for arg in args) + ")", "boolean")


_FUNCTIONS: dict[str, Callable[[list[Term]], Term]] = {
    "IF": lambda a: Term(f"(CASE WHEN {a[0].sql} THEN {a[1].sql} ELSE {a[2].sql} END)", _common(a[1:])),
    "AND": _joined("AND"),
    "OR": _joined("OR"),
    "NOT": _call("(NOT {0})", "boolean"),
    "ISBLANK": _call("({0} IS NULL)", "boolean"),
    "ISNULL": _call("({0} IS NULL)", "boolean"),
    "BLANKVALUE": lambda a: Term(f"coalesce({a[0].sql}, {a[1].sql})", _common(a)),
    "NULLVALUE": lambda a: Term(f"coalesce({a[0].sql}, {a[1].sql})", _common(a)),
    "ISPICKVAL": _call("({0} IS {1})", "boolean"),
    "CONTAINS": _call("(instr({0}, {1}) > 0)", "boolean"),
    "BEGINS": _call("(substr({0}, 1, length({1})) = {1})", "boolean"),
    "LEN": _call("coalesce(length({0}), 0)", "number"),
    "UPPER": _call("upper({0})", "text"),
    "LOWER": _call("lower({0})", "text"),
    "LEFT": _call("substr({0}, 1, {1})", "text"),
    "RIGHT": _call("substr({0}, -{1})", "text"),
    "TEXT": lambda a: Term(_as_text(a[0]), "text"),
    "ABS": _call("abs({0})", "number"),
    "ROUND": _call("round({0}, CAST({1} AS INTEGER))", "number"),
    "MAX": _call("max({0}, {1})", "number"),
    "MIN": _call("min({0}, {1})", "number"),
    "YEAR": _call("CAST(substr({0}, 1, 4) AS INTEGER)", "number"),
    "MONTH": _call("CAST(substr({0}, 6, 2) AS INTEGER)", "number"),
    "DAY": _call("CAST(substr({0}, 9, 2) AS INTEGER)", "number"),
    "TODAY": _call("date(org_now_ms() / 1000, 'unixepoch')", "date"),
    "NOW": _call("org_now_ms()", "datetime"),
    "DATEVALUE": _call("date({0} / 1000, 'unixepoch')", "date"),
}
_ARGUMENTS = {"IF": 3, "MAX": 2, "MIN": 2, "ROUND": 2, "TODAY": 0, "NOW": 0, "BLANKVALUE": 2, "NULLVALUE": 2,
              "ISPICKVAL": 2, "CONTAINS": 2, "BEGINS": 2, "LEFT": 2, "RIGHT": 2}  # fmt: skip


def _common(terms: list[Term]) -> str:
    return next((term.kind for term in terms if term.kind != "null"), "null")


def _as_text(term: Term) -> str:
    if term.kind != "number":
        return term.sql
    return f"(CASE WHEN {term.sql} = CAST({term.sql} AS INTEGER) THEN CAST(CAST({term.sql} AS INTEGER) AS TEXT) ELSE CAST({term.sql} AS TEXT) END)"


class _Parser:
    """Reads a formula for the row called `alias`. Raises FormulaError."""

    def __init__(self, catalogue: Catalogue, item: ObjectType, text: str, alias: str) -> None:
        self.catalogue = catalogue
        self.item = item
        self.alias = alias
        self.tokens = list(_tokens(text))
        self.at = 0

    def whole(self) -> Term:
        term = self.level(0)
        if self.at < len(self.tokens):
            raise FormulaError(f"unexpected {self.tokens[self.at][1]!r}")
        return term

    def peek(self) -> str:
        return self.tokens[self.at][1] if self.at < len(self.tokens) else ""

    def take(self, wanted: str | None = None) -> tuple[str, str]:
        if self.at >= len(self.tokens) or wanted not in (None, self.tokens[self.at][1]):
            raise FormulaError(f"expected {wanted or 'more'}, found {self.peek() or 'the end'!r}")
        self.at += 1
        return self.tokens[self.at - 1]

    def level(self, depth: int) -> Term:
        """Operators of one precedence, from the left; below the last are single values."""
        if depth == len(_LEVELS):
            return self.single()
        left = self.level(depth + 1)
        while self.peek() in _LEVELS[depth] and self.tokens[self.at][0] == "sign":
            sign = self.take()[1]
            left = _combined(_LEVELS[depth][sign], left, self.level(depth + 1))
        return left

    def single(self) -> Term:
        kind, text = self.take()
        if kind == "number":
            return Term(f"{text}e0" if "." not in text else text, "number")
        if kind == "text":
            plain = re.sub(r"\\(.)", r"\1", text[1:-1]).replace("'", "''")
            return Term(f"'{plain}'", "text")
        if text == "(":
            inner = self.level(0)
            self.take(")")
            return Term(f"({inner.sql})", inner.kind)
        if text in ("-", "!"):
            operand = self.single()
            return Term(f"(-{operand.sql})" if text == "-" else f"(NOT {operand.sql})", operand.kind)
        if kind != "name":
            raise FormulaError(f"unexpected {text!r}")
        return self.function(text.upper()) if self.peek() == "(" else self.value(text)

    def function(self, name: str) -> Term:
        if name not in _FUNCTIONS:
            raise FormulaError(f"unknown function {name}")
        self.take("(")
        args: list[Term] = []
        while self.peek() != ")":
            args.append(self.level(0))
            if self.peek() != ")":
                self.take(",")
        self.take(")")
        wanted = _ARGUMENTS.get(name, None if name in ("AND", "OR") else 1)
        if wanted is not None and len(args) != wanted:
            raise FormulaError(f"{name} takes {wanted} parameters")
        return _FUNCTIONS[name](args)

    def value(self, name: str) -> Term:
        constants = {"TRUE": Term("1", "boolean"), "FALSE": Term("0", "boolean"), "NULL": Term("NULL", "null")}
        if name.upper() in constants:
            return constants[name.upper()]
        return self.reference(self.item, self.alias, name.split("."))

    def reference(self, item: ObjectType, alias: str, path: list[str]) -> Term:
        """A field of the row, or of a parent through its relationship."""
        if len(path) == 1:
            return self.own(item, alias, path[0])
        for field in item.fields.values():
            if field.reference_to and (field.relationship_name or "").lower() == path[0].lower():
                parent = self.catalogue.object(field.reference_to[0])
                if parent is not None:
                    inner_alias = f"{alias}_{len(path)}"
                    term = self.reference(parent, inner_alias, path[1:])
                    link = f'{inner_alias}."Id" = {alias}."{field.name}"'
                    return Term(f'(SELECT {term.sql} FROM "{parent.name}" {inner_alias} WHERE {link})', term.kind)
        raise FormulaError(f"{item.name} has no relationship {path[0]}")

    def own(self, item: ObjectType, alias: str, name: str) -> Term:
        field = item.field(name)
        if field is None:
            raise FormulaError(f"{item.name} has no field {name}")
        if field.formula is not None:
            return _read(self.catalogue, item, field, alias)
        column = f'{alias}."{field.name}"'
        kind = kind_of(field)
        return Term(f"({column} / 1e{field.scale})" if kind == "number" else column, kind)


def _tokens(text: str) -> list[tuple[str, str]]:
    found, at = [], 0
    while text[at:].strip():
        match = _TOKEN.match(text, at)
        if match is None or match.lastgroup is None:
            raise FormulaError(f"unexpected {text[at:].strip()[:1]!r}")
        found.append((match.lastgroup, match[match.lastgroup]))
        at = match.end()
    return found


def _combined(sign: str, left: Term, right: Term) -> Term:
    if sign == "-" and left.kind == right.kind == "date":
        return Term(f"(julianday({left.sql}) - julianday({right.sql}))", "number")
    if sign in ("+", "-") and left.kind == "date":
        return Term(f"date({left.sql}, ({sign}{right.sql}) || ' days')", "date")
    if sign == "||" or (sign == "+" and "text" in (left.kind, right.kind)):
        return Term(f"(coalesce({_as_text(left)}, '') || coalesce({_as_text(right)}, ''))", "text")
    if sign in ("+", "-", "*"):
        return Term(f"({left.sql} {sign} {right.sql})", "number")
    if sign == "/":
        return Term(f"({left.sql} / nullif({right.sql}, 0))", "number")
    return Term(f"({left.sql} {sign} {right.sql})", "boolean")


def kind_of(field: Field) -> str:
    """What a field gives inside a formula."""
    if field.type in ("double", "currency", "percent", "int", "long"):
        return "number"
    if field.type in STRINGS or field.type in ("id", "reference"):
        return "text"
    return field.type


def _read(catalogue: Catalogue, item: ObjectType, field: Field, alias: str) -> Term:
    return _Parser(catalogue, item, field.formula or "", alias).whole()


@lru_cache(512)
def formula_sql(catalogue: Catalogue, item_name: str, field: Field, alias: str) -> str:
    """The SQL of a formula field in stored form: numbers scaled, text null instead of empty.

    Raises FormulaError.
    """
    item = catalogue.object(item_name)
    assert item is not None
    term = _read(catalogue, item, field, alias)
    if kind_of(field) == "number":
        return f"CAST(round({term.sql} * 1e{field.scale}) AS INTEGER)"
    if field.type == "boolean":
        return f"coalesce({term.sql}, 0)"
    return f"nullif({_as_text(term)}, '') COLLATE NOCASE" if kind_of(field) == "text" else term.sql
