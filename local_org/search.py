"""SOSL: FIND {words} IN fields RETURNING objects, and the parameterized search. Source: SOQL and SOSL Reference,
"SOSL Syntax"; REST API Developer Guide, "Search", "Parameterized Search".

Words are found by their beginning in text fields that queries may filter. What was just written is found at once,
where the platform's index lags.
"""

import re
from dataclasses import dataclass
from typing import Any

from local_org.catalogue import ObjectType
from local_org.context import Context, an_object, texts
from local_org.errors import ApiError, unreadable_json
from local_org.query import query
from local_org.words import MAX_DIGITS, whole_number

MAX_FOUND = 2_000  # SOQL and SOSL Reference, "SOSL Limits"
MAX_IN_OBJECT = 2_000
_FIELD_KINDS = {
    "ALL": frozenset({"string", "textarea", "phone", "email", "url", "combobox"}),
    "NAME": frozenset({"string", "combobox", "textarea"}),
    "EMAIL": frozenset({"email"}),
    "PHONE": frozenset({"phone"}),
    "SIDEBAR": frozenset({"string", "phone", "email", "combobox"}),
}
_FIND = re.compile(r"\s*FIND\s*\{((?:[^{}\\]|\\.)*)\}", re.IGNORECASE | re.DOTALL)
_IN = re.compile(r"\s*IN\s+(ALL|NAME|EMAIL|PHONE|SIDEBAR)\s+FIELDS", re.IGNORECASE)
_RETURNING = re.compile(r"\s*RETURNING\s+", re.IGNORECASE)
_OBJECT = re.compile(r"\s*(\w+)\s*")
_LIMIT = re.compile(r"\s*LIMIT\s+(\d+)\s*$", re.IGNORECASE)
_CLAUSES = re.compile(r"\b(WHERE|ORDER\s+BY|LIMIT|OFFSET|USING)\b", re.IGNORECASE)
_TERM = re.compile(r'"[^"]+"|[^\s()"]+')
Record = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Target:
    """One object of RETURNING: its fields, and the clauses after them as SOQL has them."""

    object: str
    fields: tuple[str, ...] = ("Id",)
    clauses: str = ""


@dataclass(frozen=True, slots=True)
class Search:
    """What to find where. `terms` are alternatives, each a list of words that must all be there."""

    terms: tuple[tuple[str, ...], ...]
    kinds: str
    targets: tuple[Target, ...]
    limit: int = MAX_FOUND


def _malformed(text: str) -> ApiError:
    return ApiError(400, "MALFORMED_SEARCH", text)


def run(ctx: Context) -> Record:
    """GET search?q=FIND {…} …."""
    return {"searchRecords": _found(ctx, parse(ctx.query.get("q", "")))}


def parse(text: str) -> Search:
    """Raises ApiError MALFORMED_SEARCH."""
    found = _FIND.match(text)
    if found is None:
        raise _malformed("No search term found. The search term must be enclosed in braces.")
    rest = text[found.end() :]
    kinds = "ALL"
    if (where := _IN.match(rest)) is not None:
        kinds, rest = where[1].upper(), rest[where.end() :]
    targets: tuple[Target, ...] = ()
    if (returning := _RETURNING.match(rest)) is not None:
        targets, rest = _targets(rest[returning.end() :])
    limit = MAX_FOUND
    if (last := _LIMIT.search(rest)) is not None:
        limit, rest = min(int(last[1][:MAX_DIGITS]), MAX_FOUND), rest[: last.start()]
    if rest.strip() and not rest.strip().upper().startswith("WITH "):
        raise _malformed(f"unexpected token: {rest.strip().split()[0]}")
    return Search(_terms(found[1]), kinds, targets, limit)


def _terms(text: str) -> tuple[tuple[str, ...], ...]:
    """Alternatives of words: OR parts them, AND and blanks join them."""
    groups: list[list[str]] = [[]]
    for term in _TERM.findall(re.sub(r"\\(.)", r"\1", text)):
        if term == "OR":
            groups.append([])
        elif term != "AND":
            groups[-1].append(term.strip('"').replace("*", "%").replace("?", "_"))
    found = tuple(tuple(group) for group in groups if group)
    if not found or any(len(term.strip("%_")) < 1 for group in found for term in group):
        raise _malformed("search term must be longer than one character")
    if all(len(term.strip("%_")) < 2 for group in found for term in group):
        raise _malformed("search term must be longer than one character")
    return found


def _targets(text: str) -> tuple[tuple[Target, ...], str]:
    """The objects of RETURNING, and what follows them."""
    targets: list[Target] = []
    while True:
        named = _OBJECT.match(text)
        if named is None:
            raise _malformed("unexpected token: '<EOF>'")
        text = text[named.end() :]
        inner, text = _in_parentheses(text) if text.startswith("(") else ("", text)
        targets.append(_target(named[1], inner))
        if not text.lstrip().startswith(","):
            return tuple(targets), text
        text = text.lstrip()[1:]


def _in_parentheses(text: str) -> tuple[str, str]:
    """What stands between the first parenthesis and the one that closes it; quoted ones do not count."""
    depth, quoted_ = 0, False
    for at, char in enumerate(text):
        if char == "'" and text[at - 1] != "\\":
            quoted_ = not quoted_
        elif not quoted_ and char in "()":
            depth += 1 if char == "(" else -1
            if depth == 0:
                return text[1:at], text[at + 1 :]
    raise _malformed("unexpected token: '<EOF>'")


def _target(name: str, inner: str) -> Target:
    clauses = _CLAUSES.search(inner)
    names = inner[: clauses.start()] if clauses else inner
    fields = tuple(field.strip() for field in names.split(",") if field.strip())
    return Target(name, fields or ("Id",), inner[clauses.start() :] if clauses else "")


def _found(ctx: Context, search: Search) -> list[Record]:
    targets = search.targets or tuple(
        Target(item.name) for item in ctx.catalogue.objects() if item.searchable and item.layoutable
    )
    found: list[Record] = []
    for target in targets:
        item = ctx.catalogue.object(target.object)
        if item is None or not item.searchable:
            text = f"sObject type '{target.object}' is not supported."
            raise ApiError(400, "INVALID_TYPE", text)
        condition = _condition(item, search)
        if condition:
            found += query(ctx, _soql(item, target, condition), all_rows=False)["records"]
    return found[: min(search.limit, MAX_FOUND)]


def _condition(item: ObjectType, search: Search) -> str:
    kinds = _FIELD_KINDS[search.kinds]
    fields = [f.name for f in item.fields.values() if f.type in kinds and f.filterable and f.stored]
    if search.kinds == "NAME":
        fields = [f.name for f in item.fields.values() if f.name_field or f.compound_name == "Name"]
    if not fields:
        return ""
    groups = []
    for group in search.terms:
        words = [
            " OR ".join(f"{field} LIKE '{pattern}'" for field in fields for pattern in _patterns(t)) for t in group
        ]
        groups.append("(" + " AND ".join(f"({word})" for word in words) + ")")
    return "(" + " OR ".join(groups) + ")"


def _patterns(term: str) -> tuple[str, ...]:
    """A word stands at the beginning, or after a blank or a sign that parts words."""
    word = term.replace("\\", "\\\\").replace("'", "\\'")
    return (f"{word}%", *(f"%{sign}{word}%" for sign in " -.@/,("))


def _soql(item: ObjectType, target: Target, condition: str) -> str:
    clauses = target.clauses
    where = re.match(r"WHERE\b", clauses, re.IGNORECASE)
    if where is not None:
        end = re.search(r"\b(ORDER\s+BY|LIMIT|OFFSET)\b", clauses, re.IGNORECASE)
        own = clauses[where.end() : end.start() if end else None]
        condition, clauses = f"{condition} AND ({own})", clauses[end.start() :] if end else ""
    if not re.search(r"\bLIMIT\b", clauses, re.IGNORECASE):
        clauses += f" LIMIT {MAX_IN_OBJECT}"
    return f"SELECT {', '.join(target.fields)} FROM {item.name} WHERE {condition} {clauses}"


# -- parameterized


def parameterized_get(ctx: Context) -> Record:
    """GET parameterizedSearch?q=word&sobject=Account&Account.fields=Id,Name&in=NAME."""
    names = [name for name in ctx.query.get("sobject", "").split(",") if name]
    fields = ctx.query.get("fields", "Id")
    targets = [
        {
            "name": name,
            "fields": ctx.query.get(f"{name}.fields", fields).split(","),
            "limit": ctx.query.get(f"{name}.limit"),
            "where": ctx.query.get(f"{name}.where"),
        }
        for name in names
    ]
    return _parameterized(ctx, {**ctx.query, "sobjects": targets})


def parameterized_post(ctx: Context) -> Record:
    """POST parameterizedSearch {"q": …, "sobjects": [{"name", "fields", "limit", "where"}], …}."""
    return _parameterized(ctx, ctx.json_object())


def _parameterized(ctx: Context, body: Record) -> Record:
    general = texts(body["fields"], "fields") if isinstance(body.get("fields"), list) else []
    sobjects = body.get("sobjects") or []
    if not isinstance(sobjects, list):
        raise unreadable_json("sobjects must be a list at [line:1, column:1]")
    targets = []
    for entry in (an_object(item, "sobjects") for item in sobjects):
        limit = _count(entry.get("limit") or body.get("defaultLimit"), "limit")
        clauses = f"WHERE {entry['where']}" if entry.get("where") else ""
        clauses += "" if limit is None else f" LIMIT {limit}"
        fields = texts(entry.get("fields"), "fields") or general or ["Id"]
        targets.append(Target(str(entry.get("name")), tuple(fields), clauses))
    kinds = str(body.get("in", "ALL")).upper()
    if kinds not in _FIELD_KINDS:
        raise _malformed(f"in must be one of {', '.join(_FIELD_KINDS)}")
    limit = _count(body.get("overallLimit"), "overallLimit") or MAX_FOUND
    return {"searchRecords": _found(ctx, Search(_terms(str(body.get("q", ""))), kinds, tuple(targets), limit))}


def _count(value: Any, name: str) -> int | None:
    """Raises ApiError for a limit that is no whole number."""
    number = whole_number(str(value or 0))
    if number is None or isinstance(value, bool):
        raise unreadable_json(f"{name} must be a whole number: {value} at [line:1, column:1]")
    return number or None
