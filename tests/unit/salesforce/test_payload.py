"""JSON as it goes to the org: numbers exact."""

import json
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.salesforce.payload import dumps


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (Decimal("10.00"), "10"),
        (Decimal("0.1"), "0.1"),
        (Decimal("1234567890123456.78"), '"1234567890123456.78"'),
        (Decimal("1E+20"), "1e+20"),
        (datetime(2026, 11, 23, 10, tzinfo=UTC), '"2026-11-23T10:00:00.000Z"'),
        (date(2026, 11, 23), '"2026-11-23"'),
        ("ü", '"ü"'),
        (None, "null"),
    ],
)
def test_values_are_written_as_the_org_reads_them(value: Any, text: str) -> None:
    assert dumps(value).decode() == text


@given(st.decimals(allow_nan=False, allow_infinity=False, places=6, min_value=-(10**12), max_value=10**12))
def test_no_digit_of_an_amount_is_lost(amount: Decimal) -> None:
    assert Decimal(str(json.loads(dumps(amount), parse_float=str))) == amount


def test_what_json_cannot_say_is_refused() -> None:
    with pytest.raises(TypeError):
        dumps(object())
