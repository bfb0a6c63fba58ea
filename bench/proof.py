"""The mirror is never wrong, shown the hard way: `python -m bench.proof kills|soak`.

kills  real worker processes are killed with -9, `--kills` times (50), each time while one of them holds a load or a refresh
       of `--rows` contacts (1,000,000) that the org changes meanwhile; pages are cut or lie, jobs fail, calls are refused
soak   `--minutes` (10) of 50 changes a second on `--rows` contacts (10,000) with a refresh every 10 seconds: both lags as
       Postgres has them each second, and what the org's ledger says was spent

Both end with two comparisons of every record: `sfsync verify`, and one of our own that shares no code with the worker (ids,
stamps and three fields, by EXCEPT in Postgres). Exits 1 if either finds a difference, or if a figure of `soak` is not reached.
"""

import argparse
import random
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
import requests
from rich.console import Console
from rich.table import Table

from bench.measure import end_in_order
from models.migrations import upgrade
from tests.acceptance.stack import Stack, start_stack
from tests.processes import Process
from tests.waiting import until
from worker.local_servers import EmbeddedPostgres, EmbeddedValkey

USER = ("--user-id", "tester")
COMPARED = ("Id", "SystemModstamp", "LastName", "Title", "AccountId")
TYPES = ("text", "timestamptz", "text", "text", "text")
PATIENCE = 3600.0  # seconds for a load, a refresh or a verification of a million rows on a slow machine
CHANGES_A_SECOND = 50
FRESH_SECONDS, SETTLED_SECONDS, CALLS_A_READ = 20.0, 360.0, 2.0  # what `soak` must reach
BUSY: dict[str, Any] = {"status": 503, "body": [{"errorCode": "SERVER_UNAVAILABLE", "message": "try later"}]}
TROUBLE: tuple[tuple[str, dict[str, Any]], ...] = (
    (r"/jobs/query/\w+/results", {"truncate_bytes": 100_000}),
    (r"/jobs/query/\w+/results", {"cut": "after"}),
    (r"/jobs/query/\w+/results", BUSY),
    (r"/jobs/query", {"cut": "after"}),
    (r"/services/data/", {"cut": "before"}),
    (r"/services/data/", BUSY),
    (r"/services/data/", {"status": 500, "body": "<html>proxy</html>"}),
)
FAULTS_AT_ONCE = 4
LIES = ("fail", "drop_rows", "wrong_count", "early_end")


@contextmanager
def started(rows: int, **env: str) -> Iterator[Stack]:
    """Servers of its own, an org with `rows` contacts, connected; no worker yet, and no audit that would mend anything."""
    with ExitStack() as cleanup:
        folder = Path(cleanup.enter_context(tempfile.TemporaryDirectory(prefix="sfsync-proof-")))
        folder.chmod(0o755)  # PostgreSQL may run as another user
        postgres = cleanup.enter_context(EmbeddedPostgres(folder / "postgres", {"max_wal_size": "4GB"}))
        valkey = cleanup.enter_context(EmbeddedValkey(folder / "valkey"))
        upgrade(postgres.url)
        seed = f"Account={max(1, rows // 50)},Contact={rows}"
        stack = cleanup.enter_context(
            start_stack(folder, postgres.url, valkey.url, seed=seed, patience_seconds=PATIENCE)
        )
        stack.env.update(
            {"SFSYNC_AUDIT_SECONDS": "0", "SFSYNC_SWEEP_SECONDS": "1000000", "SFSYNC_LOG_LEVEL": "WARNING", **env}
        )
        stack.connect()
        yield stack


def value(stack: Stack, statement: str, *values: object) -> Any:
    """First column of the first row."""
    rows = stack.rows(statement, *values)
    return rows[0][0] if rows else None


def ask(stack: Stack, *options: str) -> None:
    """Ask for runs as a user does."""
    stack.sfsync("mirror", *USER, "--object", "Contact", *options)


@contextmanager
def beside(*work: Callable[[threading.Event], None]) -> Iterator[threading.Event]:
    """Do `work` in threads while the block lasts; what went wrong in one of them is raised at the end."""
    over, faults = threading.Event(), list[BaseException]()

    def one(call: Callable[[threading.Event], None]) -> None:
        try:
            call(over)
        except BaseException as error:
            faults.append(error)
            over.set()

    threads = [threading.Thread(target=one, args=(call,), daemon=True) for call in work]
    for thread in threads:
        thread.start()
    try:
        yield over
    finally:
        over.set()
        if not isinstance(sys.exc_info()[1], SystemExit):  # in a hurry: no change of the org is waited for
            for thread in threads:
                thread.join()
    if faults:
        raise faults[0]


# -- the comparisons


def compare(stack: Stack) -> int:
    """Records that are not the same on both sides, by what the org tells another client over REST."""
    headers = {"Authorization": f"Bearer {stack.org.token()}"}
    path: str | None = "/services/data/v62.0/query"
    params: dict[str, str] | None = {"q": f"SELECT {', '.join(COMPARED)} FROM Contact"}
    columns = ", ".join(COMPARED)
    with psycopg.connect(stack.database_url, autocommit=True) as connection:
        typed = ", ".join(f"{name} {kind}" for name, kind in zip(COMPARED, TYPES, strict=True))
        connection.execute(f"CREATE TEMP TABLE org ({typed})".encode())
        with connection.cursor() as cursor, cursor.copy(f"COPY org ({columns}) FROM STDIN".encode()) as copy:
            while path:
                answer = requests.get(stack.org.url + path, params=params, headers=headers, timeout=600)
                answer.raise_for_status()
                page = answer.json()
                for row in page["records"]:
                    copy.write_row([row[name] for name in COMPARED])
                path, params = page.get("nextRecordsUrl"), None
        found = connection.execute(
            f"""
            SELECT count(DISTINCT id) FROM (
              (SELECT {columns} FROM org EXCEPT ALL SELECT {columns} FROM salesforce.contact)
              UNION ALL (SELECT {columns} FROM salesforce.contact EXCEPT ALL SELECT {columns} FROM org)) AS different
            """.encode()
        ).fetchone()
    assert found is not None
    return int(found[0])


def differences(stack: Stack) -> tuple[int, int, int]:
    """After a refresh that began when all was quiet: ours, what `sfsync verify` finds, and the records that it compared."""
    quiet = value(stack, "SELECT nextval('sfsync.read_numbers')")
    refreshed = "SELECT count(*) > 0 FROM sfsync.runs WHERE kind = 'refresh' AND state = 'done' AND read_number > %s"
    until(lambda: value(stack, refreshed, quiet), limit=PATIENCE)
    ours = compare(stack)
    verification = "SELECT differences, records FROM sfsync.verifications ORDER BY id DESC LIMIT 1"
    with psycopg.connect(stack.database_url, autocommit=True) as connection:
        connection.execute(
            "INSERT INTO sfsync.runs (mirror_id, kind, lane, cause) SELECT id, 'verify', 'backfill', 'manual' FROM sfsync.mirrors"
        )
    until(
        lambda: value(stack, "SELECT bool_and(state <> 'ready') FROM sfsync.runs WHERE kind = 'verify'"), limit=PATIENCE
    )
    rows = stack.rows(verification)
    if not rows:
        raise RuntimeError(
            f"the verification did not end well: {stack.rows('SELECT state, error FROM sfsync.runs')[-1]}"
        )
    found, records = rows[0]
    return ours, found, records


# -- kills

STAGES = ("begin", "wait", "pages", "pages", "pages", "loaded", "look", "read")
HELD = """
SELECT lane, kind, stage, claim_token FROM sfsync.runs
 WHERE state = 'ready' AND claim_until > clock_timestamp() AND claim_token > %s
"""


@dataclass
class Kills:
    """Kills, and what the workers were doing when they died."""

    stack: Stack
    rows: int
    chance: random.Random
    longest: float = 15.0  # seconds that a run may take to come to the stage in which its worker is to be killed
    buried: int = 0
    count: int = 0
    during: Counter[str] = field(default_factory=Counter)
    spoilt: int = 0
    workers: dict[str, Process] = field(default_factory=dict)  # by lane

    def start(self, lane: str) -> None:
        """A worker of a lane."""
        self.workers[lane] = self.stack.start("worker", lane)

    def change(self, over: threading.Event) -> None:
        """The org never stands still; loads and refreshes never end."""
        control, share = self.stack.org.control, max(10, self.rows // 100)
        while not over.wait(self.chance.uniform(0.5, 2.0)):
            number = self.chance.randrange(1 << 30)
            control.change_rows("Contact", count=share, seed=number)
            gone = control.delete_rows("Contact", count=max(1, share // 20), seed=number + 1)
            control.create_rows("Contact", count=max(1, share // 20))
            control.undelete_rows("Contact", ids=gone[: len(gone) // 3])
            if not value(self.stack, "SELECT count(*) FROM sfsync.runs WHERE state = 'ready' AND kind = 'load'"):
                ask(self.stack, "--full")

    def spoil(self, over: threading.Event) -> None:
        """Calls, jobs and pages go wrong, a few at a time: while a worker waits after a fault, the next ones must not pile up."""
        control = self.stack.org.control
        while not over.wait(self.chance.uniform(0.5, 3.0)):
            if sum(rule["spoilt"] < rule["times"] for rule in control.faults()) >= FAULTS_AT_ONCE:
                continue
            if self.chance.random() < 0.5:
                path, action = self.chance.choice(TROUBLE)
                control.add_fault(match={"path_regex": path, "skip": self.chance.randrange(4)}, action=action)
            else:
                control.clear_bulk_faults()  # one that nobody has met
                control.add_bulk_fault(self.chance.choice(LIES), skip=self.chance.randrange(6))

    def held(self) -> list[tuple[Any, ...]]:
        """Runs that a living worker holds: lane, kind, stage, token. A claim of the dead is held until it runs out."""
        return self.stack.rows(HELD, self.buried)

    def kill(self) -> None:
        """The worker of a run that is held right now dies, with all its threads and children, and another comes up."""
        until(self.held, limit=PATIENCE)
        wanted = self.chance.choice(STAGES)
        end = time.monotonic() + self.longest
        while time.monotonic() < end and all(stage != wanted for _, _, stage, _ in self.held()):
            time.sleep(0.05)
        time.sleep(self.chance.uniform(0.0, 0.5))
        while not (held := self.held()):
            until(self.held, limit=PATIENCE)
        lane, kind, stage, self.buried = self.chance.choice(held)
        if lane in self.workers:
            self.stack.kill(self.workers[lane])
        self.start(lane)
        self.count += 1
        self.during[f"{kind}/{stage}"] += 1
        print(f"kill {self.count}: {kind}/{stage}", file=sys.stderr)


def is_loaded(stack: Stack) -> bool:
    """Whether the mirror is live and no load is under way; a first load that gave up is asked for again, as a person would."""
    loading = value(stack, "SELECT count(*) FROM sfsync.runs WHERE state = 'ready' AND kind = 'load'")
    if loading or value(stack, "SELECT bool_and(state = 'live') FROM sfsync.mirrors"):
        return not loading
    ask(stack)
    return False


def kills(rows: int, count: int, seed: int) -> bool:
    """Kill, settle, compare; True when nothing differs."""
    pages = str(max(1000, rows // 50))
    with started(
        rows,
        SFSYNC_BULK_POLL_SECONDS="0.5",
        SFSYNC_REFRESH_SECONDS="5",
        SFSYNC_BULK_PAGE_ROWS=pages,
        SFSYNC_BULK_THRESHOLD_ROWS="500",
    ) as stack:
        one = Kills(stack, rows, random.Random(seed))
        ask(stack)
        for lane in ("backfill", "refresh"):
            one.start(lane)
        began = time.monotonic()
        with beside(one.change, one.spoil) as over:
            while one.count < count and not over.is_set():
                one.kill()
        control = stack.org.control
        one.spoilt = sum(rule["spoilt"] for rule in control.faults())
        control.clear_faults()
        control.clear_bulk_faults()
        until(lambda: is_loaded(stack), limit=PATIENCE)
        ours, found, records = differences(stack)
        parked = stack.rows("SELECT kind, error FROM sfsync.runs WHERE state IN ('parked', 'failed')")
        loaded = value(stack, "SELECT count(*) FROM sfsync.runs WHERE kind = 'load' AND state = 'done'")
        refreshed = value(stack, "SELECT count(*) FROM sfsync.runs WHERE kind = 'refresh' AND state = 'done'")
        show(
            f"{one.count} kills of real workers, {rows:,} contacts, seed {seed}",
            {
                "killed during": ", ".join(f"{name} {n}" for name, n in one.during.most_common()),
                "calls spoilt": one.spoilt,
                "loads, refreshes that ended well": f"{loaded}, {refreshed}",
                "runs that gave up": parked or "none",
                "records compared": f"{records:,}",
                "differences by our own comparison": ours,
                "differences by verify": found,
                "seconds": f"{time.monotonic() - began:.0f}",
            },
        )
        return ours == found == 0


# -- soak


def change_steadily(stack: Stack, over: threading.Event, seed: int, made: Counter[str]) -> None:
    """CHANGES_A_SECOND in each second, however long the org takes for them."""
    chance, control = random.Random(seed), stack.org.control
    start, second = time.monotonic(), 0
    while not over.wait(max(0.0, start + second - time.monotonic())):
        second += 1
        number = chance.randrange(1 << 30)
        few = CHANGES_A_SECOND // 10
        control.change_rows("Contact", count=CHANGES_A_SECOND - 3 * few, seed=number)
        control.create_rows("Contact", count=few)
        gone = control.delete_rows("Contact", count=few, seed=number + 1)
        control.undelete_rows("Contact", count=few, seed=number + 2)
        made["changes"] += CHANGES_A_SECOND - few + len(gone)
        made["seconds"] = second


def soak(rows: int, minutes: float, seed: int) -> bool:
    """Change and refresh, sample both lags each second, compare; True when nothing differs and the figures are reached."""
    with started(rows, SFSYNC_REFRESH_SECONDS="10", SFSYNC_POLL_SECONDS="1", SFSYNC_CLAIM_SECONDS="45") as stack:
        for lane in ("backfill", "refresh"):
            stack.start("worker", lane)
        ask(stack, "--wait")
        stack.org.control.clear_ledger()
        first = value(stack, "SELECT coalesce(max(id), 0) FROM sfsync.runs")
        lag = "SELECT sfsync.lag(fresh_cursor, clock_skew_seconds), sfsync.lag(settled_cursor, clock_skew_seconds) FROM sfsync.mirrors"
        lags: list[tuple[float, float]] = []
        made: Counter[str] = Counter()
        end = time.monotonic() + minutes * 60
        with beside(lambda over: change_steadily(stack, over, seed, made)) as over:
            while time.monotonic() < end and not over.wait(1.0):
                lags += stack.rows(lag)
        ledger = stack.org.control.ledger()
        spent = stack.rows(
            "SELECT kind, count(*) FILTER (WHERE state = 'done'), sum(calls)::bigint FROM sfsync.runs WHERE id > %s GROUP BY 1",
            first,
        )
        ours, found, records = differences(stack)
    calls = sum("/services/data/" in entry["path"] for entry in ledger)
    reads = {kind: (done, used) for kind, done, used in spent}
    fresh = reads.get("refresh", (0, 0))[0]
    a_read = (calls - sum(used for kind, (_, used) in reads.items() if kind != "refresh")) / max(1, fresh)
    fresh_lag, settled_lag = (
        percentile([each[place] for each in lags if each[place] is not None], 0.95) for place in (0, 1)
    )
    show(
        f"{minutes:g} minutes of {CHANGES_A_SECOND} changes a second on {rows:,} contacts, seed {seed}",
        {
            "changes": f"{made['changes']:,} in {made['seconds']} s",
            "fresh_lag p95": f"{fresh_lag:.1f} s (at most {FRESH_SECONDS:.0f})",
            "settled_lag p95": f"{settled_lag:.0f} s (at most {SETTLED_SECONDS:.0f})",
            "org calls by its ledger": calls,
            "runs (done, calls)": ", ".join(f"{kind} {done}, {used}" for kind, (done, used) in reads.items()),
            "calls a fresh read, settle reads aside": f"{a_read:.2f} (at most {CALLS_A_READ:.0f})",
            "records compared": f"{records:,}",
            "differences by our own comparison": ours,
            "differences by verify": found,
        },
    )
    reached = fresh_lag <= FRESH_SECONDS and settled_lag <= SETTLED_SECONDS and a_read <= CALLS_A_READ
    return ours == found == 0 and reached


def percentile(values: list[float], share: float) -> float:
    """The value that `share` of all do not exceed."""
    ordered = sorted(values)
    return float(ordered[min(len(ordered) - 1, int(share * len(ordered)))]) if ordered else float("nan")


def show(title: str, figures: dict[str, object]) -> None:
    """A table of two columns."""
    table = Table(title=title, title_justify="left", show_header=False)
    for name, figure in figures.items():
        table.add_row(name, str(figure))
    Console(width=150).print(table)


def main() -> None:
    """Run one of the two."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.proof", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("what", choices=("kills", "soak"))
    parser.add_argument("--rows", type=int)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    options = parser.parse_args()
    end_in_order()
    print(f"seed {options.seed}", file=sys.stderr)
    if options.what == "kills":
        good = kills(options.rows or 1_000_000, options.kills, options.seed)
    else:
        good = soak(options.rows or 10_000, options.minutes, options.seed)
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
