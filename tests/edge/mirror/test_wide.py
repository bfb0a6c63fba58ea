"""Objects whose filled row would not fit into a page of Postgres are kept in parts, and behave as others do."""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.edge.mirror.world import SMALL, World, make_world
from tests.org import SharedOrgs
from worker.db import Database
from worker.mirror.remember import remember

FIELDS = 800


@pytest.fixture
def world(orgs: SharedOrgs, database: Database) -> Iterator[World]:
    with make_world(orgs.like_new(SMALL), database) as made:
        yield made


def text_field(number: int) -> dict[str, Any]:
    return {"name": f"F{number}__c", "type": "string", "label": f"F{number}", "length": 255}


def filled(mark: str, fields: int = FIELDS) -> dict[str, str]:
    """Every field with a value that Postgres would move out of line if it could, and one that it would not."""
    return {f"F{n}__c": f"{mark} {n} " + "x" * (60 if n % 2 else 8) for n in range(fields)}


def row(world: World, record_id: str) -> dict[str, Any]:
    return world.one("SELECT to_jsonb(w) AS r FROM salesforce.wide__c w WHERE id = :id", id=record_id)["r"]


def tables(world: World) -> set[tuple[str, str]]:
    return set(
        world.query(
            "SELECT relname::text, relkind::text FROM pg_class WHERE relnamespace = 'salesforce'::regnamespace AND relkind IN ('r', 'v') AND relname <> '_tombstones'"
        )
    )


def test_eight_hundred_filled_fields_are_mirrored_changed_verified_and_repaired(world: World) -> None:
    control = world.org.control
    control.add_object("Wide__c", "a0W", [text_field(n) for n in range(FIELDS)])
    first, second, third = control.create_rows("Wide__c", records=[filled("a"), filled("b"), {"F799__c": "alone"}])
    run = world.do("Wide__c")
    assert (run["rows_read"], run["rows_rejected"]) == (3, 0)
    assert tables(world) == {("wide__c", "v"), ("_wide__c_1", "r"), ("_wide__c_2", "r"), ("_wide__c_3", "r")}
    assert {name: row(world, first)[name.lower()] for name in filled("a")} == filled("a")
    assert row(world, third)["f799__c"] == "alone"
    assert world.verify("Wide__c")["differences"] == 0

    control.change_rows("Wide__c", ids=[second], fields={"F0__c": "first part", "F799__c": "last part"})
    control.delete_rows("Wide__c", ids=[third])
    (fourth,) = control.create_rows("Wide__c", records=[filled("d")])
    run = world.do("Wide__c", "refresh")
    assert (run["rows_changed"], run["rows_deleted"], run["rows_rejected"]) == (2, 1, 0)
    assert (row(world, second)["f0__c"], row(world, second)["f799__c"]) == ("first part", "last part")
    assert row(world, fourth)["f400__c"] == filled("d")["F400__c"]
    assert world.query("SELECT count(*) FROM salesforce._wide__c_3") == [(3,)]  # no part keeps what another let go
    assert world.do("Wide__c", "refresh")["rows_changed"] == 0

    control.change_rows("Wide__c", ids=[fourth], fields={"F700__c": "remembered"})
    remember(world.deps, world.connection_id, "Wide__c", [fourth])
    assert row(world, fourth)["f700__c"] == "remembered"

    control.advance_clock(3600)
    world.do("Wide__c", "refresh")
    world.query("UPDATE salesforce._wide__c_3 SET f799__c = 'spoilt' WHERE id = %s RETURNING 1", first)
    world.query("DELETE FROM salesforce._wide__c_1 WHERE id = %s RETURNING 1", second)
    found = world.verify("Wide__c", repair=True)
    assert (found["differences"], found["missing"], found["repaired"]) == (2, 1, 2)
    assert [one["fields"][0]["field"] for one in found["details"] if one["kind"] == "different"] == ["f799__c"]
    assert world.verify("Wide__c")["differences"] == 0
    run = world.do("Wide__c", "load")
    assert (run["rows_read"], run["rows_changed"]) == (3, 0)
    assert {name for name, _ in tables(world)} == {
        "wide__c",
        "_wide__c_1",
        "_wide__c_2",
        "_wide__c_3",
    }  # no staging stays


def test_an_object_that_grows_too_wide_is_spread_over_parts_where_it_stands(world: World) -> None:
    control = world.org.control
    control.add_object("Wide__c", "a0W", [text_field(n) for n in range(200)])
    ids = control.create_rows("Wide__c", records=[filled("a", 200)] * 3)
    world.do("Wide__c")
    assert tables(world) == {("wide__c", "r")}
    for n in range(200, 330):
        control.add_field("Wide__c", f"F{n}__c", type="string", length=255)
    control.advance_clock(3600)
    control.change_rows("Wide__c", ids=ids[:2], fields={"F329__c": "+1"})
    world.query("UPDATE sfsync.mirrors SET described_at = '2000-01-01' RETURNING 1")
    world.do("Wide__c", "refresh")
    assert tables(world) == {("wide__c", "v"), ("_wide__c_1", "r"), ("_wide__c_2", "r")}
    assert (row(world, ids[0])["f329__c"], row(world, ids[2])["f199__c"]) == ("+1", filled("a")["F199__c"])
    found = world.verify("Wide__c")
    assert found["differences"] == 0
    assert world.query("SELECT unfilled_fields FROM sfsync.mirrors") == [([],)]
    control.change_rows("Wide__c", ids=ids, fields={"F3__c": "7"})
    control.add_field("Wide__c", "F3__c", type="int", digits=8)
    control.remove_field("Wide__c", "F329__c")
    world.query("UPDATE sfsync.mirrors SET described_at = '2000-01-01' RETURNING 1")
    assert world.verify("Wide__c")["differences"] == 0  # a retyped column of the first part, a lost one of the second
    assert world.query("SELECT pg_typeof(f3__c)::text, count(f329__c) FROM salesforce.wide__c GROUP BY 1") == [
        ("bigint", 2)
    ]
