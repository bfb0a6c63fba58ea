"""A worker that dies at every durable step of a run: just before its commit, and just after it.

Whoever takes the run up finds what was committed, loses nothing of it, and does nothing twice.
"""

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.edge.mirror.mortal import MortalWorker
from tests.edge.mirror.world import SMALL, World, make_world
from tests.org import SharedOrgs
from worker.db import Database

TIMEOUT = [{"errorCode": "QUERY_TIMEOUT", "message": "Your query request was running for too long."}]
CLAIM = 1  # the first transaction of a step that writes
DURABLE = """
SELECT r.state, r.stage, r.job_id, r.options - 'covered' AS options, r.rows_read, r.rows_changed, r.rows_deleted, m.fresh_cursor,
       (SELECT array_agg((p.number, p.state) ORDER BY p.number) FROM sfsync.run_pages p WHERE p.run_id = r.id) AS pages,
       (SELECT count(*) FROM sfsync.child_reads) AS children
  FROM sfsync.runs r JOIN sfsync.mirrors m ON m.id = r.mirror_id WHERE r.id = :id
"""


@pytest.fixture
def world(orgs: SharedOrgs, database: Database) -> Iterator[World]:
    settings = {"bulk_page_rows": 50, "bulk_threshold_rows": 20, "bulk_poll_seconds": 0.05}
    with make_world(orgs.like_new(SMALL), database, **settings) as made:
        made.org.control.advance_clock(3600)
        yield made


def die_at_every_step(world: World, run_id: int) -> dict[str, Any]:
    """Take the run to its end; no worker lives longer than until it has left something behind. The run's row."""
    worker = MortalWorker(world)
    writes, deaths, left = CLAIM + 1, 0, durable(world, run_id)
    try:
        while (run := world.run(run_id))["state"] == "ready":
            for undone in (True, False):
                world.query("UPDATE sfsync.runs SET attempts = 0 WHERE id = %s", run_id)  # so many deaths would park it
                deaths += worker.step(run_id, writes=writes, undone=undone) is None
            before, left = left, durable(world, run_id)
            writes = CLAIM + 1 if left != before else writes + 1
            assert writes < 30, left
    finally:
        worker.close()
    assert deaths > 4
    assert run["state"] == "done", run["error"]
    return run


def durable(world: World, run_id: int) -> str:
    """What a death leaves behind of the run."""
    return json.dumps(world.one(DURABLE, id=run_id), default=str, sort_keys=True)


def assert_right(world: World, name: str) -> None:
    """The mirror is the org's copy, and nothing of the dead is left."""
    assert world.verify(name)["differences"] == 0
    table = name.lower()
    assert world.query(f"SELECT count(*) - count(DISTINCT id) FROM salesforce.{table}") == [(0,)]
    left = "SELECT relname::text FROM pg_class WHERE relname ~ '^_(staging|suspects)_' AND relkind = 'r'"
    assert world.query(left) == []


def load(world: World) -> None:
    """A first load, straight into the table."""
    run = die_at_every_step(world, world.ask("Contact"))
    assert (run["rows_read"], run["rows_expected"]) == (120, 120)


def reload(world: World) -> None:
    """A load of a live mirror: staged, merged, and what it did not bring looked at."""
    world.do("Contact")
    world.org.control.purge_rows("Contact", ids=world.org.control.delete_rows("Contact", count=7))
    run = die_at_every_step(world, world.ask("Contact", "load"))
    assert run["rows_deleted"] == 7


def paged(world: World) -> None:
    """A load by REST, in small pages."""
    world.mirror("Contact", route="rest")
    world.org.control.add_fault(
        match={"path_regex": r"/query(All)?\?", "times": 12}, action={"status": 400, "body": TIMEOUT}
    )
    run = die_at_every_step(world, world.ask("Contact"))
    assert run["rows_read"] == 120
    assert run["options"]["place"]["limit"] <= 62


def refresh(world: World) -> None:
    """A refresh by Bulk."""
    world.do("Contact")
    world.org.control.change_rows("Contact", count=60, seed=1)
    world.org.control.delete_rows("Contact", count=9, seed=2)
    run = die_at_every_step(world, world.ask("Contact", "refresh"))
    assert (run["rows_read"], run["rows_deleted"]) == (run["rows_expected"], 9)


def settle(world: World) -> None:
    """A settling read of few records, one of them purged, one that was committed late."""
    world.do("Contact")
    (late, purged, *_) = world.org.control.change_rows("Contact", count=5)
    world.org.control.late_commits(300)
    world.write("Contact", late, Title="late")
    world.org.control.purge_rows("Contact", ids=[purged])
    for _ in range(2):
        world.org.control.advance_clock(200)
        world.do("Contact", "refresh")
    die_at_every_step(world, world.ask("Contact", "settle"))
    assert world.query("SELECT title FROM salesforce.contact WHERE id = %s", late) == [("late",)]
    assert world.query("SELECT cause FROM salesforce._tombstones") == [("invisible",)]


def settle_many(world: World) -> None:
    """A settling read of many records: ids and stamps by Bulk, and what is behind by Id."""
    world.do("Contact")
    changed = world.org.control.change_rows("Contact", count=80, seed=1)
    world.org.control.advance_clock(5)
    world.do("Contact", "refresh")
    world.query("UPDATE salesforce.contact SET systemmodstamp = '2020-01-01', _read = 1 WHERE id = %s", changed[0])
    world.query("DELETE FROM salesforce.contact WHERE id = %s", changed[1])
    world.query("UPDATE sfsync.mirrors SET fresh_cursor = fresh_cursor + interval '10 seconds'")
    world.org.control.advance_clock(300)
    run = die_at_every_step(world, world.ask("Contact", "settle"))
    assert run["options"]["suspects"] == 2


def backfill(world: World) -> None:
    """A column that came is filled; of records that changed a moment ago by a second look."""
    control, score = world.org.control, {"type": "double", "precision": 18, "scale": 2}
    control.add_field("Contact", "Score__c", **score)
    control.change_rows("Contact", count=120, fields={"Score__c": 7})
    control.remove_field("Contact", "Score__c")
    control.advance_clock(3600)
    control.change_rows("Contact", count=3, seed=1)
    world.do("Contact")
    control.add_field("Contact", "Score__c", **score)
    world.query("UPDATE sfsync.mirrors SET described_at = '2000-01-01', fresh_cursor = fresh_cursor + interval '1 min'")
    world.do("Contact", "refresh")
    (run_id,) = world.query("SELECT id FROM sfsync.runs WHERE kind = 'backfill'")[0]
    run = die_at_every_step(world, run_id)
    assert (run["rows_read"], run["options"]["suspects"]) == (120, 3)
    assert world.query("SELECT count(*) FROM salesforce.contact WHERE score__c = 7") == [(120,)]


def audit(world: World) -> None:
    """A verification that repairs."""
    world.do("Contact")
    world.org.control.advance_clock(3600)
    world.do("Contact", "refresh")
    few = "SELECT id FROM salesforce.contact ORDER BY id"
    world.query(f"UPDATE salesforce.contact SET lastname = 'spoilt' WHERE id IN ({few} LIMIT 3)")
    world.query(f"DELETE FROM salesforce.contact WHERE id IN ({few} OFFSET 118)")
    world.query(f"UPDATE salesforce.contact SET id = '003000000000ZZZAAA' WHERE id IN ({few} OFFSET 50 LIMIT 1)")
    run_id = world.ask("Contact", "verify", repair=True)
    die_at_every_step(world, run_id)
    found = world.one("SELECT * FROM sfsync.verifications WHERE run_id = :id", id=run_id)
    assert (found["differences"], found["missing"], found["surplus"], found["repaired"]) == (7, 3, 1, 7)


def children(world: World) -> None:
    """Children of parents that left, without a stamp of their own."""
    for name in ("Account", "Contact"):
        world.do(name)
    world.org.control.change_settings(cascade_stamps=False)
    parents = world.query("SELECT accountid FROM salesforce.contact WHERE accountid IS NOT NULL GROUP BY 1 LIMIT 3")
    world.org.control.delete_rows("Account", ids=[one[0] for one in parents])
    world.do("Account", "refresh")
    assert world.query("SELECT count(*) > 0 FROM sfsync.child_reads") == [(True,)]
    die_at_every_step(world, world.ask("Contact", "children"))
    assert world.query("SELECT count(*) FROM sfsync.child_reads c JOIN sfsync.mirrors m ON m.id = c.mirror_id"
                       " WHERE m.object = 'Contact'") == [(0,)]  # fmt: skip


@pytest.mark.parametrize(
    "story",
    [load, reload, paged, refresh, settle, settle_many, backfill, audit, children],
    ids=lambda story: story.__name__,
)
def test_a_worker_may_die_at_any_step(world: World, story: Callable[[World], None]) -> None:
    story(world)
    assert_right(world, "Contact")
