"""The settle reader: changes that become visible after their stamp, and deletions without a trace."""

from collections.abc import Iterator

import pytest

from tests.edge.mirror.world import SMALL, World, make_world
from tests.org import SharedOrgs
from worker.db import Database
from worker.mirror.cursor import LONGEST_TRANSACTION
from worker.monitoring import status


@pytest.fixture
def world(orgs: SharedOrgs, database: Database) -> Iterator[World]:
    with make_world(orgs.like_new(SMALL), database) as made:
        made.org.control.advance_clock(3600)  # what was seeded is long final
        yield made


def some_id(world: World, table: str = "account") -> str:
    return str(world.query(f"SELECT id FROM salesforce.{table} ORDER BY id LIMIT 1")[0][0])


def phone(world: World, record_id: str) -> str | None:
    found = world.query("SELECT phone FROM salesforce.account WHERE id = %s", record_id)
    return found[0][0] if found else None


def settled_lag(world: World) -> float:
    """Seconds between the two cursors."""
    found = world.one("SELECT extract(epoch FROM fresh_cursor - settled_cursor) AS lag FROM sfsync.mirrors")["lag"]
    return float(found)


def test_a_change_that_becomes_visible_minutes_after_its_stamp_arrives(world: World) -> None:
    world.do("Account")
    record = some_id(world)
    world.org.control.late_commits(300)
    world.write("Account", record, Phone="late")
    world.org.control.advance_clock(200)
    world.do("Account", "refresh")
    world.do("Account", "settle")
    assert settled_lag(world) >= 190  # the open transaction's start is as far as anybody can vouch
    world.org.control.advance_clock(101)
    world.do("Account", "refresh")
    assert phone(world, record) != "late"  # the fresh reader has long passed its stamp
    run = world.do("Account", "settle")
    assert (phone(world, record), run["rows_changed"], run["calls"]) == ("late", 1, 1)
    world.org.control.advance_clock(60)
    world.do("Account", "refresh")
    world.do("Account", "settle")
    assert settled_lag(world) < 120
    assert world.verify("Account")["differences"] == 0


def test_of_two_changes_in_one_second_the_one_that_commits_late_wins(world: World) -> None:
    world.do("Account")
    record = some_id(world)
    now = world.org.control.status()["now_ms"] // 1000 * 1000
    world.org.control.set_clock(now, frozen=True)
    world.write("Account", record, Phone="first")
    world.org.control.late_commits(300)
    world.write("Account", record, Phone="second")
    world.org.control.set_clock(now + 60_000)
    world.do("Account", "refresh")
    assert phone(world, record) == "first"
    world.org.control.advance_clock(300)
    world.do("Account", "refresh")
    world.do("Account", "settle")
    assert phone(world, record) == "second"


def test_of_many_changes_only_those_that_are_behind_are_read_in_full(orgs: SharedOrgs, database: Database) -> None:
    org = orgs.like_new(SMALL)
    with make_world(org, database, bulk_threshold_rows=20) as world:
        org.control.advance_clock(3600)
        world.do("Contact")
        org.control.change_rows("Contact", count=100, seed=1)
        world.org.control.advance_clock(5)
        world.do("Contact", "refresh")
        spoilt = [
            one[0] for one in world.query("SELECT id FROM salesforce.contact ORDER BY systemmodstamp DESC LIMIT 3")
        ]
        world.query("UPDATE salesforce.contact SET systemmodstamp = '2020-01-01', _read = 1 WHERE id = %s", spoilt[0])
        world.query("DELETE FROM salesforce.contact WHERE id = %s", spoilt[1])
        gone = org.control.delete_rows("Contact", ids=[spoilt[2]])
        world.query("UPDATE sfsync.mirrors SET fresh_cursor = fresh_cursor + interval '10 seconds'")
        org.control.advance_clock(300)
        org.control.clear_ledger()
        run = world.do("Contact", "settle")
        assert run["job_id"] is not None
        assert run["columns"] == ["Id", "SystemModstamp", "IsDeleted"]
        assert (run["rows_read"], run["rows_changed"], run["rows_deleted"], run["options"]["suspects"]) == (
            100,
            2,
            1,
            3,
        )
        assert world.query("SELECT cause FROM salesforce._tombstones WHERE id = ANY(%s)", gone) == [("deleted",)]
        assert world.verify("Contact")["differences"] == 0


def test_a_record_that_was_purged_at_once_leaves(world: World) -> None:
    world.do("Account")
    gone = world.org.control.purge_rows("Account", ids=[some_id(world)])
    world.org.control.advance_clock(301)
    world.do("Account", "refresh")
    assert phone(world, gone[0]) is not None
    run = world.do("Account", "settle")
    assert phone(world, gone[0]) is None
    assert world.query("SELECT cause FROM salesforce._tombstones WHERE id = %s", gone[0]) == [("invisible",)]
    assert run["calls"] == 3  # the poll, the record by its Id, and among the deleted
    assert world.verify("Account")["differences"] == 0


def test_where_the_org_does_not_say_what_is_final_a_quarter_of_an_hour_is_waited(world: World) -> None:
    world.do("Account")
    world.query(
        "UPDATE sfsync.mirrors SET describe = jsonb_set(describe, '{replicateable}', 'false'), settled_cursor = '2020-01-01'"
    )
    world.org.control.advance_clock(3600)
    world.do("Account", "refresh")
    began = world.do("Account", "settle")["read_started_at"]
    assert world.one("SELECT settled_cursor FROM sfsync.mirrors")["settled_cursor"] == began - LONGEST_TRANSACTION


def test_settle_reads_are_asked_for_when_changes_were_seen_and_seldom_otherwise(world: World) -> None:
    world.do("Account")
    settle = world.settings.settle_seconds

    def pause() -> float:
        seconds = "SELECT extract(epoch FROM next_settle_at - clock_timestamp())::float FROM sfsync.mirrors"
        return float(world.query(seconds)[0][0])

    def scheduled() -> int:
        world.query("UPDATE sfsync.mirrors SET next_settle_at = '2020-01-01', next_refresh_at = '2090-01-01'")
        (run_id,) = world.schedule()
        assert (world.run(run_id)["kind"], world.schedule()) == ("settle", [])
        return run_id

    def refreshed_with_a_change() -> None:
        world.org.control.change_rows("Account", count=1)
        world.do("Account", "refresh")

    assert world.finish(scheduled())["state"] == "done"
    world.do("Account", "refresh")
    assert 2 * settle < pause() <= 3 * settle
    refreshed_with_a_change()
    assert pause() <= settle
    under_way = scheduled()
    refreshed_with_a_change()
    assert world.finish(under_way)["state"] == "done"
    assert pause() <= settle  # what came while it was under way is not put off


def test_lags_are_told_by_the_org_s_clock(world: World) -> None:
    world.org.control.advance_clock(7200)  # three hours ahead of us by now
    world.do("Account")
    world.org.control.advance_clock(120)
    world.do("Account", "settle")
    world.org.control.change_rows("Account", count=1, fields={"Phone": "ahead"})
    world.do("Account", "refresh")
    (mirror,) = status(world.database, world.settings).mirrors
    assert 0 <= mirror["fresh_lag"] < 60
    assert 60 <= mirror["settled_lag"] < 240
    assert world.query("SELECT count(*) FROM salesforce.account WHERE phone = 'ahead'") == [(1,)]
