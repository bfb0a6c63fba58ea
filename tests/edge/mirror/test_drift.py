"""What changes in the org's schema is followed without a person, and stands in the drift log."""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.edge.mirror.world import LARGE, World, make_world
from tests.org import SharedOrgs
from worker.db import Database
from worker.mirror import reading
from worker.mirror.remember import remember
from worker.mirror.requests import request_run
from worker.salesforce import bulk
from worker.salesforce.bulk import QueryJob


@pytest.fixture
def world(orgs: SharedOrgs, database: Database) -> Iterator[World]:
    with make_world(orgs.like_new(LARGE), database) as made:
        yield made


def due(world: World) -> None:
    """The next run describes, and asks for all of it."""
    world.query("UPDATE sfsync.mirrors SET described_at = '2000-01-01' RETURNING 1")


def drift(world: World) -> list[tuple[str, str, str]]:
    return world.query("SELECT field, change, detail FROM sfsync.drift ORDER BY id")


def backfill(world: World) -> dict[str, object]:
    """See the back-fill that is under way to its end."""
    (run_id,) = world.query("SELECT id FROM sfsync.runs WHERE kind = 'backfill' AND state = 'ready'")[0]
    run = world.finish(run_id)
    assert run["state"] == "done", run["error"]
    assert world.one("SELECT unfilled_fields FROM sfsync.mirrors") == {"unfilled_fields": []}
    return run


def test_a_field_that_came_is_added_and_it_alone_is_filled(world: World) -> None:
    world.org.control.add_field("Account", "Score__c", type="double", precision=18, scale=2)
    old = world.org.control.change_rows("Account", count=40, seed=1, fields={"Score__c": 12.34})
    world.org.control.remove_field("Account", "Score__c")  # its values stay, as of a field that was not permitted yet
    world.org.control.advance_clock(3600)
    young = world.org.control.change_rows("Account", count=10, seed=2)
    world.do("Account")
    world.org.control.add_field("Account", "Score__c", type="double", precision=18, scale=2)
    due(world)
    world.do("Account", "refresh")
    assert drift(world) == [("Score__c", "added", "numeric")]
    assert world.one("SELECT unfilled_fields FROM sfsync.mirrors") == {"unfilled_fields": ["Score__c"]}
    run = backfill(world)
    assert run["columns"] == ["Id", "SystemModstamp", "Score__c"]
    assert run["rows_read"] == 300
    filled = {row[0] for row in world.query("SELECT id FROM salesforce.account WHERE score__c = 12.34")}
    assert filled == set(old)
    assert run["rows_changed"] == len(set(old) - set(young))  # the refresh brought the others
    assert world.query("SELECT count(*) FROM sfsync.runs WHERE kind = 'load'") == [(1,)]
    assert world.verify("Account")["differences"] == 0


def test_a_read_that_was_planned_before_a_field_came_is_not_merged(world: World) -> None:
    world.do("Account")
    stale = world.one("SELECT describe FROM sfsync.mirrors")["describe"]
    world.org.control.add_field("Account", "Score__c", type="double", precision=18, scale=2)
    changed = world.org.control.change_rows("Account", count=5, fields={"Score__c": 7})
    run_id = world.ask("Account", "refresh")
    columns = [field["name"] for field in stale["fields"] if field["type"] not in ("address", "location")]
    world.query(
        "UPDATE sfsync.runs SET stage = 'read', columns = %s, window_start = '2020-01-01' WHERE id = %s RETURNING 1",
        columns,
        run_id,
    )
    due(world)
    other = world.ask("Account", "verify", quick=True)  # describes, then lets the columns be filled first
    assert world.finish(other)["state"] == "done"
    run = world.finish(run_id)
    assert (run["state"], run["options"]["restarts"]) == ("done", 1)
    assert world.query("SELECT count(*) FROM salesforce.account WHERE score__c = 7") == [(len(changed),)]
    assert world.verify("Account")["differences"] == 0


def test_a_permission_that_is_lost_keeps_its_column_and_one_that_returns_fills_it(world: World) -> None:
    world.do("Account")
    hidden = {"Account": ["Phone", "Industry"]}
    world.org.control.hide(world.org.user_id, fields=hidden)
    run = world.do("Account", "refresh")  # the describe is not due: the org's refusal makes it so, within the run
    assert run["options"]["restarts"] == 1
    assert {entry[:2] for entry in drift(world)} == {("Industry", "removed"), ("Phone", "removed")}
    assert set(world.one("SELECT lost_fields FROM sfsync.mirrors")["lost_fields"]) == {"Industry", "Phone"}
    comment = "SELECT col_description('salesforce.account'::regclass, attnum) FROM pg_attribute WHERE attrelid = 'salesforce.account'::regclass AND attname = 'phone'"
    assert "stand still" in world.query(comment)[0][0]
    assert world.query("SELECT count(phone) > 0 FROM salesforce.account") == [(True,)]
    world.org.control.change_rows("Account", count=30, seed=5, fields={"Phone": "+1 555"})
    world.do("Account", "refresh")
    assert world.query("SELECT count(*) FROM salesforce.account WHERE phone = '+1 555'") == [(0,)]
    assert world.verify("Account")["differences"] == 0
    world.org.control.hide(world.org.user_id, objects=[], fields={})
    due(world)
    world.do("Account", "refresh")
    assert {entry[:2] for entry in drift(world)[2:]} == {("Industry", "returned"), ("Phone", "returned")}
    backfill(world)
    assert world.one("SELECT lost_fields FROM sfsync.mirrors") == {"lost_fields": []}
    assert world.query(comment) == [(None,)]
    assert world.query("SELECT count(*) FROM salesforce.account WHERE phone = '+1 555'") == [(30,)]
    assert world.verify("Account")["differences"] == 0


def test_types_picklists_and_sizes_are_followed(world: World) -> None:
    control = world.org.control
    control.add_field("Account", "Code__c", type="string", length=20)
    control.add_field("Account", "Level__c", type="picklist", picklist=["Low", "High"])
    control.add_field("Account", "Count__c", type="int", digits=8)
    control.change_rows("Account", count=25, fields={"Code__c": "0012", "Level__c": "Low", "Count__c": 3})
    world.do("Account")
    control.add_field("Account", "Code__c", type="int", digits=8)
    control.add_field("Account", "Count__c", type="double", precision=18, scale=3)
    control.add_field("Account", "Level__c", type="picklist", picklist=["Low", "Middle"])
    control.add_field("Account", "Name", type="string", length=300, custom=False, label="Account Name", nillable=False)
    due(world)
    world.do("Account", "refresh")
    assert sorted(drift(world)) == [
        ("Code__c", "retyped", "text → bigint"),
        ("Count__c", "retyped", "bigint → numeric"),
        ("Level__c", "picklist", "+ Middle; − High"),
        ("Name", "resized", "length 255 → 300"),
    ]
    backfill(world)
    types = dict(
        world.query(
            "SELECT attname::text, format_type(atttypid, atttypmod) FROM pg_attribute"
            " WHERE attrelid = 'salesforce.account'::regclass AND attname IN ('code__c', 'count__c')"
        )
    )
    assert types == {"code__c": "bigint", "count__c": "numeric"}  # text that holds integers only is a number again
    assert world.verify("Account")["differences"] == 0


def test_an_object_that_is_lost_keeps_its_records_and_returns_by_itself(world: World) -> None:
    world.do("Account")
    world.org.control.hide(world.org.user_id, objects=["Account"])
    run = world.finish(world.ask("Account", "refresh"))
    assert run["state"] == "failed"
    assert "no longer shows Account" in run["error"]
    lost = world.one(
        "SELECT lost_since, next_refresh_at > clock_timestamp() + interval '10 minutes' AS later, state FROM sfsync.mirrors"
    )
    assert lost["lost_since"] is not None
    assert (lost["later"], lost["state"]) == (True, "live")
    world.finish(world.ask("Account", "refresh"))
    assert [entry[1] for entry in drift(world)] == ["object lost"]
    assert world.query("SELECT count(*) FROM salesforce.account") == [(300,)]
    world.org.control.change_rows("Account", count=9)
    world.org.control.purge_rows("Account", ids=world.org.control.delete_rows("Account", count=4, seed=3))
    world.org.control.hide(world.org.user_id, objects=[], fields={})
    world.do("Account", "refresh")
    assert [entry[1] for entry in drift(world)] == ["object lost", "object returned"]
    after = world.one("SELECT lost_since, next_audit_at <= clock_timestamp() AS audit FROM sfsync.mirrors")
    assert after == {"lost_since": None, "audit": True}


def test_an_object_that_got_another_name_is_followed(world: World) -> None:
    control = world.org.control
    control.add_object("Invoice__c", "a0X", [{"name": "Title__c", "type": "string", "label": "Title", "length": 80}])
    control.create_rows("Invoice__c", records=[{"Title__c": f"one {n}"} for n in range(5)])
    world.do("Invoice__c")
    gone = control.delete_rows("Invoice__c", count=1)
    world.do("Invoice__c", "refresh")
    control.rename_object("Invoice__c", "Bill__c")
    control.change_rows("Bill__c", count=4, fields={"Title__c": "after"})
    run = world.do("Invoice__c", "refresh")
    assert run["error"] is None
    assert drift(world) == [("", "object renamed", "Invoice__c → Bill__c; the table keeps its name, invoice__c")]
    assert world.query("SELECT object, table_name FROM sfsync.mirrors") == [("Bill__c", "invoice__c")]
    assert world.query("SELECT count(*) FROM salesforce.invoice__c WHERE title__c = 'after'") == [(4,)]
    assert world.query("SELECT object FROM salesforce._tombstones WHERE id = %s", gone[0]) == [("Bill__c",)]
    assert world.verify("Bill__c")["differences"] == 0
    remember(world.deps, world.connection_id, "Bill__c", gone)
    assert world.query("SELECT count(*) FROM sfsync.mirrors") == [(1,)]


def test_a_person_s_refresh_describes_at_once(world: World) -> None:
    world.do("Account")
    world.org.control.add_field("Account", "Asked__c", type="string", length=20)
    world.do("Account", "refresh")
    column = "SELECT count(*) FROM information_schema.columns WHERE column_name = 'asked__c'"
    assert world.query(column) == [(0,)]  # the timetable's look is not due yet
    with world.database.transaction() as session:
        run_id = request_run(session, world.mirror("Account"), "refresh", "manual")
    world.finish(run_id)
    assert world.query(column) == [(1,)]


def test_a_field_that_is_described_and_cannot_be_read_is_left_out_and_the_rest_goes_on(world: World) -> None:
    world.org.control.add_field("Account", "Score__c", type="double", precision=18, scale=2)
    message = (
        "\nSELECT Score__c FROM Account\n ^\nERROR at Row:1:Column:8\nNo such column 'score__c' on entity 'Account'."
    )
    refusal = {"status": 400, "body": [{"errorCode": "INVALID_FIELD", "message": message}]}
    world.org.control.add_fault(
        match={"path_regex": "jobs/query", "body_regex": "Score__c", "times": None}, action=refusal
    )
    world.org.control.add_fault(match={"path_regex": "Score__c", "times": None}, action=refusal)
    run = world.do("Account")
    assert (run["rows_read"], run["options"]["restarts"]) == (300, 2)
    assert world.one("SELECT lost_fields FROM sfsync.mirrors") == {"lost_fields": ["Score__c"]}
    due(world)
    world.org.control.change_rows("Account", count=3)
    run = world.do("Account", "refresh")
    assert (run["rows_changed"], run["options"].get("restarts")) == (3, None)
    assert world.verify("Account")["differences"] == 0
    world.org.control.clear_faults()
    assert world.do("Account")["options"].get("restarts") is None  # a load tries it again
    assert world.one("SELECT lost_fields FROM sfsync.mirrors") == {"lost_fields": []}
    assert world.verify("Account")["differences"] == 0


def test_a_job_that_fails_for_a_field_that_went_describes_before_it_begins_anew(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.org.control.add_field("Account", "Score__c", type="double", precision=18, scale=2)
    world.do("Account")
    world.org.control.change_rows("Account", count=3)
    monkeypatch.setattr(reading, "is_large", lambda *_: True)
    world.org.control.add_bulk_fault("fail", object="Account", message="INVALID_FIELD: No such column 'Score__c'")
    create = bulk.create_query

    def create_and_remove(*arguments: Any, **options: Any) -> QueryJob:
        job = create(*arguments, **options)
        world.org.control.remove_field("Account", "Score__c")
        monkeypatch.setattr(bulk, "create_query", create)
        return job

    monkeypatch.setattr(bulk, "create_query", create_and_remove)
    run = world.do("Account", "refresh")
    assert (run["rows_changed"], run["options"]["restarts"]) == (3, 1)
    assert "Score__c" not in run["columns"]
