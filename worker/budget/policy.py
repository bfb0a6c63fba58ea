"""How much a lane may spend now. Pure: numbers in, numbers out.

The vendor counts the calls of the last 24 hours, those of other clients too. A share of the allowance is kept for actions:
while part of it is unspent, everything else stops that much earlier. Source: Developer Limits quick reference, "API Request
Limits and Allocations".
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from worker.salesforce.limits import (
    BULK_QUERY_JOBS_PER_DAY,
    BULK_RESULT_BYTES_PER_DAY,
    DEVELOPER_CALLS_PER_DAY,
    INGEST_BATCH_ROWS,
    INGEST_BATCHES_PER_DAY,
    INGEST_ROWS_PER_DAY,
    LONG_CALLS,
    LONG_CALLS_DEVELOPER,
)

BLOCK = 20  # calls that a process takes at once; fewer when they are short
BLOCK_LASTS = timedelta(
    minutes=5
)  # what it has not spent by then lapses, so a killed process loses no more than a block
ACTION_LANES = frozenset({"actions", "shim", "cli"})  # writes and what people wait for: these may spend the reserve
WAIT_FOR_ROOM = timedelta(minutes=5)  # before a lane that found no room asks again
BLOCKED_FOR = timedelta(
    minutes=15
)  # after the org itself said that all is spent; the planner looks at its count meanwhile
BULK_DAY = {  # allowances of GET /limits where the org does not say
    "DailyBulkV2QueryJobs": BULK_QUERY_JOBS_PER_DAY,
    "DailyBulkV2QueryFileStorageMB": BULK_RESULT_BYTES_PER_DAY >> 20,
    "DailyBulkApiBatches": INGEST_BATCHES_PER_DAY,
}
BULK_SHARE = 0.95  # of a day's Bulk allowances that we use: others of the org may use Bulk, too


@dataclass(frozen=True, slots=True)
class Account:
    """An org's calls as far as we know. `used`: by its own count and what was sent since; `out`: granted, not yet accounted for.

    `max` None: the org has not said anything yet. `reserve_left`: of the calls kept for actions, those not yet made.
    """

    used: int
    max: int | None
    out: int
    reserve_left: int
    blocked_until: datetime | None = None


@dataclass(frozen=True, slots=True)
class Grant:
    """Calls that may be made; with none, how long to wait and why."""

    calls: int
    wait: timedelta = timedelta(0)
    reason: str = ""


def reserve(maximum: int, share: float) -> int:
    """Calls of a day that are kept for actions."""
    return round(maximum * share)


def room(account: Account, lane: str) -> int | None:
    """Calls that a lane may still make in the present window; None while no limit is known."""
    if account.max is None:
        return None
    kept = 0 if lane in ACTION_LANES else account.reserve_left
    return max(0, account.max - account.used - account.out - kept)


def grant(account: Account, lane: str, now: datetime) -> Grant:
    """A block for a lane. The shorter the room, the smaller: the last calls must not lie idle in one process."""
    if account.blocked_until is not None and now < account.blocked_until:
        return Grant(0, account.blocked_until - now, "the org says that its API calls of the last 24 hours are spent")
    left = room(account, lane)
    if left is None:
        return Grant(BLOCK)
    if left == 0:
        kept = "" if lane in ACTION_LANES else f"; {account.reserve_left:,} are kept for actions"
        return Grant(0, WAIT_FOR_ROOM, f"{account.used:,} of {account.max:,} API calls of 24 hours are used{kept}")
    return Grant(min(BLOCK, max(1, left // BLOCK)))


def settle(
    account_used: int, reported_at: datetime | None, report: tuple[int, datetime] | None, unheard: int
) -> tuple[int, datetime | None]:
    """The count after a process reports: (used, the org's time of it). The newest of the org's own counts wins.

    `report`: what the org said last to this process; `unheard`: calls it sent since, or that no count came with (Bulk).
    """
    if report is None or (reported_at is not None and report[1] < reported_at):
        return account_used + unheard, reported_at
    if report[1] == reported_at:
        return max(account_used, report[0]) + unheard, reported_at
    return report[0] + unheard, report[1]


def parallel_calls(maximum: int | None, wanted: int) -> int:
    """Calls of one org under way at once, over all processes. Any may turn out to be a long one, and those are capped."""
    small = maximum is not None and maximum <= DEVELOPER_CALLS_PER_DAY
    return min(wanted, LONG_CALLS_DEVELOPER if small else LONG_CALLS)


def slots_for(cap: int, lane: str) -> int:
    """How far a lane may fill an org's slots: the last fifth is kept for actions."""
    return cap if lane in ACTION_LANES else max(1, cap - max(1, cap // 5))


@dataclass(frozen=True, slots=True)
class BulkDay:
    """Bulk work of the last 24 hours, by our own count; batches are what the org makes of ingested rows."""

    query_jobs: int = 0
    result_bytes: int = 0
    ingest_rows: int = 0
    ingest_jobs: int = 0


def bulk_room(day: BulkDay, limits: Mapping[str, Mapping[str, int]], *, ingest: bool) -> str | None:
    """Why no further Bulk job may begin now; None when one may. `limits`: GET /limits, which counts other clients' jobs too."""
    if ingest:
        said = _said(limits, "DailyBulkApiBatches")
        checks = [
            ("Bulk batches", max(batches(day.ingest_jobs, day.ingest_rows), said[0]), said[1]),
            ("Bulk ingest rows", day.ingest_rows, INGEST_ROWS_PER_DAY),
        ]
    else:
        jobs = _said(limits, "DailyBulkV2QueryJobs")
        stored = _said(limits, "DailyBulkV2QueryFileStorageMB")
        checks = [
            ("Bulk query jobs", max(day.query_jobs, jobs[0]), jobs[1]),
            ("MB of Bulk results", max(day.result_bytes >> 20, stored[0]), stored[1]),
        ]
    for what, used, most in checks:
        if most and used >= most * BULK_SHARE:  # an org that has none at all says so when it is asked for a job
            return f"{used:,} of {most:,} {what} of 24 hours are used"
    return None


def batches(jobs: int, rows: int) -> int:
    """Batches that the org makes of ingest jobs: one at least of each, one for so many rows."""
    return jobs + rows // INGEST_BATCH_ROWS


def limit_of(limits: Mapping[str, Mapping[str, int]], name: str) -> int:
    """One of the day's Bulk allowances, as the org reports it, else as the vendor's pages say."""
    return int((limits.get(name) or {}).get("Max", BULK_DAY[name]))


def _said(limits: Mapping[str, Mapping[str, int]], name: str) -> tuple[int, int]:
    """(used, max) of one allowance, as the org reports it: others' use counted."""
    most = limit_of(limits, name)
    return most - int((limits.get(name) or {}).get("Remaining", most)), most
