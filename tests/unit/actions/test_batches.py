"""What goes into one call, how Bulk rows find their actions again, and which records are whose. Pure."""

import random
import uuid
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.actions.batching import PATIENCE, Pending, merged, most, pick, way_of
from worker.actions.doubt import Found, Suspect, normalise, pair
from worker.actions.ingest_rows import assign, cells, table
from worker.errors import OrgComplaint
from worker.salesforce.describe import FieldDescribe
from worker.salesforce.ingest import ResultRow, Results, row_error, to_csv
from worker.salesforce.limits import COLLECTION_RECORDS

NOW = datetime(2026, 1, 1, tzinfo=UTC)
RECORD = "003000000000001AAA"


def action(operation: str = "create", parents: str = "", **values: Any) -> Pending:
    record = RECORD if operation in ("update", "delete") else None
    base: dict[str, Any] = {"record_id": record, "external_id_field": None, "external_id": None, "fields": {}}
    base |= {"order_key": uuid.uuid4().hex, "attempts": 1, "doubted": False, "parents": frozenset(parents)}
    return Pending(id=uuid.uuid4(), operation=operation, **(base | values))


def test_a_batch_is_of_the_most_urgent_kind() -> None:
    first, other, third = action(), action("update"), action()
    assert pick([first, other, third]) == [first, third]


def test_children_of_one_parent_ride_together_and_not_beside_others_of_it() -> None:
    a1, b1, a2, c1 = (action(parents=name) for name in "abac")
    assert pick([a1, b1, a2, c1]) == [a1, a2, b1, c1]
    assert pick([a1, b1, a2, c1], busy={"a"}) == [b1, c1]
    assert pick([a1, a2], busy={"a"}) == []


@given(st.lists(st.sampled_from(["", "a", "b", "ab", "c"]), max_size=500), st.sets(st.sampled_from("abc")))
def test_a_batch_leaves_out_nothing_for_good_and_is_never_too_large(parents: list[str], busy: set[str]) -> None:
    window = [action(parents=one) for one in parents]
    chosen = pick(window, busy)
    assert len(chosen) <= COLLECTION_RECORDS
    assert len({one.id for one in chosen}) == len(chosen)
    assert all(busy.isdisjoint(one.parents) for one in chosen)
    assert bool(chosen) == any(busy.isdisjoint(one.parents) for one in window)


def test_what_keeps_failing_is_sent_in_ever_smaller_batches_and_takes_nobody_along() -> None:
    assert [most(action(attempts=PATIENCE + number)) for number in (0, 1, 2, 8)] == [200, 100, 50, 1]
    failing, fresh = action(attempts=PATIENCE + 1), action()
    assert pick([failing, fresh]) == [failing]


def test_only_an_unanswered_sending_binds_an_action_to_its_key() -> None:
    assert way_of(action(way="idempotency_key", doubted=True)) == "idempotency_key"
    assert way_of(action(way="idempotency_key")) == "collection"
    assert way_of(action("update", if_unmodified_since=NOW)) == "conditional"


def test_of_merged_updates_the_later_value_wins() -> None:
    row = (action("update", fields={"A": 1, "B": 1}), action("update", fields={"B": 2}))
    assert merged(row).fields == {"A": 1, "B": 2}


# -- Bulk rows


values = st.one_of(
    st.none(), st.booleans(), st.integers(-5, 5), st.sampled_from(["", " a", 'b"\n', "b", "é,;", "1.50"])
)
some_fields = st.dictionaries(st.sampled_from(["Name", "Title", "Amount"]), values, min_size=1)


def outcomes_of(actions: list[Pending], fates: list[int]) -> Results:
    """What an org would answer, in an order of its own."""
    columns, rows = table(actions)
    tried, untried = [], []
    for number, (line, fate) in enumerate(zip(rows, fates, strict=True)):
        given = dict(zip(columns, line, strict=True))
        if fate == 2:
            untried.append(given)
        else:
            errors = () if fate == 0 else (OrgComplaint("X", "no"),)
            tried.append(ResultRow(given, fate == 0, f"003{number:012d}AAA" if fate == 0 else None, True, errors))
    random.shuffle(tried)
    return Results(tried, untried, True)


@given(st.lists(st.tuples(some_fields, st.integers(0, 2)), min_size=1, max_size=12))
def test_every_row_of_a_result_finds_an_action_that_sent_it(sent: list[tuple[dict[str, Any], int]]) -> None:
    actions = [action(fields=fields) for fields, _ in sent]
    fates = [fate for _, fate in sent]
    assigned = assign(actions, outcomes_of(actions, fates))
    assert len(assigned.results) == sum(fate < 2 for fate in fates)
    assert len(assigned.untried) == fates.count(2)
    assert not assigned.untried & set(assigned.results)
    for one in actions:
        if one.id in assigned.results:
            own = {name: value for name, value in (cells(one) or {}).items() if value}
            assert own == {name: value for name, value in assigned.results[one.id].cells.items() if value}


def test_values_that_come_back_changed_are_found_and_what_is_nobodys_is_left() -> None:
    one, other = action(fields={"Name": "a\r\nb ", "Amount": Decimal("1.50")}), action(fields={"Name": "c"})
    back = ResultRow({"Name": "a\nb", "Amount": "1.5"}, True, RECORD, True, ())
    strange = ResultRow({"Name": "z", "Amount": ""}, True, RECORD, True, ())
    assigned = assign([one, other], Results([back, strange], [], True))
    assert set(assigned.results) == {one.id}


def test_what_a_cell_cannot_say_is_not_put_into_a_job() -> None:
    assert cells(action(fields={"A": None, "B": "", "C": True, "D": Decimal("1E+2")})) == {
        "A": "#N/A",
        "B": "#N/A",
        "C": "true",
        "D": "100",
    }
    assert cells(action(fields={"Account": {"Ext__c": "A-1"}})) == {"Account.Ext__c": "A-1"}
    for impossible in ("#N/A", ["a"], {"type": "Account", "Ext__c": "1"}):
        assert cells(action(fields={"A": impossible})) is None


def test_a_job_quotes_what_it_holds_and_leaves_empty_what_it_does_not() -> None:
    assert to_csv(["A", "B"], [['x"y', ""], ["", "1\n2"]]) == b'"A","B"\n"x""y",\n,"1\n2"\n'


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("REQUIRED_FIELD_MISSING:Required fields are missing: [Name]:Name --",
         OrgComplaint("REQUIRED_FIELD_MISSING", "Required fields are missing: [Name]", ("Name",))),
        ("DUPLICATE_VALUE:duplicate value found: Ext__c: 001:--",
         OrgComplaint("DUPLICATE_VALUE", "duplicate value found: Ext__c: 001", ())),
        ("something else", OrgComplaint("", "something else")),
    ],
)  # fmt: skip
def test_a_rows_error_is_read(text: str, complaint: OrgComplaint) -> None:
    assert row_error(text) == complaint


# -- whose record


def suspect(**sent: Any) -> Suspect:
    return Suspect(uuid.uuid4(), sent, NOW)


def record(name: str, **held: Any) -> Found:
    return Found(name, {"A": None, "B": None} | held, NOW + timedelta(seconds=1))


def test_what_one_pairing_leaves_makes_another_certain() -> None:
    short, long = suspect(A=1), suspect(A=1, B=2)
    found = pair([short, long], [record("r1", A=1, B=2), record("r2", A=1)])
    assert found.adopted == {short.id: "r2", long.id: "r1"}
    assert pair([short, long], [record("r1", A=1, B=2)]).unexplained == ("r1",)


def test_a_record_that_a_sending_under_way_may_have_made_is_neither_adopted_nor_unexplained() -> None:
    one = suspect(A=1)
    found = pair([one], [record("r1", A=1)], [{"A": 1}])
    assert (found.adopted, found.under_way, found.unexplained) == ({}, ("r1",), ())


@pytest.mark.parametrize(
    ("kind", "sent", "kept"),
    [
        ("string", "  Ada ", "Ada"),
        ("email", "Ada@Example.COM", "ada@example.com"),
        ("currency", "2.345", Decimal("2.35")),
        ("double", "1234567890123456.78", "1234567890123456.8"),
        ("reference", "003000000000001", "003000000000001AAA"),
        ("date", "2026-01-31T10:00:00Z", "2026-01-31"),
        ("datetime", "2026-01-31T12:00:00.900+02:00", "2026-01-31T10:00:00.000+0000"),
        ("datetime", "0001-01-01T00:00:00+14:00", "0001-01-01T00:00:00+14:00"),  # before all that can be said in UTC
        ("time", "10:00", "10:00:00.000Z"),
        ("boolean", "1", True),
        ("picklist", "warm", "Warm"),
        ("multipicklist", "b; a", "A;B"),
        ("textarea", "a\r\nb", "a\nb"),
    ],
)
def test_a_sent_value_is_known_again_as_the_org_keeps_it(kind: str, sent: Any, kept: Any) -> None:
    field = FieldDescribe("F", kind, precision=18, scale=2)
    assert normalise(field, sent) == normalise(field, kept) is not None


def test_what_the_org_masks_or_rewrites_is_not_compared() -> None:
    assert normalise(FieldDescribe("F", "encryptedstring"), "x") is None
    assert normalise(FieldDescribe("F", "textarea", extra_type_info="richtextarea"), "<b>x</b>") is None
