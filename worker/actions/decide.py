"""What a person may decide about an action: send it again, or give it up."""

from typing import Any
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.orm import Session

from worker.actions import store
from worker.actions.deps import DELIVER, ActionDeps
from worker.actions.lifecycle import CANCELLABLE, RETRYABLE
from worker.errors import SyncError

PLACE = "SELECT connection_id, object, order_key FROM sfsync.actions WHERE id = :id"

# It goes to the end of its line, as if it had been accepted now: what was accepted after it may be in the org already.
RETRY = """
UPDATE sfsync.actions SET state = 'waiting', ticket = :ticket, attempts = 0, finished_at = NULL, due_at = clock_timestamp()
 WHERE id = :id AND state = ANY(:states)
RETURNING state
"""
AT_ONCE = "UPDATE sfsync.actions SET state = 'ready' WHERE id = :id AND state = 'waiting'"
CANCEL = """
UPDATE sfsync.actions SET state = 'cancelled', finished_at = clock_timestamp() WHERE id = :id AND state = ANY(:states)
RETURNING state
"""
DECIDED = """
INSERT INTO sfsync.action_attempts (action_id, way, state) SELECT id, 'person', state FROM sfsync.actions WHERE id = :id
"""


class UndecidableError(SyncError):
    """The action is in a state in which this cannot be decided."""


def retry(deps: ActionDeps, action_id: UUID) -> bool:
    """Send an action that is held, rejected or in conflict again; False when there is none. UndecidableError in another state."""
    with deps.database.transaction() as session:
        place = _place(session, action_id)
        if place is None:
            return False
        connection_id, object_name, key = place
        alone = key == action_id.hex
        ticket = 0 if alone else store.take_ticket(session, connection_id, (object_name, key))
        _change(session, RETRY, action_id, RETRYABLE, {"ticket": ticket}, "held, rejected or in conflict")
        if alone:
            session.execute(text(AT_ONCE), {"id": action_id})
        store.promote(session, connection_id, {(object_name, key)})
        queue_id = store.awaken(session, connection_id, object_name)
    deps.wake(DELIVER, queue_id)
    return True


def cancel(deps: ActionDeps, action_id: UUID) -> bool:
    """Give up an action that is not under way; False when there is none. UndecidableError in another state."""
    with deps.database.transaction() as session:
        place = _place(session, action_id)
        if place is None:
            return False
        connection_id, object_name, key = place
        store.lock_lines(session, connection_id, {(object_name, key)})
        _change(session, CANCEL, action_id, CANCELLABLE, {}, "waiting, ready or held")
        if store.promote(session, connection_id, {(object_name, key)}):
            store.awaken(session, connection_id, object_name)
    return True


def _place(session: Session, action_id: UUID) -> tuple[int, str, str] | None:
    row = session.execute(text(PLACE), {"id": action_id}).first()
    return None if row is None else (row.connection_id, row.object, row.order_key)


def _change(
    session: Session, statement: str, action_id: UUID, states: frozenset[str], values: dict[str, Any], words: str
) -> None:
    given = {"id": action_id, "states": list(states), **values}
    if session.execute(text(statement), given).first() is None:
        raise UndecidableError(f"only an action that is {words} can be treated so")
    session.execute(text(DECIDED), {"id": action_id})
