"""Which queues are due: a small table answers, nobody scans actions."""

from sqlalchemy import text
from sqlalchemy.orm import Session

DUE = """
SELECT q.id FROM sfsync.action_queues q
  JOIN public.salesforce_oauth_tokens c ON c.id = q.connection_id AND c.state = 'active'
 WHERE q.next_due_at <= clock_timestamp()
 ORDER BY q.last_served_at NULLS FIRST LIMIT :limit
"""


def due_queues(session: Session, limit: int) -> list[int]:
    """Queues of active connections that may have something to send now, the one served longest ago first."""
    return list(session.scalars(text(DUE), {"limit": limit}))
