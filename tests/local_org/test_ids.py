"""Ids made from numbers: in order, with the checksum that the form of 15 characters leads to."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from local_org.ids import number_of, numbered, to_18

EDGES = [edge + step for edge in (0, 62, 62**2, 62**4, 62**5, 62**6) for step in (-1, 0, 1) if edge + step >= 0]


@pytest.mark.parametrize("number", EDGES)
def test_ids_at_the_edges_of_their_digits_are_in_order(number: int) -> None:
    assert numbered("003", number)[:15] < numbered("003", number + 1)[:15]


@given(st.integers(0, 62**6), st.sampled_from(["001", "00Q", "a0B"]))
def test_an_id_has_its_number_and_its_checksum(number: int, prefix: str) -> None:
    made = numbered(prefix, number)
    assert (number_of(made), to_18(made[:15]), made[:3]) == (number, made, prefix)
    assert to_18(made.swapcase()[:15] + made[15:]) == made
