"""A simulated time of triggers: two beats, several workers, deaths and an hour without any; what fired is what the rules say.

The expected table is worked out here from the rules, minute by minute, with no help of the code under test.
`SFSYNC_TEST_WEEK=1` runs a whole week around each change of the clocks instead of some hours.
"""

import os
import random
import signal
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import psycopg
import pytest
from psycopg.types.json import Jsonb

from tests import processes
from tests.describes import CONTACT
from tests.org import ROOT
from tests.processes import Process
from tests.waiting import until
from worker.db import Database
from worker.local_servers import EmbeddedValkey
from worker.runtime import Runtime
from worker.settings import load_settings
from worker.triggers import store
from worker.triggers.store import Asked

pytestmark = pytest.mark.acceptance

WEEK = os.environ.get("SFSYNC_TEST_WEEK") == "1"
WORKERS = 4 if WEEK else 2
GRACE = timedelta(seconds=60)
MINUTE = timedelta(minutes=1)
CREATE = {
    "workflow_action": "execute_service",
    "capability": "create_contact",
    "parameters": {"LastName": "{{due_at}}"},
}
LOOK = {"workflow_action": "execute_service", "capability": "get_salesforce_client"}


@dataclass(frozen=True)
class Rule:
    """A trigger as these rules know it. `slow`: its work ends only when the test says so."""

    name: str
    cron: str = ""
    zone: str = "UTC"
    every: int = 0  # minutes, from the start
    missed: str = "once"
    limit: int = 10
    overlap: str = "allow"
    slow: bool = False
    creates: bool = False


RULES = (
    Rule("often", "*/20 * * * *", "Europe/Berlin", missed="all", limit=4, creates=True),
    Rule("night", "30 2 * * *", "Europe/Berlin"),
    Rule("quarter", "15 * * * *", "America/New_York", missed="skip", overlap="skip"),
    Rule("interval", every=45, missed="skip"),
    Rule("queue", "5,35 * * * *", "Asia/Kolkata", missed="all", limit=3, overlap="queue"),
    Rule("slow", "*/30 * * * *", missed="once", overlap="skip", slow=True, creates=True),
    Rule("office", "0 9 * * 1-5", "Europe/Berlin", missed="once", creates=True),
)

# -- the rules, once more


def matches(line: str, at: datetime) -> bool:
    """Whether a local time is one that the five fields ask for."""
    values = (at.minute, at.hour, at.day, at.month, at.isoweekday() % 7)
    return all(_in_field(text, value) for text, value in zip(line.split(), values, strict=True))


def _in_field(text: str, value: int) -> bool:
    for part in text.split(","):
        span, _, step = part.partition("/")
        low, _, high = span.partition("-")
        inside = span == "*" or int(low) <= value <= int(high or low)
        if inside and (value - (0 if span == "*" else int(low))) % int(step or 1) == 0:
            return True
    return False


def due_times(rule: Rule, start: datetime, end: datetime) -> list[datetime]:
    """Every due time in (start, end], by looking at each minute."""
    if rule.every:
        count = int((end - start) / MINUTE) // rule.every
        return [start + number * rule.every * MINUTE for number in range(1, count + 1)]
    zone = ZoneInfo(rule.zone)
    fixed = not any(text.startswith("*") for text in rule.cron.split()[:2])
    found = []
    at = start.replace(second=0, microsecond=0)
    while at <= end:
        if at > start and _is_due(rule.cron, at, zone, fixed=fixed):
            found.append(at)
        at += MINUTE
    return found


def _is_due(line: str, at: datetime, zone: ZoneInfo, *, fixed: bool) -> bool:
    local, before = at.astimezone(zone), (at - MINUTE).astimezone(zone)
    if not fixed:
        return matches(line, local)
    if matches(line, local) and local.fold == 0:
        return True
    skipped = before.replace(tzinfo=None) + MINUTE  # local minutes that the clocks jumped over
    while skipped < local.replace(tzinfo=None):
        if matches(line, skipped):
            return True
        skipped += MINUTE
    return False


Row = tuple[str, datetime, str, int]  # trigger, due time, what became of it, due times it stands for


def expected(rule: Rule, times: list[datetime], looks: list[datetime], ends: list[datetime]) -> list[Row]:
    """What became of each due time, when the workers looked at `looks` and slow work ended at `ends`."""
    rows: list[Row] = []
    rest, busy = list(times), False
    for look in looks:
        passed = [at for at in rest if at <= look]
        rest = rest[len(passed) :]
        if look in ends:  # the test ends the work before it moves the clock here
            busy = False
        on_time = passed[-1:] if passed and look - passed[-1] <= GRACE else []
        late = passed[: len(passed) - len(on_time)]
        fire, skip = _judged(rule, on_time, late)
        if skip:
            rows.append((rule.name, skip[-1], "missed", len(skip) - 1))
        for at, stands_for in fire:
            blocked = rule.slow and busy
            rows.append((rule.name, at, "overlap" if blocked else "fired", stands_for))
            busy = busy or rule.slow
    return rows


def _judged(
    rule: Rule, on_time: list[datetime], late: list[datetime]
) -> tuple[list[tuple[datetime, int]], list[datetime]]:
    if rule.missed == "all":
        kept = late[-rule.limit :]
        return [(at, 0) for at in [*kept, *on_time]], late[: len(late) - len(kept)]
    if rule.missed == "skip" or not late:
        return [(at, 0) for at in on_time], late
    return ([(on_time[0], len(late))] if on_time else [(late[-1], len(late) - 1)]), []


@pytest.mark.parametrize(
    ("zone", "line", "day", "times"),
    [
        ("Europe/Berlin", "30 2 * * *", "2026-03-29", ["01:00"]),
        ("Europe/Berlin", "30 2 * * *", "2026-10-25", ["00:30"]),
        ("Europe/Berlin", "30 * * * *", "2026-10-25", [f"{hour:02}:30" for hour in range(24)]),
        ("America/New_York", "0 2,3 * * *", "2026-03-08", ["07:00"]),
    ],
)
def test_the_rules_of_this_test(zone: str, line: str, day: str, times: list[str]) -> None:
    start = datetime.fromisoformat(day).replace(tzinfo=UTC) - MINUTE
    found = due_times(Rule("x", line, zone), start, start + timedelta(days=1))
    assert [f"{at:%H:%M}" for at in found] == times


# -- the simulation


@dataclass
class World:
    """Real processes over a clock that the test moves."""

    url: str
    env: dict[str, str]
    folder: Path
    workers: list[Process] = field(default_factory=list)
    beats: list[Process] = field(default_factory=list)
    looks: list[datetime] = field(default_factory=list)

    def start(self, role: str) -> Process:
        with (self.folder / f"{role}.log").open("ab") as log:
            return processes.start("tests.acceptance.clockwork", [role], output=log, env=self.env, group=True)

    def start_all(self) -> None:
        self.workers = [self.start("worker") for _ in range(WORKERS)]
        self.beats = [self.start("beat") for _ in range(2)]

    def kill_all(self) -> None:
        for process in [*self.workers, *self.beats]:
            kill(process)

    def rows(self, statement: str, *values: object) -> list[tuple[object, ...]]:
        with psycopg.connect(self.url, autocommit=True) as connection:
            cursor = connection.execute(statement.encode(), values or None)
            return cursor.fetchall() if cursor.description else []

    def move(self, at: datetime) -> None:
        """Set the clock and wait until all that is due by it is dealt with."""
        self.rows("UPDATE sim_clock SET at = %s", at)
        self.looks.append(at)
        with psycopg.connect(self.url, autocommit=True) as connection:
            until(lambda: connection.execute(SETTLED).fetchone() == (True,))

    def end_slow_work(self) -> None:
        """Deliver the actions of slow triggers, and wait until their firings have noted it."""
        self.rows(DELIVER)
        self.rows("UPDATE sfsync.firings SET look_at = clock_timestamp() WHERE state = 'running'")
        until(lambda: self.rows(SLOW_RUNNING) == [(0,)])


def kill(process: Process) -> None:
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


SETTLED = """
SELECT NOT EXISTS (SELECT 1 FROM sfsync.triggers WHERE next_due_at <= (SELECT at FROM sim_clock))
   AND NOT EXISTS (SELECT 1 FROM sfsync.firings WHERE state IN ('ready', 'waiting'))
"""
OF_SLOW = "SELECT unnest(f.action_ids) FROM sfsync.firings f JOIN sfsync.triggers t ON t.id = f.trigger_id WHERE t.name = 'slow'"
DELIVER = f"""
UPDATE sfsync.actions SET state = 'delivered', outcome = '{{}}', record_id = '003000000000001AAA', finished_at = clock_timestamp()
 WHERE state = 'ready' AND id IN ({OF_SLOW})
"""
SLOW_RUNNING = """
SELECT count(*) FROM sfsync.firings f JOIN sfsync.triggers t ON t.id = f.trigger_id WHERE t.name = 'slow' AND f.state = 'running'
"""
TABLE = """
SELECT t.name, f.due_at, CASE WHEN f.state = 'skipped' THEN split_part(f.reason, ':', 1) ELSE 'fired' END, f.missed
  FROM sfsync.firings f JOIN sfsync.triggers t ON t.id = f.trigger_id ORDER BY t.name, f.due_at
"""


@pytest.fixture
def world(database: Database, valkey: EmbeddedValkey, tmp_path: Path) -> Iterator[World]:
    env = {
        **{name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ},
        "PYTHONPATH": str(ROOT),
        "DATABASE_URL": database.url,
        "REDIS_URL": valkey.url,
        "ENCRYPTION_KEY": "A" * 43,
        "SFSYNC_DATA_FOLDER": str(tmp_path),
        "SFSYNC_POLL_SECONDS": "0.15",
        "SFSYNC_CLAIM_SECONDS": "3",
    }
    world = World(database.url, env, tmp_path)
    with psycopg.connect(database.url) as connection:
        connection.execute("CREATE TABLE sim_clock AS SELECT clock_timestamp() AS at")
        connection.execute(
            "INSERT INTO salesforce_oauth_tokens (user_id, grant_type, login_url, schema_name, access_token)"
            " VALUES ('u', 'client_credentials', 'https://x.my.salesforce.com', 'salesforce', 'x')"
        )
        connection.execute(
            "INSERT INTO sfsync.object_describes (connection_id, object, describe) VALUES (1, 'contact', %s)",
            [Jsonb(CONTACT)],
        )
    yield world
    world.kill_all()


def add_triggers(world: World, start: datetime) -> None:
    rt = Runtime(load_settings(world.env))
    for rule in RULES:
        timed = {"every_seconds": rule.every * 60} if rule.every else {"cron": rule.cron, "time_zone": rule.zone}
        policies = {"missed": rule.missed, "missed_limit": rule.limit, "overlap": rule.overlap}
        work = CREATE if rule.creates else LOOK
        asked = Asked(name=rule.name, type="scheduled_trigger", **timed, **policies, **work)  # type: ignore[arg-type]
        new = store.checked(asked, start, rt.triggers.capabilities)
        with rt.database.transaction() as session:
            store.add(session, 1, new, start)
    rt.close()


def simulate(world: World, start: datetime, hours: int, dice: random.Random) -> dict[str, list[datetime]]:
    """Move the clock from due time to due time, killing now and then, with an hour or more without any process.

    When the work of slow triggers ended, by rule.
    """
    end = start + timedelta(hours=hours)
    times = {rule.name: due_times(rule, start, end) for rule in RULES}
    instants = sorted({at for found in times.values() for at in found})
    outages = [start + timedelta(hours=hours * share, minutes=7) for share in ((0.2, 0.55, 0.8) if WEEK else (0.5,))]
    ends = []
    world.rows("UPDATE sim_clock SET at = %s", start)
    world.start_all()
    asleep_until = start
    for number, at in enumerate(instants):
        if at <= asleep_until:
            continue
        if outages and at >= outages[0]:
            outages.pop(0)
            world.kill_all()
            asleep_until = at + timedelta(minutes=dice.choice((61, 95, 200) if WEEK else (61, 95)), seconds=90)
            world.rows("UPDATE sim_clock SET at = %s", asleep_until)
            world.start_all()
            world.move(asleep_until)
            continue
        if number % 20 == 9:
            world.end_slow_work()
        look = at + timedelta(seconds=dice.randrange(0, 50))
        if number % 20 == 9:
            ends.append(look)
        if dice.random() < (0.02 if WEEK else 0.1):
            victim = dice.randrange(WORKERS)
            os.killpg(world.workers[victim].pid, signal.SIGKILL)  # in the midst of it: the clock moves at once
            world.move(look)
            kill(world.workers[victim])
            world.workers[victim] = world.start("worker")
            continue
        world.move(look)
    return {"ends": ends, **times}


HALF_A_WEEK = timedelta(days=3)
CHANGES = {"spring": datetime(2026, 3, 29, 1, tzinfo=UTC), "autumn": datetime(2026, 10, 25, 1, tzinfo=UTC)}


@pytest.mark.timeout(3600 if WEEK else 300)
@pytest.mark.parametrize("season", ["spring", "autumn"] if WEEK else ["spring"])
def test_the_firing_table_equals_the_one_computed_from_the_rules(world: World, season: str) -> None:
    change = CHANGES[season]
    start, hours = (change - HALF_A_WEEK, 168) if WEEK else (change - timedelta(hours=3), 7)
    add_triggers(world, start)
    times = simulate(world, start, hours, random.Random(7))
    wanted = [row for rule in RULES for row in expected(rule, times[rule.name], world.looks, times["ends"])]
    found = world.rows(TABLE)
    assert found == sorted(wanted)
    created = [rule.name for rule in RULES if rule.creates]
    fired = [row for row in wanted if row[0] in created and row[2] == "fired"]
    actions = world.rows("SELECT count(*), count(DISTINCT idempotency_key) FROM sfsync.actions")
    assert actions == [(len(fired), len(fired))]
    assert world.rows("SELECT count(*) FROM sfsync.firings WHERE cardinality(action_ids) > 1") == [(0,)]
    looks, missed = len(world.looks), sum(row[3] for row in wanted)
    print(f"{season}: {looks} looks, {len(found)} firings, {len(fired)} actions, {missed} due times stood for")
