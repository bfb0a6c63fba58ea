"""Writes to an org that answers otherwise than ours, and as lawfully (see dialect.py)."""

import uuid
from collections.abc import Iterator

import pytest

from tests.edge.actions.test_ways import FEW, finish
from tests.edge.actions.world import World
from tests.edge.dialect import in_dialect
from tests.org import Org, start_org
from worker.actions.intent import Intent
from worker.db import Database


@pytest.fixture(scope="module")
def org(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Org]:
    with start_org(tmp_path_factory.mktemp("dialect") / "org", seed="Account=1,Contact=1") as running:
        yield running


@pytest.fixture
def world(org: Org, database: Database, database_url: str) -> Iterator[World]:
    with in_dialect(org) as heard:
        yield World(heard, database, database_url, bulk_create_rows=FEW, bulk_ingest_rows=FEW)


@pytest.mark.parametrize(("count", "way"), [(3, "calls"), (FEW + 1, "bulk")])
def test_each_action_is_carried_out_once_by_calls_and_by_jobs(world: World, count: int, way: str) -> None:
    name = f"ü {uuid.uuid4().hex[:12]}"
    begin = max((entry["seq"] for entry in world.org.control.journal()), default=0)
    world.accept(*[Intent("Contact", "create", {"LastName": name, "Title": f"{n}"}) for n in range(count)])
    finish(world)
    ids = [row["Id"] for row in world.find("Contact", name)]
    world.accept(*[Intent("Contact", "update", {"Title": 'é\r\n"x", y'}, record_id=one) for one in ids])
    finish(world)
    fields = {"LastName": name, "Title": None}
    keys = [f"{name}/{n}" for n in range(count)]
    world.accept(
        *[Intent("Contact", "upsert", fields, external_id_field="External_Key__c", external_id=key) for key in keys]
    )
    finish(world)
    world.accept(*[Intent("Contact", "delete", record_id=one) for one in ids])
    finish(world)
    assert world.states() == ["delivered"] * 4 * count
    written = [entry["id"] for entry in world.org.control.journal(begin) if entry["object"] == "Contact"]
    assert len(written) == 4 * count
    by_job = world.rows("SELECT count(*) FROM sfsync.actions WHERE way = 'bulk'")
    assert by_job == [(4 * count if way == "bulk" else 0,)]
