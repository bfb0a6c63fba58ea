"""What a person may decide about an action: send it again, or give it up."""

from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.orm import Session

from worker.actions import family, store
from worker.actions.deps import DELIVER, ActionDeps
from worker.actions.lifecycle import CANCELLABLE, FAILED, RETRYABLE
from worker.actions.record import keep_quiet
from worker.errors import SyncError

PLACE = "SELECT connection_id, object, order_key, ticket FROM sfsync.actions WHERE id = :id"

# It goes to the end of its line, as if it had been accepted now: what was accepted after it may be in the org already. It
# keeps its place where the line waited for this decision.
RETRY = """
UPDATE sfsync.actions SET state = 'waiting', ticket = coalesce(:ticket, ticket), attempts = 0, finished_at = NULL,
       due_at = clock_timestamp(), checked = checked AND (error ->> 'by') IS NULL  -- what a check refused is checked again
 WHERE id = :id AND state = ANY(:states)
RETURNING state
"""
UNBLOCK = """
UPDATE sfsync.action_lines SET blocked_by = NULL
 WHERE connection_id = :connection AND object = :object AND order_key = :order_key AND blocked_by = :id
RETURNING order_key
"""
AT_ONCE = "UPDATE sfsync.actions SET state = 'ready' WHERE id = :id AND state = 'waiting' AND checked"
CANCEL = """
UPDATE sfsync.actions SET state = 'cancelled', finished_at = clock_timestamp() WHERE id = :id AND state = ANY(:states)
RETURNING state
"""
# It was sent before without an answer: until that can no longer land, what follows must wait, or it would be written over.
MAY_LAND = """
SELECT object, order_key, record_id, doubt_until FROM sfsync.actions
 WHERE id = :id AND ticket <> 0 AND doubt_until > clock_timestamp()
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
        store.lock_lines(session, place.connection_id, {place.line})
        ticket = None
        if not place.alone and not _unblock(session, place):
            ticket = store.take_ticket(session, place.connection_id, place.line)
        _change(session, RETRY, action_id, RETRYABLE, {"ticket": ticket}, "held, rejected or in conflict")
        if place.alone:
            session.execute(text(AT_ONCE), {"id": action_id})
        queues = _go_on(session, place, {place.line}, {place.line[0]})
    for queue_id in queues:
        deps.wake(DELIVER, queue_id)
    return True


def cancel(deps: ActionDeps, action_id: UUID) -> bool:
    """Give up an action that is not under way; False when there is none. UndecidableError in another state.

    One that was rejected or in conflict can be given up while its line waits for that decision.
    """
    with deps.database.transaction() as session:
        place = _place(session, action_id)
        if place is None:
            return False
        lines = {place.line} | family.lines_of_children(session, [action_id])
        store.lock_lines(session, place.connection_id, lines)
        states = CANCELLABLE | (FAILED if _unblock(session, place) else frozenset())
        _change(session, CANCEL, action_id, states, {}, "waiting, ready or held")
        keep_quiet(session, place.connection_id, session.execute(text(MAY_LAND), {"id": action_id}).all())
        queues = _go_on(session, place, lines, set())
    for queue_id in queues:
        deps.wake(DELIVER, queue_id)
    return True


@dataclass(frozen=True, slots=True)
class _Place:
    """Where an action stands. `alone`: nothing can stand before or behind it."""

    id: UUID
    connection_id: int
    line: store.Line
    alone: bool


def _place(session: Session, action_id: UUID) -> _Place | None:
    row = session.execute(text(PLACE), {"id": action_id}).first()
    return None if row is None else _Place(action_id, row.connection_id, (row.object, row.order_key), row.ticket == 0)


def _unblock(session: Session, place: _Place) -> bool:
    """Whether its line waited for it; now it does not."""
    object_name, key = place.line
    values = {"connection": place.connection_id, "object": object_name, "order_key": key, "id": place.id}
    return session.execute(text(UNBLOCK), values).first() is not None


def _go_on(session: Session, place: _Place, lines: set[store.Line], objects: set[str]) -> list[int]:
    """Let go on what waited for the decision; the queues that have work now, `objects` among them."""
    settled = family.settle(session, place.connection_id, [place.id], lines)
    return [store.awaken(session, place.connection_id, one).id for one in sorted(settled.objects | objects)]


def _change(
    session: Session, statement: str, action_id: UUID, states: frozenset[str], values: dict[str, Any], words: str
) -> None:
    given = {"id": action_id, "states": list(states), **values}
    if session.execute(text(statement), given).first() is None:
        raise UndecidableError(f"only an action that is {words} can be treated so")
    session.execute(text(DECIDED), {"id": action_id})
