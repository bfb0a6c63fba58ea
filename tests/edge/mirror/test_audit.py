"""Audits run by themselves; what somebody damages here is mended by the next run."""

from collections.abc import Iterator
from datetime import timedelta

import pytest

from tests.edge.mirror.world import LARGE, World, make_world
from tests.org import SharedOrgs
from worker.db import Database
from worker.mirror import sweep
from worker.mirror.audit import schedule_audits


@pytest.fixture
def world(orgs: SharedOrgs, database: Database) -> Iterator[World]:
    with make_world(orgs.like_new(LARGE), database) as made:
        yield made


def audits(world: World, *, after: float = 0.0, allowed: bool = True) -> list[int]:
    """What upkeep asks for, so many seconds from now."""
    with world.database.transaction() as session:
        now = world.database.now() + timedelta(seconds=after)
        return schedule_audits(session, now, audit_seconds=1000, sweep_seconds=100, may_spend=lambda *_: allowed)


def test_a_mirror_is_audited_at_its_interval_as_far_as_the_allowance_permits(world: World) -> None:
    world.do("Account")
    assert audits(world) == []  # its place in the interval is set
    assert audits(world) == []
    assert audits(world, after=1000, allowed=False) == []  # put off
    (run_id,) = audits(world, after=2000)
    assert audits(world, after=2000) == []
    run = world.finish(run_id)
    assert (run["state"], run["cause"]) == ("done", "audit")
    found = world.one("SELECT * FROM sfsync.verifications")
    assert (found["cause"], found["depth"], found["records"], found["differences"]) == ("audit", "full", 300, 0)
    assert found["calls"] <= 15
    world.query("UPDATE sfsync.mirrors SET audit_seconds = 0 RETURNING 1")
    assert audits(world, after=10_000) == []


def test_a_calculated_field_that_moved_without_a_stamp_is_found_and_repaired(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.org.control.add_field(
        "Account", "Double__c", type="double", precision=18, scale=2, formula="AnnualRevenue * 2"
    )
    world.do("Account")
    world.query("UPDATE salesforce.account SET double__c = -1 WHERE id IN (SELECT id FROM salesforce.account LIMIT 20)")
    world.query("UPDATE salesforce.account SET phone = 'spoilt' RETURNING 1")
    world.org.control.advance_clock(3600)
    world.do("Account", "refresh")
    monkeypatch.setattr(sweep, "WHOLE_AUDIT_VALUES", 10)  # a large mirror
    monkeypatch.setattr(sweep, "AUDIT_SAMPLE", 50)
    assert audits(world) == []
    (run_id,) = audits(world, after=100)  # sooner than a mirror without calculated fields
    run = world.finish(run_id)
    assert set(run["columns"]) >= {"Id", "SystemModstamp", "Double__c"}
    assert "Phone" not in run["columns"]
    found = world.one("SELECT * FROM sfsync.verifications")
    assert found["depth"] == "sample"
    assert 50 <= found["differences"] == found["repaired"] <= 70
    assert world.query("SELECT count(*) FROM salesforce.account WHERE double__c = -1") == [(0,)]
    verified = world.verify("Account")
    assert verified["differences"] == 300 - found["differences"]  # the spoilt ones that no sample met
    world.verify("Account", repair=True)
    world.query("UPDATE salesforce.account SET double__c = -1 RETURNING 1")
    verified = world.verify("Account", repair=True)
    assert (verified["differences"], verified["calculated"]) == (300, 300)


def test_a_sample_compares_every_field_of_so_many_records(world: World) -> None:
    world.do("Account")
    world.org.control.advance_clock(3600)
    world.do("Account", "refresh")
    world.query("UPDATE salesforce.account SET phone = 'spoilt' RETURNING 1")
    found = world.verify("Account", sample=25)
    assert (found["depth"], found["records"], found["differences"], found["repaired"]) == ("sample", 300, 25, 0)


@pytest.mark.parametrize(
    ("damage", "logged"),
    [
        ("DROP TABLE salesforce.account", ("", "table rebuilt")),
        ("DROP SCHEMA salesforce CASCADE", ("", "table rebuilt")),
        ("TRUNCATE salesforce.account", ("", "table rebuilt")),
        ("ALTER TABLE salesforce.account DROP COLUMN _read", ("", "table rebuilt")),
        ("ALTER TABLE salesforce.account DROP COLUMN phone", ("Phone", "restored")),
        ("ALTER TABLE salesforce.account DROP CONSTRAINT account_pkey", ("", "key restored")),
    ],
)
def test_a_damaged_table_is_mended_by_the_next_refresh(world: World, damage: str, logged: tuple[str, str]) -> None:
    world.do("Account")
    world.org.control.advance_clock(3600)
    world.query(damage)
    world.finish(world.ask("Account", "refresh"))
    for (run_id,) in world.query("SELECT id FROM sfsync.runs WHERE state = 'ready' ORDER BY id"):
        assert world.finish(run_id)["state"] == "done"
    assert world.query("SELECT field, change FROM sfsync.drift") == [logged]
    assert world.one("SELECT state FROM sfsync.mirrors") == {"state": "live"}
    world.do("Account", "refresh")
    assert world.verify("Account")["differences"] == 0
    assert world.query("SELECT count(*), count(phone) > 0 FROM salesforce.account") == [(300, True)]


def test_a_mirror_whose_last_record_left_is_not_taken_for_damaged(world: World) -> None:
    world.do("Account")
    world.org.control.delete_rows("Account", count=300)
    world.do("Account", "refresh")
    world.do("Account", "refresh")
    assert world.query("SELECT count(*) FROM sfsync.drift") == [(0,)]
    assert world.one("SELECT has_rows FROM sfsync.mirrors") == {"has_rows": False}
