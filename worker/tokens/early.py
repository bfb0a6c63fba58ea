"""Renewals before anyone misses the token: sessions that will end, refresh tokens that would lie idle too long.

A time to renew is a column, spread when it is set. Who renews first pushes it ahead by one conditional UPDATE, so that many workers
that look at the same moment do not queue up at one row lock; killed after it, the connection comes up again two minutes later.
"""

import random
from datetime import timedelta

from sqlalchemy import delete, func, select, update
from sqlalchemy.orm import Session

from models.connection import Connection, Renewal
from worker.errors import DisconnectedError, TransientError
from worker.log import get_logger
from worker.steps import Busy, Done, Step
from worker.tokens.renew import OPEN_ATTEMPT, StoredTokens

log = get_logger(__name__)

AT_ONCE = 8  # early renewals under way over all workers: hundreds that are due together go a few at a time
AGAIN = timedelta(minutes=2)  # after an early renewal that failed or died
NOW = func.clock_timestamp()
THIS_MOMENT = func.statement_timestamp()  # to compare with: see db.py


def due_renewals(session: Session, limit: int) -> list[int]:
    """Connections whose token is to be renewed now, most overdue first; only as many as may be under way."""
    under_way = select(func.count()).where(Renewal.outcome.is_(None), Renewal.started_at > THIS_MOMENT - OPEN_ATTEMPT)
    room = AT_ONCE - (session.scalar(under_way) or 0)
    if room <= 0:
        return []
    due = select(Connection.id).where(Connection.renew_at <= THIS_MOMENT)
    return list(session.scalars(due.order_by(Connection.renew_at).limit(min(limit, room))))


def renew_early(tokens: StoredTokens) -> Step:
    """Renew one connection's token if it is due and nobody else has taken it in hand.

    A revoked connection is due when its org was inactive a day ago: it counts as active until the org says no again.
    """
    with tokens.database.transaction() as session:
        pause = AGAIN * random.uniform(0.8, 1.6)  # noqa: S311
        due = (Connection.id == tokens.connection_id, Connection.renew_at <= THIS_MOMENT)
        taken = update(Connection).where(*due).values(renew_at=NOW + pause, state="active", state_reason=None)
        if session.scalar(taken.returning(Connection.id)) is None:
            return Busy()
    try:
        tokens.renew_early()
    except (TransientError, DisconnectedError) as error:  # the time to try again is set
        log.warning("token.not_renewed_early", connection=tokens.connection_id, error=str(error))
    return Done()


def forget_attempts(session: Session, keep: timedelta) -> None:
    """Drop attempts to renew that are older than `keep`."""
    session.execute(delete(Renewal).where(Renewal.started_at < THIS_MOMENT - keep))
