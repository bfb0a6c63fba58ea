"""Which queues are due: a small table answers, nobody scans actions."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import text
from sqlalchemy.orm import Session

from worker.actions.queues import ALONG_THE_INDEX
from worker.salesforce.limits import COLLECTION_RECORDS

# Orgs take turns: the first queue of each, then the second of each. A queue served longest ago comes first. `deep`: more than
# one batch is ready, which a second step may send at the same time.
DUE = """
WITH due AS (
  SELECT q.id, q.connection_id, q.object, q.last_served_at, coalesce(c.organization_id, 'connection:' || c.id) AS org,
         row_number() OVER (PARTITION BY coalesce(c.organization_id, 'connection:' || c.id)
                                ORDER BY q.last_served_at NULLS FIRST, q.id) AS turn
    FROM sfsync.action_queues q
    JOIN public.salesforce_oauth_tokens c ON c.id = q.connection_id AND c.state = 'active'
   WHERE q.next_due_at <= statement_timestamp()),
first AS (SELECT * FROM due ORDER BY turn, last_served_at NULLS FIRST, id LIMIT :limit)
SELECT f.id, f.org, EXISTS (SELECT 1 FROM sfsync.actions a
                             WHERE a.connection_id = f.connection_id AND a.object = f.object AND a.state = 'ready'
                               AND a.due_at <= statement_timestamp() {ordered} OFFSET :batch) AS deep
  FROM first f ORDER BY f.turn, f.last_served_at NULLS FIRST, f.id
""".replace("{ordered}", ALONG_THE_INDEX)


def due_queues(session: Session, limit: int) -> Sequence[Any]:
    """Queues of active connections that may have something to send now: rows of id, org, deep."""
    return session.execute(text(DUE), {"limit": limit, "batch": COLLECTION_RECORDS}).all()
