"""Audits: verifications that run by themselves, within what the org's allowance leaves. Their result is the number we show.

A mirror whose object has calculated fields is audited more often: such fields move without a stamp, and nothing else finds
that. An audit costs about as many calls as a quick verification (one Bulk job), whatever the number of records.
"""

from collections.abc import Callable
from datetime import datetime, timedelta

from sqlalchemy import text
from sqlalchemy.orm import Session

from worker.log import get_logger
from worker.mirror.requests import request_run

log = get_logger(__name__)

MaySpend = Callable[[Session, int, int], bool]  # connection, calls → whether they may be spent on upkeep now

AUDIT_CALLS = 15  # a describe, a Bulk job with its looks and pages, a refresh, a read by Id
PUT_OFF = timedelta(minutes=15)  # until the next look, when the allowance is short

DUE = """
SELECT m.id, m.object, m.connection_id, m.next_audit_at,
       coalesce(m.audit_seconds, CASE WHEN jsonb_path_exists(m.describe, '$.fields[*] ? (@.calculated == true)')
                                      THEN least(:sweep, :audit) ELSE :audit END) AS seconds
  FROM sfsync.mirrors m JOIN salesforce_oauth_tokens c ON c.id = m.connection_id AND c.state = 'active'
 WHERE m.state = 'live' AND m.lost_since IS NULL AND coalesce(m.audit_seconds, :audit) > 0
   AND (m.next_audit_at IS NULL OR m.next_audit_at <= :now)
 ORDER BY m.next_audit_at LIMIT 20 FOR UPDATE OF m SKIP LOCKED
"""
PLAN = "UPDATE sfsync.mirrors SET next_audit_at = :at WHERE id = :id"


def schedule_audits(
    session: Session,
    now: datetime,
    *,
    audit_seconds: float,
    sweep_seconds: float,
    may_spend: MaySpend,
) -> list[int]:
    """Ask for an audit of every live mirror whose time has come; ids of the runs.

    `audit_seconds`: between two audits of a mirror (0: never, unless the mirror says otherwise); `sweep_seconds`: the same
    where the object has calculated fields. A new mirror's first audit comes at its own place within the interval.
    """
    runs = []
    for row in session.execute(text(DUE), {"now": now, "audit": audit_seconds, "sweep": sweep_seconds}).mappings():
        interval = timedelta(seconds=row["seconds"])
        if row["next_audit_at"] is None:
            session.execute(text(PLAN), {"id": row["id"], "at": now + interval * _place(row["id"])})
        elif may_spend(session, row["connection_id"], AUDIT_CALLS):
            session.execute(text(PLAN), {"id": row["id"], "at": now + interval})
            runs.append(request_run(session, row["id"], "verify", "audit", {"audit": True, "repair": True}))
        else:
            log.info("mirror.audit_put_off", object=row["object"])
            session.execute(text(PLAN), {"id": row["id"], "at": now + PUT_OFF})
    return runs


def _place(mirror_id: int) -> float:
    """Where in the interval a mirror's audits lie: spread evenly, however many mirrors there are."""
    return mirror_id * 0.618034 % 1
