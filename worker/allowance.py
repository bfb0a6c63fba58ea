"""The org's API allowance, as the org itself reports it in every answer: kept in memory, written seldom, the newest wins."""

import threading

from sqlalchemy import text
from sqlalchemy.orm import Session

from worker.salesforce.usage import Usage

WRITE = """
INSERT INTO sfsync.orgs AS o (organization_id, api_used, api_max, api_reported_at)
SELECT organization_id, :used, :max, :at FROM salesforce_oauth_tokens
 WHERE id = :connection_id AND organization_id IS NOT NULL
ON CONFLICT (organization_id) DO UPDATE
   SET api_used = EXCLUDED.api_used, api_max = EXCLUDED.api_max, api_reported_at = EXCLUDED.api_reported_at
 WHERE o.api_reported_at IS NULL OR o.api_reported_at <= EXCLUDED.api_reported_at
"""


class Allowances:
    """What this process heard last, by connection. Safe between threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._heard: dict[int, Usage] = {}

    def note(self, connection_id: int, usage: Usage | None) -> None:
        """Keep what an answer said."""
        if usage is None or usage.at is None:
            return
        with self._lock:
            known = self._heard.get(connection_id)
            if known is None or known.at is None or (known.at, known.used) <= (usage.at, usage.used):
                self._heard[connection_id] = usage

    def write(self, session: Session) -> None:
        """Write what was heard since the last time."""
        with self._lock:
            heard, self._heard = self._heard, {}
        for connection_id, usage in sorted(heard.items()):
            values = {"connection_id": connection_id, "used": usage.used, "max": usage.max, "at": usage.at}
            session.execute(text(WRITE), values)
