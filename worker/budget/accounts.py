"""The orgs' accounts in Postgres: permits, counts, bookings, slots. Each function is part of its caller's transaction."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import text
from sqlalchemy.orm import Session

from worker.attribution import Attribution
from worker.budget import policy
from worker.budget.policy import Account, BulkDay
from worker.salesforce.metering import Kind
from worker.salesforce.usage import Usage

DAY = timedelta(days=1)

ENSURE = "INSERT INTO sfsync.orgs (organization_id) VALUES (:org) ON CONFLICT DO NOTHING"
LOOK = """
SELECT api_used, api_max, api_reported_at, permits, reserve_left, blocked_until, limits FROM sfsync.orgs
 WHERE organization_id = :org
"""
LOCK = LOOK + " FOR NO KEY UPDATE"
BOOK = """
INSERT INTO sfsync.usage AS u (organization_id, hour, object, lane, cause, calls, query_jobs, ingest_jobs, result_bytes, ingest_rows)
VALUES (:org, date_trunc('hour', CAST(:now AS timestamptz), 'UTC'), :object, :lane, :cause, :calls, :query_jobs, :ingest_jobs,
        :result_bytes, :ingest_rows)
ON CONFLICT (organization_id, hour, object, lane, cause) DO UPDATE
   SET calls = u.calls + EXCLUDED.calls, query_jobs = u.query_jobs + EXCLUDED.query_jobs,
       ingest_jobs = u.ingest_jobs + EXCLUDED.ingest_jobs, result_bytes = u.result_bytes + EXCLUDED.result_bytes,
       ingest_rows = u.ingest_rows + EXCLUDED.ingest_rows
"""
BULK_DAY = """
SELECT coalesce(sum(query_jobs), 0) AS query_jobs, coalesce(sum(result_bytes), 0) AS result_bytes,
       coalesce(sum(ingest_rows), 0) AS ingest_rows, coalesce(sum(ingest_jobs), 0) AS ingest_jobs
  FROM sfsync.usage WHERE organization_id = :org AND hour > :since
"""
LEASED = """
SELECT coalesce(sum(slots), 0) FROM sfsync.org_slots
 WHERE organization_id = :org AND process <> :process AND expires_at > statement_timestamp()
"""
LEASE = """
INSERT INTO sfsync.org_slots (organization_id, process, slots, expires_at)
VALUES (:org, :process, :slots, clock_timestamp() + :lasts)
ON CONFLICT (organization_id, process) DO UPDATE SET slots = EXCLUDED.slots, expires_at = EXCLUDED.expires_at
"""


@dataclass(slots=True)
class Booking:
    """Calls, and the Bulk work done with them."""

    calls: int = 0
    query_jobs: int = 0
    ingest_jobs: int = 0
    result_bytes: int = 0
    ingest_rows: int = 0

    def add(self, kind: Kind) -> None:
        """One call more."""
        self.calls += 1
        self.query_jobs += kind is Kind.QUERY_JOB
        self.ingest_jobs += kind is Kind.INGEST_JOB

    def merge(self, other: "Booking") -> None:
        """All of another booking more."""
        for name in Booking.__slots__:
            setattr(self, name, getattr(self, name) + getattr(other, name))


@dataclass(frozen=True, slots=True)
class Spent:
    """What a process reports: permits spent or given back by minute, bookings, the org's last count and calls since."""

    settled: Mapping[int, int]
    bookings: Mapping[Attribution, Booking]
    report: Usage | None
    unheard: int
    reserved_spent: int


def org_of(session: Session, connection_id: int) -> str | None:
    """The org of a connection, where it is known."""
    query = "SELECT organization_id FROM salesforce_oauth_tokens WHERE id = :id"
    found: str | None = session.scalar(text(query), {"id": connection_id})
    return found


def minute_of(now: datetime) -> int:
    """The key of permits granted now: the minute's beginning, in epoch seconds."""
    return int(now.timestamp()) // 60 * 60


def living(permits: Mapping[str, int], now: datetime) -> dict[str, int]:
    """Permits that have not lapsed."""
    oldest = now.timestamp() - policy.BLOCK_LASTS.total_seconds() - 60
    return {minute: count for minute, count in permits.items() if count > 0 and int(minute) > oldest}


def lock(session: Session, org: str, now: datetime, reserve_share: float) -> Account:
    """An org's account, locked until the transaction ends; made where there is none."""
    row = session.execute(text(LOCK), {"org": org}).first()
    if row is None:
        session.execute(text(ENSURE), {"org": org})
        row = session.execute(text(LOCK), {"org": org}).one()
    return account_of(row, now, reserve_share)


def account_of(row: Any, now: datetime, reserve_share: float) -> Account:
    """A row of `orgs` as the policy sees it."""
    kept = row.reserve_left
    if kept is None and row.api_max is not None:
        kept = policy.reserve(row.api_max, reserve_share)
    out = sum(living(row.permits, now).values())
    return Account(row.api_used or 0, row.api_max, out, kept or 0, row.blocked_until)


def may_spend(session: Session, connection_id: int, calls: int, lane: str, now: datetime, reserve_share: float) -> bool:
    """Whether a lane has room for so many calls of a connection's org. Nothing is taken for them: they ask again one by one."""
    org = org_of(session, connection_id)
    row = session.execute(text(LOOK), {"org": org}).first() if org else None
    if row is None:
        return True
    account = account_of(row, now, reserve_share)
    left = policy.room(account, lane)
    return policy.grant(account, lane, now).calls > 0 and (left is None or left >= calls)


def add_permits(session: Session, org: str, minute: int, calls: int) -> None:
    """Note a block that was granted, in the transaction that locked the account."""
    query = """
    UPDATE sfsync.orgs SET permits = permits || jsonb_build_object(CAST(:minute AS text),
           coalesce(CAST(permits ->> CAST(:minute AS text) AS int), 0) + :calls) WHERE organization_id = :org
    """
    session.execute(text(query), {"org": org, "minute": str(minute), "calls": calls})


def settle(session: Session, org: str, spent: Spent, now: datetime, reserve_share: float) -> None:
    """Take what a process spent from the permits, book it, and bring the count up to date."""
    row = session.execute(text(LOCK), {"org": org}).first()
    if row is None:
        session.execute(text(ENSURE), {"org": org})
        row = session.execute(text(LOCK), {"org": org}).one()
    report = spent.report and spent.report.at and (spent.report.used, spent.report.at)
    used, at = policy.settle(row.api_used or 0, row.api_reported_at, report or None, spent.unheard)
    newest = report and report[1] == at and spent.report
    maximum = newest.max if newest else row.api_max
    permits = {minute: count - spent.settled.get(int(minute), 0) for minute, count in row.permits.items()}
    left = row.reserve_left
    if maximum is not None:
        left = max(0, (policy.reserve(maximum, reserve_share) if left is None else left) - spent.reserved_spent)
    freed = newest and newest.used < newest.max
    session.execute(
        text(
            """
            UPDATE sfsync.orgs SET api_used = :used, api_max = :max, api_reported_at = :at, reserve_left = :left,
                   permits = CAST(:permits AS jsonb), blocked_until = CASE WHEN NOT :freed THEN blocked_until END
             WHERE organization_id = :org
            """
        ),
        {
            "org": org,
            "used": used,
            "max": maximum,
            "at": at,
            "left": left,
            "permits": json.dumps(living(permits, now)),
            "freed": bool(freed),
        },
    )
    for what, booking in sorted(spent.bookings.items(), key=lambda item: (item[0].object, item[0].lane, item[0].cause)):
        values = {name: getattr(booking, name) for name in Booking.__slots__}
        key = {"object": what.object, "lane": what.lane, "cause": what.cause}
        session.execute(text(BOOK), {"org": org, "now": now, **key, **values})


def block(session: Session, org: str, until: datetime) -> None:
    """Nobody may call the org until then."""
    lock(session, org, until, 0.0)
    query = "UPDATE sfsync.orgs SET blocked_until = greatest(blocked_until, :until) WHERE organization_id = :org"
    session.execute(text(query), {"org": org, "until": until})


def bulk_refusal(session: Session, org: str, now: datetime, *, ingest: bool) -> str | None:
    """Why no further Bulk job may begin; None when one may."""
    row = session.execute(text(BULK_DAY), {"org": org, "since": now - DAY}).one()
    limits = session.scalar(text("SELECT limits FROM sfsync.orgs WHERE organization_id = :org"), {"org": org})
    day = BulkDay(int(row.query_jobs), int(row.result_bytes), int(row.ingest_rows), int(row.ingest_jobs))
    return policy.bulk_room(day, limits or {}, ingest=ingest)


def lease(session: Session, org: str, process: str, slots: int, lane: str, *, wanted: int, lasts: timedelta) -> int:
    """Slots that a process may fill from now on: `slots`, or as many of them as others leave free."""
    account = session.execute(text(LOCK), {"org": org}).first()
    if account is None:
        session.execute(text(ENSURE), {"org": org})
        account = session.execute(text(LOCK), {"org": org}).one()
    cap = policy.slots_for(policy.parallel_calls(account.api_max, wanted), lane)
    others = session.scalar(text(LEASED), {"org": org, "process": process}) or 0
    given = max(0, min(slots, cap - int(others)))
    if given == slots:
        session.execute(text(LEASE), {"org": org, "process": process, "slots": given, "lasts": lasts})
    return given


def renew_lease(session: Session, org: str, process: str, slots: int, lasts: timedelta) -> None:
    """Keep `slots` for a while longer; none gives the lease back. Leases of dead processes are forgotten here."""
    session.execute(text("SELECT 1 FROM sfsync.orgs WHERE organization_id = :org FOR NO KEY UPDATE"), {"org": org})
    if slots:
        session.execute(text(LEASE), {"org": org, "process": process, "slots": slots, "lasts": lasts})
    forget = "DELETE FROM sfsync.org_slots WHERE organization_id = :org AND (expires_at < statement_timestamp() OR (process = :process AND :gone))"
    session.execute(text(forget), {"org": org, "process": process, "gone": not slots})
