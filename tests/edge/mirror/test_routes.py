"""How a read goes: several mirrors in one call, by REST where Bulk does not serve, again after a lost cursor, in parts."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import pytest

from models.mirror import IDLE_SETTLES
from tests.edge.mirror.world import LARGE, World, make_world
from tests.org import SharedOrgs
from worker.budget.ledger import Ledger
from worker.db import Database
from worker.errors import OverBudgetError
from worker.mirror import reading, steps
from worker.salesforce.metering import Kind, Permit, Unmetered

REFUSED = [{"errorCode": "INVALIDENTITY", "message": "Entity 'Contact' is not supported by the Bulk API."}]
TIMEOUT = [{"errorCode": "QUERY_TIMEOUT", "message": "Your query request was running for too long."}]
LOST = [{"errorCode": "INVALID_QUERY_LOCATOR", "message": "invalid query locator"}]
QUERY = r"/query(All)?\?"
MORE = r"/query(All)?/"


@pytest.fixture
def world(orgs: SharedOrgs, database: Database) -> Iterator[World]:
    with make_world(orgs.like_new(LARGE), database, claim_seconds=5) as made:
        yield made


def refuse_bulk(world: World) -> None:
    world.org.control.add_fault(
        match={"method": "POST", "path_regex": "/jobs/query", "times": None}, action={"status": 400, "body": REFUSED}
    )


def spoil(world: World, path: str, body: object, *, times: int | None = 1, skip: int = 0) -> None:
    world.org.control.add_fault(
        match={"method": "GET", "path_regex": path, "times": times, "skip": skip}, action={"status": 400, "body": body}
    )


def live(world: World, *names: str) -> None:
    for name in names:
        world.do(name)
    world.query("UPDATE sfsync.mirrors SET next_refresh_at = clock_timestamp(), next_settle_at = '2090-01-01'")


def test_mirrors_that_are_due_together_share_one_call(world: World) -> None:
    live(world, "Account", "Opportunity", "User")
    changed = world.org.control.change_rows("Account", count=3)
    world.org.control.delete_rows("Opportunity", count=2)
    runs = world.schedule()
    world.org.control.clear_ledger()
    steps.step(world.deps, runs[0])
    assert [world.run(one)["state"] for one in runs] == ["done", "done", "done"]
    assert [call["path"].split("?")[0].rsplit("/", 1)[1] for call in world.org.control.ledger()] == ["composite"]
    assert sorted(world.run(one)["calls"] for one in runs) == [0, 0, 1]
    assert sum(world.run(one)["rows_changed"] for one in runs) == len(changed)
    assert sum(world.run(one)["rows_deleted"] for one in runs) == 2
    for name in ("Account", "Opportunity", "User"):
        assert world.verify(name)["differences"] == 0


def test_mirrors_whose_describes_are_due_share_the_read_after_them(world: World) -> None:
    live(world, "Account", "Opportunity", "User")
    world.query("UPDATE sfsync.mirrors SET described_at = '2000-01-01'")
    world.org.control.add_field("Opportunity", "New__c", type="double", precision=18, scale=2)
    runs = world.schedule()
    world.org.control.clear_ledger()
    world.org.control.add_fault(
        match={"method": "GET", "path_regex": "/User/describe", "times": 1},
        action={"status": 400, "body": [{"errorCode": "UNKNOWN_EXCEPTION", "message": "try later"}]},
    )
    leader = next(one for one in runs if name_of(world, one) == "Account")
    steps.step(world.deps, leader)
    paths = [call["path"].split("?")[0].rsplit("/v", 1)[1].split("/", 1)[1] for call in world.org.control.ledger()]
    described = [f"sobjects/{name}/describe" for name in ("Account", "Opportunity", "User")]
    assert sorted(path.rstrip("/") for path in paths) == sorted(["composite", *described])
    found = {name_of(world, one): world.run(one) for one in runs}
    assert [(found[name]["state"], found[name]["calls"]) for name in ("Account", "Opportunity")] == [
        ("done", 2),
        ("done", 1),
    ]
    left = found["User"]  # what it met stops none of the others
    assert (left["state"], left["claim_until"], left["calls"]) == ("ready", None, 1)
    assert world.query("SELECT field FROM sfsync.drift") == [("New__c",)]
    world.query("UPDATE sfsync.runs SET due_at = clock_timestamp() WHERE id = %s", left["id"])
    assert world.finish(left["id"])["state"] == "done"


def name_of(world: World, run_id: int) -> str:
    query = "SELECT m.object FROM sfsync.runs r JOIN sfsync.mirrors m ON m.id = r.mirror_id WHERE r.id = %s"
    return str(world.query(query, run_id)[0][0])


def test_settle_reads_that_are_due_together_share_one_call(world: World) -> None:
    live(world, "Account", "Opportunity", "User")
    world.org.control.advance_clock(3600)
    changed = world.org.control.change_rows("Account", count=3)
    for name in ("Account", "Opportunity", "User"):
        world.do(name, "refresh")
    world.org.control.purge_rows("Opportunity", count=1)
    world.org.control.advance_clock(600)  # the log of deletions goes by minutes
    for name in ("Account", "Opportunity", "User"):
        world.do(name, "refresh")
    world.query("UPDATE sfsync.mirrors SET next_refresh_at = '2090-01-01', next_settle_at = clock_timestamp()")
    runs = world.schedule()
    world.org.control.clear_ledger()
    steps.step(world.deps, runs[0])
    found = [world.run(one) for one in runs]
    assert [(one["kind"], one["state"]) for one in found] == [("settle", "done")] * 3
    assert sorted(one["calls"] for one in found)[:2] == [0, 0]
    paths = [call["path"].split("?")[0].rsplit("/v", 1)[1].split("/", 1)[1] for call in world.org.control.ledger()]
    assert paths[0] == "composite"
    assert all("Opportunity" in path for path in paths[1:])  # what one of them looks at after it
    assert world.query("SELECT count(*) FROM salesforce.account WHERE id = ANY(%s)", changed) == [(3,)]
    assert world.query(
        "SELECT count(*) FROM sfsync.mirrors WHERE settled_cursor < fresh_cursor - interval '2 min'"
    ) == [(0,)]
    for name in ("Account", "Opportunity", "User"):
        assert world.verify(name)["differences"] == 0


def test_a_settle_read_takes_along_those_of_its_connection_that_are_due_soon(world: World) -> None:
    live(world, "Account", "Opportunity", "User")
    world.query("UPDATE sfsync.mirrors SET next_refresh_at = '2090-01-01'")
    soon = "UPDATE sfsync.mirrors SET next_settle_at = clock_timestamp() + make_interval(secs => %s) WHERE object = %s"
    quarter = world.settings.settle_seconds * IDLE_SETTLES / 4
    for name, seconds in (("Account", 0), ("Opportunity", quarter - 10), ("User", quarter + 10)):
        world.query(soon, seconds, name)
    assert len(world.schedule()) == 2
    assert world.schedule() == []
    world.query("UPDATE sfsync.runs SET state = 'done', finished_at = clock_timestamp() WHERE state = 'ready'")
    world.query("UPDATE sfsync.mirrors SET effective_seconds = refresh_seconds * 2 WHERE object = 'User'")
    for name, seconds in (("Account", 0), ("Opportunity", quarter + 10), ("User", 2 * quarter - 10)):
        world.query(soon, seconds, name)  # where calls are short, its interval is longer, and so is the quarter
    assert len(world.schedule()) == 2


def test_a_refresh_that_waits_for_a_person_brings_no_other_forward(world: World) -> None:
    live(world, "Account", "Opportunity")
    world.query("UPDATE sfsync.mirrors SET effective_seconds = 2000, next_settle_at = '2090-01-01'")
    held = world.ask("Account", "refresh")
    world.query("UPDATE sfsync.runs SET state = 'parked', options = '{\"held\": 5}' WHERE id = %s", held)
    soon = "UPDATE sfsync.mirrors SET next_refresh_at = clock_timestamp() + make_interval(secs => %s) WHERE object = %s"
    world.query(soon, 0, "Account")
    world.query(soon, 400, "Opportunity")
    assert world.schedule() == []
    world.query("UPDATE sfsync.runs SET options = '{}' WHERE id = %s", held)
    assert len(world.schedule()) == 2


class Spent(Unmetered):
    """An allowance of which nothing is left for a while."""

    @contextmanager
    def permit(self, kind: Kind) -> Iterator[Permit]:
        raise OverBudgetError("all is used", code="ALLOWANCE", retry_after=timedelta(minutes=5))
        yield


@pytest.mark.parametrize("kind", ["refresh", "settle"])
def test_when_the_shared_call_cannot_be_made_nobody_keeps_a_claim(world: World, kind: str) -> None:
    live(world, "Account", "Opportunity")
    runs = [world.ask(name, kind) for name in ("Account", "Opportunity")]
    meter, world.meter = world.meter, lambda _: Spent()
    steps.step(world.deps, runs[0])
    left = "SELECT state, attempts, claim_until, calls, error, due_at > clock_timestamp() + interval '4 min' FROM sfsync.runs WHERE id = ANY(%s)"
    assert world.query(left, runs) == [("ready", 0, None, 0, "all is used", True)] * 2
    world.meter = meter
    world.query("UPDATE sfsync.runs SET due_at = clock_timestamp() WHERE state = 'ready'")
    world.org.control.clear_ledger()
    steps.step(world.deps, runs[1])
    assert [world.run(one)["state"] for one in runs] == ["done", "done"]
    assert len(world.org.control.ledger()) == 1  # and they share the next one


def test_the_shared_call_is_booked_under_all_and_what_follows_it_under_its_own(world: World) -> None:
    live(world, "Account", "Contact")
    world.org.control.change_rows("Contact", count=2100)  # more than a page
    runs = world.schedule()
    leader = world.query(
        "SELECT r.id FROM sfsync.runs r JOIN sfsync.mirrors m ON m.id = mirror_id WHERE object = 'Account' AND r.state = 'ready'"
    )
    assert len(runs) == 2
    ledger = Ledger(world.database, world.settings, writes_itself=False)
    world.meter = ledger.meter
    world.org.control.clear_ledger()
    steps.step(world.deps, leader[0][0])
    ledger.write()
    assert world.query("SELECT object, lane, cause, calls FROM sfsync.usage ORDER BY object") == [
        ("Account+Contact", "refresh", "refresh/timetable", 1),
        ("Contact", "refresh", "refresh/timetable", 1),
    ]
    assert len(world.org.control.ledger()) == 2


def test_what_one_of_them_meets_stops_none_of_the_others(world: World) -> None:
    live(world, "Account", "Opportunity")
    world.org.control.change_rows("Opportunity", count=3)
    world.org.control.add_field("Account", "Gone__c", type="double", precision=18, scale=2)
    world.query("UPDATE sfsync.mirrors SET described_at = '2000-01-01' WHERE object = 'Account'")
    world.do("Account", "refresh")
    world.query("UPDATE sfsync.runs SET state = 'done', finished_at = now() WHERE state = 'ready'")  # its back-fill
    world.org.control.remove_field("Account", "Gone__c")
    world.query("UPDATE sfsync.mirrors SET next_refresh_at = clock_timestamp()")
    runs = {
        world.one(
            "SELECT m.object FROM sfsync.runs r JOIN sfsync.mirrors m ON m.id = r.mirror_id WHERE r.id = :id", id=one
        )["object"]: one
        for one in world.schedule()
    }
    steps.step(world.deps, runs["Opportunity"])
    assert world.run(runs["Opportunity"])["state"] == "done"
    alone = world.run(runs["Account"])
    assert (alone["state"], alone["options"]["alone"], alone["claim_until"]) == ("ready", True, None)
    assert world.finish(runs["Account"])["state"] == "done"
    assert world.verify("Account")["differences"] == 0


def test_a_mirror_that_is_due_in_a_moment_comes_along_and_one_of_later_does_not(world: World) -> None:
    live(world, "Account", "Opportunity")
    world.query(
        "UPDATE sfsync.mirrors SET next_refresh_at = next_refresh_at + interval '14 s' WHERE object = 'Account'"
    )
    assert len(world.schedule()) == 2
    world.query("DELETE FROM sfsync.runs WHERE state = 'ready'")
    world.query("UPDATE sfsync.mirrors SET next_refresh_at = clock_timestamp()")
    world.query(
        "UPDATE sfsync.mirrors SET next_refresh_at = next_refresh_at + interval '20 s' WHERE object = 'Account'"
    )
    assert len(world.schedule()) == 1


def test_an_object_that_bulk_refuses_is_loaded_by_rest_and_asked_so_from_then_on(world: World) -> None:
    refuse_bulk(world)
    spoil(world, MORE, LOST)
    run = world.do("Contact")
    assert (run["rows_read"], run["rows_expected"], run["job_id"]) == (2500, 2500, None)
    assert world.query("SELECT count(*) FROM salesforce.contact") == [(2500,)]
    assert world.one("SELECT route FROM sfsync.mirrors")["route"] == "rest"
    world.org.control.clear_ledger()
    world.settings = world.settings.model_copy(update={"bulk_threshold_rows": 1000})
    world.org.control.change_rows("Contact", count=2100, seed=1)
    gone = world.org.control.delete_rows("Contact", count=10, seed=2)
    spoil(world, MORE, LOST)
    run = world.do("Contact", "refresh")
    assert (run["rows_deleted"], run["job_id"], world.calls("/jobs/query")) == (10, None, 0)
    assert world.query("SELECT count(*) FROM salesforce.contact WHERE id = ANY(%s)", gone) == [(0,)]
    assert world.verify("Contact")["differences"] == 0


@pytest.mark.parametrize("first_too", [False, True])
def test_an_object_without_cursors_is_read_page_after_page_all_the_same(world: World, first_too: bool) -> None:
    refuse_bulk(world)
    message = "Contact does not support queryMore(), use LIMIT to restrict the results to a single batch"
    refusal = [{"errorCode": "EXCEEDED_ID_LIMIT", "message": message}]
    spoil(world, MORE, refusal, times=None)
    if first_too:
        spoil(world, QUERY, refusal)
    assert world.do("Contact")["rows_read"] == 2500
    assert world.query("SELECT count(*) FROM salesforce.contact") == [(2500,)]


def test_a_load_by_rest_goes_on_where_it_was_interrupted(world: World) -> None:
    refuse_bulk(world)
    spoil(world, MORE, [{"errorCode": "UNKNOWN_EXCEPTION", "message": "try again"}])
    run_id = world.ask("Contact")
    steps.step(world.deps, run_id)
    run = world.run(run_id)
    assert (run["state"], run["stage"], run["rows_read"], run["claim_until"]) == ("ready", "paged", 2000, None)
    world.org.control.clear_ledger()
    run = world.finish(run_id)
    assert (run["state"], run["rows_read"]) == ("done", 2500)
    assert world.calls("describe") == 0
    assert world.verify("Contact")["differences"] == 0


def test_a_query_that_runs_too_long_is_asked_for_less_until_it_is_answered(world: World) -> None:
    refuse_bulk(world)
    spoil(world, QUERY, TIMEOUT, times=3)
    run = world.do("Contact")
    assert (run["rows_read"], run["options"]["place"]["limit"]) == (2500, 500)
    assert world.query("SELECT count(*) FROM salesforce.contact") == [(2500,)]


def test_a_job_that_runs_too_long_is_read_page_after_page(world: World) -> None:
    message = "QUERY_TIMEOUT: Your query request was running for too long."
    world.org.control.add_bulk_fault("fail", object="Contact", times=1, message=message)
    spoil(world, QUERY, TIMEOUT, times=2)
    run = world.do("Contact")
    assert (run["rows_read"], run["job_id"], run["options"]["place"]["limit"]) == (2500, None, 1000)
    assert world.one("SELECT route FROM sfsync.mirrors")["route"] != "rest"  # Bulk is asked again the next time
    world.org.control.change_rows("Contact", count=3)
    assert world.do("Contact", "refresh")["rows_changed"] == 3
    assert world.verify("Contact")["differences"] == 0


def test_a_job_that_the_org_gives_up_twice_is_not_asked_for_a_third_time(world: World) -> None:
    world.org.control.add_bulk_fault("fail", object="Account", times=None)  # "Retried more than 15 times"
    run = world.do("Account")
    assert (run["rows_read"], run["options"]["restarts"], world.calls("/results")) == (300, 1, 0)
    assert world.verify("Account")["differences"] == 0


def test_rows_too_large_to_be_held_come_by_bulk_however_few_they_are(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    live(world, "Account")
    world.org.control.change_rows("Account", count=100)
    monkeypatch.setattr(reading, "MOST_BYTES", 20_000)
    run = world.do("Account", "refresh")
    assert (run["job_id"] is not None, run["rows_changed"]) == (True, 100)
    assert world.verify("Account")["differences"] == 0


def test_a_refresh_that_runs_too_long_goes_by_bulk(world: World) -> None:
    live(world, "Account")
    world.org.control.change_rows("Account", count=5)
    spoil(world, QUERY, TIMEOUT)
    run = world.do("Account", "refresh")
    assert (run["job_id"] is not None, run["rows_changed"]) == (True, 5)


def test_a_cursor_that_is_lost_in_the_middle_of_a_refresh_loses_nothing(world: World) -> None:
    live(world, "Contact")
    world.org.control.change_rows("Contact", count=2500)  # the first 2,000 share one stamp
    spoil(world, MORE, LOST, times=1)
    run = world.do("Contact", "refresh")
    assert (run["rows_read"], run["rows_changed"], run["job_id"]) == (2500, 2500, None)
    assert world.verify("Contact")["differences"] == 0


def test_a_query_too_long_for_a_url_goes_inside_a_composite_call(world: World) -> None:
    names = [f"A_field_with_as_long_a_name_as_it_can_{n}__c" for n in range(100, 400)]  # 13 kB of them
    fields = [{"name": name, "type": "string", "label": name, "length": 20} for name in names]
    world.org.control.add_object("Long__c", "a0L", fields)
    live(world, "Long__c")
    world.org.control.create_rows("Long__c", records=[{"Name": str(n)} for n in range(5)])
    world.org.control.clear_ledger()
    assert world.do("Long__c", "refresh")["rows_changed"] == 5
    assert [call["path"].split("?")[0].rsplit("/", 1)[1] for call in world.org.control.ledger()] == ["composite"]


def test_an_empty_object_is_loaded_refreshed_and_settled(world: World) -> None:
    live(world, "Lead")
    assert world.do("Lead", "refresh")["rows_read"] == 0
    assert world.do("Lead", "settle")["rows_read"] == 0
    world.org.control.create_rows("Lead", count=2)
    assert world.do("Lead", "refresh")["rows_changed"] == 2
    refuse_bulk(world)
    assert world.do("Lead", "load")["rows_read"] == 2
