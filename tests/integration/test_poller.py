"""The poller does what is due, with no broker anywhere, and says that it lives."""

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pydantic import SecretStr
from sqlalchemy import text

from tests.org import ROOT, Org
from tests.waiting import LIMIT_SECONDS, until
from worker import lanes
from worker.db import Claim, Database, Keeper, longest_overrun, take
from worker.local_servers import free_port
from worker.mirror.requests import ensure_mirror, request_run
from worker.poller import EXIT_WEDGED, Poller
from worker.pulse import process_name
from worker.runtime import Runtime
from worker.settings import Settings
from worker.steps import Done, Step
from worker.tokens.connect import Target, connect_with_client_credentials


@pytest.fixture
def rt(database_url: str, org: Org, tmp_path: Path) -> Iterator[Runtime]:
    """A runtime whose Redis is not there, connected to the local org."""
    settings = Settings(
        database_url=SecretStr(database_url),
        redis_url=SecretStr(f"redis://127.0.0.1:{free_port()}/0"),
        encryption_key=SecretStr("A" * 43),
        salesforce_client_id=org.client_id,
        salesforce_client_secret=SecretStr(org.client_secret),
        salesforce_login_url=org.url,
        salesforce_allowed_hosts=(org.url,),
        data_folder=tmp_path / "data",
        poll_seconds=0.05,
    )
    runtime = Runtime(settings)
    connect_with_client_credentials(runtime.database, runtime.vault, settings, Target("tester"))
    yield runtime
    runtime.close()


@pytest.fixture
def start(rt: Runtime) -> Iterator[Callable[..., Poller]]:
    """Start pollers; they are stopped at the end."""
    started: list[Poller] = []

    def begin(*of_lanes: str, threads: int = 4) -> Poller:
        started.append(Poller(rt, "test", of_lanes, threads=threads))
        started[-1].start()
        return started[-1]

    yield begin
    for poller in started:
        poller.join()


def one(database: Database, statement: str, **values: object) -> object:
    with database.transaction() as session:
        return session.scalar(text(statement), values)


def ask_for_contacts(rt: Runtime) -> int:
    with rt.database.transaction() as session:
        connection_id = session.scalar(text("SELECT id FROM salesforce_oauth_tokens"))
        assert connection_id is not None
        return request_run(session, ensure_mirror(session, connection_id, "Contact"), "load", "manual")


def test_due_runs_are_done_without_a_broker(rt: Runtime, start: Callable[..., Poller]) -> None:
    ask_for_contacts(rt)
    start("backfill")
    until(lambda: one(rt.database, "SELECT state = 'live' FROM sfsync.mirrors"))
    assert one(rt.database, "SELECT count(*) FROM salesforce.contact") == 50


def test_what_a_load_costs_is_booked_under_its_object_lane_and_cause(
    rt: Runtime, org: Org, start: Callable[..., Poller]
) -> None:
    before = len(org.control.ledger())
    ask_for_contacts(rt)
    start("backfill")
    until(lambda: one(rt.database, "SELECT state = 'live' FROM sfsync.mirrors"))
    rt.ledger.write()
    booked = "SELECT sum({}) FROM sfsync.usage WHERE (object, lane, cause) = ('Contact', 'backfill', 'load/manual')"
    assert one(rt.database, booked.format("query_jobs")) == 1
    counted = [entry for entry in org.control.ledger()[before:] if entry["path"].startswith("/services/data/v")]
    assert one(rt.database, booked.format("calls")) == len(counted)
    assert one(rt.database, booked.format("result_bytes")) == one(
        rt.database, "SELECT sum(bytes) FROM sfsync.run_pages"
    )
    assert one(rt.database, "SELECT count(*) FROM sfsync.usage") == 1


def test_the_timetable_is_kept_without_a_broker_and_without_beat(
    rt: Runtime, org: Org, start: Callable[..., Poller]
) -> None:
    ask_for_contacts(rt)
    start("backfill")
    until(lambda: one(rt.database, "SELECT state = 'live' FROM sfsync.mirrors"))
    org.control.delete_rows("Contact", count=5, seed=1)
    one(rt.database, "UPDATE sfsync.mirrors SET next_refresh_at = clock_timestamp() RETURNING 1")
    start("refresh", "upkeep")
    until(lambda: one(rt.database, "SELECT count(*) FROM salesforce.contact") == 45)


def test_a_poller_of_another_lane_leaves_the_run_alone(rt: Runtime, start: Callable[..., Poller]) -> None:
    ask_for_contacts(rt)
    start("actions")
    until(lambda: one(rt.database, "SELECT count(*) FROM sfsync.processes"))  # it has looked around
    assert one(rt.database, "SELECT stage FROM sfsync.runs") == "begin"


def test_a_process_is_listed_with_its_steps_while_it_lives(rt: Runtime, start: Callable[..., Poller]) -> None:
    name = process_name("test")
    ask_for_contacts(rt)
    poller = start("backfill")
    listed = "SELECT steps FROM sfsync.processes WHERE name = :name AND lanes = 'backfill' AND last_step_at IS NOT NULL"
    until(lambda: one(rt.database, listed, name=name))
    poller.join()
    assert one(rt.database, "SELECT count(*) FROM sfsync.processes WHERE name = :name", name=name) == 0


def test_a_stopped_poller_takes_no_more_work_but_finishes_what_it_holds(
    rt: Runtime, start: Callable[..., Poller], monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def long_step(_rt: Runtime, _row_id: int) -> Step:
        begun.set()
        go_on.wait()
        return Done()

    monkeypatch.setattr("worker.poller.STEPS", {**lanes.STEPS, "mirror.step": long_step})
    ask_for_contacts(rt)
    poller = start("backfill", threads=1)
    begun.wait()
    poller.stop()
    poller.wait()
    waiting = threading.Thread(target=poller.join)
    waiting.start()
    assert waiting.is_alive()
    go_on.set()
    waiting.join()


def test_a_poller_ends_with_the_process_it_stands_beside(rt: Runtime) -> None:
    stranger = Poller(rt, "test", ("backfill",), threads=1, beside=os.getpid())  # not our parent: as if that had died
    stranger.start()
    stranger.wait()
    stranger.join()


def test_a_step_that_goes_on_after_its_claim_was_lost_is_noticed(rt: Runtime) -> None:
    run_id = ask_for_contacts(rt)
    ttl = rt.settings.claim_ttl / 100
    with rt.database.transaction() as session:
        claim = take(session, "runs", run_id, ttl)
    assert claim is not None
    with Keeper(rt.database, Claim("runs", run_id, claim.token - 1), ttl) as keeper:
        assert longest_overrun() == 0
        assert keeper.lost.wait(60)
        assert longest_overrun() > 0
    assert longest_overrun() == 0


WEDGED = """
import threading
from worker import poller
from worker.runtime import Runtime
from worker.settings import load_settings

poller.HOUSEWORK = {"stuck": 0.0}
poller.STEPS = {"stuck": lambda rt, row_id: threading.Event().wait()}
stuck = poller.Poller(Runtime(load_settings()), "test", ("upkeep",), threads=2)
poller.signal.signal(poller.signal.SIGTERM, lambda *_: stuck.stop())
stuck.start()
stuck.wait()
stuck.join()
"""


def test_a_process_whose_step_never_ends_takes_no_more_work_and_exits(database_url: str) -> None:
    env = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(ROOT),
        "DATABASE_URL": database_url,
        "ENCRYPTION_KEY": "A" * 43,
    }
    env |= {"SFSYNC_POLL_SECONDS": "0.1", "SFSYNC_CLAIM_SECONDS": "0.2"}
    env |= {"SFSYNC_PAGE_SECONDS": "0.2", "SFSYNC_REQUEST_SECONDS": "0.2"}
    done = subprocess.run(
        [sys.executable, "-c", WEDGED], env=env, capture_output=True, text=True, timeout=LIMIT_SECONDS
    )
    assert done.returncode == EXIT_WEDGED, done.stderr
    assert "process.wedged" in done.stdout
