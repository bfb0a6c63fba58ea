"""What orgs have spent, on what, and how far the rest reaches: for status, doctor, health and metrics."""

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import text
from sqlalchemy.orm import Session

from worker.budget import pace, policy
from worker.budget.accounts import account_of
from worker.budget.plan import Spent, spent_by_hour
from worker.salesforce.limits import INGEST_ROWS_PER_DAY
from worker.settings import Settings

HOUR = timedelta(hours=1)

ORGS = """
SELECT o.organization_id, o.api_used, o.api_max, o.api_reported_at, o.permits, o.reserve_left, o.blocked_until, o.limits,
       coalesce(s.slots, 0) AS slots, m.mirrors, m.stretched, m.paused,
       coalesce(u.calls, 0) AS calls, coalesce(u.query_jobs, 0) AS query_jobs, coalesce(u.result_bytes, 0) AS result_bytes,
       coalesce(u.ingest_jobs, 0) AS ingest_jobs, coalesce(u.ingest_rows, 0) AS ingest_rows
  FROM sfsync.orgs o
  LEFT JOIN LATERAL (SELECT sum(slots) AS slots FROM sfsync.org_slots s
                      WHERE s.organization_id = o.organization_id AND s.expires_at > statement_timestamp()) s ON true
  LEFT JOIN LATERAL (SELECT count(*) AS mirrors, count(*) FILTER (WHERE m.effective_seconds IS NOT NULL) AS stretched,
                            count(*) FILTER (WHERE m.effective_reason LIKE 'paused%') AS paused
                       FROM sfsync.mirrors m JOIN salesforce_oauth_tokens c ON c.id = m.connection_id
                      WHERE c.organization_id = o.organization_id AND m.state = 'live') m ON true
  LEFT JOIN LATERAL (SELECT sum(calls) AS calls, sum(query_jobs) AS query_jobs, sum(result_bytes) AS result_bytes,
                            sum(ingest_jobs) AS ingest_jobs, sum(ingest_rows) AS ingest_rows FROM sfsync.usage u
                      WHERE u.organization_id = o.organization_id AND u.hour > :since) u ON true
 WHERE CAST(:user_id AS text) IS NULL
    OR o.organization_id IN (SELECT organization_id FROM salesforce_oauth_tokens WHERE user_id = :user_id)
 ORDER BY o.organization_id
"""

USAGE = """
SELECT organization_id, hour, object, lane, cause, calls, query_jobs, ingest_jobs, result_bytes, ingest_rows FROM sfsync.usage
 WHERE hour > :since AND (CAST(:user_id AS text) IS NULL
    OR organization_id IN (SELECT organization_id FROM salesforce_oauth_tokens WHERE user_id = :user_id))
 ORDER BY organization_id, hour DESC, calls DESC, object, lane, cause
"""


def usage(session: Session, now: datetime, *, hours: int = 24, user_id: str | None = None) -> list[dict[str, Any]]:
    """Calls and Bulk work of the last hours by org, hour, object, lane and cause, newest hour first."""
    rows = session.execute(text(USAGE), {"since": now - hours * HOUR, "user_id": user_id}).mappings()
    return [dict(row) for row in rows]


def orgs(session: Session, settings: Settings, now: datetime, *, user_id: str | None = None) -> list[dict[str, Any]]:
    """Each org's allowance, what is left of it, and where it goes at the present rate."""
    rows = session.execute(text(ORGS), {"since": now - 24 * HOUR, "user_id": user_id}).all()
    reserves = {row.organization_id: policy.reserve(row.api_max or 0, settings.reserve_share) for row in rows}
    spent = spent_by_hour(session, reserves, now)
    return [_org(row, spent[row.organization_id], settings, now) for row in rows]


def _org(row: Any, spent: Spent, settings: Settings, now: datetime) -> dict[str, Any]:
    account = account_of(row, now, settings.reserve_share)
    blocked = account.blocked_until if account.blocked_until and account.blocked_until > now else None
    found: dict[str, Any] = {
        "organization_id": row.organization_id,
        "used": account.used,
        "max": account.max,
        "left": None if account.max is None else 0 if blocked else max(0, account.max - account.used),
        "reported_at": row.api_reported_at,
        "reserve_left": account.reserve_left,
        "blocked_until": blocked,
        "ours": int(row.calls),
        "parallel_calls": int(row.slots),
        "parallel_calls_max": policy.parallel_calls(account.max, settings.parallel_calls),
        "mirrors": row.mirrors,
        "mirrors_stretched": row.stretched,
        "mirrors_paused": row.paused,
        "bulk": _bulk(row),
    }
    return {**found, **(_forecast(account, spent, now) if account.max else {})}


def _forecast(account: policy.Account, spent: Spent, now: datetime) -> dict[str, Any]:
    assert account.max is not None
    rate = _per_hour(spent.by_hour, now)
    out = pace.runs_out(account.used, account.max, spent.by_hour, now, rate)
    return {
        "calls_per_hour": round(rate, 1),
        "used_in_a_day": pace.at_end_of_day(account.used, spent.by_hour, now, rate),
        "runs_out_at": None if out is None else now + out,
    }


def _per_hour(spent: Mapping[datetime, int], now: datetime) -> float:
    """Our rate of late: of the hour that runs and the one before."""
    began = now.replace(minute=0, second=0, microsecond=0)
    return (spent.get(began, 0) + spent.get(began - HOUR, 0)) / ((now - began + HOUR) / HOUR)


def _bulk(row: Any) -> dict[str, Any]:
    limits = row.limits or {}
    return {
        "query_jobs": int(row.query_jobs),
        "query_jobs_max": policy.limit_of(limits, "DailyBulkV2QueryJobs"),
        "result_mb": int(row.result_bytes) >> 20,
        "result_mb_max": policy.limit_of(limits, "DailyBulkV2QueryFileStorageMB"),
        "ingest_batches": policy.batches(int(row.ingest_jobs), int(row.ingest_rows)),
        "ingest_batches_max": policy.limit_of(limits, "DailyBulkApiBatches"),
        "ingest_rows": int(row.ingest_rows),
        "ingest_rows_max": INGEST_ROWS_PER_DAY,
    }
