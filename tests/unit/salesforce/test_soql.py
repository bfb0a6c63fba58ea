"""SOQL: what goes in as a value cannot come out as a condition."""

from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.salesforce import soql


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "null"),
        (True, "true"),
        (3, "3"),
        (Decimal("1E+3"), "1000"),
        (Decimal("12.50"), "12.50"),
        ('it\'s \\ "x"\n', "'it\\'s \\\\ \\\"x\\\"\\n'"),
        (date(2026, 1, 1), "2026-01-01"),
        (datetime(2026, 1, 1, tzinfo=UTC), "2026-01-01T00:00:00Z"),
        (datetime(2026, 1, 1, 1, tzinfo=timezone(timedelta(hours=1))), "2026-01-01T00:00:00Z"),
        (datetime(2026, 1, 1, 0, 0, 0, 123456, tzinfo=UTC), "2026-01-01T00:00:00.123Z"),
    ],
)
def test_values_are_written_as_soql_reads_them(value: soql.Value, text: str) -> None:
    assert soql.literal(value) == text


def test_a_naive_datetime_is_refused() -> None:
    with pytest.raises(ValueError):
        soql.literal(datetime(2026, 1, 1))  # noqa: DTZ001


@given(st.text())
def test_a_string_ends_only_at_its_own_quote(text: str) -> None:
    inner = soql.quote(text)[1:-1]
    unescaped = inner.replace("\\\\", "")
    assert all(unescaped[place - 1] == "\\" for place, char in enumerate(unescaped) if char == "'")
    assert "\n" not in inner


def test_like_takes_wildcards_for_themselves() -> None:
    assert soql.quote_like("50%_\\") == "'50\\%\\_\\\\'"


def test_a_query_is_put_together() -> None:
    text = soql.select(
        "Account",
        ["Id", "Owner.Name"],
        where=soql.in_list("Id", ["a", "b"]),
        order_by=["SystemModstamp", "Id"],
        limit=5,
    )
    assert text == "SELECT Id,Owner.Name FROM Account WHERE Id IN ('a','b') ORDER BY SystemModstamp,Id LIMIT 5"
    assert soql.count("Account", where="Name != null") == "SELECT COUNT() FROM Account WHERE Name != null"


@pytest.mark.parametrize("name", ["", "Na me", "Name,Id", "Name;", "1Name", "Näme", "Name FROM User", "a..b", "Id)"])
def test_only_api_names_are_names(name: str) -> None:
    with pytest.raises(ValueError):
        soql.select("Account", [name])
    with pytest.raises(ValueError):
        soql.select(name, ["Id"])


def test_conditions_are_joined_safely() -> None:
    assert soql.all_of(None, "") is None
    assert soql.all_of("A = 1", None) == "A = 1"
    assert soql.all_of("A = 1 OR B = 2", "C = 3") == "(A = 1 OR B = 2) AND (C = 3)"


def test_in_nothing_is_refused() -> None:
    with pytest.raises(ValueError):
        soql.in_list("Id", [])
