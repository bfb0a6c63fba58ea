"""Any condition gives the rows that two-valued logic gives."""

import itertools
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from local_org.clock import Clock
from local_org.org import Org
from local_org.query import query

NAMES = [None, "a", "A", "b", "ab", "ü", "Ü", "a%"]
NUMBERS = [None, -150, 0, 7, 250]  # hundredths


@pytest.fixture(scope="module")
def caller(request: pytest.FixtureRequest) -> Iterator[Any]:
    with tempfile.TemporaryDirectory() as folder:
        org = Org(Path(folder), Clock())
        rows = [(f"006Lo{n:010d}AAA", *row) for n, row in enumerate(itertools.product(NAMES, NUMBERS, (0, 1)))]
        with org.store.write() as conn:
            sql = 'INSERT INTO "Opportunity" ("Id", "NextStep", "Amount", "IsWon") VALUES (?, ?, ?, ?)'
            conn.executemany(sql, rows)
        yield org, rows
        org.close()


def text(value: str | None) -> str:
    return "null" if value is None else f"'{value}'"


def name_test(operator: str, value: str | None) -> tuple[str, Any]:
    wanted = value.lower() if value else None
    tests = {"=": lambda r: fold(r[1]) == wanted, "!=": lambda r: fold(r[1]) != wanted}
    return f"NextStep {operator} {text(value)}", tests[operator]


def fold(value: str | None) -> str | None:
    return value.lower() if value else None


def number_test(operator: str, hundredths: int) -> tuple[str, Any]:
    tests = {
        "=": lambda r: r[2] is not None and r[2] * 10 == hundredths,
        "!=": lambda r: r[2] is None or r[2] * 10 != hundredths,
        "<": lambda r: r[2] is not None and r[2] * 10 < hundredths,
        "<=": lambda r: r[2] is not None and r[2] * 10 <= hundredths,
        ">": lambda r: r[2] is not None and r[2] * 10 > hundredths,
        ">=": lambda r: r[2] is not None and r[2] * 10 >= hundredths,
    }
    return f"Amount {operator} {hundredths / 1000}", tests[operator]


def in_test(negated: bool, values: list[str | None]) -> tuple[str, Any]:
    wanted = {fold(value) for value in values}
    word = "NOT IN" if negated else "IN"
    return f"NextStep {word} ({', '.join(map(text, values))})", lambda r: (fold(r[1]) in wanted) != negated


def negation(part: tuple[str, Any]) -> tuple[str, Any]:
    return f"(NOT ({part[0]}))", lambda r: not part[1](r)


def combination(word: str, parts: list[tuple[str, Any]]) -> tuple[str, Any]:
    join = all if word == "AND" else any
    return f"({f' {word} '.join(p[0] for p in parts)})", lambda r: join(p[1](r) for p in parts)


leaves = st.one_of(
    st.builds(name_test, st.sampled_from(["=", "!="]), st.sampled_from(NAMES)),
    st.builds(
        number_test,
        st.sampled_from(["=", "!=", "<", "<=", ">", ">="]),
        st.sampled_from([-1500, -1501, 0, 5, 70, 75, 2500]),
    ),
    st.builds(in_test, st.booleans(), st.lists(st.sampled_from(NAMES), min_size=1, max_size=3)),
    st.builds(lambda b: (f"IsWon = {str(b).lower()}", lambda r: bool(r[3]) == b), st.booleans()),
)
conditions = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.builds(negation, inner),
        st.builds(combination, st.sampled_from(["AND", "OR"]), st.lists(inner, min_size=2, max_size=3)),
    ),
    max_leaves=6,
)


@settings(max_examples=150, deadline=None)
@given(condition=conditions)
def test_any_condition_gives_the_rows_that_two_valued_logic_gives(caller, condition) -> None:
    org, rows = caller
    soql, holds = condition
    found = query(_context(org), f"SELECT Id FROM Opportunity WHERE {soql}", all_rows=False)
    assert {r["Id"] for r in found["records"]} == {row[0] for row in rows if holds(row)}


def _context(org: Org) -> Any:
    from local_org.context import Context

    user = "005Lo0000000001AAA"
    return Context(org, org.store, org.store.catalogue, "68.0", user, "GET", "", {}, {})
