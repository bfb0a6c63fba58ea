"""A read that would take too much out of a mirror stops and asks a person."""

from collections.abc import Iterator

import pytest

from tests.edge.mirror.world import LARGE, World, make_world
from tests.org import SharedOrgs
from worker.db import Database
from worker.errors import SettingsError
from worker.mirror import guard
from worker.monitoring import status


@pytest.fixture
def world(orgs: SharedOrgs, database: Database) -> Iterator[World]:
    with make_world(orgs.like_new(LARGE), database) as made:
        made.do("Account")
        yield made


def count(world: World) -> int:
    return int(world.query("SELECT count(*) FROM salesforce.account")[0][0])


def hide(world: World, number: int) -> list[str]:
    """As if sharing no longer reached so many records: no deletion, no stamp."""
    ids = [one[0] for one in world.query("SELECT id FROM salesforce.account ORDER BY id LIMIT %s", number)]
    world.org.control.hide(world.org.user_id, rows=ids)
    return ids


def test_a_share_at_the_limit_leaves_and_one_more_asks(world: World) -> None:
    hidden = hide(world, 60)  # a fifth of 300
    assert world.do("Account", "load")["rows_deleted"] == 60
    world.org.control.hide(world.org.user_id, show_rows=hidden)
    assert world.do("Account", "load")["rows_changed"] == 60  # seen again, with their old stamps
    assert (count(world), world.verify("Account")["differences"]) == (300, 0)
    hide(world, 61)
    run = world.finish(world.ask("Account", "load"))
    assert (run["state"], count(world)) == ("parked", 300)
    with world.database.transaction() as session:
        (asked,) = guard.removals(session)
    assert (asked.run_id, asked.leaving, asked.records, len(asked.sample)) == (run["id"], 61, 300, 20)
    assert status(world.database, world.settings).mirrors[0]["run_held"] is not None


def test_what_a_person_confirms_is_removed_and_what_is_refused_stays(world: World) -> None:
    hidden = hide(world, 250)
    run = world.finish(world.ask("Account", "load"))
    with world.database.transaction() as session:
        guard.refuse(session, run["id"])
    assert (world.run(run["id"])["state"], count(world)) == ("failed", 300)
    with pytest.raises(SettingsError), world.database.transaction() as session:
        guard.confirm(session, run["id"])
    run = world.finish(world.ask("Account", "verify", repair=True))
    assert (run["state"], count(world)) == ("parked", 300)
    world.org.control.hide(world.org.user_id, show_rows=hidden[:5])
    with world.database.transaction() as session:
        assert guard.confirm(session, run["id"]) == "backfill"
    assert world.finish(run["id"])["state"] == "done"
    assert count(world) == 55  # each was looked at once more
    assert world.verify("Account")["differences"] == 0


def test_deletions_by_the_org_s_own_word_ask_nobody(world: World) -> None:
    world.org.control.delete_rows("Account", count=280)
    assert world.do("Account", "refresh")["rows_deleted"] == 280
    assert count(world) == 20
