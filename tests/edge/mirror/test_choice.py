"""Taking a mirror away while a run is at work on it."""

from tests.edge.mirror.world import LARGE, SMALL, make_world
from tests.org import SharedOrgs
from tests.waiting import until
from worker.db import Database
from worker.mirror import choice, steps
from worker.steps import Busy


def test_a_mirror_that_is_removed_in_the_middle_of_a_load_leaves_nothing(orgs: SharedOrgs, database: Database) -> None:
    with make_world(orgs.like_new(LARGE), database, bulk_page_rows=100) as world:
        world.do("Account")
        run_id = world.ask("Account", "load")  # through a staging table
        until(lambda: steps.step(world.deps, run_id) and world.run(run_id)["stage"] == "pages")
        page_id = world.query("SELECT min(id) FROM sfsync.run_pages WHERE run_id = %s", run_id)[0][0]
        mirror_id = world.query("SELECT id FROM sfsync.mirrors")[0][0]
        with database.transaction() as session:
            choice.stop(session, mirror_id)
        assert steps.load_page(world.deps, page_id) != Busy()  # its run is over: there is nothing to do
        assert world.query("SELECT state FROM sfsync.run_pages WHERE id = %s", page_id) == [("ready",)]
        with database.transaction() as session:
            choice.remove(session, mirror_id, drop=True)
        assert steps.step(world.deps, run_id) == Busy()
        left = "SELECT count(*) FROM pg_tables WHERE schemaname = 'salesforce' AND tablename <> '_tombstones'"
        assert world.query(left) == [(0,)]
        assert world.query("SELECT count(*) FROM sfsync.runs") == [(0,)]
        world.do("Account")  # and it can be mirrored again
        assert world.verify("Account")["differences"] == 0


def test_a_table_that_was_kept_is_taken_up_again(orgs: SharedOrgs, database: Database) -> None:
    org = orgs.like_new(SMALL)
    with make_world(org, database) as world:
        world.do("Account")
        with database.transaction() as session:
            choice.stop(session, world.query("SELECT id FROM sfsync.mirrors")[0][0])
        with database.transaction() as session:
            choice.remove(session, world.query("SELECT id FROM sfsync.mirrors")[0][0], drop=False)
        assert world.query("SELECT count(*) FROM salesforce.account") == [(40,)]
        org.control.purge_rows("Account", ids=org.control.delete_rows("Account", count=5))
        world.do("Account")
        assert world.query("SELECT count(*) FROM salesforce.account") == [(35,)]
        assert world.verify("Account")["differences"] == 0
