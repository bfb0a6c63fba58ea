"""The mirror of an org that answers otherwise than ours, and as lawfully (see dialect.py)."""

from collections.abc import Iterator

import pytest

from tests.edge.dialect import in_dialect
from tests.edge.mirror.world import SMALL, World, make_world
from tests.org import SharedOrgs
from worker.db import Database


@pytest.fixture
def world(orgs: SharedOrgs, database: Database) -> Iterator[World]:
    with in_dialect(orgs.like_new(SMALL)) as org, make_world(org, database, bulk_page_rows=50) as made:
        yield made


def test_an_org_that_answers_otherwise_is_mirrored_all_the_same(world: World) -> None:
    control = world.org.control
    records = [{"LastName": f"line\r\nbreak {n}", "Description": 'say "é"\n,'} for n in range(350)]
    control.create_rows("Contact", records=records)
    for name in ("Account", "Contact"):
        world.do(name)
    ids = control.change_rows("Contact", count=300)
    control.delete_rows("Account", count=3)
    run = world.do("Contact", "refresh")
    assert (run["job_id"], run["rows_changed"] + run["rows_deleted"] >= len(ids)) == (None, True)
    world.do("Account", "refresh")
    world.do("Contact", "settle")
    for name in ("Account", "Contact"):
        found = world.verify(name)
        assert (found["differences"], found["moved"]) == (0, 0)
