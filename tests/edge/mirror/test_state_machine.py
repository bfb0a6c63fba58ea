"""Anything may happen to an org and to a worker, in any order: once all is quiet, the mirror is the org.

Hypothesis picks what happens: records are created, changed, deleted, restored, purged, merged; transactions become visible
late; calculated fields move without a stamp; fields come and go; calls are cut, refused, or lie; the worker dies between two
of its moments. After settling, a verification finds no difference but calculated fields that moved (they have no stamp: the
audit's business), after an audit none at all; and a comparison that shares no code with the worker agrees.

    SFSYNC_TEST_MACHINE=200x40   so many examples of so many steps (default 1x20, which takes seconds)
    SFSYNC_TEST_SEED=7           another sequence (default 1); `random`: any. It is printed.
    SFSYNC_TEST_SHRINK=1         look for the shortest failing example
"""

import os
import random
import sys
from collections.abc import Callable
from contextlib import ExitStack, suppress
from decimal import Decimal
from typing import Any

import pytest
import requests
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from tests.conftest import new_database
from tests.edge.mirror.mortal import MortalWorker
from tests.edge.mirror.world import make_world
from tests.org import Org, SharedOrgs
from worker.db import Database
from worker.local_servers import EmbeddedPostgres

OBJECTS = ("Account", "Contact", "Opportunity", "Meter__c")
WATCHED = {  # what the comparison of our own looks at
    "Account": ["Name", "Phone", "NumberOfEmployees", "Meters__c", "Reading__c", "Large__c"],
    "Contact": ["LastName", "Title", "AccountId", "Boss__c"],
    "Opportunity": ["Name", "NextStep", "AccountId", "StageName"],
    "Meter__c": ["Name", "Value__c", "Account__c"],
}
DEFINITION: dict[str, Any] = {
    "objects": [
        {
            "name": "Meter__c",
            "key_prefix": "a77",
            "fields": [
                {"name": "Value__c", "type": "double", "precision": 12, "scale": 3},
                {
                    "name": "Account__c",
                    "type": "reference",
                    "reference_to": ["Account"],
                    "child_relationship": "Meters__r",
                    "cascade_delete": True,
                },
            ],
        }
    ],
    "fields": {
        "Account": [
            {"name": "Large__c", "type": "boolean", "formula": "NumberOfEmployees > 100"},
            {
                "name": "Meters__c",
                "type": "double",
                "precision": 18,
                "rollup": ["Meter__c", "Account__c", "COUNT", "Id"],
            },
            {
                "name": "Reading__c",
                "type": "double",
                "precision": 18,
                "scale": 3,
                "rollup": ["Meter__c", "Account__c", "SUM", "Value__c"],
            },
        ],
        "Contact": [{"name": "Boss__c", "type": "string", "length": 255, "formula": "Account.Phone"}],
    },
}
SEEDED = "Account=8,Contact=40,Opportunity=12"
API = r"^/services/data/"
PLACES = (API, API + r".*/query", API + ".*/composite", API + ".*/jobs/query$", "/results", "/describe")
BUSY: dict[str, Any] = {"status": 503, "body": [{"errorCode": "SERVER_UNAVAILABLE", "message": "try later"}]}
TROUBLE: tuple[dict[str, Any], ...] = (
    {"cut": "before"},
    {"cut": "after"},
    {"truncate_bytes": 200},
    {"truncate_bytes": 3000},
    BUSY,
    {"status": 200, "body": "<html>proxy</html>"},
    {"status": 500, "body": [{"errorCode": "UNKNOWN_EXCEPTION", "message": "an unexpected error"}]},
    {
        "status": 400,
        "body": [{"errorCode": "QUERY_TIMEOUT", "message": "Your query request was running for too long."}],
    },
)
FEWEST = 4  # Hypothesis begins with an example in which next to nothing happens: not worth a settling
LIES = ("fail", "drop_rows", "wrong_count", "early_end")

objects = st.sampled_from(OBJECTS)
picks = st.integers(0, 999)
few = st.integers(1, 6)


class Mirrored(RuleBasedStateMachine):
    """One org, one connection that mirrors four of its objects, one worker."""

    org: Org
    fresh_database: Callable[[], Any]

    def __init__(self) -> None:
        super().__init__()
        self.cleanup = ExitStack()
        self.org.control.late_commits(0, times=0)  # what an example before this one did not use up
        self.org.control.restore("machine")
        url = self.cleanup.enter_context(self.fresh_database())
        database = Database(url)
        self.cleanup.callback(database.close)
        made = make_world(self.org, database, bulk_page_rows=15, bulk_threshold_rows=12, bulk_poll_seconds=0.05)
        self.world = self.cleanup.enter_context(made)
        self.worker = MortalWorker(self.world)
        self.cleanup.callback(self.worker.close)
        self.control = self.org.control
        self.made = self.steps = 0
        self.extra: set[tuple[str, str]] = set()  # fields that came and are still there

    @invariant()
    def count(self) -> None:
        self.steps += 1

    # -- what happens in the org

    @initialize()
    def load(self) -> None:
        """Everything is mirrored; the first refreshes know the org's clock."""
        for name in OBJECTS:
            assert self.worker.finish(self.world.ask(name))["state"] == "done"

    def asked(self, change: Callable[[], object]) -> None:
        """Carry out a change that the org may refuse (a child cannot come back without its parent)."""
        try:
            change()
        except RuntimeError as error:
            if any(word in str(error) for word in ("ValueError", "KeyError", "TypeError", ": 500 ")):
                raise

    def ids(self, name: str, pick: int, count: int = 1) -> list[str]:
        """Some living records."""
        found = self.rows(f"SELECT Id FROM {name} ORDER BY Id")
        return [row["Id"] for row in random.Random(pick).sample(found, min(count, len(found)))]

    @rule(name=objects, count=few)
    def create(self, name: str, count: int) -> None:
        parents: list[str | None] = [*self.ids("Account", count, 3), *([None] if name != "Meter__c" else [])]
        if parents:
            records = [self.record(name, parents[n % len(parents)]) for n in range(count)]
            self.asked(lambda: self.control.create_rows(name, count=count, records=records))

    def record(self, name: str, parent: str | None) -> dict[str, Any]:
        self.made += 1
        return {
            "Account": {"Name": f"made {self.made}", "Phone": f"+49 {self.made}"},
            "Contact": {"LastName": f"made {self.made}", "AccountId": parent},
            "Opportunity": {
                "Name": f"made {self.made}",
                "AccountId": parent,
                "StageName": "Prospecting",
                "CloseDate": "2030-01-01",
            },
            "Meter__c": {"Name": f"made {self.made}", "Account__c": parent, "Value__c": self.made / 8},
        }[name]

    @rule(name=objects, count=st.integers(1, 30), pick=picks)
    def change(self, name: str, count: int, pick: int) -> None:
        self.made += 1
        field = {"Account": "Phone", "Contact": "Title", "Opportunity": "NextStep", "Meter__c": "Name"}[name]
        self.control.change_rows(name, count=count, seed=pick, fields={field: f"changed {self.made}"})

    @rule(count=few, pick=picks, size=st.integers(90, 110))
    def move_formula(self, count: int, pick: int, size: int) -> None:
        """A referenced value changes: the formula of the record itself, or of its children."""
        self.control.change_rows("Account", count=count, seed=pick, fields={"NumberOfEmployees": size})

    @rule(count=few, pick=picks)
    def move_rollup(self, count: int, pick: int) -> None:
        """A referenced value of children changes; the parents' sums follow, stamped or not."""
        self.made += 1
        self.control.change_rows("Meter__c", count=count, seed=pick, fields={"Value__c": self.made * 1.5})
        self.control.recalculate("Account")

    @rule(name=objects, count=few, pick=picks)
    def delete(self, name: str, count: int, pick: int) -> None:
        self.asked(lambda: self.control.delete_rows(name, count=min(count, 2 if name == "Account" else 6), seed=pick))

    @rule(name=objects, count=few, pick=picks)
    def undelete(self, name: str, count: int, pick: int) -> None:
        self.asked(lambda: self.control.undelete_rows(name, count=count, seed=pick))

    @rule(name=objects, count=st.integers(1, 3), pick=picks, living=st.booleans())
    def purge(self, name: str, count: int, pick: int, living: bool) -> None:
        ids = self.ids(name, pick, 1) if living else None
        self.asked(lambda: self.control.purge_rows(name, count=count, seed=pick, ids=ids))

    @rule(name=st.sampled_from(("Account", "Contact")), pick=picks)
    def merge(self, name: str, pick: int) -> None:
        winner, *losers = [*self.ids(name, pick, 2), ""]
        if losers[0]:
            self.asked(lambda: self.control.merge_rows(name, winner, losers[:1]))

    @rule(
        name=st.sampled_from(("Account", "Contact", "Opportunity")), pick=picks, late=st.sampled_from((0, 20, 300, 800))
    )
    def commit_late(self, name: str, pick: int, late: float) -> None:
        """Somebody's long transaction: stamped now, visible later."""
        self.made += 1
        field = {"Account": "Phone", "Contact": "Title", "Opportunity": "NextStep"}[name]
        for record_id in self.ids(name, pick):
            if late:
                self.control.late_commits(late)
            url = f"{self.org.url}/services/data/v62.0/sobjects/{name}/{record_id}"
            with suppress(requests.RequestException):  # a fault that was meant for the worker
                requests.patch(url, json={field: f"late {self.made}"}, headers=self.headers(), timeout=60)

    @rule(name=objects, number=st.integers(1, 2), fill=few, pick=picks)
    def add_field(self, name: str, number: int, fill: int, pick: int) -> None:
        """A field comes (perhaps again); some records get a value in it."""
        self.made += 1
        field = f"Extra{number}__c"
        self.control.add_field(name, field, type="string", length=80)
        self.extra.add((name, field))
        self.control.change_rows(name, count=fill, seed=pick, fields={field: f"extra {self.made}"})

    @rule(name=objects, number=st.integers(1, 2))
    def remove_field(self, name: str, number: int) -> None:
        field = f"Extra{number}__c"
        if (name, field) in self.extra:
            self.extra.discard((name, field))
            self.control.remove_field(name, field)

    @rule(seconds=st.sampled_from((1, 2, 5, 31, 70, 400, 1000, 4000)))
    def pass_time(self, seconds: int) -> None:
        self.control.advance_clock(seconds)

    # -- what goes wrong

    @rule(place=st.sampled_from(PLACES), action=st.sampled_from(TROUBLE), skip=st.integers(0, 2))
    def spoil(self, place: str, action: dict[str, Any], skip: int) -> None:
        self.control.add_fault(match={"path_regex": place, "skip": skip}, action=action)

    @rule(kind=st.sampled_from(LIES), skip=st.integers(0, 1))
    def lie(self, kind: str, skip: int) -> None:
        self.control.add_bulk_fault(kind, skip=skip)

    @rule()
    def expire_token(self) -> None:
        self.control.expire_tokens()

    # -- what the worker does

    @rule(name=objects, kind=st.sampled_from(("refresh", "refresh", "refresh", "settle", "load", "verify", "audit")))
    def ask(self, name: str, kind: str) -> None:
        """Somebody asks for a run, or the timetable does."""
        if kind == "audit":
            self.world.ask(name, "verify", repair=True, audit=True)
        else:
            self.world.ask(name, kind)

    @rule(pick=picks, steps=st.integers(1, 4), dies_after=st.none() | st.integers(0, 60))
    @precondition(lambda self: self.ready())
    def work(self, pick: int, steps: int, dies_after: int | None) -> None:
        """A few steps of one run; perhaps the worker is killed in the last."""
        waiting = self.ready()
        run_id = waiting[pick % len(waiting)]
        for left in reversed(range(steps)):
            if self.world.run(run_id)["state"] == "ready":
                self.worker.step(run_id, dies_after=None if left else dies_after)

    def ready(self) -> list[int]:
        return [row[0] for row in self.world.query("SELECT id FROM sfsync.runs WHERE state = 'ready' ORDER BY id")]

    @rule(name=objects, dies_after=st.none() | st.integers(0, 40))
    def refresh(self, name: str, dies_after: int | None) -> None:
        """A whole refresh; perhaps its first worker is killed."""
        run_id = self.world.ask(name, "refresh")
        if dies_after is not None:
            self.worker.step(run_id, dies_after=dies_after)
        self.worker.finish(run_id)

    # -- and when all is quiet

    @rule()
    def settle(self) -> None:
        self.make_quiet()
        for name in OBJECTS:
            found = self.do(name, "verify")
            unexplained = found["differences"] - found["calculated"]
            assert unexplained == 0, f"{name}: {unexplained} differences: {found['details']}"
            if found["differences"]:
                self.do(name, "verify", repair=True, audit=True)
                assert self.do(name, "verify")["differences"] == 0, name
            self.compare(name)

    def make_quiet(self) -> None:
        """No more trouble, every transaction visible, every run done, every reader passed twice."""
        self.control.clear_faults()
        self.control.clear_bulk_faults()
        self.control.advance_clock(3600)
        self.world.query("UPDATE sfsync.mirrors SET described_at = '2000-01-01' RETURNING 1")
        self.empty()
        for _ in range(2):
            for kind in ("refresh", "settle"):
                for name in OBJECTS:
                    self.end(self.world.ask(name, kind))
            self.empty()
            self.control.advance_clock(400)

    def empty(self) -> None:
        """Until nothing is left to do, children of moved parents included."""
        self.world.query(
            "UPDATE sfsync.mirrors SET next_refresh_at = '2090-01-01', next_settle_at = '2090-01-01' RETURNING 1"
        )
        while waiting := [*self.ready(), *self.world.schedule()]:
            for run_id in waiting:
                self.end(run_id)

    def end(self, run_id: int) -> dict[str, Any]:
        run = self.worker.finish(run_id)
        assert run["state"] == "done", f"{run['kind']} of mirror {run['mirror_id']} is {run['state']}: {run['error']}"
        return run

    def do(self, name: str, kind: str, **options: Any) -> dict[str, Any]:
        run = self.end(self.world.ask(name, kind, **options))
        self.empty()
        return self.world.one("SELECT * FROM sfsync.verifications WHERE run_id = :id", id=run["id"])

    # -- a second opinion

    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.org.token()}"}

    def rows(self, soql: str) -> list[dict[str, Any]]:
        """A query, as somebody else's client sends it."""
        url: str | None = f"{self.org.url}/services/data/v62.0/query"
        rows: list[dict[str, Any]] = []
        params: dict[str, str] | None = {"q": soql}
        refused = 0
        while url:
            try:
                answer = requests.get(url, params=params, headers=self.headers(), timeout=60)
                page = answer.json(parse_float=Decimal)
                rows += page["records"]
            except (requests.RequestException, TypeError):  # a fault that was meant for the worker
                refused += 1
                assert refused < 200, f"{soql}: the org does not answer"
                continue
            url, params = page.get("nextRecordsUrl") and self.org.url + page["nextRecordsUrl"], None
        return rows

    def compare(self, name: str) -> None:
        """Org and Postgres, row by row."""
        fields = ["Id", *WATCHED[name], *(field for item, field in self.extra if item == name)]
        there = {tuple(row[field] for field in fields) for row in self.rows(f"SELECT {', '.join(fields)} FROM {name}")}
        here = set(self.world.query(f"SELECT {', '.join(fields)} FROM salesforce.{name}"))
        assert here == there, f"{name}: only in the org {there - here}, only here {here - there}"

    def teardown(self) -> None:
        try:
            if sys.exc_info()[0] is None and self.steps > FEWEST:
                self.settle()
        finally:
            self.cleanup.close()


@pytest.fixture
def org(orgs: SharedOrgs) -> Org:
    """An org whose records hang together, as every example finds it."""
    org = orgs.like_new(SEEDED)
    org.control.define(DEFINITION)
    org.control.change_settings(cascade_stamps=False)  # the worst that an org may do
    accounts = org.control.change_rows("Account", count=8)
    meters = [{"Name": f"M-{n}", "Account__c": accounts[n % 8], "Value__c": n / 4} for n in range(20)]
    org.control.create_rows("Meter__c", records=meters)
    org.control.advance_clock(3600)
    org.control.snapshot("machine")
    return org


def machine(org: Org, postgres: EmbeddedPostgres) -> type[Mirrored]:
    """The machine's class, bound to its servers."""
    return type(
        "BoundMirrored", (Mirrored,), {"org": org, "fresh_database": staticmethod(lambda: new_database(postgres))}
    )


@pytest.mark.timeout(0)
def test_whatever_happens_the_mirror_is_the_org_again(org: Org, postgres: EmbeddedPostgres) -> None:
    examples, steps = map(int, os.environ.get("SFSYNC_TEST_MACHINE", "1x20").split("x"))
    asked = os.environ.get("SFSYNC_TEST_SEED", "1")
    number = random.randrange(10**9) if asked == "random" else int(asked)
    print(f"SFSYNC_TEST_MACHINE={examples}x{steps} SFSYNC_TEST_SEED={number}")
    phases = [Phase.generate, *([Phase.shrink] if os.environ.get("SFSYNC_TEST_SHRINK") else [])]
    chosen = settings(
        max_examples=examples + 2,  # in the first two next to nothing happens
        stateful_step_count=steps,
        deadline=None,
        database=None,
        phases=phases,
        suppress_health_check=list(HealthCheck),
        print_blob=True,
    )
    run_state_machine_as_test(seed(number)(machine(org, postgres)), settings=chosen)
