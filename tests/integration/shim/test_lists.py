"""Lists from the mirror: pages by key, filters, chosen fields, exact numbers."""

import json
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg.types.json import Jsonb

from tests.conftest import new_database
from tests.integration.shim.conftest import FIELD, USER, Shim, body_of, connect, start_shim
from worker.local_servers import EmbeddedPostgres

FIELDS = {
    "Id": "id",
    "Name": "string",
    "Amount": "currency",
    "CloseDate": "date",
    "IsWon": "boolean",
    "Fiscal__c": "int",
    "Start__c": "time",
    "SystemModstamp": "datetime",
}
TABLE = """
CREATE TABLE salesforce.deal__c (id text COLLATE "C" PRIMARY KEY, name text, amount numeric, closedate date, iswon boolean,
  fiscal__c bigint, start__c time, systemmodstamp timestamptz, _read bigint NOT NULL DEFAULT 0)
"""
ROWS = [
    ("a01000000000001AAA", "Abe", "1234567890123456.78", "2026-01-31", True, 2026, "08:30", "2026-02-01T00:00:00Z"),
    ("a01000000000002AAA", "Abe", "-0.10", "2026-01-31", False, None, None, "2026-02-02T00:00:00Z"),
    ("a01000000000003AAA", "50%_off", None, None, None, 9007199254740993, None, "2026-02-03T00:00:00Z"),
    ("a01000000000004AAA", None, "7", "2025-12-31", True, 1, None, "2026-02-04T00:00:00Z"),
]


@pytest.fixture(scope="module")
def deals(postgres: EmbeddedPostgres) -> Iterator[Shim]:
    """A mirror of every type of column."""
    with new_database(postgres) as url:
        connection_id = connect(url)
        describe = {"name": "Deal__c", "fields": [FIELD | {"name": n, "type": t} for n, t in FIELDS.items()]}
        with psycopg.connect(url) as connection:
            connection.execute(TABLE)
            connection.execute(
                "INSERT INTO sfsync.mirrors (connection_id, object, table_name, state, fresh_cursor, describe, stamp_field)"
                " VALUES (%s, 'Deal__c', 'deal__c', 'live', clock_timestamp(), %s, 'SystemModstamp')",
                (connection_id, Jsonb(describe)),
            )
        with start_shim(url) as shim:
            fill(shim, ROWS)
            yield shim


def fill(shim: Shim, rows: list[tuple[Any, ...]]) -> None:
    with psycopg.connect(shim.url) as connection:
        connection.execute("TRUNCATE salesforce.deal__c")
        connection.cursor().executemany(b"INSERT INTO salesforce.deal__c VALUES (%s, %s, %s, %s, %s, %s, %s, %s)", rows)


def ask(shim: Shim, **query: Any) -> Any:
    return shim.client.get("/api/salesforce/objects/deal__c", params={"user_id": USER, **query})


def ids(shim: Shim, **query: Any) -> str:
    """The records' numbers in the order of the answer."""
    answer = ask(shim, **query)
    return "".join(one["Id"][14] for one in body_of(answer)["data"]["records"])


def test_numbers_are_as_exact_as_in_postgres(deals: Shim) -> None:
    text = ask(deals, order_by="Id").text
    assert '"Amount":1234567890123456.78,' in text
    assert '"Amount":-0.10,' in text
    assert '"Fiscal__c":9007199254740993,' in text


def test_values_have_the_formats_of_the_org(deals: Shim) -> None:
    first = json.loads(ask(deals, order_by="Id").content, parse_float=Decimal)["data"]["records"][0]
    assert first == {
        "attributes": {"type": "Deal__c", "url": "/services/data/v62.0/sobjects/Deal__c/a01000000000001AAA"},
        "Id": "a01000000000001AAA",
        "Name": "Abe",
        "Amount": Decimal("1234567890123456.78"),
        "CloseDate": "2026-01-31",
        "IsWon": True,
        "Fiscal__c": 2026,
        "Start__c": "08:30:00.000Z",
        "SystemModstamp": "2026-02-01T00:00:00.000+0000",
    }


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ({}, "1234"),
        ({"order_by": "-Id"}, "4321"),
        ({"order_by": "Name"}, "3124"),  # nulls last
        ({"order_by": "-Name"}, "2134"),
        ({"order_by": "closedate"}, "4123"),
        ({"order_by": "-Amount"}, "1423"),
        ({"Name": "Abe"}, "12"),
        ({"name": "Abe", "IsWon": "true"}, "1"),
        ({"Name[ne]": "Abe"}, "3"),
        ({"Name[null]": "true"}, "4"),
        ({"Name[null]": "false"}, "123"),
        ({"Name[in]": "Abe,50%_off"}, "123"),
        ({"Name[starts]": "50%_"}, "3"),
        ({"Name[starts]": "5__"}, ""),
        ({"Name[contains]": "BE"}, "12"),
        ({"Amount[gte]": "7"}, "14"),
        ({"Amount[lt]": "0"}, "2"),
        ({"Amount": "1234567890123456.78"}, "1"),
        ({"CloseDate[gt]": "2025-12-31", "CloseDate[lte]": "2026-01-31"}, "12"),
        ({"Fiscal__c[in]": "1,2026"}, "14"),
        ({"SystemModstamp[lt]": "2026-02-02T01:00:00+01:00"}, "1"),
        ({"updated_since": "2026-02-03T00:00:00Z"}, "34"),
        ({"updated_since": "2026-02-03T00:00:00+00:00", "Name[null]": "true"}, "4"),
    ],
)
def test_order_and_filters(deals: Shim, query: dict[str, str], expected: str) -> None:
    assert ids(deals, **query) == expected


def test_only_the_chosen_fields_are_shown_and_the_id(deals: Shim) -> None:
    records = body_of(ask(deals, fields="name,IsWon", limit="1"))["data"]["records"]
    assert list(records[0]) == ["attributes", "Id", "Name", "IsWon"]
    one = deals.client.get(
        "/api/salesforce/objects/Deal__c/a01000000000001", params={"user_id": USER, "fields": "Amount"}
    )
    assert list(body_of(one)["data"]) == ["attributes", "Id", "Amount"]


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ({"Nope": "1"}, "INVALID_FIELD"),
        ({"order_by": "Nope"}, "INVALID_FIELD"),
        ({"fields": "Name,Nope"}, "INVALID_FIELD"),
        ({"_read": "1"}, "VALIDATION_ERROR"),
        ({"fields": "_read"}, "INVALID_FIELD"),
        ({"fields": ""}, "INVALID_FIELD"),
        ({"Amount": "much"}, "VALIDATION_ERROR"),
        ({"Amount": "NaN"}, "VALIDATION_ERROR"),
        ({"Amount": "1e999999"}, "VALIDATION_ERROR"),
        ({"IsWon": "perhaps"}, "VALIDATION_ERROR"),
        ({"Fiscal__c": "99999999999999999999"}, "VALIDATION_ERROR"),
        ({"CloseDate": "2026-02-30"}, "VALIDATION_ERROR"),
        ({"Start__c": "25:00"}, "VALIDATION_ERROR"),
        ({"Amount[contains]": "1"}, "VALIDATION_ERROR"),
        ({"Name[like]": "a"}, "VALIDATION_ERROR"),
        ({"Name[": "a"}, "VALIDATION_ERROR"),
        ({"Name": ["a", "b"]}, "VALIDATION_ERROR"),
        ({"Name": "a\x00"}, "VALIDATION_ERROR"),
        ({"Name": "x" * 5000}, "VALIDATION_ERROR"),
        ({"updated_since": "yesterday"}, "VALIDATION_ERROR"),
        ({"limit": "0"}, "VALIDATION_ERROR"),
        ({"limit": "2001"}, "VALIDATION_ERROR"),
        ({"limit": "ten"}, "VALIDATION_ERROR"),
        ({"cursor": "x"}, "INVALID_CURSOR"),
        ({"cursor": "W10"}, "INVALID_CURSOR"),
        ({"cursor": "bnVsbA"}, "INVALID_CURSOR"),
    ],
)
def test_what_cannot_be_asked_is_refused(deals: Shim, query: dict[str, Any], code: str) -> None:
    answer = ask(deals, **query)
    assert (answer.status_code, body_of(answer)["error"]["code"]) == (400, code)


def test_a_cursor_belongs_to_its_question(deals: Shim) -> None:
    cursor = body_of(ask(deals, limit="1", order_by="Amount"))["data"]["next_cursor"]
    assert ask(deals, limit="3", order_by="Amount", cursor=cursor).status_code == 200  # the size of a page may change
    for other in ({"order_by": "-Amount"}, {"order_by": "Amount", "Name": "Abe"}, {"order_by": "CloseDate"}):
        assert body_of(ask(deals, limit="1", cursor=cursor, **other))["error"]["code"] == "INVALID_CURSOR"


NAMES = st.sampled_from([None, "", "a", "A", "b", "é", "ß", "zz"])
AMOUNTS = st.sampled_from([None, "0", "-1.5", "1.50", "1e20"])


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(
    rows=st.lists(st.tuples(NAMES, AMOUNTS), max_size=12),
    order=st.sampled_from(["Id", "-Id", "Name", "-Name", "Amount", "-Amount"]),
    limit=st.integers(1, 4),
    change=st.data(),
)
def test_pages_show_every_record_that_stays_once_and_in_order_whatever_changes_meanwhile(
    deals: Shim, rows: list[tuple[Any, Any]], order: str, limit: int, change: Any
) -> None:
    """Between pages, one record goes and one comes."""
    made = [(f"a0100000000{number:04}AAA", name, amount, *[None] * 5) for number, (name, amount) in enumerate(rows)]
    fill(deals, made)
    whole = [one["Id"] for one in body_of(ask(deals, order_by=order))["data"]["records"]]
    seen: list[str] = []
    touched: set[str] = set()
    query = {"order_by": order, "limit": str(limit)}
    while True:
        data = body_of(ask(deals, **query))["data"]
        seen += [one["Id"] for one in data["records"]]
        if data["next_cursor"] is None:
            break
        query["cursor"] = data["next_cursor"]
        if len(touched) > len(whole):
            continue  # a record that comes at the end for each page read would never let us finish
        with psycopg.connect(deals.url) as connection:
            gone = change.draw(st.sampled_from(whole))
            connection.execute("DELETE FROM salesforce.deal__c WHERE id = %s", (gone,))
            new = f"a0199999999{len(touched):04}AAA"
            connection.execute(
                "INSERT INTO salesforce.deal__c (id, name) VALUES (%s, %s) ON CONFLICT DO NOTHING",
                (new, change.draw(NAMES)),
            )
            touched |= {gone, new}
    assert [one for one in seen if one not in touched] == [one for one in whole if one not in touched]
    assert len(seen) == len(set(seen))
