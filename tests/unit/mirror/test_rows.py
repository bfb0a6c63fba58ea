"""Records ↔ CSV."""

from decimal import Decimal

from hypothesis import given
from hypothesis import strategies as st

from worker.mirror.rows import header, parsed, to_csv

TEXT = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"), min_size=1)


def test_json_values_are_written_as_bulk_writes_them() -> None:
    record = {"A": None, "B": True, "C": False, "D": Decimal("1E+3"), "E": 7, "F": 'x"y'}
    assert to_csv([record], list("ABCDEF")) == b'"A","B","C","D","E","F"\n"","true","false","1000","7","x""y"\n'


def test_a_value_that_is_no_scalar_is_kept_as_its_json() -> None:
    record = {"Rule__c": {"a": Decimal("1.50"), "b": [True, None]}, "Id": "x"}
    assert to_csv([record], ["Id", "Rule__c"], with_header=False) == b'"x","{""a"":1.50,""b"":[true,null]}"\n'


def test_pieces_of_one_result_follow_without_a_header() -> None:
    assert to_csv([{"Id": "1"}], ["Id"], with_header=False) == b'"1"\n'


def test_a_header_may_have_a_byte_order_mark_and_no_quotes() -> None:
    assert header(b'\xef\xbb\xbfId,"Name"') == ["id", "name"]
    assert header(b"") == []


@given(st.lists(st.tuples(TEXT, st.none() | TEXT)), st.integers(1, 50))
def test_what_is_written_is_parsed_again_however_it_is_cut(rows: list[tuple[str, str | None]], size: int) -> None:
    data = to_csv([{"Id": one, "Name": two} for one, two in rows], ["Id", "Name"])
    chunks = [data[start : start + size] for start in range(0, len(data), size)]
    assert [(one["id"], one["name"]) for one in parsed(chunks)] == rows
