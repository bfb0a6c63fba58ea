"""Record ids: 18 characters everywhere."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.salesforce.ids import is_id, key_prefix, to_18

IDS = st.text("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789", min_size=15, max_size=15)


@pytest.mark.parametrize(
    ("short", "long"),
    [
        ("001D000000IqhSL", "001D000000IqhSLIAZ"),
        ("a00D0000008pQRA", "a00D0000008pQRAIA2"),
        ("000000000000000", "000000000000000AAA"),
    ],
)
def test_the_check_sum_is_the_vendors(short: str, long: str) -> None:
    assert to_18(short) == long
    assert to_18(long) == long


@given(IDS)
def test_any_id_grows_once(short: str) -> None:
    assert to_18(to_18(short)) == to_18(short)
    assert to_18(short)[:15] == short


@given(IDS)
def test_an_id_whose_case_was_lost_is_restored(short: str) -> None:
    assert to_18(to_18(short).upper()) == to_18(short)
    assert to_18(to_18(short).lower()) == to_18(short)


def test_an_orgs_own_id_is_kept_even_if_its_check_sum_is_odd() -> None:
    assert to_18("001D000000IqhSLxyz") == "001D000000IqhSLxyz"
    assert to_18("001000000000001999") == "001000000000001999"


@pytest.mark.parametrize(
    "text",
    ["", "001", "001D000000IqhS", "001D000000IqhSLI", "001D000000IqhSL/..", "ä01D000000IqhSL"],
)
def test_what_is_no_id_is_refused(text: str) -> None:
    assert not is_id(text)
    with pytest.raises(ValueError):
        to_18(text)


def test_the_prefix_names_the_object() -> None:
    assert key_prefix("001D000000IqhSLIAZ") == "001"
