"""The planner and the ledger through a simulated day (see tests/day.py)."""

from collections.abc import Callable
from datetime import timedelta
from statistics import mean

import pytest

from tests.day import START, Day, prepare
from tests.integration.conftest import Rows
from worker.db import Database
from worker.settings import load_settings


@pytest.fixture
def make_day(database: Database, database_url: str) -> Callable[[int], Day]:
    def make(allowed: int) -> Day:
        prepare(database_url)
        settings = load_settings({"DATABASE_URL": database_url, "ENCRYPTION_KEY": "A" * 43})
        return Day(database, settings, allowed, step=timedelta(minutes=10))

    return make


def test_a_day_with_few_calls_never_passes_the_limit_and_keeps_the_reserve(
    make_day: Callable[[int], Day], rows: Rows
) -> None:
    allowed = 250  # a twentieth of 5,000, in fewer steps; `python -m bench.budget day` has the whole
    day = make_day(allowed)
    reserve = round(allowed * day.settings.reserve_share)
    while day.now < START + timedelta(hours=26):
        day.go_on()
    assert day.exceeded == 0
    assert day.fewest_left >= reserve
    gaps = day.gaps(START + timedelta(hours=1))
    assert day.best() * 0.95 <= mean(gaps) <= day.best() * 1.15
    assert max(gaps) <= day.best() * 2.5
    said = rows("SELECT DISTINCT effective_reason FROM sfsync.mirrors")
    assert f"{reserve} kept for actions" in said[0][0]


def test_a_burst_pauses_refreshes_and_actions_still_go(make_day: Callable[[int], Day], rows: Rows) -> None:
    day = make_day(500)
    day.go_on()
    while day.call("backfill", "load/manual", "Big"):
        day.ledger.write()
    day.go_on()
    said = rows("SELECT DISTINCT effective_seconds, effective_reason FROM sfsync.mirrors")
    assert said[0][0] == 86_400
    assert said[0][1].startswith("paused until about 00:")
    assert all(day.call("actions", "deliver", "Contact") for _ in range(20))
    before = {key: len(times) for key, times in day.refreshed.items()}
    day.now += timedelta(hours=2)
    day.go_on()
    assert {key: len(times) for key, times in day.refreshed.items()} == before


def test_intervals_shrink_again_when_calls_are_plenty(make_day: Callable[[int], Day], rows: Rows) -> None:
    day = make_day(5000)
    day.go_on()
    day.go_on()
    assert rows("SELECT min(effective_seconds) > 60 FROM sfsync.mirrors") == [(True,)]
    day.allowed = 50_000
    day.now += timedelta(minutes=10)
    day.go_on()
    day.go_on()
    assert rows("SELECT count(*) FROM sfsync.mirrors WHERE effective_seconds IS NULL AND effective_reason IS NULL") == [
        (5,)
    ]
    assert rows(f"SELECT max(next_refresh_at) <= '{day.now}' FROM sfsync.mirrors") == [(True,)]


def test_the_reserve_grows_again_as_actions_leave_the_window(make_day: Callable[[int], Day], rows: Rows) -> None:
    day = make_day(500)
    for _ in range(30):
        assert day.call("actions", "deliver", "Contact")
    day.go_on()
    assert rows("SELECT reserve_left FROM sfsync.orgs") == [(70,)]
    day.now += timedelta(hours=26)
    day.go_on()
    assert rows("SELECT reserve_left FROM sfsync.orgs") == [(100,)]
