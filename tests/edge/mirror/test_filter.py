"""A mirror with a row filter holds the records that meet it, and no others."""

from collections.abc import Iterator

import pytest

from tests.edge.mirror.world import SMALL, World, make_world
from tests.org import SharedOrgs
from worker.db import Database
from worker.mirror.remember import remember

FILTER = "Industry = 'Energy' OR Industry = 'Banking'"


@pytest.fixture
def world(orgs: SharedOrgs, database: Database) -> Iterator[World]:
    with make_world(orgs.like_new(SMALL), database) as made:
        made.org.control.change_rows("Account", count=40, fields={"Industry": "Retail"})
        made.org.control.change_rows("Account", count=10, fields={"Industry": "Energy"})
        made.org.control.advance_clock(3600)
        made.mirror("Account", row_filter=FILTER)
        made.do("Account")
        yield made


def ids(world: World) -> list[str]:
    return [one[0] for one in world.query("SELECT id FROM salesforce.account ORDER BY id")]


def causes(world: World) -> dict[str, int]:
    return dict(world.query("SELECT cause, count(*) FROM salesforce._tombstones GROUP BY 1"))


def outside(world: World) -> list[str]:
    held = set(ids(world))
    return [one for one in world.org.control.change_rows("Account", count=40, fields={"Phone": "1"}) if one not in held]


def test_records_enter_leave_and_are_deleted_by_a_fresh_read_of_one_call(world: World) -> None:
    assert len(ids(world)) == 10
    leaving, deleted, gone, *_ = ids(world)
    entering = outside(world)[0]
    world.org.control.change_rows("Account", ids=[leaving], fields={"Industry": "Retail"})
    world.org.control.change_rows("Account", ids=[entering], fields={"Industry": "Banking"})
    world.org.control.delete_rows("Account", ids=[deleted])
    world.org.control.change_rows("Account", ids=[gone], fields={"Industry": "Retail"})
    world.org.control.delete_rows("Account", ids=[gone])
    run = world.do("Account", "refresh")
    assert (run["calls"], run["rows_deleted"], run["rows_changed"]) == (1, 3, 8)
    assert entering in ids(world)
    assert causes(world) == {"filtered": 1, "deleted": 2}
    assert world.verify("Account")["differences"] == 0
    world.org.control.advance_clock(5)
    world.org.control.change_rows("Account", ids=[leaving], fields={"Industry": "Energy"})
    world.do("Account", "refresh")
    assert leaving in ids(world)
    assert world.verify("Account")["differences"] == 0


def test_a_window_too_large_for_rest_is_told_by_reading_everything_that_meets_the_filter(world: World) -> None:
    world.settings = world.settings.model_copy(update={"bulk_threshold_rows": 5})
    leaving = ids(world)[:4]
    world.org.control.change_rows("Account", ids=leaving, fields={"Industry": "Retail"})
    outside(world)
    run = world.do("Account", "refresh")
    assert (run["job_id"] is not None, run["rows_deleted"]) == (True, 4)
    assert causes(world) == {"filtered": 4}
    assert world.verify("Account")["differences"] == 0


def test_what_left_the_filter_late_is_seen_by_the_settle_reader(world: World) -> None:
    leaving = ids(world)[0]
    world.org.control.late_commits(120)
    world.write("Account", leaving, Industry="Retail")
    for _ in range(2):
        world.org.control.advance_clock(100)
        world.do("Account", "refresh")
    assert leaving in ids(world)
    world.do("Account", "settle")
    assert causes(world) == {"filtered": 1}
    assert world.verify("Account")["differences"] == 0


def test_delivered_records_are_remembered_only_where_they_meet_the_filter(world: World) -> None:
    leaving, deleted, *_ = ids(world)
    inside, other = outside(world)[:2]
    world.org.control.change_rows("Account", ids=[leaving, other], fields={"Industry": "Retail"})
    world.org.control.change_rows("Account", ids=[inside], fields={"Industry": "Energy"})
    world.org.control.delete_rows("Account", ids=[deleted])
    remember(world.deps, world.connection_id, "Account", [leaving, inside, other, deleted])
    held = ids(world)
    assert (leaving in held, inside in held, other in held, deleted in held) == (False, True, False, False)
    assert causes(world) == {"filtered": 1, "deleted": 1}
    world.do("Account", "refresh")
    assert world.verify("Account")["differences"] == 0


def test_a_record_that_left_without_a_stamp_is_found_and_taken_out_by_verify(world: World) -> None:
    world.query("UPDATE sfsync.mirrors SET row_filter = 'Industry = ''Banking'''")
    found = world.verify("Account", repair=True)
    assert (found["surplus"], found["repaired"]) == (10, 10)
    assert causes(world) == {"filtered": 10}
    assert world.verify("Account")["differences"] == 0


def test_a_filter_that_the_org_does_not_understand_parks_with_its_words(world: World) -> None:
    world.query("UPDATE sfsync.mirrors SET row_filter = 'Industry == 3'")
    run = world.finish(world.ask("Account", "refresh"))
    assert (run["state"], run["error"].split(":")[0]) == ("parked", "MALFORMED_QUERY")
    assert len(ids(world)) == 10
