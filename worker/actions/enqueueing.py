"""Enqueueing for engines that speak only Celery: the message holds what is asked, and is accepted when its row is there.

It goes the way of the SQL function, which needs Postgres alone: what describe says is wrong becomes a rejected action, which the
caller finds by its key. Doubled or repeated messages find the key.
"""

from collections.abc import Mapping
from typing import Any
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.exc import DataError, IntegrityError, OperationalError

from worker import exact
from worker.actions.deps import DELIVER, ActionDeps
from worker.db import DUPLICATE, sqlstate

ENQUEUE = "actions.enqueue"  # task name
CALL = "SELECT action_id, repeated FROM sfsync.enqueue_actions(:user, CAST(:actions AS jsonb))"
OURS = "UPDATE sfsync.actions SET source = 'celery' WHERE id = :id RETURNING connection_id, object"
QUEUE = "SELECT id FROM sfsync.action_queues WHERE connection_id = :connection AND object = :object"
TOO_MUCH = "54"  # SQLSTATEs of what is beyond one of Postgres's limits, now and later


class RefusedDocumentError(Exception):
    """What is asked for has no sense or no place. The message says nothing of what it held: Celery shows it."""


def enqueue(deps: ActionDeps, document: Mapping[str, Any]) -> UUID:
    """Accept one action: the members of an action, with `user_id` and, required, `idempotency_key`; its id.

    Raises RefusedDocumentError: trying again changes nothing. Whatever else it raises may pass.
    """
    asked = dict(document)
    user_id, key = asked.pop("user_id", None), asked.get("idempotency_key")
    if not isinstance(user_id, str) or not isinstance(key, str) or not key:
        raise RefusedDocumentError("user_id and idempotency_key are required")
    try:
        values = {"user": user_id, "actions": exact.dumps([asked])}
        user_id.encode()
    except (TypeError, ValueError, RecursionError):  # half a character among them
        raise RefusedDocumentError("it cannot be written as JSON") from None
    queue = None
    try:
        with deps.database.transaction() as session:
            row = session.execute(text(CALL), values).one()
            place = None if row.repeated else session.execute(text(OURS), {"id": row.action_id}).one()
        if place is not None:
            with deps.database.transaction() as session:
                of = {"connection": place.connection_id, "object": place.object}
                queue = session.scalar(text(QUEUE), of)
    except IntegrityError as error:
        if sqlstate(error) != DUPLICATE:
            raise
        raise RefusedDocumentError("its idempotency key was used before with other content") from None
    except DataError:
        raise RefusedDocumentError(
            "the user is not connected, or it is no action; `sfsync actions add` says why"
        ) from None
    except OperationalError as error:
        if not sqlstate(error).startswith(TOO_MUCH):
            raise
        raise RefusedDocumentError("it is too large or too deep for Postgres") from None
    if queue is not None:
        deps.wake(DELIVER, int(queue))
    return UUID(str(row.action_id))
