"""Chaos: writes go through real worker processes while everything goes wrong, and are counted in the org afterwards.

Workers are killed with -9, the org cuts connections after applying, answers 503, locks rows and throttles, Redis is flushed.
The test suite runs it small, `python -m bench.chaos` large.
"""

import random
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import redis
import requests

from tests.acceptance.stack import Stack
from tests.waiting import until
from worker.actions.accept import accept
from worker.actions.intent import Intent
from worker.runtime import Runtime
from worker.settings import load_settings

USER = "tester"
VERSION = "62.0"
WRITES = r"composite|ui-api/records|jobs/ingest"
ENV = {
    "SFSYNC_REQUEST_SECONDS": "5",
    "SFSYNC_SETTLING_SECONDS": "6",
    "SFSYNC_BULK_POLL_SECONDS": "0.5",
    "SFSYNC_WORKER_THREADS": "4",
    "SFSYNC_LOG_LEVEL": "INFO",
}
TROUBLE: tuple[dict[str, Any], ...] = (
    {"cut": "after"},
    {"cut": "before"},
    {"cut": "after", "delay_ms": 300},
    {"truncate_bytes": 40},
    {"status": 503, "body": [{"errorCode": "SERVER_UNAVAILABLE", "message": "too busy"}]},
    {"status": 503, "body": "<html>maintenance</html>"},
    {"status": 429, "headers": {"Retry-After": "1"}},
    {"status": 500, "body": [{"errorCode": "UNKNOWN_EXCEPTION", "message": "an unexpected error occurred"}]},
    {"status": 400, "body": [{"errorCode": "UNABLE_TO_LOCK_ROW", "message": "unable to obtain exclusive access"}]},
)
THROTTLE = {
    "status": 403,
    "body": [{"errorCode": "REQUEST_LIMIT_EXCEEDED", "message": "ConcurrentPerOrgLongTxn Limit exceeded."}],
    "headers": {"Retry-After": "1"},
}


@dataclass(frozen=True)
class Size:
    """How much is asked for, and for how long things go wrong. `keyed`: the org has external-id fields."""

    creates: int
    updates: int
    records: int  # that the updates are spread over
    seconds: float
    keyed: bool = True
    workers: int = 2


@dataclass
class Report:
    """What was counted."""

    states: Counter[str]
    ways: Counter[str]
    missing: list[str]
    doubled: list[str]
    wrong: list[str]
    disordered: list[str]
    kills: int
    flushes: int
    faults: int
    calls: int
    seconds: float
    paths: Counter[str] = field(default_factory=Counter)
    phases: dict[str, float] = field(default_factory=dict)  # seconds from the beginning to the end of each


class Chaos:
    """One run on a stack that is connected."""

    def __init__(self, stack: Stack, size: Size, seed: int) -> None:
        self.stack = stack
        self.size = size
        self.chance = random.Random(seed)
        self.over = threading.Event()
        self.killing = threading.Lock()
        self.kills = 0
        self.flushes = 0
        self.rt = Runtime(load_settings(stack.env))
        self.ids: list[str] = []
        self.redis_url = stack.env["REDIS_URL"]

    def prepare(self) -> None:
        """Records to update; the org's external-id fields are taken away where there are to be none."""
        control = self.stack.org.control
        control.change_settings(lock_wait_ms=300)
        if not self.size.keyed:
            for object_name in ("Contact", "Account"):
                for name in self.external_ids(object_name):
                    control.remove_field(object_name, name)
        rows = [{"LastName": f"base {number}"} for number in range(self.size.records)]
        self.ids = control.create_rows("Contact", count=len(rows), records=rows)
        control.advance_clock(60)  # a record of ours a moment before the first sending could be what that sending made
        control.clear_ledger()
        self.journal_from = max((entry["seq"] for entry in control.journal()), default=0)

    def external_ids(self, object_name: str) -> list[str]:
        url = f"{self.stack.org.url}/services/data/v{VERSION}/sobjects/{object_name}/describe"
        found = requests.get(url, headers=self.headers(), timeout=60).json()["fields"]
        return [one["name"] for one in found if one["externalId"]]

    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.stack.org.token()}"}

    # -- what is asked for

    def ask(self, *, with_redis: bool) -> None:
        """All actions, in bursts of every size, so that every way is gone; the gravest right after some were accepted."""
        creates = list(range(1, self.size.creates))
        steps = [self.chance.randrange(self.size.records) for _ in range(self.size.updates)]
        updates = [
            Intent("Contact", "update", {"Title": f"step {number}"}, record_id=self.ids[place])
            for number, place in enumerate(steps)
        ]
        self.last = {self.ids[place]: f"step {number}" for number, place in enumerate(steps)}
        self.asked = {one: [f"step {n}" for n, place in enumerate(steps) if self.ids[place] == one] for one in self.ids}
        sizes = [1, 1, 7, 40, 1, 260, 1, 90, 400]
        grave = {3: self.flush, 5: self.kill_one, 6: self.flush} if with_redis else {5: self.kill_one}
        turn = 0
        while creates or updates:
            some = sizes[turn % len(sizes)]
            turn += 1
            numbers, creates = creates[:some], creates[some:]
            share = max(1, some // 2)
            burst, updates = [self.create(number, some) for number in numbers] + updates[:share], updates[share:]
            self.accept(burst)
            if turn in grave:
                grave[turn]()
            if some == 1:
                self.over.wait(0.3)

    def ask_first(self) -> None:
        """One create while all is well: it makes the worker ask whether the org heeds idempotency keys."""
        self.accept([self.create(0, 1)])
        until(self.settled)

    def accept(self, intents: list[Intent]) -> None:
        ((connection_id,),) = self.stack.rows("SELECT id FROM salesforce_oauth_tokens")
        accept(self.rt.actions, connection_id, intents, source="cli")

    @staticmethod
    def create(number: int, beside: int) -> Intent:
        """A create; one that comes alone is of an object of its own, so that it is sent alone."""
        if beside == 1:
            return Intent("Account", "create", {"Name": f"chaos {number}"})
        return Intent("Contact", "create", {"LastName": f"chaos {number}"})

    # -- what goes wrong

    def spoil(self) -> None:
        """Faults of the org, one after the other; rows that somebody else holds."""
        control = self.stack.org.control
        while not self.over.wait(self.chance.uniform(0.05, 0.4)):
            action = self.chance.choice([*TROUBLE, THROTTLE])
            control.add_fault(match={"path_regex": WRITES, "skip": self.chance.randrange(2)}, action=action)
            if self.chance.random() < 0.3:
                control.hold_rows(self.chance.sample(self.ids, min(3, len(self.ids))), self.chance.uniform(0.2, 1.0))

    def kill(self) -> None:
        """Workers that have come up are killed and started again; in the end there are as many as in the beginning."""
        while not self.over.wait(self.chance.uniform(1.5, 4.0)):
            if self.up():
                self.kill_one()

    def kill_one(self) -> None:
        """Kill a worker in the middle of its work, and start another."""
        until(self.up)
        with self.killing:
            victims = self.up()
            if victims and not self.settled():
                self.stack.kill(self.chance.choice(victims))
                self.kills += 1
                self.stack.start("worker", "actions")

    def up(self) -> list[Any]:
        """Workers that have started and live: those that are still starting have nothing in hand."""
        started = {pid for (pid,) in self.stack.rows("SELECT pid FROM sfsync.processes")}
        return [one for one in self.stack.processes if one.pid in started and one.poll() is None]

    def flush(self) -> None:
        """Redis loses everything while work is under way."""
        with redis.Redis.from_url(self.redis_url) as client:
            client.flushall()
        self.flushes += not self.settled()

    # -- the run

    def run(self, *, with_redis: bool) -> Report:
        """Everything at once; then quiet, until every action has ended; then the counting."""
        self.prepare()
        begin = time.monotonic()
        phases: dict[str, float] = {}

        def ended(phase: str) -> None:
            phases[phase] = round(time.monotonic() - begin, 1)

        for _ in range(self.size.workers):
            self.stack.start("worker", "actions")
        threads = [threading.Thread(target=one, daemon=True) for one in (self.spoil, self.kill)]
        until(self.up)
        ended("a worker is up")
        self.ask_first()
        ended("the first is delivered")
        for thread in threads:
            thread.start()
        try:
            self.ask(with_redis=with_redis)
            ended("all are accepted")
            ends = time.monotonic() + self.size.seconds
            while time.monotonic() < ends and not self.settled():
                time.sleep(0.2)
        finally:
            self.over.set()
            for thread in threads:
                thread.join()
            faults = sum(rule["spoilt"] for rule in self.stack.org.control.faults())
            self.stack.org.control.clear_faults()
        ended("trouble is over")
        until(self.settled, limit=600)
        ended("every action has ended")
        report = self.count(time.monotonic() - begin)
        report.faults, report.phases = faults, phases
        self.rt.close()
        return report

    def settled(self) -> bool:
        pending = "SELECT count(*) FROM sfsync.actions WHERE state IN ('waiting', 'ready', 'sending', 'in_doubt')"
        return self.stack.rows(pending) == [(0,)]

    # -- the counting

    def count(self, seconds: float) -> Report:
        """The org's records and its journal against what was asked."""
        made = Counter(
            row[name]
            for object_name, name in (("Contact", "LastName"), ("Account", "Name"))
            for row in self.query(f"SELECT {name} FROM {object_name} WHERE {name} LIKE 'chaos %'")
        )
        wanted = [f"chaos {number}" for number in range(self.size.creates)]
        titles = {
            row["Id"]: row["Title"] for row in self.query("SELECT Id, Title FROM Contact WHERE Title LIKE 'step %'")
        }
        applied: dict[str, list[str]] = {one: [] for one in self.ids}
        for entry in self.stack.org.control.journal(self.journal_from):
            title = entry["changed"].get("Title")
            if entry["id"] in applied and title and applied[entry["id"]][-1:] != [title]:
                applied[entry["id"]].append(title)
        ledger = self.stack.org.control.ledger()
        paths = Counter(
            f"{entry['method']} {kind_of(entry['path'])}" for entry in ledger if "/services/data/v" in entry["path"]
        )
        return Report(
            states=Counter(dict(self.stack.rows("SELECT state, count(*) FROM sfsync.actions GROUP BY 1"))),
            ways=Counter(dict(self.stack.rows("SELECT way, count(*) FROM sfsync.actions GROUP BY 1"))),
            missing=[name for name in wanted if not made[name]],
            doubled=[name for name in wanted if made[name] > 1],
            wrong=[one for one, title in self.last.items() if titles.get(one) != title],
            disordered=[one for one, steps in applied.items() if not is_in_order(steps, self.asked[one])],
            kills=self.kills,
            flushes=self.flushes,
            faults=0,
            calls=sum(paths.values()),
            seconds=seconds,
            paths=paths,
        )

    def query(self, soql: str) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = []
        path: str | None = f"/services/data/v{VERSION}/queryAll"
        params: dict[str, str] | None = {"q": soql}
        while path:
            answer = requests.get(f"{self.stack.org.url}{path}", params=params, headers=self.headers(), timeout=120)
            answer.raise_for_status()
            page = answer.json()
            rows += page["records"]
            path, params = page.get("nextRecordsUrl"), None
        return rows


def is_in_order(applied: list[str], asked: list[str]) -> bool:
    """Whether every step was applied, and no earlier one after a later one (again is allowed only before the next)."""
    return applied == asked


def kind_of(path: str) -> str:
    """A path without ids, for counting."""
    parts = [part for part in path.split("/")[4:] if part]
    return "/".join("ID" if len(part) in (15, 18) and part[:3] in ("750", "003", "001") else part for part in parts)
