"""Events of actions and runs, read in an order in which none is missed. The table is filled by triggers: models/event.py."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import text
from sqlalchemy.orm import Session

BATCH = 2000  # events of one read
LOOK_BACK = 1000  # ids below the newest whose transactions may be open when reading begins
GAP_SECONDS = 60.0  # an id that is still missing after this belongs to a transaction that was rolled back

SELECT = """
SELECT e.id, e.at, e.kind, e.data, c.user_id FROM sfsync.events e JOIN salesforce_oauth_tokens c ON c.id = e.connection_id
"""


@dataclass(frozen=True, slots=True)
class Event:
    """One change of a state. `data` names the action or run and its state."""

    id: int
    at: datetime
    kind: str
    user_id: str
    data: Mapping[str, Any]


@dataclass
class Reader:
    """Reads events of all users as they come. Ids may become visible out of order: gaps are looked at again.

    `low`: every event with an id up to this was read. Not for several threads at once.
    """

    seen: int = -1
    gaps: dict[int, float] = field(default_factory=dict)  # missing id → when it was noticed

    @property
    def low(self) -> int:
        """Whoever begins after this id misses nothing."""
        return min(self.gaps, default=self.seen + 1) - 1

    def begin(self, session: Session, now: float) -> None:
        """From here on: what is committed is past."""
        self.seen = session.scalar(text("SELECT coalesce(max(id), 0) FROM sfsync.events")) or 0
        first = max(1, self.seen - LOOK_BACK)
        there = set(
            session.scalars(
                text("SELECT id FROM sfsync.events WHERE id BETWEEN :a AND :b"), {"a": first, "b": self.seen}
            )
        )
        self.gaps = dict.fromkeys(set(range(first, self.seen)) - there, now)

    def read(self, session: Session, now: float) -> list[Event]:
        """What is new, gaps that were filled first; at most BATCH events."""
        self.gaps = {missing: since for missing, since in self.gaps.items() if now - since < GAP_SECONDS}
        rows = session.execute(
            text(f"{SELECT} WHERE e.id = ANY(:gaps) OR e.id > :seen ORDER BY e.id LIMIT {BATCH}"),
            {"gaps": list(self.gaps), "seen": self.seen},
        )
        found = [Event(row.id, row.at, row.kind, row.user_id, row.data) for row in rows]
        for event in found:
            self.gaps.pop(event.id, None)
            if event.id > self.seen:
                self.gaps |= dict.fromkeys(range(max(self.seen + 1, event.id - LOOK_BACK), event.id), now)
                self.seen = event.id
        return found


def past(
    session: Session, user_ids: Collection[str] | None, *, after: int, until: int, limit: int = BATCH
) -> list[Event]:
    """Events of these users (None: of all) with ids in (after, until], in order."""
    mine = "" if user_ids is None else " AND c.user_id = ANY(:users)"
    rows = session.execute(
        text(f"{SELECT} WHERE e.id > :after AND e.id <= :until{mine} ORDER BY e.id LIMIT :limit"),
        {"after": after, "until": until, "users": list(user_ids or ()), "limit": limit},
    )
    return [Event(row.id, row.at, row.kind, row.user_id, row.data) for row in rows]


def oldest(session: Session) -> int | None:
    """The first id that is kept; None when there is no event."""
    found: int | None = session.scalar(text("SELECT min(id) FROM sfsync.events"))
    return found


def forget(session: Session) -> None:
    """Delete a part of what is older than a day; the next call deletes the next part."""
    session.execute(
        text(
            "DELETE FROM sfsync.events WHERE at < statement_timestamp() - interval '1 day'"
            " AND id IN (SELECT id FROM sfsync.events ORDER BY id LIMIT 5000)"
        )
    )
