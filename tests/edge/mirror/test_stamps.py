"""What tells versions apart: the fall-backs of objects without SystemModstamp, archived records, clocks that do not agree."""

from collections.abc import Iterator

import pytest

from tests.edge.mirror.world import SMALL, World, make_world
from tests.org import SharedOrgs
from worker.db import Database
from worker.mirror.remember import remember
from worker.monitoring import status

TITLE = {"name": "Title__c", "type": "string", "label": "Title", "length": 80}
HOUR = 3600


@pytest.fixture
def world(orgs: SharedOrgs, database: Database) -> Iterator[World]:
    with make_world(orgs.like_new(SMALL), database) as made:
        yield made


def add_object(world: World, *system_fields: str) -> list[str]:
    """An object with these of the usual fields, and 20 records of it from an hour ago; their ids."""
    control = world.org.control
    control.add_object("Old__c", "a0Q", [TITLE], system_fields=list(system_fields))
    ids = control.create_rows("Old__c", records=[{"Title__c": f"one {n}"} for n in range(20)])
    control.advance_clock(HOUR)
    return ids


def titles(world: World) -> dict[str, int]:
    return dict(world.query("SELECT title__c, count(*) FROM salesforce.old__c WHERE title__c !~ '^one' GROUP BY 1"))


@pytest.mark.parametrize("stamp", ["LastModifiedDate", "CreatedDate"])
def test_an_object_without_systemmodstamp_is_refreshed_by_the_next_best_stamp(world: World, stamp: str) -> None:
    stamps = ["CreatedDate", "LastModifiedDate"] if stamp == "LastModifiedDate" else ["CreatedDate"]
    ids = add_object(world, "IsDeleted", *stamps)
    world.do("Old__c")
    assert world.one("SELECT stamp_field FROM sfsync.mirrors") == {"stamp_field": stamp}
    world.org.control.create_rows("Old__c", records=[{"Title__c": "new"}] * 3)
    if stamp == "LastModifiedDate":
        world.org.control.change_rows("Old__c", ids=ids[:4], fields={"Title__c": "changed"})
    world.org.control.delete_rows("Old__c", ids=ids[4:6])
    run = world.do("Old__c", "refresh")
    assert run["rows_read"] < 20
    changed = {"changed": 4} if stamp == "LastModifiedDate" else {}
    assert titles(world) == {"new": 3, **changed}
    world.org.control.advance_clock(400)
    world.do("Old__c", "refresh")
    world.do("Old__c", "settle")  # what was deleted without a stamp stands in the log of deletions
    assert world.query("SELECT count(*) FROM salesforce.old__c WHERE id = ANY(%s)", ids[4:6]) == [(0,)]
    assert world.verify("Old__c")["differences"] == 0


def test_records_that_cannot_be_had_by_id_are_asked_for_by_a_query(world: World) -> None:
    world.org.control.add_object("Log__c", "a0L", [TITLE], retrieveable=False)
    ids = world.org.control.create_rows("Log__c", records=[{"Title__c": f"one {n}"} for n in range(20)])
    world.do("Log__c")
    world.org.control.change_rows("Log__c", ids=ids[:2], fields={"Title__c": "two"})
    remember(world.deps, world.connection_id, "Log__c", ids[:3])
    assert world.query("SELECT count(*) FROM salesforce.log__c WHERE title__c = 'two'") == [(2,)]
    world.org.control.purge_rows("Log__c", ids=ids[5:7])
    assert world.verify("Log__c", repair=True)["repaired"] == 2
    assert world.verify("Log__c")["differences"] == 0


def test_an_object_without_any_stamp_is_read_whole_each_time(world: World) -> None:
    ids = add_object(world)
    world.do("Old__c")
    assert world.one("SELECT stamp_field FROM sfsync.mirrors") == {"stamp_field": None}
    world.org.control.change_rows("Old__c", ids=ids[:4], fields={"Title__c": "changed"})
    world.org.control.delete_rows("Old__c", ids=ids[4:6])
    world.org.control.create_rows("Old__c", records=[{"Title__c": "new"}] * 3)
    run = world.do("Old__c", "refresh")
    assert (run["rows_read"], run["rows_changed"], run["rows_deleted"]) == (21, 7, 2)
    assert titles(world) == {"changed": 4, "new": 3}
    assert world.do("Old__c", "settle")["calls"] == 0
    assert world.verify("Old__c")["differences"] == 0


@pytest.mark.parametrize("route", ["bulk", "rest"])
def test_archived_records_are_kept_and_found_again(world: World, route: str) -> None:
    """Old activities: only queryAll shows them, neither a query nor a read by Id."""
    control = world.org.control
    fields = [TITLE, {"name": "IsArchived", "type": "boolean", "label": "Archived"}]
    control.add_object("Old__c", "a0Q", fields)
    control.create_rows("Old__c", records=[{"Title__c": "young"}] * 3)
    archived = control.create_rows("Old__c", records=[{"Title__c": "old", "IsArchived": True}] * 4)
    control.delete_rows("Old__c", ids=archived[:1])
    control.advance_clock(HOUR)
    world.mirror("Old__c", route=route)
    world.do("Old__c")
    count = "SELECT count(*) FILTER (WHERE isarchived), count(*) FROM salesforce.old__c"
    assert world.query(count) == [(3, 6)]
    assert world.verify("Old__c")["differences"] == 0
    (late,) = control.create_rows("Old__c", records=[{"Title__c": "old", "IsArchived": True}])
    world.do("Old__c", "refresh")
    assert world.query(count) == [(4, 7)]
    control.advance_clock(HOUR)
    world.do("Old__c", "refresh")
    world.query("DELETE FROM salesforce.old__c WHERE id = ANY(%s)", [archived[1], late])
    found = world.verify("Old__c", repair=True)
    assert (found["missing"], found["repaired"]) == (2, 2)
    assert world.query(count) == [(4, 7)]
    run = world.do("Old__c", "load")
    assert (run["rows_changed"], run["rows_deleted"]) == (0, 0)
    assert world.verify("Old__c")["differences"] == 0


def test_an_org_whose_clock_is_behind_ours_is_told_by_its_own(world: World) -> None:
    now = world.org.control.status()["now_ms"]
    world.org.control.set_clock(now - 5 * HOUR * 1000)
    world.do("Account")
    world.org.control.advance_clock(60)
    world.org.control.change_rows("Account", count=5, fields={"Phone": "behind"})
    world.do("Account", "refresh")
    assert world.query("SELECT count(*) FROM salesforce.account WHERE phone = 'behind'") == [(5,)]
    world.org.control.late_commits(100)
    record = world.query("SELECT id FROM salesforce.account LIMIT 1")[0][0]
    world.write("Account", record, Phone="late")
    for seconds in (90, 400):
        world.org.control.advance_clock(seconds)
        world.do("Account", "refresh")
    assert world.do("Account", "settle")["rows_changed"] == 1
    (mirror,) = status(world.database, world.settings).mirrors
    assert 0 <= mirror["fresh_lag"] < 60
    assert 0 <= mirror["settled_lag"] < 240
    assert world.verify("Account")["differences"] == 0
