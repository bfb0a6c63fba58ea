"""The mirror when things go wrong: killed workers, pages that are cut or lie, jobs that fail or are forgotten."""

import json
from collections.abc import Iterator

import pytest

from tests import processes
from tests.edge.mirror.world import LARGE, World, make_world
from tests.org import SharedOrgs
from tests.processes import Process
from tests.waiting import until
from worker.db import Database
from worker.mirror import bulk_read, steps
from worker.mirror.pages import MOST_ATTEMPTS
from worker.mirror.remember import remember
from worker.mirror.work import Work
from worker.steps import Busy

RESULTS = r"/jobs/query/\w+/results"


@pytest.fixture
def world(orgs: SharedOrgs, database: Database) -> Iterator[World]:
    with make_world(orgs.like_new(LARGE), database, claim_seconds=1, page_workers=1) as made:
        yield made


def child(world: World, run_id: int) -> Process:
    """A process that works at the run."""
    settings = world.settings.model_dump(
        mode="json", include={"salesforce_allowed_hosts", "bulk_page_rows", "claim_seconds", "page_workers"}
    )
    given = {"database": world.database.url, "token": world.tokens.token.value, "url": world.org.url}
    argument = json.dumps({**given, "settings": settings, "run_id": run_id})
    return processes.start("tests.edge.mirror.child", [argument])


def page_states(world: World) -> list[tuple[int, str]]:
    return world.query("SELECT number, state FROM sfsync.run_pages ORDER BY number")


def test_a_worker_killed_in_the_middle_of_a_page_costs_that_page_and_no_more(world: World) -> None:
    world.org.control.add_fault(
        match={"path_regex": RESULTS, "skip": 1, "times": 1}, action={"drip_bytes": 2000, "drip_ms": 50}
    )
    run_id = world.ask("Contact")
    process = child(world, run_id)
    try:
        until(lambda: page_states(world) == [(1, "loaded"), (2, "ready"), (3, "ready")])
    finally:
        process.kill()
        process.wait()
    assert world.query("SELECT count(*) FROM salesforce.contact") == [(1000,)]
    loaded_at = world.query("SELECT loaded_at FROM sfsync.run_pages WHERE number = 1")
    run = world.finish(run_id)
    assert run["state"] == "done"
    assert world.query("SELECT loaded_at FROM sfsync.run_pages WHERE number = 1") == loaded_at
    assert world.query("SELECT count(*), count(DISTINCT id) FROM salesforce.contact") == [(2500, 2500)]
    jobs = [
        call for call in world.org.control.ledger() if call["method"] == "POST" and call["path"].endswith("/jobs/query")
    ]
    assert len(jobs) == 1
    assert world.verify("Contact")["differences"] == 0


def test_a_page_whose_body_breaks_off_is_read_again(world: World) -> None:
    world.org.control.add_fault(match={"path_regex": RESULTS, "times": 2}, action={"truncate_bytes": 70_000})
    world.do("Contact")
    assert world.verify("Contact")["differences"] == 0


def test_a_page_with_fewer_rows_than_its_header_counts_is_read_again(world: World) -> None:
    run_id = world.ask("Contact")
    until(lambda: steps.step(world.deps, run_id) and world.run(run_id)["stage"] == "pages")
    fields = world.run(run_id)["columns"]
    lie = (
        ",".join(f'"{field}"' for field in fields)
        + "\n"
        + ",".join(['"003000000000ZZZAAA"', *['""'] * (len(fields) - 1)])
    )
    headers = {"Content-Type": "text/csv", "Sforce-NumberOfRecords": "1000", "Sforce-Locator": "null"}
    world.org.control.add_fault(
        match={"path_regex": RESULTS}, action={"status": 200, "body": lie + "\n", "headers": headers}
    )
    assert world.finish(run_id)["state"] == "done"
    assert world.verify("Contact")["differences"] == 0


def test_pages_that_end_too_early_are_noticed_by_the_job_s_own_count(world: World) -> None:
    run_id = world.ask("Contact")
    until(lambda: steps.step(world.deps, run_id) and world.run(run_id)["stage"] == "pages")
    empty = ",".join(f'"{field}"' for field in world.run(run_id)["columns"]) + "\n"
    headers = {"Content-Type": "text/csv", "Sforce-NumberOfRecords": "0", "Sforce-Locator": "null"}
    world.org.control.add_fault(
        match={"path_regex": RESULTS}, action={"status": 200, "body": empty, "headers": headers}
    )
    run = world.finish(run_id)
    assert run["state"] == "done"
    assert run["options"]["restarts"] == 1
    assert world.verify("Contact")["differences"] == 0


def test_pages_of_an_org_that_is_away_for_long_are_read_on_when_it_is_back(world: World) -> None:
    run_id = world.ask("Contact")
    until(lambda: steps.step(world.deps, run_id) and world.run(run_id)["stage"] == "pages")
    html = {"status": 503, "body": "<html>Down for maintenance</html>", "headers": {"Content-Type": "text/html"}}
    world.org.control.add_fault(match={"path_regex": RESULTS, "times": None}, action=html)
    ((page_id,),) = world.query("SELECT id FROM sfsync.run_pages")
    for _ in range(MOST_ATTEMPTS + 2):
        steps.load_page(world.deps, page_id)
        world.query("UPDATE sfsync.run_pages SET claim_until = NULL RETURNING 1")
    world.org.control.clear_faults()
    run = world.finish(run_id)
    assert (run["state"], run["options"].get("restarts")) == ("done", None)
    assert world.verify("Contact")["differences"] == 0


def test_a_version_that_the_org_no_longer_serves_puts_the_run_off_until_the_setting_is_mended(world: World) -> None:
    gone = [{"errorCode": "UNSUPPORTED_API_VERSION", "message": "API version 62.0 is not supported"}]
    world.org.control.add_fault(match={"path_regex": "/describe"}, action={"status": 410, "body": gone})
    run_id = world.ask("Account")
    steps.step(world.deps, run_id)
    run = world.run(run_id)
    assert (run["state"], run["attempts"]) == ("ready", 0)
    assert "SALESFORCE_API_VERSION" in run["error"]
    world.query("UPDATE sfsync.runs SET due_at = clock_timestamp() RETURNING 1")
    assert world.finish(run_id)["state"] == "done"


def test_an_org_whose_jobs_fail_for_a_while_does_not_park_a_load(world: World) -> None:
    world.org.control.add_bulk_fault("fail", object="Account", times=4, message="InternalServerError : try later")
    run_id = world.ask("Account")
    until(lambda: steps.step(world.deps, run_id) and world.run(run_id)["options"].get("restarts") == 2)
    run = world.run(run_id)
    assert (run["state"], run["claim_until"]) == ("ready", None)
    assert run_id not in world.due_runs("backfill")  # it waits
    assert world.finish(run_id)["options"]["restarts"] == 4
    assert world.verify("Account")["differences"] == 0


def test_a_job_that_the_org_has_forgotten_is_asked_for_again(world: World) -> None:
    run_id = world.ask("Contact")
    until(lambda: steps.step(world.deps, run_id) and world.run(run_id)["stage"] == "pages")
    world.query("UPDATE sfsync.runs SET job_id = '750000000000000AAA' RETURNING 1")
    run = world.finish(run_id)
    assert run["state"] == "done"
    assert world.query("SELECT count(*) FROM salesforce.contact") == [(2500,)]


def test_an_object_that_is_not_there_parks_its_run_with_the_org_s_words(world: World) -> None:
    run = world.finish(world.ask("Nonsense__c"))
    assert run["state"] == "parked"
    assert run["error"]
    assert world.one("SELECT state_reason FROM sfsync.mirrors")["state_reason"] == run["error"]


def test_a_passing_fault_of_the_org_puts_the_run_off_without_counting_an_attempt(world: World) -> None:
    body = [{"errorCode": "SERVER_UNAVAILABLE", "message": "try later"}]
    world.org.control.add_fault(match={"path_regex": "/describe", "times": None}, action={"status": 503, "body": body})
    run_id = world.ask("Account")
    steps.step(world.deps, run_id)
    run = world.run(run_id)
    assert (run["state"], run["attempts"], run["claim_until"]) == ("ready", 0, None)
    assert run_id not in world.due_runs("backfill")
    world.org.control.clear_faults()
    assert world.finish(run_id)["state"] == "done"
    assert world.run(run_id)["error"] is None


def test_pauses_grow_while_nothing_moves_and_begin_small_again_after_a_step_forward(world: World) -> None:
    run_id = world.ask("Account")
    body = [{"errorCode": "SERVER_UNAVAILABLE", "message": "try later"}]
    for path, pauses in (("/describe", [1, 2, 4]), ("/jobs/query", [1, 2])):
        world.org.control.add_fault(
            match={"path_regex": path, "times": None},
            action={"status": 503, "body": body, "headers": {"Retry-After": "60"}},
        )
        found = []
        for _ in pauses:
            steps.step(world.deps, run_id)
            found.append(world.run(run_id)["options"]["pause"])
        assert found == pauses
        world.org.control.clear_faults()
    assert world.finish(run_id)["state"] == "done"


def test_runs_of_a_revoked_connection_wait_for_a_person(world: World) -> None:
    run_id = world.ask("Account")
    world.query("UPDATE salesforce_oauth_tokens SET state = 'revoked' RETURNING 1")
    assert world.due_runs("backfill") == []
    assert steps.step(world.deps, run_id) == Busy()
    world.query("UPDATE salesforce_oauth_tokens SET state = 'active' RETURNING 1")
    assert world.due_runs("backfill") == [run_id]
    assert world.finish(run_id)["state"] == "done"


def test_a_last_page_that_another_worker_commits_meanwhile_is_not_taken_for_missing(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = world.ask("Account")
    until(lambda: steps.step(world.deps, run_id) and world.run(run_id)["stage"] == "pages")
    (page,) = world.one("SELECT array_agg(id) AS ids FROM sfsync.run_pages WHERE run_id = :id", id=run_id)["ids"]
    looked = Work.reload

    def looked_a_moment_too_early(work: Work) -> None:
        looked(work)
        steps.load_page(world.deps, page)

    with monkeypatch.context() as patch:
        patch.setattr(bulk_read, "_load_some", lambda _work: None)  # the other worker holds the page
        patch.setattr(Work, "reload", looked_a_moment_too_early)
        steps.step(world.deps, run_id)
    run = world.finish(run_id)
    assert (run["state"], run["options"].get("restarts")) == ("done", None)


def test_staged_rows_that_a_crash_of_postgres_emptied_are_read_again(world: World) -> None:
    world.do("Account")
    run_id = world.ask("Account", "load")
    until(lambda: steps.step(world.deps, run_id) and world.run(run_id)["stage"] == "pages")
    (page,) = world.one("SELECT array_agg(id) AS ids FROM sfsync.run_pages WHERE run_id = :id", id=run_id)["ids"]
    steps.load_page(world.deps, page)
    world.query(f"DELETE FROM salesforce._staging_{run_id} RETURNING 1")
    run = world.finish(run_id)
    assert (run["state"], run["options"]["restarts"]) == ("done", 1)
    assert world.verify("Account")["differences"] == 0


def test_remembered_records_are_in_the_mirror_at_once(world: World) -> None:
    world.do("Account")
    changed = world.org.control.change_rows("Account", count=2, fields={"Name": "changed"})
    gone = world.org.control.delete_rows("Account", count=1, seed=9)
    made = world.org.control.create_rows("Account", count=1)
    purged = world.org.control.purge_rows("Account", ids=world.org.control.delete_rows("Account", count=1, seed=11))
    remember(world.deps, world.connection_id, "account", [*changed, *gone, *made, *purged])
    left = [one for one in changed if one not in gone + purged]
    assert world.query("SELECT count(*) FROM salesforce.account WHERE name = 'changed'") == [(len(left),)]
    assert world.query("SELECT count(*) FROM salesforce.account WHERE id = ANY(%s)", made) == [(1,)]
    assert world.query("SELECT count(*) FROM salesforce.account WHERE id = ANY(%s)", gone + purged) == [(0,)]
    assert dict(world.query("SELECT cause, count(*) FROM salesforce._tombstones GROUP BY 1")) == {
        "deleted": 1,
        "invisible": 1,
    }
    assert world.verify("Account")["differences"] == 0


def test_records_of_an_object_that_is_not_mirrored_are_not_remembered(world: World) -> None:
    remember(world.deps, world.connection_id, "Account", ["001000000000001AAA"])
    assert world.query("SELECT count(*) FROM sfsync.mirrors") == [(0,)]
