"""Several runs and workers at one mirror: what one of them has seen may no longer hold when it writes."""

import threading
from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy.orm import Session

from tests.edge.mirror.world import LARGE, World, make_world
from tests.org import SharedOrgs
from tests.waiting import until
from worker import db
from worker.db import Claim, Database
from worker.errors import FencedError
from worker.mirror import choice, damage, describing, load, reading, steps
from worker.mirror.choice import Choice
from worker.mirror.work import StartOverError, Work
from worker.salesforce.rest import Describe
from worker.steps import Busy


@pytest.fixture
def world(orgs: SharedOrgs, database: Database) -> Iterator[World]:
    with make_world(orgs.like_new(LARGE), database) as made:
        yield made


def to_pages(world: World, run_id: int) -> list[int]:
    """Take steps until the run's pages are to be loaded; their ids."""
    until(lambda: steps.step(world.deps, run_id) and world.run(run_id)["stage"] == "pages")
    return [row[0] for row in world.query("SELECT id FROM sfsync.run_pages WHERE run_id = %s", run_id)]


@pytest.fixture
def unhurried(world: World, monkeypatch: pytest.MonkeyPatch) -> World:
    """A worker that gets as far as the pages of a run and loads none."""
    monkeypatch.setattr("worker.mirror.bulk_read._load_some", lambda _work: None)
    return world


def chosen(world: World, name: str, wish: Choice) -> None:
    with world.database.transaction() as session:
        choice.apply(session, world.mirror(name), wish)


def drift(world: World) -> list[tuple[str, str]]:
    return world.query("SELECT field, change FROM sfsync.drift ORDER BY id")


def test_cursors_never_go_back(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.do("Account")
    merge = reading.merge
    further = "UPDATE sfsync.mirrors SET fresh_cursor = fresh_cursor + interval '1 hour', settled_cursor = fresh_cursor + interval '50 minutes'"
    cursors = "SELECT fresh_cursor, settled_cursor FROM sfsync.mirrors"

    def overtaken(session: Session, work: Work, rows: reading.WindowRows) -> dict[str, int]:
        world.query(further)
        return merge(session, work, rows)

    for kind in ("refresh", "settle"):
        before = world.query(cursors)[0]
        with monkeypatch.context() as patch:
            patch.setattr(reading, "merge", overtaken)
            run = world.do("Account", kind)
        assert run["attempts"] == 1  # at the first try
        assert all(after > earlier for after, earlier in zip(world.query(cursors)[0], before, strict=True))


def test_an_older_describe_does_not_undo_a_newer_one(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.do("Account")
    world.query("UPDATE sfsync.mirrors SET described_at = '2000-01-01'")
    world.org.control.add_field("Account", "First__c", type="double", precision=18, scale=2)
    asked: list[Any] = []

    def answered_late(work: Work, modified: Any) -> Describe | None:
        answer = ask(work, modified)
        asked.append(answer)
        if len(asked) == 1:
            world.org.control.add_field("Account", "Second__c", type="double", precision=18, scale=2)
            world.org.control.change_rows("Account", count=40, fields={"First__c": 1, "Second__c": 2})
            world.do("Account", "backfill")  # describes, and fills both columns
        return answer

    ask = describing._ask
    monkeypatch.setattr(describing, "_ask", answered_late)
    world.do("Account", "refresh")
    assert sorted(drift(world)) == [("First__c", "added"), ("Second__c", "added")]
    assert {"first__c", "second__c"} <= set(world.one("SELECT columns FROM sfsync.mirrors")["columns"])
    assert world.verify("Account")["differences"] == 0


def test_a_column_that_waits_is_not_forgotten_when_another_comes(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.do("Account")
    world.query("UPDATE sfsync.mirrors SET unfilled_fields = '{}'")
    world.query("ALTER TABLE salesforce.account DROP COLUMN phone")
    mend = damage._mend_columns

    def too_late(session: Session, work: Work, spec: Any) -> None:
        world.query("UPDATE sfsync.mirrors SET unfilled_fields = '{Industry}'")  # another run's describe
        mend(session, work, spec)

    with monkeypatch.context() as patch:
        patch.setattr(damage, "_mend_columns", too_late)
        world.do("Account", "refresh")
    assert set(world.one("SELECT unfilled_fields FROM sfsync.mirrors")["unfilled_fields"]) == {"Industry", "Phone"}


@pytest.mark.parametrize("ill", ["DROP TABLE salesforce.account", "TRUNCATE salesforce.account"])
def test_a_table_that_another_run_has_loaded_anew_is_not_dropped_again(
    world: World, monkeypatch: pytest.MonkeyPatch, ill: str
) -> None:
    world.do("Account")
    world.query(ill)
    rebuild = damage._rebuild

    def second(work: Work, *, emptied: bool) -> None:
        if work.run.kind == "refresh":
            assert world.finish(world.ask("Account", "verify"))["state"] == "failed"
            (reload,) = world.query("SELECT max(id) FROM sfsync.runs WHERE kind = 'load'")[0]
            assert world.finish(reload)["state"] == "done"
        rebuild(work, emptied=emptied)

    with monkeypatch.context() as patch:
        patch.setattr(damage, "_rebuild", second)
        world.finish(world.ask("Account", "refresh"))
    assert drift(world) == [("", "table rebuilt")]
    assert world.query("SELECT count(*) FROM salesforce.account") == [(300,)]
    assert world.verify("Account")["differences"] == 0


def test_a_full_load_under_way_fills_a_table_that_was_dropped(unhurried: World) -> None:
    world = unhurried
    assert _with_pages(world, world.ask("Account"))["state"] == "done"
    run_id = world.ask("Account")
    to_pages(world, run_id)  # into staging
    world.query("DROP TABLE salesforce.account")
    assert world.finish(world.ask("Account", "refresh"))["state"] == "failed"
    assert _with_pages(world, run_id)["state"] == "done"
    assert world.query("SELECT count(*) FROM salesforce.account") == [(300,)]
    assert world.query("SELECT tablename FROM pg_tables WHERE tablename LIKE '\\_staging%'") == []


def test_a_mirror_that_went_live_meanwhile_is_not_emptied_for_a_load(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.do("Account")
    world.query("UPDATE sfsync.mirrors SET state = 'new'")
    describe, seen = load.describe, []

    def meanwhile(work: Work) -> None:
        describe(work)
        world.query("UPDATE sfsync.mirrors SET state = 'live'")

    with monkeypatch.context() as patch:
        patch.setattr(load, "describe", meanwhile)
        run_id = world.ask("Account")
        steps.step(world.deps, run_id)
    seen += world.query("SELECT count(*) FROM salesforce.account")
    assert world.finish(run_id)["state"] == "done"
    assert seen == [(300,)]


def test_a_page_that_is_announced_while_its_read_is_given_up_is_given_up_too(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = world.ask("Contact")
    with monkeypatch.context() as patch:
        patch.setattr("worker.mirror.bulk_read._load_some", lambda _work: None)
        (first,) = to_pages(world, run_id)
    announced, guard = threading.Event(), db.guard
    waits = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"

    def held(session: Session, claim: Claim) -> None:
        guard(session, claim)
        announced.set()  # the next page's row stands, uncommitted
        until(lambda: world.query(waits) == [(1,)])

    loader = threading.Thread(target=steps.load_page, args=(world.deps, first))

    def give_up(_work: Work) -> None:
        loader.start()
        assert announced.wait(60)
        raise StartOverError("another page said so")

    def stop(_work: Work) -> None:
        raise FencedError("far enough")

    with monkeypatch.context() as patch:
        patch.setattr(db, "guard", held)
        patch.setattr("worker.mirror.bulk_read._load_some", give_up)
        patch.setitem(steps.STAGES["load"], "begin", stop)
        assert steps.step(world.deps, run_id) == Busy()
        loader.join()
    assert world.query("SELECT count(*) FROM sfsync.run_pages") == [(0,)]
    world.query("UPDATE sfsync.runs SET claim_until = NULL WHERE id = %s", run_id)
    run = world.finish(run_id)
    assert (run["state"], run["rows_read"], run["options"]["restarts"]) == ("done", 2500, 1)


def test_a_companion_that_another_worker_took_further_is_left_to_it(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("Account", "Contact"):
        world.do(name)
    leader, companion = world.ask("Account", "refresh"), world.ask("Contact", "refresh")
    take = db.take

    def too_late(session: Session, table: str, row_id: int, ttl: Any) -> Claim | None:
        if row_id == companion:
            world.query("UPDATE sfsync.runs SET stage = 'wait', job_id = '750x' WHERE id = %s", companion)
        return take(session, table, row_id, ttl)

    with monkeypatch.context() as patch:
        patch.setattr(db, "take", too_late)
        steps.step(world.deps, leader)
    assert world.run(leader)["state"] == "done"
    after = world.run(companion)
    assert (after["state"], after["stage"], after["claim_until"], after["attempts"]) == ("ready", "wait", None, 0)


@pytest.mark.parametrize("kind", ["load", "refresh"])
def test_another_filter_sends_reads_under_way_back_to_their_beginning(unhurried: World, kind: str) -> None:
    world = unhurried
    world.settings = world.settings.model_copy(update={"bulk_threshold_rows": 5})
    control = world.org.control
    control.change_rows("Account", count=300, fields={"Industry": "Retail", "Phone": "1"})
    entering = control.change_rows("Account", count=10, fields={"Industry": "Energy"})
    world.mirror("Account", row_filter="Industry = 'Retail'")
    if kind == "refresh":
        assert _with_pages(world, world.ask("Account"))["state"] == "done"
    control.change_rows("Account", ids=entering, fields={"Industry": "Retail", "Phone": "away"})
    run_id = world.ask("Account", kind)
    pages = to_pages(world, run_id)
    chosen(world, "Account", Choice(row_filter="Industry = 'Retail' AND Phone != 'away'"))
    for page in pages:
        steps.load_page(world.deps, page)  # too late: nothing is loaded
    for (open_run,) in world.query("SELECT id FROM sfsync.runs WHERE state = 'ready' ORDER BY id DESC"):
        assert _with_pages(world, open_run)["state"] == "done"
    assert world.run(run_id)["options"]["restarts"] == 1
    assert world.query("SELECT phone, count(*) FROM salesforce.account GROUP BY 1") == [("1", 290)]


def test_fields_that_are_chosen_during_a_first_load_are_loaded_too(unhurried: World) -> None:
    world = unhurried
    world.mirror("Account", fields=["Name"])
    run_id = world.ask("Account")
    to_pages(world, run_id)
    chosen(world, "Account", Choice(fields=["Name", "Industry"]))
    assert _with_pages(world, run_id)["options"]["restarts"] == 1
    assert world.query("SELECT count(industry) > 0 FROM salesforce.account") == [(True,)]


def _with_pages(world: World, run_id: int) -> dict[str, Any]:
    """See a run to its end whose pages somebody else loads."""
    while (run := world.run(run_id))["state"] == "ready":
        steps.step(world.deps, run_id)
        for page in world.query("SELECT id FROM sfsync.run_pages WHERE run_id = %s AND state = 'ready'", run_id):
            steps.load_page(world.deps, page[0])
    return run
