"""Text of a SOQL query to its syntax tree."""

import re
from datetime import date
from decimal import Decimal
from functools import cache
from importlib.resources import files
from typing import Any

from lark import Lark, Token, Tree
from lark.exceptions import UnexpectedCharacters, UnexpectedEOF, UnexpectedToken

from local_org.errors import ApiError
from local_org.soql import ast, errors, literals
from local_org.values import parse_datetime
from local_org.words import MAX_DIGITS

MAX_QUERY_CHARACTERS = 100_000  # SOQL and SOSL Reference, "SOQL and SOSL Limits"
MAX_STRING_CHARACTERS = 4_000

_ESCAPES = {"n": "\n", "r": "\r", "t": "\t", "b": "\b", "f": "\f", '"': '"', "'": "'", "\\": "\\"}
_ESCAPE = re.compile(r"\\(u[0-9a-fA-F]{4}|.)", re.IGNORECASE)
_UNZONED = re.compile(r"T\d\d:\d\d:\d\d(?:\.\d+)?")
_ALIAS = re.compile(r"[\w)]\s+(\w+)\s+$")
_FROM = re.compile(r"\bfrom\b", re.IGNORECASE)
_LEXEME = re.compile(r"\w+|'(?:[^'\\]|\\.)*'|[<>!]=|<>|\S")


@cache
def _parser() -> Lark:
    grammar = files("local_org.soql").joinpath("grammar.lark").read_text()
    return Lark(grammar, parser="lalr", maybe_placeholders=True, propagate_positions=True)


def parse(text: str) -> ast.Query:
    """The tree of one query. Raises ApiError MALFORMED_QUERY where the platform would."""
    if not text.strip():
        raise errors.malformed("SOQL statements cannot be empty or null")
    if len(text) > MAX_QUERY_CHARACTERS:
        raise ApiError(400, "QUERY_TOO_LONG", "SOQL statements cannot be longer than 100000 characters.")
    try:
        tree = _parser().parse(text)
    except UnexpectedCharacters as error:
        raise _unexpected_characters(text, error.pos_in_stream or 0) from None
    except UnexpectedToken as error:
        raise _unexpected(text, error.token.start_pos, error.token.type) from None
    except UnexpectedEOF:
        raise _unexpected(text, len(text), "$END") from None
    return _Builder(text).query(tree.children[0])


def _unexpected(text: str, at: int | None, kind: str) -> ApiError:
    if kind == "$END" or at is None:
        return errors.at(text, len(text), "MALFORMED_QUERY", "unexpected token: '<EOF>'")
    return _unexpected_characters(text, _mistaken_alias(text, at) or at)


def _mistaken_alias(text: str, at: int) -> int | None:
    """In `SELECT Id FORM Account` the word to blame is FORM, though it could have been an alias."""
    if _FROM.search(text, 0, at) or (match := _ALIAS.search(text[:at])) is None:
        return None
    return match.start(1)


def _unexpected_characters(text: str, at: int) -> ApiError:
    """A word in the wrong place is an unexpected token; a sign that no word begins with, a lexer's error."""
    char = text[at]
    row = text.count("\n", 0, at) + 1
    column = at - (text.rfind("\n", 0, at) + 1)
    lexeme = _LEXEME.match(text, at)
    if char == "'" and (lexeme is None or lexeme.group() == "'"):
        return errors.malformed(f"line {row}:{len(text)} mismatched character '<EOF>' expecting '''")
    if char == "'" and (bad := _bad_escape(text, at)) is not None:
        return errors.malformed(f"line {row}:{bad} no viable alternative at character '{text[bad]}'")
    if (unzoned := _UNZONED.match(text, at)) and text[at - 1].isdigit():
        after = unzoned.end()
        char = text[after : after + 1] or "<EOF>"
        return errors.malformed(f"line {row}:{column + after - at} no viable alternative at character '{char}'")
    if char in '"`$#@~|\\{}[];?!%^&' or lexeme is None:
        return errors.malformed(f"line {row}:{column} no viable alternative at character '{char}'")
    return errors.at(text, at, "MALFORMED_QUERY", f"unexpected token: '{lexeme.group()}'")


def _bad_escape(text: str, at: int) -> int | None:
    lexeme = _LEXEME.match(text, at)
    end = lexeme.end() if lexeme else len(text)
    for match in _ESCAPE.finditer(text, at, end):
        name = match.group(1)
        if name not in _ESCAPES and name not in "_%" and not re.fullmatch("u[0-9a-fA-F]{4}", name):
            return match.start() + 1
    return None


def _read_string(text: str, *, pattern: bool) -> str:
    def replace(match: re.Match[str]) -> str:
        name = match.group(1)
        if name in "_%" or (pattern and name == "\\"):
            return f"\\{name}" if pattern else name
        if name[0] in "uU" and len(name) == 5:
            return chr(int(name[1:], 16))
        return _ESCAPES[name.lower()]

    return _ESCAPE.sub(replace, text[1:-1])


def _optional(tree: Any) -> str | None:
    return None if tree is None else str(tree.children[-1])


class _Builder:
    """Turns lark's tree into ours. One method per rule that carries meaning."""

    def __init__(self, text: str) -> None:
        self.text = text

    def query(self, tree: Any) -> ast.Query:
        select, source, scope, where, group, order, limit, offset, *rest = (
            c for c in tree.children if not (isinstance(c, Token) and c.type in ("SELECT", "FROM"))
        )
        all_rows = next((t for t in rest if isinstance(t, Token) and t.type == "ALL"), None)
        group_list, having = self._group(group)
        return ast.Query(
            select=tuple(self._item(item) for item in select.children),
            source=self._source(source),
            at=_start(tree),
            scope=_optional(scope),
            where=None if where is None else self._condition(where.children[-1]),
            group=group_list,
            having=having,
            order=() if order is None else tuple(self._order(o) for o in order.children[2:]),
            limit=self._count(limit),
            offset=self._count(offset),
            offset_at=0 if offset is None else _start(offset.children[1]),
            all_rows_at=None if all_rows is None else _start(all_rows),
        )

    def _count(self, tree: Any) -> int | None:
        if tree is None:
            return None
        token = tree.children[1]
        if not token.isdigit():
            raise _unexpected_characters(self.text, token.start_pos)
        if len(token) > MAX_DIGITS:
            raise ApiError(400, "MALFORMED_QUERY", f'For input string: "{token}"')
        return int(token)

    def _group(self, tree: Any) -> tuple[tuple[ast.Expression, ...], ast.Condition | None]:
        if tree is None:
            return (), None
        _, _, group_list, having = tree.children
        condition = None if having is None else self._condition(having.children[1])
        return tuple(self._expression(e) for e in group_list.children), condition

    def _item(self, tree: Any) -> ast.SelectItem:
        if tree.data == "child_query":
            return ast.ChildQuery(self.query(tree.children[0]))
        if tree.data == "typeof":
            return self._typeof(tree)
        expression, alias = tree.children
        return ast.FieldItem(self._expression(expression), _optional(alias))

    def _typeof(self, tree: Any) -> ast.TypeOf:
        trees = [c for c in tree.children if isinstance(c, Tree)]
        whens = [t for t in trees if t.data == "when"]
        otherwise = next((t for t in trees if t.data == "path_list"), None)
        return ast.TypeOf(
            path=self._path(trees[0]),
            whens=tuple(ast.When(str(w.children[1]), self._paths(w.children[3])) for w in whens),
            otherwise=() if otherwise is None else self._paths(otherwise),
        )

    def _paths(self, tree: Any) -> tuple[ast.Path, ...]:
        return tuple(self._path(path) for path in tree.children)

    def _source(self, tree: Any) -> ast.Source:
        path, alias, *others = tree.children
        parents = zip(others[0::2], others[1::2], strict=True)
        return ast.Source(
            path=self._path(path),
            alias=_optional(alias),
            parents=tuple((self._path(p), str(a.children[-1])) for p, a in parents),
        )

    def _order(self, tree: Any) -> ast.OrderItem:
        expression, direction, _, place = tree.children
        return ast.OrderItem(
            expression=self._expression(expression),
            descending=direction is not None and direction.lower() == "desc",
            nulls_last=place is not None and place.lower() == "last",
        )

    def _path(self, tree: Any) -> ast.Path:
        return ast.Path(tuple(str(part) for part in tree.children), _start(tree))

    def _expression(self, tree: Any) -> ast.Expression:
        if tree.data == "path":
            return self._path(tree)
        name, *arguments = tree.children
        return ast.Call(str(name), tuple(self._argument(a) for a in arguments if a is not None), _start(tree))

    def _argument(self, tree: Any) -> ast.Argument:
        if tree.data == "text":
            return self._string(tree.children[0])
        if tree.data == "number":
            return ast.Number(Decimal(str(tree.children[0])), _start(tree))
        return self._expression(tree)

    def _condition(self, tree: Any) -> ast.Condition:
        build: Any = getattr(self, f"_{tree.data.rstrip('_')}")
        condition: ast.Condition = build(tree)
        return condition

    def _parts(self, tree: Any) -> tuple[ast.Condition, ...]:
        return tuple(self._condition(c) for c in tree.children if isinstance(c, Tree))

    def _all_of(self, tree: Any) -> ast.Condition:
        return ast.AllOf(self._parts(tree))

    def _any_of(self, tree: Any) -> ast.Condition:
        return ast.AnyOf(self._parts(tree))

    def _not(self, tree: Any) -> ast.Condition:
        return ast.Not(self._condition(tree.children[1]))

    def _comparison(self, tree: Any) -> ast.Condition:
        left, operator, value = tree.children
        return ast.Comparison(self._expression(left), str(operator).replace("<>", "!="), self._value(value))

    def _like(self, tree: Any) -> ast.Condition:
        return ast.Comparison(self._expression(tree.children[0]), "LIKE", self._value(tree.children[2]))

    def _in(self, tree: Any, *, negated: bool) -> ast.Condition:
        left, listed = self._expression(tree.children[0]), tree.children[-1]
        if listed.data == "inner_query":
            return ast.InQuery(left, self.query(listed.children[0]), negated, _start(listed))
        return ast.InList(left, self._values(listed), negated)

    def _in_list(self, tree: Any) -> ast.Condition:
        return self._in(tree, negated=False)

    def _not_in_list(self, tree: Any) -> ast.Condition:
        return self._in(tree, negated=True)

    def _includes(self, tree: Any) -> ast.Condition:
        return ast.Includes(self._expression(tree.children[0]), self._values(tree.children[2]), False)

    def _excludes(self, tree: Any) -> ast.Condition:
        return ast.Includes(self._expression(tree.children[0]), self._values(tree.children[2]), True)

    def _values(self, tree: Any) -> tuple[ast.Value, ...]:
        if tree.data == "inner_query":
            raise _unexpected_characters(self.text, _start(tree.children[0]))
        return tuple(self._value(value) for value in tree.children)

    def _string(self, token: Token) -> ast.Text:
        value = _read_string(token, pattern=False)
        return ast.Text(value, _read_string(token, pattern=True), _start(token))

    def _value(self, tree: Any) -> ast.Value:
        token: Token = tree.children[0]
        at = _start(token)
        match token.type:
            case "STRING":
                return self._where_string(token)
            case "NUMBER":
                return ast.Number(Decimal(str(token)), at)
            case "DATE":
                return ast.Date(self._date(token), at)
            case "DATETIME":
                return ast.DateTime(self._datetime(token), at)
            case "TIME":
                return ast.Time(self._time(token), at)
        return self._word(token, at)

    def _where_string(self, token: Token) -> ast.Text:
        text = self._string(token)
        if len(text.value) > MAX_STRING_CHARACTERS:
            message = "string literal is too long: the maximum is 4000 characters"
            raise errors.at(self.text, text.at, "MALFORMED_QUERY", message)
        return text

    def _date(self, token: Token) -> date:
        try:
            value = date.fromisoformat(token)
        except ValueError:
            raise self._bad_date(token) from None
        if not 1700 <= value.year <= 4000:
            raise self._bad_date(token)
        return value

    def _datetime(self, token: Token) -> int:
        self._date(Token("DATE", str(token)[:10], start_pos=token.start_pos))
        ms = parse_datetime(token)
        if ms is None:
            raise self._bad_date(token)
        return ms

    def _time(self, token: Token) -> int:
        ms = parse_datetime(f"1970-01-01T{token}")
        if ms is None:
            raise self._bad_date(token)
        return ms

    def _bad_date(self, token: Token) -> ApiError:
        return errors.at(self.text, _start(token), "MALFORMED_QUERY", f"Invalid date: {token}")

    def _word(self, token: Token, at: int) -> ast.Value:
        word, _, number = token.upper().partition(":")
        if word == "NULL":
            return ast.Null(at)
        if word in ("TRUE", "FALSE"):
            return ast.Boolean(word == "TRUE", at)
        if literals.is_named(word, with_number=bool(number)):
            return ast.NamedDate(word, int(number) if number else None, at)
        if re.fullmatch(r"[A-Z]{3}\d+", word):
            return ast.Number(Decimal(word[3:]), at, currency=word[:3])
        raise errors.at(self.text, at, "MALFORMED_QUERY", f"unexpected token: '{token}'")


def _start(node: Any) -> int:
    """Offset of the first character of a tree or token."""
    position: int | None = node.start_pos if isinstance(node, Token) else node.meta.start_pos
    return int(position or 0)
