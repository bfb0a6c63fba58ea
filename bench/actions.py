"""What actions cost: `python -m bench.actions [--actions 10000] [--plain 10000] [--rounds 5] [--singles 50] [--call-ms 80]`.

One org whose every call takes `--call-ms` longer, one actions worker of four threads, Redis, a mirror of the object. In each
round ours and the usual way (bench/one_call.py: one Celery task and one call each, four threads) take their turns:
`--actions` creates of ours (accepted by the thousand), then a round's share of `--plain` tasks. Then actions one by one on an idle system, each beside
one call made by hand. All moments are Postgres's; the org's calls and their durations are its own ledger's.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import redis
import requests
from rich.console import Console
from rich.table import Table
from sqlalchemy import text

from bench.one_call import DONE
from models.migrations import upgrade
from tests.acceptance.stack import Stack, start_stack
from tests.waiting import until
from worker.actions.accept import accept
from worker.actions.intent import Intent
from worker.local_servers import EmbeddedPostgres, EmbeddedValkey
from worker.runtime import Runtime
from worker.settings import load_settings

USER = "bench"
OBJECT = "Contact"
THREADS = 4
PART = 1_000  # actions that are accepted at once
FEWEST_CALLS, LEAST_SPEED, MOST_ABOVE_MS = 1 / 150, 50.0, 50.0  # what is to be reached
API = "/services/data/"
WRITE = "/composite/sobjects"
UNFINISHED = "SELECT EXISTS (SELECT 1 FROM sfsync.actions WHERE state IN ('waiting', 'ready', 'sending', 'in_doubt'))"
UNREMEMBERED = "SELECT EXISTS (SELECT 1 FROM sfsync.actions WHERE state = 'delivered' AND remembered_at IS NULL)"
AWAKE = "SELECT EXISTS (SELECT 1 FROM sfsync.action_queues WHERE next_due_at IS NOT NULL)"
SPAN = """
SELECT extract(epoch FROM max(finished_at) - CAST(:since AS timestamptz)), count(*) FILTER (WHERE state = 'delivered')
  FROM sfsync.actions WHERE created_at >= :since
"""


@dataclass
class Found:
    """What was measured: seconds of each round, calls of each round, milliseconds of single actions."""

    ours: list[float] = field(default_factory=list)
    calls: list[int] = field(default_factory=list)
    plain_seconds: float = 0.0
    plain_tasks: int = 0
    above_call_ms: list[float] = field(default_factory=list)
    whole_ms: list[float] = field(default_factory=list)
    by_hand_ms: list[float] = field(default_factory=list)


class Bench:
    """A stack that is connected and idle, and a worker of either kind beside it."""

    def __init__(self, cleanup: ExitStack, call_ms: int) -> None:
        folder = Path(cleanup.enter_context(tempfile.TemporaryDirectory(prefix="sfsync-bench-")))
        folder.chmod(0o755)  # PostgreSQL may run as another user
        postgres = cleanup.enter_context(EmbeddedPostgres(folder / "postgres", {}))
        upgrade(postgres.url)
        self.redis_url = cleanup.enter_context(EmbeddedValkey(folder / "valkey")).url
        self.stack: Stack = cleanup.enter_context(
            start_stack(folder, postgres.url, self.redis_url, seed="Account=3,Contact=3,Opportunity=3")
        )
        for name in ("SFSYNC_POLL_SECONDS", "SFSYNC_CLAIM_SECONDS"):
            del self.stack.env[name]  # as a user has them
        self.stack.env["SFSYNC_WORKER_THREADS"] = str(THREADS)
        self.stack.connect(USER)
        self.stack.sfsync("mirror", "--user-id", USER, "--object", OBJECT, "--wait")
        self.rt = Runtime(load_settings(self.stack.env))
        cleanup.callback(self.rt.close)
        ((self.connection_id,),) = self.stack.rows("SELECT id FROM salesforce_oauth_tokens")
        self.control = self.stack.org.control
        self.control.add_fault(match={"path_regex": API, "times": None}, action={"delay_ms": call_ms})
        self.session = requests.Session()
        self.session.headers["Authorization"] = f"Bearer {self.stack.org.token()}"

    # -- ours

    def start_worker(self) -> None:
        """Ours; it has found its way to Redis and has delivered something before anything is measured."""
        self.stack.start("worker", "actions")
        self.accept([create("warm up")])
        self.until_idle()

    def accept(self, intents: list[Intent]) -> Any:
        """Accept actions; Postgres's time before it."""
        now = self.rt.database.now()
        accept(self.rt.actions, self.connection_id, intents, source="cli")
        return now

    def until_idle(self) -> None:
        """Until every action has ended, the mirror was told, and the worker has gone to rest."""
        # The queues first: one row each, while to look for what is unfinished among all actions takes time of the cores, too.
        until(lambda: all(self._none(query) for query in (AWAKE, UNFINISHED, UNREMEMBERED)), limit=600)

    def _none(self, query: str) -> bool:
        with self.rt.database.transaction() as session:
            return not session.scalar(text(query))

    def burst(self, count: int) -> tuple[float, int]:
        """Seconds from before the acceptance to the last outcome; calls of the org until the mirror was told, too."""
        self.control.clear_ledger()
        parts = list(batched([create(f"ours {number}") for number in range(count)], PART))
        since = self.rt.database.now()
        for part in parts:
            self.accept(part)
        until(lambda: self._none(AWAKE) or time.sleep(0.25), limit=600)
        self.until_idle()
        with self.rt.database.transaction() as session:
            seconds, delivered = session.execute(text(SPAN), {"since": since}).one()
        assert delivered == count, f"{delivered} of {count} were delivered"
        ledger = self.control.ledger()
        inside = sum(entry["milliseconds"] for entry in ledger) / 1000
        print(f"{seconds:.2f} s, {len(ledger)} calls that took the org {inside:.1f} s", file=sys.stderr)
        return float(seconds), len(ledger)

    def single(self) -> tuple[float, float]:
        """Milliseconds from one action's acceptance to its outcome, and those of the org's own call in it."""
        self.control.clear_ledger()
        since = self.accept([create("one")])
        self.until_idle()
        with self.rt.database.transaction() as session:
            seconds, _ = session.execute(text(SPAN), {"since": since}).one()
        ledger = self.control.ledger()  # what is read back is POSTed to …/sobjects/OBJECT
        (call,) = (entry for entry in ledger if entry["method"] == "PATCH" or entry["path"].endswith(WRITE))
        return 1000 * float(seconds), float(call["milliseconds"])

    # -- the usual way

    def by_hand(self) -> float:
        """Milliseconds of one call on an open connection."""
        body = {"allOrNone": False, "records": [{"attributes": {"type": OBJECT}, "LastName": "by hand"}]}
        begin = time.perf_counter()
        self.session.post(f"{self.stack.org.url}{API}v62.0{WRITE}", json=body, timeout=60).raise_for_status()
        return 1000 * (time.perf_counter() - begin)

    @contextmanager
    def usual_worker(self) -> Iterator[None]:
        """A Celery worker of the usual way, up."""
        given = {
            "BENCH_REDIS": self.redis_url.rsplit("/", 1)[0] + "/1",
            "BENCH_ORG": self.stack.org.url,
            "BENCH_TOKEN": self.stack.org.token(),
        }
        os.environ.update(given)
        options = ["--pool", "threads", "--concurrency", str(THREADS), "--loglevel", "ERROR"]
        command = [sys.executable, "-W", "ignore", "-m", "celery", "-A", "bench.one_call", "worker", *options]
        process = subprocess.Popen(command, env={**os.environ, **given}, stdout=subprocess.DEVNULL)
        try:
            self.usual(1)
            yield
        finally:
            process.terminate()
            process.wait(60)

    def usual(self, count: int) -> float:
        """Seconds from the first task sent to the last one done."""
        from bench.one_call import app

        app.conf.broker_url = os.environ["BENCH_REDIS"]
        with redis.Redis.from_url(os.environ["BENCH_REDIS"]) as counter:
            counter.delete(DONE)
            begin = time.perf_counter()
            for number in range(count):
                app.send_task("create", [OBJECT, {"LastName": f"usual {number}"}])
            until(lambda: int(counter.get(DONE) or 0) >= count, limit=1200)
            return time.perf_counter() - begin


def batched(intents: list[Intent], size: int) -> Iterator[list[Intent]]:
    """Parts of at most `size`."""
    return (intents[start : start + size] for start in range(0, len(intents), size))


def create(name: str) -> Intent:
    """One create."""
    return Intent(OBJECT, "create", {"LastName": name})


def measure(options: argparse.Namespace) -> Found:
    """Everything, in one run."""
    found = Found()
    share = options.plain // options.rounds
    with ExitStack() as cleanup:
        bench = Bench(cleanup, options.call_ms)
        bench.start_worker()
        with bench.usual_worker():
            for _ in range(options.rounds):
                seconds, calls = bench.burst(options.actions)
                found.ours.append(seconds)
                found.calls.append(calls)
                if share:
                    found.plain_seconds += bench.usual(share)
                    found.plain_tasks += share
        for _ in range(options.singles):
            found.by_hand_ms.append(bench.by_hand())
            whole, call = bench.single()
            found.whole_ms.append(whole)
            found.above_call_ms.append(whole - call)
    return found


def show(options: argparse.Namespace, found: Found) -> bool:
    """Print the table; whether everything was reached."""
    table = Table(
        title=f"{options.actions:,} creates, {options.call_ms} ms a call, {THREADS} threads; median of {options.rounds}",
        title_justify="left",
    )
    for column in ("what", "ours", "against", "ratio", "to be reached", ""):
        table.add_column(column)
    rows = []
    calls = median(found.calls)
    rows.append(
        (
            "org calls, reads included",
            f"{calls:,.0f}",
            f"{options.actions:,}, one each",
            f"1/{options.actions / calls:,.0f}",
            "1/150",
            calls <= options.actions * FEWEST_CALLS,
        )
    )
    if found.plain_tasks:
        ours = options.actions / median(found.ours)
        usual = found.plain_tasks / found.plain_seconds
        rows.append(
            (
                "first accept → last outcome",
                f"{median(found.ours):.2f} s ({ours:,.0f}/s)",
                f"a task and a call each: {found.plain_tasks:,} in {found.plain_seconds:.0f} s ({usual:.1f}/s)",
                f"{ours / usual:.1f} ×",
                f"{LEAST_SPEED:.0f} ×",
                ours / usual >= LEAST_SPEED,
            )
        )
    if found.above_call_ms:
        above = median(found.above_call_ms)
        rows.append(
            (
                f"accepted → applied, idle, {len(found.whole_ms)} times",
                f"{median(found.whole_ms):.0f} ms",
                f"one call by hand: {median(found.by_hand_ms):.0f} ms",
                f"the org's own call + {above:.0f} ms",
                f"+ {MOST_ABOVE_MS:.0f} ms",
                above <= MOST_ABOVE_MS,
            )
        )
    for *cells, well in rows:
        table.add_row(*cells, "yes" if well else "NO")
    Console(width=170).print(table)
    return all(row[-1] for row in rows)


def main() -> None:
    """Measure and print; exit 1 if something was not reached."""
    parser = argparse.ArgumentParser(prog="python -m bench.actions", description=__doc__)
    parser.add_argument("--actions", type=int, default=10_000)
    parser.add_argument("--plain", type=int, default=10_000, help="tasks of the usual way in all (0: none)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--singles", type=int, default=50)
    parser.add_argument("--call-ms", type=int, default=80)
    options = parser.parse_args()
    sys.exit(not show(options, measure(options)))


if __name__ == "__main__":
    main()
