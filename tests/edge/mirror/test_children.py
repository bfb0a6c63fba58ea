"""Children of parents that left, came back or were merged: they change with them, perhaps without a stamp."""

from collections.abc import Iterator

import pytest

from tests.edge.mirror.world import SMALL, World, make_world
from tests.org import SharedOrgs
from worker.db import Database
from worker.mirror import steps

OBJECTS = ("Account", "Contact", "Opportunity", "Task")


@pytest.fixture
def world(orgs: SharedOrgs, database: Database) -> Iterator[World]:
    with make_world(orgs.like_new(SMALL), database) as made:
        control = made.org.control
        control.change_settings(cascade_stamps=False)  # the worst that an org may do
        accounts = control.create_rows("Account", records=[{"Name": f"family {n}"} for n in range(3)])
        contacts = [{"LastName": f"child {n}", "AccountId": accounts[n]} for n in (0, 0, 1)]
        people = control.create_rows("Contact", records=contacts)
        deal = {"StageName": "Prospecting", "CloseDate": "2030-01-01"}
        deals = [{"Name": f"deal {n}", "AccountId": accounts[n], **deal} for n in (0, 1)]
        deals_ids = control.create_rows("Opportunity", records=deals)
        tasks = [{"Subject": "call", "WhatId": deals_ids[0]}, {"Subject": "write", "WhoId": people[2]}]
        control.create_rows("Task", records=tasks)
        control.advance_clock(3600)
        for name in OBJECTS:
            made.do(name)
        yield made


def families(world: World) -> list[str]:
    return [one[0] for one in world.query("SELECT id FROM salesforce.account WHERE name LIKE 'family%' ORDER BY name")]


def counts(world: World) -> dict[str, int]:
    return {name: world.query(f"SELECT count(*) FROM salesforce.{name}")[0][0] for name in OBJECTS}


def settle_children(world: World) -> None:
    """What the upkeep of every second does, until nothing is left to do."""
    world.query("UPDATE sfsync.mirrors SET next_refresh_at = '2090-01-01', next_settle_at = '2090-01-01'")
    while runs := world.schedule():
        for run_id in runs:
            assert world.finish(run_id)["state"] == "done"
    assert world.query("SELECT count(*) FROM sfsync.child_reads") == [(0,)]


def assert_right(world: World) -> None:
    for name in OBJECTS:
        assert world.verify(name)["differences"] == 0, name


def test_children_and_their_children_leave_and_come_back_with_their_parent(world: World) -> None:
    before = counts(world)
    gone = world.org.control.delete_rows("Account", ids=families(world)[:1])
    world.do("Account", "refresh")
    settle_children(world)
    assert counts(world) == {name: before[name] - lost for name, lost in zip(OBJECTS, (1, 2, 1, 1), strict=True)}
    assert_right(world)
    world.org.control.advance_clock(3600)
    world.org.control.undelete_rows("Account", ids=gone)
    world.do("Account", "refresh")
    settle_children(world)
    assert counts(world) == before
    assert_right(world)


def test_children_follow_a_merge_and_the_tombstone_names_the_winner(world: World) -> None:
    loser, winner = families(world)[:2]
    world.org.control.merge_rows("Account", winner, [loser])
    world.do("Account", "refresh")
    settle_children(world)
    assert world.query("SELECT cause, winner_id FROM salesforce._tombstones") == [("merged", winner)]
    assert world.query("SELECT count(*) FROM salesforce.contact WHERE accountid = %s", winner) == [(3,)]
    assert_right(world)


def test_children_of_a_parent_that_was_purged_leave_too(world: World) -> None:
    world.org.control.purge_rows("Account", ids=families(world)[:1])
    world.org.control.advance_clock(301)
    world.do("Account", "refresh")
    world.do("Account", "settle")
    settle_children(world)
    assert_right(world)


def test_the_list_is_written_with_the_merge_and_outlives_its_reader(world: World) -> None:
    world.org.control.delete_rows("Account", ids=families(world)[:2])
    world.do("Account", "refresh")
    waiting = world.query("SELECT count(*) FROM sfsync.child_reads")
    world.org.control.add_fault(
        match={"path_regex": "composite/sobjects/Contact"},
        action={"status": 503, "body": [{"errorCode": "SERVER_UNAVAILABLE", "message": "later"}]},
    )
    world.org.control.add_fault(match={"path_regex": "composite/sobjects/Opportunity"}, action={"cut": "after"})
    world.query("UPDATE sfsync.mirrors SET next_refresh_at = '2090-01-01', next_settle_at = '2090-01-01'")
    for run_id in world.schedule():
        steps.step(world.deps, run_id)
    assert waiting[0][0] > 0
    settle_children(world)
    assert_right(world)


def test_while_a_load_is_under_way_children_are_read_now_and_again_after_it(world: World) -> None:
    load = world.ask("Contact", "load")
    while world.run(load)["stage"] != "pages":
        steps.step(world.deps, load)
    world.org.control.delete_rows("Account", ids=families(world)[:1])
    world.query("DELETE FROM salesforce.contact WHERE lastname LIKE 'child%'")  # as if they had never come
    world.do("Account", "refresh")
    world.query("UPDATE sfsync.mirrors SET next_refresh_at = '2090-01-01', next_settle_at = '2090-01-01'")
    while runs := world.schedule():  # a child that leaves has children, too
        for run_id in runs:
            world.finish(run_id)
    assert world.query("SELECT DISTINCT after_run FROM sfsync.child_reads") == [(load,)]
    assert world.finish(load)["state"] == "done"
    settle_children(world)
    assert_right(world)
