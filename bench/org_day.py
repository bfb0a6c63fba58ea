"""A day against a local org that counts for itself: `python -m bench.org_day [--calls 500] [--hours 26] [--step 150]`.

Real reads of five mirrors that want a minute, in an org whose clock is moved on and which refuses calls beyond its limit. Postgres's
clock cannot be moved, so what is stored is aged instead. Audits are off: they would take most of so few calls. Every count is the
org's own.
"""

import argparse
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from statistics import mean

import psycopg
from pydantic import SecretStr
from rich.console import Console
from rich.table import Table
from sqlalchemy import text

from models.migrations import upgrade
from tests.org import Org, start_org
from worker import lanes
from worker.local_servers import EmbeddedPostgres
from worker.log import setup_logging
from worker.mirror.requests import request_update
from worker.pulse import Pulse
from worker.runtime import Runtime
from worker.settings import Settings
from worker.tokens.connect import Target, connect_with_client_credentials

CHANGING = "Contact"
QUIET = ("Account", "Opportunity", "Lead", "Task")
# Hours go by way of a far past: moved one by one, some would meet others of the same key.
AGE = """
UPDATE sfsync.orgs SET limits_at = limits_at - CAST(%(by)s AS interval), blocked_until = blocked_until - CAST(%(by)s AS interval);
UPDATE sfsync.usage SET hour = hour - interval '300000 days';
UPDATE sfsync.usage SET hour = hour + interval '300000 days' - CAST(%(by)s AS interval);
UPDATE sfsync.mirrors SET next_refresh_at = next_refresh_at - CAST(%(by)s AS interval), next_settle_at = next_settle_at - CAST(%(by)s AS interval),
       rated_at = rated_at - CAST(%(by)s AS interval), described_at = described_at - CAST(%(by)s AS interval);
UPDATE sfsync.runs SET due_at = due_at - CAST(%(by)s AS interval) WHERE state = 'ready'
"""


@dataclass
class Watched:
    """What was seen: refreshes by object (seconds of the day), most calls that the org counted, calls it refused."""

    refreshed: dict[str, list[float]] = field(default_factory=dict)
    most: int = 0
    refused: int = 0

    def gaps(self, *objects: str) -> list[float]:
        """Seconds between the refreshes of these, the first hour left out."""
        return [b - a for name in objects for a, b in pairwise(self.refreshed.get(name, [])) if a >= 3600]


def main() -> None:
    """Run the day and print its table."""
    parser = argparse.ArgumentParser(prog="python -m bench.org_day", description=__doc__)
    parser.add_argument("--calls", type=int, default=500)
    parser.add_argument("--hours", type=float, default=26)
    parser.add_argument("--step", type=float, default=150, help="seconds that the clock moves on at once")
    options = parser.parse_args()
    setup_logging(level="ERROR")
    with world() as (rt, org):
        org.control.change_settings(api_limit=options.calls)
        org.control.set_usage(0)
        seen = live(rt, org, options.hours * 3600, options.step)
        reserve = round(options.calls * rt.settings.reserve_share)
        show_causes(rt)
    table = Table(
        title=f"{options.calls:,} calls a day, {options.hours:g} hours, five mirrors that want 60 s, one of them with changes",
        title_justify="left",
    )
    for column in (
        "most that the org counted",
        "kept for actions",
        "refused by the org",
        "refreshes",
        "interval of the one: mean, longest s",
        "of the others s",
    ):
        table.add_column(column, justify="right")
    intervals = [f"{mean(gaps):,.0f}, {max(gaps):,.0f}" for gaps in (seen.gaps(CHANGING), seen.gaps(*QUIET))]
    refreshes = sum(map(len, seen.refreshed.values()))
    table.add_row(f"{seen.most:,}", f"{reserve:,}", f"{seen.refused:,}", f"{refreshes:,}", *intervals)
    Console(width=130).print(table)


CAUSES = """
SELECT cause, sum(calls) AS calls FROM sfsync.usage WHERE hour > clock_timestamp() - interval '25 hours' GROUP BY 1 ORDER BY 2 DESC
"""


def show_causes(rt: Runtime) -> None:
    """What the calls of the last day were for."""
    with rt.database.transaction() as session:
        print(", ".join(f"{row.cause} {row.calls:,}" for row in session.execute(text(CAUSES))))


@contextmanager
def world() -> Iterator[tuple[Runtime, Org]]:
    """A connected runtime with five live mirrors, and its org."""
    with ExitStack() as cleanup:
        folder = Path(cleanup.enter_context(tempfile.TemporaryDirectory(prefix="sfsync-bench-")))
        folder.chmod(0o755)
        url = cleanup.enter_context(EmbeddedPostgres(folder / "postgres")).url
        upgrade(url)
        org = cleanup.enter_context(start_org(folder / "org", seed="Account=20,Contact=50,Opportunity=20"))
        rt = Runtime(settings_of(url, org, folder), application="sfsync-refresh")
        cleanup.callback(rt.close)
        me = connect_with_client_credentials(rt.database, rt.vault, rt.settings, Target("u")).connection_id
        with rt.database.transaction() as session:
            for name in (CHANGING, *QUIET):
                request_update(session, me, name, "manual", refresh_seconds=60)
        work_off(rt)
        yield rt, org


def settings_of(url: str, org: Org, folder: Path) -> Settings:
    """Settings without Redis, and without audits."""
    return Settings(
        database_url=SecretStr(url),
        redis_url=SecretStr("redis://127.0.0.1:1/0"),
        encryption_key=SecretStr("A" * 43),
        salesforce_client_id=org.client_id,
        salesforce_client_secret=SecretStr(org.client_secret),
        salesforce_login_url=org.url,
        salesforce_allowed_hosts=(org.url,),
        data_folder=folder / "data",
        audit_seconds=0,
        bulk_poll_seconds=0.2,
    )


def live(rt: Runtime, org: Org, seconds: float, step: float) -> Watched:
    """Move on through the day: changes in the org, the upkeep of a worker, everything that is due."""
    seen = Watched()
    now, number = 0.0, 0
    with psycopg.connect(rt.settings.database_url.get_secret_value(), autocommit=True) as connection:
        last = 0
        while now < seconds:
            org.control.change_rows(CHANGING, count=2, seed=int(now))
            lanes.ask_limits(rt)
            lanes.plan(rt)
            lanes.upkeep(rt)
            work_off(rt)
            rt.ledger.write()
            found = connection.execute(
                "SELECT r.id, m.object FROM sfsync.runs r JOIN sfsync.mirrors m ON m.id = r.mirror_id"
                " WHERE r.kind = 'refresh' AND r.state = 'done' AND r.id > %s ORDER BY r.id",
                (last,),
            ).fetchall()
            for run_id, name in found:
                seen.refreshed.setdefault(name, []).append(now)
                last = run_id
            calls = org.control.ledger(number)
            number = max((call["seq"] + 1 for call in calls), default=number)
            seen.refused += sum(call["status"] == 403 for call in calls)
            row = connection.execute("SELECT max(api_used) FROM sfsync.orgs").fetchone()
            seen.most = max(seen.most, row[0] if row and row[0] else 0)
            org.control.advance_clock(step)
            for statement in AGE.split(";"):
                connection.execute(statement.encode(), {"by": f"{step} seconds"})
            now += step
    return seen


def work_off(rt: Runtime) -> None:
    """Do what is due, as a worker finds it, until nothing is."""
    pulse = Pulse()
    while True:
        with rt.database.transaction() as session:
            due = [one for lane in ("refresh", "backfill", "upkeep") for one in lanes.due(session, lane, 20)]
        if not due:
            return
        for one in due:
            pulse.take_slot(one.name, one.row_id)
            pulse.run(one.name, one.row_id, lambda one=one: lanes.STEPS[one.name](rt, one.row_id))  # type: ignore[misc]


if __name__ == "__main__":
    main()
