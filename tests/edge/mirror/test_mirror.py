"""Load, refresh and verify a real mirror of a local org over the wire."""

from collections.abc import Iterator

import pytest

from tests.edge.mirror.world import LARGE, World, make_world
from tests.org import SharedOrgs
from worker.db import Database


@pytest.fixture
def world(orgs: SharedOrgs, database: Database) -> Iterator[World]:
    with make_world(orgs.like_new(LARGE), database) as made:
        yield made


def test_an_object_is_loaded_whole_and_verified(world: World) -> None:
    run = world.do("Contact")
    assert (run["rows_read"], run["rows_expected"]) == (2500, 2500)
    assert world.query("SELECT count(*), count(DISTINCT id) FROM salesforce.contact") == [(2500, 2500)]
    assert world.query("SELECT number, rows, state FROM sfsync.run_pages ORDER BY number") == [
        (1, 1000, "loaded"),
        (2, 1000, "loaded"),
        (3, 500, "loaded"),
    ]
    assert world.one("SELECT state, fresh_cursor IS NOT NULL AS c FROM sfsync.mirrors") == {"state": "live", "c": True}
    found = world.verify("Contact")
    assert (found["records"], found["differences"], found["moved"]) == (2500, 0, 0)


def test_changes_deletions_and_new_records_arrive_by_a_refresh(world: World) -> None:
    world.do("Contact")
    world.org.control.change_rows("Contact", count=500, seed=1)
    gone = world.org.control.delete_rows("Contact", count=50, seed=2)
    made = world.org.control.create_rows("Contact", count=5)
    run = world.do("Contact", "refresh")
    assert run["rows_deleted"] == 50
    assert run["job_id"] is None
    assert world.query("SELECT count(*) FROM salesforce.contact") == [(2455,)]
    assert world.query(
        "SELECT count(*) FROM salesforce._tombstones WHERE id = ANY(%s) AND cause = 'deleted'", gone
    ) == [(50,)]
    assert world.query("SELECT count(*) FROM salesforce.contact WHERE id = ANY(%s)", made) == [(5,)]
    assert world.verify("Contact")["differences"] == 0


def test_a_second_refresh_changes_nothing_and_moves_the_cursor(world: World) -> None:
    world.do("Account")
    world.org.control.change_rows("Account", count=30)
    world.do("Account", "refresh")
    before = world.one("SELECT fresh_cursor FROM sfsync.mirrors")["fresh_cursor"]
    world.org.control.advance_clock(60)
    run = world.do("Account", "refresh")
    assert (run["rows_changed"], run["rows_deleted"]) == (0, 0)
    assert world.one("SELECT fresh_cursor FROM sfsync.mirrors")["fresh_cursor"] > before


def test_an_undeleted_record_comes_back(world: World) -> None:
    world.do("Contact")
    gone = world.org.control.delete_rows("Contact", count=3)
    world.do("Contact", "refresh")
    world.org.control.advance_clock(5)
    world.org.control.undelete_rows("Contact", ids=gone)
    world.do("Contact", "refresh")
    assert world.query("SELECT count(*) FROM salesforce._tombstones WHERE id = ANY(%s)", gone) == [(0,)]
    assert world.verify("Contact")["differences"] == 0


def test_a_large_refresh_goes_by_bulk(orgs: SharedOrgs, database: Database) -> None:
    org = orgs.like_new(LARGE)
    with make_world(org, database, bulk_threshold_rows=500) as world:
        world.do("Contact")
        org.control.change_rows("Contact", count=2000, seed=1)
        org.control.delete_rows("Contact", count=100, seed=2)
        run = world.do("Contact", "refresh")
        assert run["job_id"] is not None
        assert run["rows_deleted"] == 100
        assert world.query("SELECT count(*) FROM pg_tables WHERE tablename LIKE '\\_staging%'") == [(0,)]
        assert world.verify("Contact")["differences"] == 0


def test_a_full_load_of_a_live_mirror_takes_out_what_is_gone_without_a_trace(world: World) -> None:
    world.do("Contact")
    purged = world.org.control.purge_rows("Contact", ids=world.org.control.delete_rows("Contact", count=7))
    world.query(
        "UPDATE salesforce.contact SET lastname = 'spoilt' WHERE id IN (SELECT id FROM salesforce.contact LIMIT 3)"
    )
    run = world.do("Contact", "load")
    assert run["rows_deleted"] == 7
    assert run["rows_changed"] == 3
    assert world.query("SELECT count(*), min(cause) FROM salesforce._tombstones WHERE id = ANY(%s)", purged) == [
        (7, "invisible")
    ]
    assert world.verify("Contact")["differences"] == 0


def test_verify_finds_what_was_spoilt_and_repair_mends_it(world: World) -> None:
    world.do("Account")
    ids = [one[0] for one in world.query("SELECT id FROM salesforce.account ORDER BY id LIMIT 3")]
    world.query(
        "UPDATE salesforce.account SET name = 'spoilt', systemmodstamp = '2990-01-01' WHERE id = %s RETURNING 1", ids[0]
    )
    world.query("DELETE FROM salesforce.account WHERE id = %s RETURNING 1", ids[1])
    world.query("UPDATE salesforce.account SET id = '001000000000ZZZAAA' WHERE id = %s RETURNING 1", ids[2])
    found = world.verify("Account")
    assert (found["differences"], found["missing"], found["surplus"], found["repaired"]) == (4, 2, 1, 0)
    different = next(one for one in found["details"] if one["kind"] == "different")
    assert {"id": ids[0], "kind": "different"}.items() <= different.items()
    assert {"name", "systemmodstamp"} == {field["field"] for field in different["fields"]}
    assert world.verify("Account", quick=True)["differences"] == 4
    assert world.verify("Account", repair=True)["repaired"] == 4
    assert world.verify("Account")["differences"] == 0
    assert world.query("SELECT count(*) FROM salesforce.account") == [(300,)]


def test_what_moves_while_verifying_is_no_difference(world: World) -> None:
    world.do("Contact")
    world.org.control.change_rows("Contact", count=40, seed=4)
    world.org.control.delete_rows("Contact", count=10, seed=5)
    found = world.verify("Contact")
    assert found["differences"] == 0
    assert found["moved"] > 0


def test_an_object_without_isdeleted_is_mirrored(world: World) -> None:
    world.do("User")
    world.do("User", "refresh")
    assert world.verify("User")["differences"] == 0


def test_a_field_that_went_is_no_longer_asked_for_and_its_column_stays(world: World) -> None:
    world.org.control.add_field("Account", "Score__c", type="double", precision=18, scale=2)
    world.do("Account")
    world.org.control.remove_field("Account", "Score__c")
    world.do("Account", "refresh")  # the describe is not due: the org's refusal makes it so
    assert world.query("SELECT field, change FROM sfsync.drift") == [("Score__c", "removed")]
    assert world.query("SELECT count(score__c) FROM salesforce.account") == [(0,)]
    assert world.verify("Account")["differences"] == 0
