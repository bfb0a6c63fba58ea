"""Planning: bring the intervals of mirrors to what their org's allowance permits, and ask each org for its own count now and then.

Both are upkeep: done by one process at a time, harmless to repeat. Only orgs that are short of calls are looked at closely.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import text
from sqlalchemy.orm import Session

from models.mirror import CHANGE_RATE_SECONDS, IDLE_SETTLES
from worker.attribution import attributed
from worker.budget import accounts, pace, policy
from worker.budget.accounts import DAY
from worker.budget.pace import Pace
from worker.db import Database
from worker.errors import SyncError
from worker.log import get_logger
from worker.salesforce.client import OrgClient
from worker.salesforce.transport import Deadline
from worker.settings import Settings

log = get_logger(__name__)

LIMITS_EVERY = timedelta(hours=1)
LIMITS_WHEN_SHORT = timedelta(minutes=15)
LIMITS_SECONDS = 10.0  # whole deadline of one look
LIMITS_AT_ONCE = 20  # orgs asked in one go
LIMITS_KEPT = ("DailyApiRequests", "DailyBulkApiBatches", "DailyBulkV2QueryJobs", "DailyBulkV2QueryFileStorageMB")
CUSHION = (
    0.01  # of the allowance is not planned for, so that permits do not run out while the plan is only a little off
)
SAME = 0.02  # an interval that would change by less than this share is left as it is

# The reserve grows again as the actions of a day ago leave the window. Only orgs where some of it is spent are looked at.
RESERVE = """
UPDATE sfsync.orgs o SET reserve_left = greatest(0, round(o.api_max * CAST(:share AS float8)) - s.calls)
  FROM (SELECT p.organization_id, coalesce(sum(u.calls), 0) AS calls
          FROM sfsync.orgs p LEFT JOIN sfsync.usage u
            ON u.organization_id = p.organization_id AND u.hour > :since AND u.lane = ANY(:lanes)
         WHERE p.api_max IS NOT NULL AND p.reserve_left IS DISTINCT FROM round(p.api_max * CAST(:share AS float8))
         GROUP BY p.organization_id) s
 WHERE o.organization_id = s.organization_id
   AND o.reserve_left IS DISTINCT FROM greatest(0, round(o.api_max * CAST(:share AS float8)) - s.calls)
"""

# Orgs whose users' wishes would take more calls in a day than are there, and those whose intervals are stretched now.
SHORT = """
SELECT o.organization_id, o.api_used, o.api_max, o.api_reported_at, o.permits, o.reserve_left, o.blocked_until, w.stretched
  FROM sfsync.orgs o
  JOIN (SELECT c.organization_id, bool_or(m.effective_seconds IS NOT NULL) AS stretched,
               sum(86400 * (m.refresh_calls / m.refresh_seconds + m.settle_calls / CAST(:settle AS float8))) AS wanted
          FROM sfsync.mirrors m JOIN salesforce_oauth_tokens c ON c.id = m.connection_id AND c.state = 'active'
         WHERE m.state = 'live' GROUP BY 1) w USING (organization_id)
 WHERE o.api_max IS NOT NULL
   AND (w.stretched OR o.blocked_until > :now
        OR w.wanted > o.api_max - o.api_used - coalesce(o.reserve_left, round(o.api_max * CAST(:share AS float8))))
 ORDER BY o.organization_id
"""

MIRRORS = """
SELECT m.id, m.refresh_seconds, m.effective_seconds, m.effective_reason, m.refresh_calls, m.settle_calls, m.next_refresh_at,
       m.change_rate * exp(-greatest(0, extract(epoch FROM CAST(:now AS timestamptz) - m.rated_at)) / CAST(:memory AS float8)) AS change_rate
  FROM sfsync.mirrors m JOIN salesforce_oauth_tokens c ON c.id = m.connection_id AND c.state = 'active'
 WHERE m.state = 'live' AND c.organization_id = :org ORDER BY m.id FOR NO KEY UPDATE OF m
"""

SPENT = """
SELECT organization_id, hour, sum(calls) AS calls, coalesce(sum(calls) FILTER (WHERE lane = ANY(:lanes)), 0) AS by_actions,
       coalesce(sum(calls) FILTER (WHERE cause = 'limits' OR cause LIKE '%/audit'), 0) AS steady
  FROM sfsync.usage WHERE organization_id = ANY(:orgs) AND hour > :since GROUP BY 1, 2
"""

PACE = """
UPDATE sfsync.mirrors SET effective_seconds = :seconds, effective_reason = :reason, next_refresh_at = least(next_refresh_at, :next),
       next_settle_at = least(next_settle_at, CAST(:now AS timestamptz) + make_interval(secs => :settle)) WHERE id = :id
"""
PAUSE = """
UPDATE sfsync.mirrors SET effective_seconds = :seconds, effective_reason = :reason, next_refresh_at = :until,
       next_settle_at = greatest(next_settle_at, :until) WHERE id = :id
"""


@dataclass(frozen=True, slots=True)
class Spent:
    """Calls of an org by hour. `coming_back`: those whose end makes room for refreshes; `steady`: an hour's that do not stretch."""

    by_hour: Mapping[datetime, int]
    coming_back: Mapping[datetime, int]
    steady: float


def spent_by_hour(session: Session, reserves: Mapping[str, int], now: datetime) -> dict[str, Spent]:
    """What the calls of these orgs were in the last day. `reserves`: org → calls kept for actions.

    Actions' calls come back as reserve, except what went beyond it.
    """
    values = {
        "orgs": sorted(reserves),
        "since": now - DAY - timedelta(hours=1),
        "lanes": sorted(policy.ACTION_LANES),
    }
    rows: dict[str, list[Any]] = {org: [] for org in reserves}
    for row in session.execute(text(SPENT), values):
        rows[row.organization_id].append(row)
    return {org: _spent(found, reserves[org]) for org, found in rows.items()}


def _spent(rows: Sequence[Any], reserve: int) -> Spent:
    by_actions = sum(int(row.by_actions) for row in rows)
    beyond = max(0.0, by_actions - reserve) / by_actions if by_actions else 0.0
    return Spent(
        {row.hour: int(row.calls) for row in rows},
        {row.hour: round(int(row.calls) - int(row.by_actions) * (1 - beyond)) for row in rows},
        sum(int(row.steady) for row in rows) / (len(rows) or 1),
    )


def plan(database: Database, settings: Settings, *, now: datetime | None = None) -> None:
    """Set each mirror's effective interval, where its org is short of calls or was until now."""
    share = settings.reserve_share
    with database.transaction() as session:
        now = now or session.execute(text("SELECT clock_timestamp()")).scalar_one()
        lanes = sorted(policy.ACTION_LANES)
        session.execute(text(RESERVE), {"share": share, "since": now - DAY, "lanes": lanes})
        orgs = session.execute(text(SHORT), {"share": share, "now": now, "settle": settings.settle_seconds}).all()
    for row in orgs:
        with database.transaction() as session:
            _plan_org(session, row, now, settings)


def _plan_org(session: Session, row: Any, now: datetime, settings: Settings) -> None:
    account = accounts.account_of(row, now, settings.reserve_share)
    assert account.max is not None
    org = row.organization_id
    spent = spent_by_hour(session, {org: policy.reserve(account.max, settings.reserve_share)}, now)[org]
    room = account.max * (1 - CUSHION) - account.used - account.reserve_left
    values = {"org": org, "now": now, "memory": CHANGE_RATE_SECONDS}
    mirrors = session.execute(text(MIRRORS), values).all()
    paces = [_pace(mirror, settings.settle_seconds) for mirror in mirrors]
    per_hour = pace.affordable(room, spent.coming_back, now) - spent.steady
    blocked = account.blocked_until is not None and account.blocked_until > now
    found = pace.plan(paces, 0.0 if blocked else per_hour, settings.longest_refresh_seconds)
    resumes = (account.blocked_until if blocked else None) or now + pace.resumes(room, spent.coming_back, now)
    reason = _reason(account, found, resumes)
    if found.intervals is None:
        changed = sum(_pause(session, mirror, reason, resumes) for mirror in mirrors)
    else:
        changed = sum(_set_pace(session, one, found.intervals[one.id], reason, now, settings) for one in mirrors)
    if changed:
        log.debug("org.paced", org=org, mirrors=changed, calls_per_hour=round(found.calls_per_hour, 1))


def _pace(mirror: Any, settle_seconds: float) -> Pace:
    """A mirror with what one refresh costs, its share of a settle read included: both stretch together."""
    settles = mirror.settle_calls * mirror.refresh_seconds / _settles_after(mirror, settle_seconds)
    return Pace(mirror.id, mirror.refresh_seconds, mirror.refresh_calls + settles, mirror.change_rate or 0.0)


def _settles_after(mirror: Any, settle_seconds: float) -> float:
    """Seconds between two settle reads where nothing is stretched: more where hardly anything changes."""
    changes = (mirror.change_rate or 0.0) * settle_seconds * IDLE_SETTLES >= 3600
    return settle_seconds if changes else settle_seconds * IDLE_SETTLES


def _reason(account: policy.Account, found: pace.Plan, resumes: datetime) -> str:
    used = f"{account.used:,} of {account.max:,} API calls used, {account.reserve_left:,} kept for actions"
    if found.intervals is None:
        return f"paused until about {resumes:%H:%M} UTC: {used}"
    return f"stretched: {used}; {found.calls_per_hour:,.0f} an hour can be kept up, {found.wanted_per_hour:,.0f} are wanted"


def _pause(session: Session, mirror: Any, reason: str, until: datetime) -> bool:
    """Refresh a mirror not before then; whether that is news."""
    if mirror.effective_seconds == pace.LONGEST_SECONDS and mirror.next_refresh_at >= until:
        return False
    session.execute(text(PAUSE), {"id": mirror.id, "seconds": pace.LONGEST_SECONDS, "reason": reason, "until": until})
    return True


def _set_pace(session: Session, mirror: Any, seconds: float, reason: str, now: datetime, settings: Settings) -> bool:
    """Write one mirror's interval where it changed enough to matter; whether it did."""
    known = mirror.effective_seconds or mirror.refresh_seconds
    stretched = seconds > mirror.refresh_seconds * 1.001
    if stretched == (mirror.effective_seconds is not None) and abs(seconds - known) <= SAME * known:
        return False
    values = {
        "id": mirror.id,
        "seconds": seconds if stretched else None,
        "reason": reason if stretched else None,
        "next": now + timedelta(seconds=seconds),
        "now": now,
        "settle": _settles_after(mirror, settings.settle_seconds) * seconds / mirror.refresh_seconds,
    }
    session.execute(text(PACE), values)
    return True


def forget_old(session: Session, age: timedelta) -> None:
    """Forget what was spent long ago."""
    session.execute(
        text("DELETE FROM sfsync.usage WHERE hour < statement_timestamp() - CAST(:age AS interval)"), {"age": age}
    )


ASK = """
UPDATE sfsync.orgs o SET limits_at = :now
  FROM (SELECT organization_id, min(c.id) AS connection_id
          FROM sfsync.orgs p JOIN salesforce_oauth_tokens c USING (organization_id)
         WHERE c.state = 'active'
           AND (p.limits_at IS NULL OR p.limits_at < :hour_ago
                OR (greatest(p.limits_at, p.api_reported_at) < :quarter_ago AND (p.blocked_until > :now OR p.api_used + coalesce(p.reserve_left, 0) >= 0.9 * p.api_max)))
         GROUP BY organization_id ORDER BY min(p.limits_at) NULLS FIRST LIMIT :limit) d
 WHERE o.organization_id = d.organization_id AND (o.limits_at IS NULL OR o.limits_at < :quarter_ago)
RETURNING d.connection_id, o.organization_id
"""


def ask_limits(database: Database, client: Callable[[int], OrgClient], *, now: datetime | None = None) -> int:
    """Ask orgs that were not asked for long what they count themselves; how many were asked. An org that refuses keeps its secrets."""
    with database.transaction() as session:
        now = now or session.execute(text("SELECT clock_timestamp()")).scalar_one()
        times = {"now": now, "hour_ago": now - LIMITS_EVERY, "quarter_ago": now - LIMITS_WHEN_SHORT}
        found: Sequence[Any] = session.execute(text(ASK), {**times, "limit": LIMITS_AT_ONCE}).all()
    for row in found:
        try:
            with attributed(lane="upkeep", cause="limits"):
                answer = client(row.connection_id).call(
                    "GET", "limits", idempotent=True, deadline=Deadline.after(LIMITS_SECONDS)
                )
        except SyncError as error:
            log.info("org.limits_unknown", org=row.organization_id, error=str(error))
            continue
        kept = {name: answer.body[name] for name in LIMITS_KEPT if name in (answer.body or {})}
        with database.transaction() as session:
            query = "UPDATE sfsync.orgs SET limits = CAST(:limits AS jsonb) WHERE organization_id = :org"
            session.execute(text(query), {"org": row.organization_id, "limits": json.dumps(kept)})
    return len(found)
