"""The pure parts of the write side: states, pauses, verdicts, batches, checks, exact JSON, pairing."""

import json
import uuid
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.action import ACTION_STATES
from worker import exact
from worker.actions.batching import cut, halves
from worker.actions.check import faults, key_field
from worker.actions.doubt import Found, Suspect, comparable, pair
from worker.actions.lifecycle import ATTEMPTS, FINISHED, LAWFUL, is_exhausted, pause
from worker.actions.outcome import Delivered, InDoubt, Rejected, TryAgain, Waits, judge, of_error
from worker.errors import (
    DisconnectedError,
    OrgComplaint,
    OverBudgetError,
    RejectedError,
    SettingsError,
    SyncError,
    TransientError,
    UnknownOutcomeError,
)
from worker.salesforce.composite import RowResult
from worker.salesforce.describe import parse
from worker.salesforce.limits import COLLECTION_RECORDS

DEFAULTS = {"createable": True, "updateable": True, "nillable": True}
RECORD = "003000000000001AAA"
NOW = datetime(2026, 1, 1, tzinfo=UTC)


def describe(*fields: dict[str, Any], **flags: Any) -> Any:
    base = {"name": "Thing", "keyPrefix": "a00", "createable": True, "updateable": True, "deletable": True}
    return parse(base | flags | {"fields": [DEFAULTS | one for one in fields]})


def test_every_state_has_its_lawful_successors_and_nothing_leaves_what_is_delivered() -> None:
    assert set(LAWFUL) == set(ACTION_STATES)
    assert {after for successors in LAWFUL.values() for after in successors} <= set(ACTION_STATES)
    assert not LAWFUL["delivered"]
    assert {"delivered", "rejected", "conflict", "cancelled"} == FINISHED


def test_pauses_double_up_to_five_minutes_and_are_spread() -> None:
    assert [pause(n, 0.5).total_seconds() for n in (1, 2, 3, 9, 100)] == [1, 2, 4, 256, 300]
    assert pause(1, 0.0) == timedelta(seconds=0.5)
    assert (is_exhausted(ATTEMPTS - 1), is_exhausted(ATTEMPTS)) == (False, True)


def failure(code: str, message: str = "m") -> RowResult:
    return RowResult(False, None, None, (OrgComplaint(code, message, ("F",)),))


@pytest.mark.parametrize(
    ("code", "verdict"),
    [
        ("REQUIRED_FIELD_MISSING", Rejected),
        ("INVALID_FIELD", Rejected),
        ("DUPLICATES_DETECTED", Rejected),
        ("A_CODE_OF_TOMORROW", Rejected),
        ("ENTITY_IS_DELETED", Rejected),
        ("UNABLE_TO_LOCK_ROW", TryAgain),
        ("ALL_OR_NONE_OPERATION_ROLLED_BACK", TryAgain),
        ("REQUEST_LIMIT_EXCEEDED", Waits),
        ("LIMIT_EXCEEDED", TryAgain),
    ],
)
def test_a_rows_code_decides(code: str, verdict: type) -> None:
    assert isinstance(judge("update", RECORD, failure(code), doubted=False), verdict)


def test_a_refusal_keeps_code_message_and_fields() -> None:
    verdict = judge("create", None, failure("STRING_TOO_LONG", "too long"), doubted=False)
    assert isinstance(verdict, Rejected)
    assert verdict.problem.as_json() == {"code": "STRING_TOO_LONG", "message": "too long", "fields": ["F"]}


def test_rows_that_only_met_a_failing_neighbour_are_tried_again() -> None:
    message = "Too many batch retries in the presence of Apex triggers and partial failures."
    assert isinstance(judge("update", RECORD, failure("LIMIT_X", message), doubted=False), TryAgain)


def test_success_without_an_id_is_no_success() -> None:
    assert isinstance(judge("create", None, RowResult(True, None, None, ()), doubted=False), InDoubt)


def test_an_upsert_that_found_our_own_record_adopts_it_only_after_a_doubt() -> None:
    found = RowResult(True, RECORD, False, ())
    assert judge("create", None, found, doubted=True) == Delivered(RECORD, False, adopted=True)
    assert judge("create", None, found, doubted=False) == Delivered(RECORD, False)


@pytest.mark.parametrize(
    "code", ["ENTITY_IS_DELETED", "INVALID_CROSS_REFERENCE_KEY"]
)  # still in the recycle bin, or not
def test_a_delete_that_finds_nothing_is_done_only_after_a_doubt(code: str) -> None:
    gone = failure(code)
    assert judge("delete", RECORD, gone, doubted=True) == Delivered(RECORD, adopted=True)
    assert isinstance(judge("delete", RECORD, gone, doubted=False), Rejected)


@pytest.mark.parametrize(
    ("error", "verdict"),
    [
        (UnknownOutcomeError("cut"), InDoubt),
        (OverBudgetError("spent"), Waits),
        (DisconnectedError("revoked"), Waits),
        (TransientError("busy"), TryAgain),
        (SettingsError("SALESFORCE_API_VERSION"), Waits),
        (RejectedError(400, (OrgComplaint("JSON_PARSER_ERROR", "m"),)), Rejected),
    ],
)
def test_an_error_of_the_whole_call_decides_for_all(error: SyncError, verdict: type) -> None:
    assert isinstance(of_error(error), verdict)


@given(st.lists(st.integers(1, 300), max_size=40), st.integers(1, 20), st.integers(1, 1000))
def test_a_batch_keeps_both_limits_and_is_never_empty(sizes: list[int], records: int, size: int) -> None:
    count = cut(sizes, records=records, size=size)
    assert count <= min(len(sizes), records)
    assert bool(count) == bool(sizes)
    assert count == 1 or sum(sizes[:count]) <= size
    more = sizes[: count + 1]
    assert len(more) == count or count == records or sum(more) > size


def test_a_batch_is_two_hundred_at_most() -> None:
    assert cut([1] * 500) == COLLECTION_RECORDS


@given(st.lists(st.integers(), min_size=2, max_size=9))
def test_halves_lose_nothing_and_neither_is_empty(actions: list[int]) -> None:
    first, second = halves(actions)
    assert [*first, *second] == actions
    assert first
    assert second


numbers = st.decimals(allow_nan=False, allow_infinity=False, places=4, min_value=-(10**14), max_value=10**14)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text() | numbers,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(values)
def test_json_comes_back_as_it_was(value: Any) -> None:
    assert exact.loads(exact.dumps(value)) == value


def test_numbers_of_any_size_are_written_as_they_are() -> None:
    assert exact.dumps([Decimal("1234567890123456.78"), Decimal("1E+3")]) == "[1234567890123456.78,1000]"
    assert json.loads(exact.dumps({"a": Decimal("0.1")})) == {"a": 0.1}
    assert exact.dumps({"b": Decimal("1.50"), "a": Decimal("2.00")}, canonical=True) == '{"a":2,"b":1.5}'


@pytest.mark.parametrize("text", ["NaN", "[Infinity]", '{"a":-Infinity}', "", "{"])
def test_what_is_no_json_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        exact.loads(text)


KEY = {"type": "string", "length": 64, "externalId": True, "unique": True}


@pytest.mark.parametrize(
    ("field", "chosen", "expected"),
    [
        (KEY | {"name": "External_Key__c"}, "", "External_Key__c"),
        (KEY | {"name": "Legacy_Id__c"}, "", None),
        (KEY | {"name": "Legacy_Id__c"}, "legacy_id__c", "Legacy_Id__c"),
        (KEY | {"name": "External_Key__c"}, "Other__c", None),
        (KEY | {"name": "Key__c", "unique": False}, "", None),
        (KEY | {"name": "Key__c", "externalId": False}, "", None),
        (KEY | {"name": "Key__c", "length": 31}, "", None),
        (KEY | {"name": "Key__c", "length": 32}, "", "Key__c"),
        (KEY | {"name": "Key__c", "updateable": False}, "", None),
        (KEY | {"name": "Key__c", "type": "double"}, "", None),
    ],
)
def test_the_key_field_is_a_unique_external_id_that_can_hold_a_key(
    field: dict[str, Any], chosen: str, expected: str | None
) -> None:
    assert key_field(describe(field), chosen) == expected


@pytest.mark.parametrize(
    ("field", "value", "code"),
    [
        ({"type": "string", "length": 3}, "abc", None),
        ({"type": "string", "length": 3}, "abc ", None),
        ({"type": "string", "length": 3}, "abcd", "STRING_TOO_LONG"),
        ({"type": "string", "length": 3}, ["a"], "INVALID_TYPE_ON_FIELD_IN_RECORD"),
        ({"type": "boolean"}, True, None),
        ({"type": "boolean"}, "perhaps", "INVALID_TYPE_ON_FIELD_IN_RECORD"),
        ({"type": "int", "digits": 8}, 99_999_999, None),
        ({"type": "int", "digits": 8}, 100_000_000, "NUMBER_OUTSIDE_VALID_RANGE"),
        ({"type": "currency", "precision": 5, "scale": 2}, Decimal("999.99"), None),
        ({"type": "currency", "precision": 5, "scale": 2}, 1000, "NUMBER_OUTSIDE_VALID_RANGE"),
        ({"type": "currency", "precision": 5, "scale": 2}, "12.5", None),
        ({"type": "double", "precision": 18, "scale": 0}, "many", "INVALID_TYPE_ON_FIELD_IN_RECORD"),
        ({"type": "double", "precision": 18, "scale": 0}, True, "INVALID_TYPE_ON_FIELD_IN_RECORD"),
        ({"type": "date"}, "2026-02-28", None),
        ({"type": "date"}, "2026-02-30", "INVALID_TYPE_ON_FIELD_IN_RECORD"),
        ({"type": "datetime"}, "2026-01-01T00:00:00Z", None),
        ({"type": "datetime"}, "soon", "INVALID_TYPE_ON_FIELD_IN_RECORD"),
        ({"type": "reference"}, RECORD, None),
        ({"type": "reference"}, "003", "MALFORMED_ID"),
        ({"type": "reference", "extraTypeInfo": "externallookup", "length": 20}, "order 7", None),
        ({"type": "reference", "extraTypeInfo": "indirectlookup", "length": 3}, "order 7", "STRING_TOO_LONG"),
        ({"type": "picklist", "restrictedPicklist": False}, "new", None),
        ({"type": "picklist", "restrictedPicklist": True}, "Old", None),
        ({"type": "picklist", "restrictedPicklist": True}, "new", "INVALID_OR_NULL_FOR_RESTRICTED_PICKLIST"),
        ({"type": "picklist", "restrictedPicklist": True, "picklistValues": []}, "new", None),
        ({"type": "multipicklist", "restrictedPicklist": True}, "Old;Odd", "INVALID_OR_NULL_FOR_RESTRICTED_PICKLIST"),
        ({"type": "string", "updateable": False}, "x", "INVALID_FIELD_FOR_INSERT_UPDATE"),
        ({"type": "string", "nillable": False}, None, "REQUIRED_FIELD_MISSING"),
        ({"type": "string"}, None, None),
        ({"type": "a type of tomorrow"}, "x", None),
    ],
)
def test_a_value_is_checked_as_far_as_describe_tells(field: dict[str, Any], value: Any, code: str | None) -> None:
    picklist = {"picklistValues": [{"value": "Old", "active": True}, {"value": "Odd", "active": False}]}
    found = faults(describe({"name": "F", **picklist, **field}), "update", {"f": value})
    assert [one.code for one in found] == ([code] if code else [])


def test_a_parent_may_be_named_by_its_external_id() -> None:
    thing = describe({"name": "AccountId", "type": "reference", "relationshipName": "Account", "nillable": False})
    assert faults(thing, "create", {"Account": {"Key__c": "A-1"}}) == []
    assert [one.code for one in faults(thing, "create", {"Account": "A-1"})] == [
        "INVALID_FIELD",
        "REQUIRED_FIELD_MISSING",
    ]


def test_a_person_account_needs_a_last_name_and_no_name() -> None:
    name = {"name": "Name", "type": "string", "nillable": False, "extraTypeInfo": "switchablepersonname"}
    account = describe(name, {"name": "LastName", "type": "string", "length": 80})
    assert faults(account, "create", {"LastName": "Doe"}) == []
    assert [one.code for one in faults(account, "create", {"LastName": ""})] == ["REQUIRED_FIELD_MISSING"]


def test_an_object_that_cannot_be_written_is_refused() -> None:
    assert faults(describe(deletable=False), "delete", {})


def suspect(since: datetime = NOW, **fields: Any) -> Suspect:
    return Suspect(uuid.uuid4(), fields, since)


def found(number: int, at: datetime = NOW, **fields: Any) -> Found:
    return Found(f"r{number}", fields, at)


def test_equal_actions_and_equal_records_are_paired_one_to_one() -> None:
    suspects = [suspect(Name="x"), suspect(Name="x"), suspect(Name="x")]
    pairing = pair(suspects, [found(1, Name="x", Other=1), found(2, Name="x")])
    assert sorted(pairing.adopted.values()) == ["r1", "r2"]
    assert len(pairing.adopted) == 2
    assert pairing.unexplained == ()


def test_a_record_that_two_different_actions_could_have_made_is_nobodys() -> None:
    pairing = pair([suspect(Name="x"), suspect(Name="x", Phone="1")], [found(1, Name="x", Phone="1")])
    assert pairing.adopted == {}
    assert pairing.unexplained == ("r1",)


def test_a_record_that_a_create_under_way_could_have_made_is_left_alone() -> None:
    pairing = pair([suspect(Name="x")], [found(1, Name="x")], in_flight=[{"Name": "x"}])
    assert pairing.adopted == {}


def test_a_record_older_than_the_sending_is_not_its_own() -> None:
    late = NOW + timedelta(minutes=5)
    first, second = suspect(Name="x"), suspect(late, Name="x")
    assert pair([second, first], [found(1, Name="x")]).adopted == {first.id: "r1"}
    assert pair([second], [found(1, Name="x")]).adopted == {}


def test_an_action_without_comparable_values_matches_nothing() -> None:
    assert pair([suspect()], [found(1, Name="x")]).adopted == {}


def test_thousands_in_doubt_are_paired_with_thousands_of_records_in_one_look() -> None:
    suspects = [suspect(Name=f"n {number}") for number in range(3_000)]
    records = [found(number, Name=f"n {number}") for number in range(6_000)]
    pairing = pair(suspects, records, in_flight=[{"Name": f"n {number}"} for number in range(3_000, 5_000)])
    assert pairing.adopted == {one.id: f"r{number}" for number, one in enumerate(suspects)}
    assert len(pairing.under_way) == 2_000
    assert len(pairing.unexplained) == 1_000


@given(st.lists(st.sampled_from("abc"), max_size=8), st.lists(st.sampled_from("abcd"), max_size=8))
def test_nothing_is_adopted_twice_and_everything_is_explained_or_not(sent: list[str], held: list[str]) -> None:
    suspects = [suspect(Name=one) for one in sent]
    records = [found(number, Name=one) for number, one in enumerate(held)]
    pairing = pair(suspects, records)
    assert len(set(pairing.adopted.values())) == len(pairing.adopted)
    assert len(pairing.adopted) == sum(min(sent.count(one), held.count(one)) for one in set(sent))
    assert {one.id for one in records} == set(pairing.adopted.values()) | set(pairing.unexplained)


def test_values_are_compared_as_the_org_keeps_them() -> None:
    thing = describe(
        {"name": "Name", "type": "string"},
        {"name": "Email", "type": "email"},
        {"name": "Amount", "type": "currency", "precision": 18, "scale": 2},
        {"name": "AccountId", "type": "reference"},
        {"name": "At", "type": "datetime"},
        {"name": "Set", "type": "multipicklist"},
        {"name": "On", "type": "boolean"},
    )
    sent = {
        "name": "  x ",
        "Email": "A@B.example",
        "Amount": "12.345",
        "AccountId": "001000000000001",
        "At": "2026-01-01T01:00:00.500+01:00",
        "Set": "b;a",
        "On": "true",
        "Empty": "",
    }
    kept = {
        "Name": "x",
        "Email": "a@b.example",
        "Amount": Decimal("12.35"),
        "AccountId": "001000000000001AAA",
        "At": "2026-01-01T00:00:00.000+0000",
        "Set": "a;b",
        "On": True,
    }
    assert comparable(thing, sent) == comparable(thing, kept)
    assert len(comparable(thing, sent)) == 7
