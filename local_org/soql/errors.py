"""SOQL errors as the platform words them: part of the query, a caret, row and column, then the text."""

import re

from local_org.errors import ApiError

_BEFORE = 32
_AFTER = 44
_NAMES = "Please reference your WSDL or the describe call for the appropriate names."


def _excerpt(line: str, column: int) -> tuple[str, int]:
    """The part of the line around the error, cut between words, and the caret's place in it (both from 0)."""
    starts = [m.start() for m in re.finditer(r"(?<![^\s,])(?=[^\s,])", line)]
    start = next((s for s in starts if s >= column - _BEFORE), 0) if column > _BEFORE else 0
    start = min(start, column)
    ends = [m.start() for m in re.finditer(r"(?=[\s,])", line)] + [len(line)]
    end = max((e for e in ends if column < e <= column + _AFTER), default=column + _AFTER)
    return line[start:end], column - start


def at(query: str, offset: int, code: str, text: str) -> ApiError:
    """An error that points at `offset` of the query."""
    before = query[:offset]
    row = before.count("\n") + 1
    column = offset - (before.rfind("\n") + 1)
    excerpt, caret = _excerpt(query.split("\n")[row - 1], column)
    place = f"\n{excerpt}\n{' ' * caret}^\nERROR at Row:{row}:Column:{column + 1}\n"
    return ApiError(400, code, place + text)


def malformed(text: str) -> ApiError:
    return ApiError(400, "MALFORMED_QUERY", text)


def no_such_column(query: str, offset: int, field: str, entity: str) -> ApiError:
    text = (
        f"No such column '{field}' on entity '{entity}'. If you are attempting to use a custom field, be sure to "
        f"append the '__c' after the custom field name. {_NAMES}"
    )
    return at(query, offset, "INVALID_FIELD", text)


def no_such_relationship(query: str, offset: int, name: str) -> ApiError:
    text = (
        f"Didn't understand relationship '{name}' in field path. If you are attempting to use a custom "
        f"relationship, be sure to append the '__r' after the custom relationship name. {_NAMES}"
    )
    return at(query, offset, "INVALID_FIELD", text)


def no_such_child(query: str, offset: int, name: str) -> ApiError:
    text = (
        f"Didn't understand relationship '{name}' in FROM part of query call. If you are attempting to use a "
        f"custom relationship, be sure to append the '__r' after the custom relationship name. {_NAMES}"
    )
    return at(query, offset, "INVALID_TYPE", text)


def no_such_object(query: str, offset: int, name: str) -> ApiError:
    text = (
        f"sObject type '{name}' is not supported. If you are attempting to use a custom object, be sure to append "
        f"the '__c' after the entity name. {_NAMES}"
    )
    return at(query, offset, "INVALID_TYPE", text)
