"""Golden values: what the org holds is what Postgres holds, exactly, by each way in: Bulk's CSV, REST's JSON, reads by Id."""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.edge.mirror.world import SMALL, World, make_world
from tests.org import SharedOrgs
from worker.db import Database

LONG = "Zoë said: \"no\", 'yes'\r\nnext; line\n" + "é😀漢\u200d" * 32_000
LONG = LONG + "." * (131_072 - len(LONG))
TEXTS = (
    '"',
    'say "hi", twice; "again',
    "a,b;c\td|e",
    "line\nbreak",
    "windows\r\nbreak",
    "old\rbreak",
    "\\N",
    "\\.",
    "first\n\\.\nlast",
    "#N/A",
    "null",
    "NULL",
    "''",
    "{}",
    "control \x01\x02\x1b\x1f\x7f\x85 and\u2028separators\u2029",
    "👩‍👩‍👧‍👦 🇩🇪 👍🏽",
    "e\u0301 and \u00e9 are two spellings",
    "\u202eright to left\u202c \u05e9\u05dc\u05d5\u05dd",
    "\ufefffirst and last\uffff\U0010ffff",
    "=1+1",
    "0012",
    "1E5",
    "x" * 255,
)

# Field → (its type, values as REST takes them, text of the column in Postgres)
Golden = dict[str, tuple[dict[str, Any], tuple[Any, ...], tuple[str | None, ...]]]
GOLDEN: Golden = {
    "Whole__c": (
        {"type": "double", "precision": 18, "scale": 0},
        ("123456789012345678", "-999999999999999999", 0, None),
        ("123456789012345678", "-999999999999999999", "0", None),
    ),
    "Fraction__c": (
        {"type": "double", "precision": 18, "scale": 17},
        ("1.23456789012345678", "0.00000000000000001", "-0.1", 3),
        ("1.23456789012345678", "0.00000000000000001", "-0.1", "3"),
    ),
    "Money__c": (
        {"type": "currency", "precision": 18, "scale": 2},
        ("9999999999999999.99", "-0.01", 1234.5, 0.1),
        ("9999999999999999.99", "-0.01", "1234.5", "0.1"),
    ),
    "Share__c": ({"type": "percent", "precision": 18, "scale": 4}, ("33.3333", 100), ("33.3333", "100")),
    "Count__c": ({"type": "int", "digits": 9}, (999_999_999, -999_999_999), ("999999999", "-999999999")),
    "Any__c": (
        {"type": "anyType"},
        ("2026-11-22T10:00:00.000Z", "2026-11-22", "at 10:00:00.000+0000", "12.50", "true"),
        ("2026-11-22T10:00:00.000Z", "2026-11-22", "at 10:00:00.000+0000", "12.50", "true"),
    ),
    "Flag__c": ({"type": "boolean"}, (True, False), ("true", "false")),
    "Text__c": ({"type": "textarea", "length": 4000}, TEXTS, TEXTS),
    "Long__c": ({"type": "textarea", "length": 131_072}, (LONG,), (LONG,)),
    "Empty__c": ({"type": "string", "length": 20}, ("", None), (None, None)),
    "Choices__c": (
        {"type": "multipicklist", "picklist": ["A;1", "B", "C d"], "length": 4099},
        ("B;C d", "B"),
        ("B;C d", "B"),
    ),
    "Secret__c": ({"type": "encryptedstring", "length": 20}, ("*******4711",), ("*******4711",)),
    "Day__c": (
        {"type": "date"},
        ("1700-01-01", "4000-12-31", "2024-02-29", "1900-02-28", "2024-03-31"),
        ("1700-01-01", "4000-12-31", "2024-02-29", "1900-02-28", "2024-03-31"),
    ),
    "Moment__c": (  # around the changes of Europe's and America's clocks, and at the edges of what the org takes
        {"type": "datetime"},
        ("1700-01-01T00:00:00Z", "4000-12-31T23:59:59Z", "2024-03-31T00:59:59Z", "2024-03-31T01:00:00Z",
         "2024-10-27T00:30:00Z", "2024-10-27T01:30:00Z", "2024-11-03T01:30:00-04:00", "1969-12-31T23:59:59Z"),
        ("1700-01-01 00:00:00+00", "4000-12-31 23:59:59+00", "2024-03-31 00:59:59+00", "2024-03-31 01:00:00+00",
         "2024-10-27 00:30:00+00", "2024-10-27 01:30:00+00", "2024-11-03 05:30:00+00", "1969-12-31 23:59:59+00"),
    ),
    "Hour__c": ({"type": "time"}, ("00:00:00.000Z", "23:59:59.999Z", "12:30:00.010Z"), ("00:00:00", "23:59:59.999", "12:30:00.01")),
}  # fmt: skip


@pytest.fixture
def world(orgs: SharedOrgs, database: Database) -> Iterator[World]:
    with make_world(orgs.like_new(SMALL), database) as made:
        yield made


def make_golden(world: World) -> dict[str, dict[str, str | None]]:
    """An object with a field of each type and a record of each value; record id → column → text expected."""
    control = world.org.control
    control.add_object("Golden__c", "a0G", [])
    for name, (words, _, _) in GOLDEN.items():
        control.add_field("Golden__c", name, **words)
    control.add_field("Golden__c", "File__c", type="base64", length=1000)
    control.add_field("Golden__c", "Parent__c", type="reference", reference_to=["Account"])
    for part in ("Place__Latitude__s", "Place__Longitude__s"):
        control.add_field("Golden__c", part, type="double", precision=18, scale=15, compound_name="Place__c")
    control.add_field("Golden__c", "Place__c", type="location")
    account = world.org.control.change_rows("Account", count=1)[0]
    records: list[dict[str, Any]] = []
    expected: list[dict[str, str | None]] = []
    for name, (_, values, texts) in GOLDEN.items():
        records += [{name: value} for value in values]
        expected += [{name.lower(): text} for text in texts]
    records.append({"Parent__c": account[:15], "Place__Latitude__s": "52.520008123456789", "Place__Longitude__s": -0.5})
    expected.append({"parent__c": account, "place__latitude__s": "52.520008123456789", "place__longitude__s": "-0.5"})
    ids = control.create_rows("Golden__c", records=records)
    return dict(zip(ids, expected, strict=True))


def held(world: World, expected: dict[str, dict[str, str | None]]) -> dict[str, dict[str, str | None]]:
    """What the mirror holds where something is expected; numbers without the zeros that end them."""
    columns = sorted({name for one in expected.values() for name in one})
    shown = ", ".join(f"trim_scale({one})::text" if one in NUMBERS else f"{one}::text" for one in columns)
    rows = world.query(f"SELECT id, {shown} FROM salesforce.golden__c")
    whole = {row[0]: dict(zip(columns, row[1:], strict=True)) for row in rows}
    return {one: {name: whole[one][name] for name in expected[one]} for one in expected}


NUMBERS = {
    name.lower() for name, (words, _, _) in GOLDEN.items() if words["type"] in ("double", "currency", "percent")
} | {
    "place__latitude__s",
    "place__longitude__s",
}


def test_golden_values_come_in_exactly_by_every_way(world: World) -> None:
    expected = make_golden(world)
    world.org.control.create_rows(
        "Golden__c", records=[{"Place__Longitude__s": 1}]
    )  # stays, so that the table is not taken for emptied below
    run = world.do("Golden__c")  # by Bulk, CSV
    assert run["job_id"] is not None
    assert held(world, expected) == expected
    mirror = world.one("SELECT skipped_fields, columns FROM sfsync.mirrors")
    assert mirror["skipped_fields"] == ["File__c"]
    assert not {"file__c", "place__c"} & set(mirror["columns"])

    world.query("DELETE FROM salesforce.golden__c WHERE id = ANY(%s) RETURNING 1", list(expected))
    run = world.do("Golden__c", "refresh")  # by REST, JSON
    assert run["job_id"] is None
    assert run["rows_changed"] == len(expected)
    assert held(world, expected) == expected
    found = world.verify("Golden__c")  # both ways beside each other
    assert (found["differences"], found["moved"], found["nul_bytes"]) == (0, 0, 0)

    world.org.control.advance_clock(3600)  # so far back that no refresh reads these records again
    world.do("Golden__c", "refresh")
    spoilt = ", ".join(f"{name} = NULL" for name in sorted({name for one in expected.values() for name in one}))
    world.query(f"UPDATE salesforce.golden__c SET {spoilt} RETURNING 1")
    assert world.verify("Golden__c", repair=True)["repaired"] > 30  # by Id
    assert held(world, expected) == expected


def test_nul_bytes_are_taken_out_and_counted_by_each_way_in(world: World) -> None:
    world.do("Account")
    fields = [one["name"] for one in world.one("SELECT describe FROM sfsync.mirrors")["describe"]["fields"]]
    ids = [row[0] for row in world.query("SELECT id FROM salesforce.account ORDER BY id")]
    stamp = "2999-01-01T00:00:00.000Z"
    columns = [name for name in fields if name.lower() in world.one("SELECT columns FROM sfsync.mirrors")["columns"]]
    row = {"Id": ids[0], "Name": "a\0b", "SystemModstamp": stamp, "IsDeleted": False}
    answer = {"totalSize": 1, "done": True, "records": [{name: row.get(name) for name in columns}]}
    world.org.control.add_fault(match={"path_regex": "/queryAll", "times": 1}, action={"status": 200, "body": answer})
    run = world.do("Account", "refresh")
    assert run["nul_bytes"] == 1
    assert world.query("SELECT name FROM salesforce.account WHERE id = %s", ids[0]) == [("ab",)]

    lines = [",".join(f'"{name}"' for name in ("Id", "SystemModstamp"))]
    lines += [f'"{one}\0","{stamp}"' for one in ids]
    headers = {"Content-Type": "text/csv", "Sforce-NumberOfRecords": str(len(ids)), "Sforce-Locator": "null"}
    world.org.control.add_fault(
        match={"path_regex": "/results"}, action={"status": 200, "body": "\n".join(lines) + "\n", "headers": headers}
    )
    assert world.verify("Account", quick=True)["nul_bytes"] == len(ids)
