"""What a caller asks for: read from a document, well formed, and the same when it is asked for again."""

import hashlib
import json
from datetime import datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker import exact
from worker.actions.intent import Intent, UnreadableError, content_hash, read_intent, well_formed

RECORD = "003000000000001AAA"
TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=8)
NUMBERS = st.decimals(allow_nan=False, allow_infinity=False, min_value=-(10**20), max_value=10**20) | st.integers()
VALUES = st.recursive(st.none() | st.booleans() | NUMBERS | TEXT, lambda part: st.dictionaries(TEXT, part, max_size=3))


@given(st.dictionaries(TEXT, VALUES, max_size=6), st.randoms())
def test_the_order_of_fields_and_the_notation_of_numbers_do_not_matter(fields: dict[str, Any], chance: Any) -> None:
    names = list(fields)
    chance.shuffle(names)
    other = exact.loads(exact.dumps({name: fields[name] for name in names}))
    assert content_hash(Intent("A", "create", fields)) == content_hash(Intent("a", "create", other))


@pytest.mark.parametrize("operation", ["update", "delete"])
def test_an_empty_record_id_is_no_record_id(operation: str) -> None:
    fields = {"Title": "x"} if operation == "update" else {}
    assert well_formed(Intent("Contact", operation, fields, record_id=""))[1] == ["'' is no record id."]


def test_what_was_not_asked_for_does_not_change_the_hash_of_what_was() -> None:
    plain = Intent("Contact", "create", {"Amount": Decimal("1.50")}, order_key="k")
    content = '["contact","create",null,null,null,{"Amount":1.5},"k"]'
    assert exact.dumps(json.loads(content), canonical=True) == content
    assert content_hash(plain).hex() == hashlib.sha256(content.encode()).hexdigest()


@pytest.mark.parametrize(
    ("document", "sentence"),
    [
        ({"operation": "create"}, "object is missing."),
        ({"object": "A", "operation": 1}, "operation is text."),
        (
            {"object": "A", "operation": "create", "field": {}},
            "'field' is no member of an action; did you mean fields?",
        ),
        ({"object": "A", "operation": "create", "priority": True}, "priority is a whole number."),
        ({"object": "A", "operation": "create", "fields": []}, "fields is a JSON object."),
        ({"object": "A", "operation": "delete", "if_unmodified_since": "soon"}, "'soon' is no time in ISO 8601."),
        ({"object": "A", "operation": "create", "parents": {"B": 1}}, "each is an action's id or idempotency key."),
    ],
)
def test_a_document_that_is_no_intent_is_told_why(document: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UnreadableError) as caught:
        read_intent(document)
    assert sentence in str(caught.value)


def nested(levels: int) -> Any:
    """A value so many levels below the fields."""
    value: Any = 1
    for _ in range(levels - 1):
        value = [value]
    return value


def test_what_is_nested_is_taken_to_ten_levels_and_refused_however_deep() -> None:
    assert well_formed(Intent("A", "create", {"F": nested(10)}))[1] == []
    assert well_formed(Intent("A", "create", {"F": nested(900)}))[1] == [
        "The fields are nested more than 10 levels deep."
    ]


def test_null_members_are_as_good_as_none() -> None:
    assert read_intent({"object": "A", "operation": "create", "order_key": None}) == Intent("A", "create")


@pytest.mark.parametrize(
    "wrong",
    [
        {"callback_url": "ftp://caller.example/"},
        {"callback_url": "https://user:password@caller.example/"},
        {"callback_url": "https:///path"},
        {"callback_url": "https://caller.example/#part"},
        {"callback_url": "https://caller.example/" + "x" * 2000},
        {"after_failure": "stop"},
        {"mergeable": True, "operation": "create", "record_id": None},
        {"parents": {"Email": "k"}},
        {"parents": {"A.B": "k"}},
        {"priority": 40_000},
        {"order_key": ""},
        {"operation": "delete"},
        {"object": "A" * 256},
        {"parents": {"AccountId": "\0"}},
        {"fields": {"Email": nested(11)}},
        {"if_unmodified_since": datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=14)))},  # in UTC the year before
        {"if_unmodified_since": datetime(9999, 12, 31, 23, tzinfo=timezone(-timedelta(hours=14)))},
        {"operation": "upsert", "record_id": None, "external_id_field": "Ext__c", "external_id": "é" * 256},
    ],
)
def test_wrong_options_are_refused(wrong: dict[str, Any]) -> None:
    good: dict[str, Any] = {"object": "Contact", "operation": "update", "fields": {"Email": "x"}, "record_id": RECORD}
    assert well_formed(Intent(**good))[1] == []
    assert len(well_formed(Intent(**(good | wrong)))[1]) == 1
