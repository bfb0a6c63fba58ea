"""Actions at rest: lines and tickets, idempotency keys, the queues' hints, reading.

Locks are always taken in this order: lines (sorted), then keys (sorted), then actions, then the queue. So no two of our
transactions can wait for each other.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, LiteralString, NamedTuple
from uuid import UUID

import psycopg
from sqlalchemy import RowMapping, text
from sqlalchemy.exc import IntegrityError, OperationalError
from sqlalchemy.orm import Session

from worker import exact
from worker.actions.lifecycle import SETTLED
from worker.db import raw


@dataclass(frozen=True, slots=True)
class New:
    """An action to be stored. `alone`: nothing can stand before or behind it in its line, so it needs no ticket."""

    id: UUID
    object: str
    operation: str
    record_id: str | None
    external_id_field: str | None
    external_id: str | None
    fields: dict[str, Any]
    idempotency_key: str | None
    content_hash: bytes
    order_key: str
    alone: bool
    priority: int
    source: str
    after_failure: str = "go_on"
    mergeable: bool = False
    if_unmodified_since: datetime | None = None
    callback_url: str | None = None
    parents: Mapping[str, UUID] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Known:
    """What is stored under an idempotency key."""

    id: UUID
    content_hash: bytes


@dataclass(frozen=True, slots=True)
class Parent:
    """An action whose record another is to name. `beside`: its place, when it is accepted in the same request."""

    id: UUID
    object: str
    operation: str
    state: str
    beside: int | None = None


Line = tuple[str, str]  # object, order key

# The row lock on the line is what makes tickets follow the order of commit. ORDER BY: always locked in the same order.
TAKE_TICKETS = """
INSERT INTO sfsync.action_lines AS l (connection_id, object, order_key, next_ticket)
SELECT :connection, w.object, w.order_key, 1 + w.count
  FROM jsonb_to_recordset(CAST(:lines AS jsonb)) AS w(object text, order_key text, count bigint)
 ORDER BY w.object, w.order_key
    ON CONFLICT (connection_id, object, order_key) DO UPDATE SET next_ticket = l.next_ticket + EXCLUDED.next_ticket - 1
RETURNING object, order_key, next_ticket
"""

COPY_ACTIONS = """
COPY sfsync.actions (id, connection_id, object, operation, record_id, external_id_field, external_id, fields, idempotency_key,
                     content_hash, order_key, ticket, priority, after_failure, mergeable, if_unmodified_since, callback_url,
                     state, source, created_at, due_at)
FROM STDIN
"""
# The same for one action: one round trip in place of three.
INSERT_ACTION = """
INSERT INTO sfsync.actions (id, connection_id, object, operation, record_id, external_id_field, external_id, fields,
                            idempotency_key, content_hash, order_key, ticket, priority, after_failure, mergeable,
                            if_unmodified_since, callback_url, state, source, created_at, due_at)
VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, statement_timestamp(), statement_timestamp())
"""
COPY_PARENTS = "COPY sfsync.action_parents (action_id, field, parent_id) FROM STDIN"

# A statement of its own, after the lines are locked: only its snapshot sees who has finished meanwhile. Tickets only grow
# along a line, so its first unfinished action is its head; reading one row of the index is enough, however long the line is.
PROMOTE = """
UPDATE sfsync.actions a
   SET state = 'ready', due_at = greatest(clock_timestamp(), h.quiet_until, a.due_at),
       fields = CASE WHEN family.ids IS NULL THEN a.fields ELSE a.fields || family.ids END
  FROM (SELECT head.id, head.state, l.quiet_until
          FROM jsonb_to_recordset(CAST(:lines AS jsonb)) AS w(object text, order_key text)
          JOIN sfsync.action_lines l
            ON l.connection_id = :connection AND l.object = w.object AND l.order_key = w.order_key
         CROSS JOIN LATERAL (SELECT b.id, b.state FROM sfsync.actions b
                              WHERE b.connection_id = :connection AND b.object = w.object AND b.order_key = w.order_key
                                AND b.ticket <> 0 AND b.state IN ('waiting', 'ready', 'sending', 'in_doubt')
                              ORDER BY b.ticket LIMIT 1) AS head
         WHERE l.blocked_by IS NULL) AS h
 CROSS JOIN LATERAL (SELECT jsonb_object_agg(p.field, b.record_id) AS ids, bool_and(b.state = 'delivered') AS here
                       FROM sfsync.action_parents p JOIN sfsync.actions b ON b.id = p.parent_id
                      WHERE p.action_id = h.id) AS family
 WHERE a.id = h.id AND h.state = 'waiting' AND a.state = 'waiting' AND a.checked AND coalesce(family.here, true)
RETURNING a.object
"""

# FOR SHARE: any number of accepts at once, but nobody can put the queue to sleep before they commit. The row is written
# only when it sleeps or is not there.
AWAKE = """
SELECT id FROM sfsync.action_queues
 WHERE connection_id = :connection AND object = :object AND next_due_at <= statement_timestamp() FOR SHARE
"""
AWAKEN = """
INSERT INTO sfsync.action_queues AS q (connection_id, object, next_due_at) VALUES (:connection, :object, clock_timestamp())
ON CONFLICT (connection_id, object) DO UPDATE SET next_due_at = least(q.next_due_at, EXCLUDED.next_due_at)
RETURNING id
"""

COLUMNS = """a.id, a.connection_id, c.user_id, a.object, a.operation, a.record_id, a.external_id_field, a.external_id,
       CAST(a.fields AS text) AS fields, a.idempotency_key, a.order_key, a.priority, a.after_failure, a.mergeable,
       a.if_unmodified_since, a.callback_url, a.state, a.source, a.way, a.attempts, a.due_at,
       a.outcome, a.error, a.remembered_at, a.created_at, a.finished_at"""
FROM = "FROM sfsync.actions a JOIN public.salesforce_oauth_tokens c ON c.id = a.connection_id"


def known_keys(session: Session, connection_id: int, keys: Collection[str]) -> dict[str, Known]:
    """What is stored under these idempotency keys."""
    rows = session.execute(
        text(
            "SELECT idempotency_key, id, content_hash FROM sfsync.actions"
            " WHERE connection_id = :connection AND idempotency_key = ANY(:keys)"
        ),
        {"connection": connection_id, "keys": list(keys)},
    )
    return {row.idempotency_key: Known(row.id, bytes(row.content_hash)) for row in rows}


def find_parents(session: Session, connection_id: int, names: Collection[str]) -> dict[str, Parent]:
    """Actions of a connection by the names that were given for them: an idempotency key, else an id."""
    columns = (
        "SELECT {name} AS name, id, object, operation, state FROM sfsync.actions WHERE connection_id = :connection"
    )
    by_key = text(columns.format(name="idempotency_key") + " AND idempotency_key = ANY(:names)")
    by_id = text(columns.format(name="id") + " AND id = ANY(:names)")
    ids = {name: action_id for name in names if (action_id := _uuid(name)) is not None}
    values = {"connection": connection_id, "names": list(names)}
    rows = {row.id: row for row in session.execute(by_id, {**values, "names": list(ids.values())})} if ids else {}
    found = {name: _parent(rows[action_id]) for name, action_id in ids.items() if action_id in rows}
    return found | {row.name: _parent(row) for row in session.execute(by_key, values)}


def _uuid(name: str) -> UUID | None:
    try:
        return UUID(name)
    except ValueError:
        return None


def _parent(row: Any) -> Parent:
    return Parent(row.id, row.object, row.operation, row.state)


def insert(session: Session, connection_id: int, actions: Sequence[New]) -> None:
    """Store actions in the given order. IntegrityError (23505) when one of their keys is there already.

    Whoever holds such a key in an open transaction is waited for.
    """
    tickets = _take_tickets(session, connection_id, [one for one in actions if not one.alone])
    if len(actions) == 1:
        row = _row(connection_id, actions[0], tickets.get(actions[0].id, 0))
        with raw(session).cursor() as cursor, _errors(INSERT_ACTION):
            cursor.execute(INSERT_ACTION, row)
    else:
        begin: datetime = session.scalar(text("SELECT clock_timestamp()"))
        # Heads of equal priority go in order of `created_at`: the order that was asked for, a microsecond apart.
        moments = {one.id: str(begin + timedelta(microseconds=place)) for place, one in enumerate(actions)}
        rows = [
            (*_row(connection_id, one, tickets.get(one.id, 0)), moments[one.id], moments[one.id])
            for one in _by_key(actions)
        ]
        _copy(session, COPY_ACTIONS, rows)
    parents = [(one.id, name, parent) for one in actions for name, parent in one.parents.items()]
    if parents:
        _copy(session, COPY_PARENTS, parents)
        # Behind this lock a parent's end is either seen by the next statement, or sees the children.
        share = text("SELECT 1 FROM sfsync.actions WHERE id = ANY(:ids) ORDER BY id FOR SHARE")
        session.execute(share, {"ids": sorted({parent for _, _, parent in parents})})
    promote(session, connection_id, {(one.object, one.order_key) for one in actions if not one.alone})


def _by_key(actions: Sequence[New]) -> list[New]:
    """In the order in which everybody takes keys."""
    return sorted(actions, key=lambda one: one.idempotency_key or "")


def _copy(session: Session, statement: LiteralString, rows: Iterable[Sequence[Any]]) -> None:
    """COPY in the session's transaction."""
    with _errors(statement), raw(session).cursor() as cursor, cursor.copy(statement) as copy:
        for row in rows:
            copy.write_row(row)


@contextmanager
def _errors(statement: str) -> Iterator[None]:
    """psycopg's errors as SQLAlchemy's, as everywhere."""
    try:
        yield
    except psycopg.IntegrityError as error:
        raise IntegrityError(statement, None, error) from error
    except psycopg.OperationalError as error:
        raise OperationalError(statement, None, error) from error


def _take_tickets(session: Session, connection_id: int, actions: Sequence[New]) -> dict[UUID, int]:
    counts: dict[Line, int] = {}
    for one in actions:
        counts[one.object, one.order_key] = counts.get((one.object, one.order_key), 0) + 1
    if not counts:
        return {}
    lines = [{"object": obj, "order_key": key, "count": count} for (obj, key), count in counts.items()]
    rows = session.execute(text(TAKE_TICKETS), {"connection": connection_id, "lines": exact.dumps(lines)})
    following = {(row.object, row.order_key): row.next_ticket - counts[row.object, row.order_key] for row in rows}
    tickets = {}
    for one in actions:
        tickets[one.id] = following[one.object, one.order_key]
        following[one.object, one.order_key] += 1
    return tickets


def take_ticket(session: Session, connection_id: int, line: Line) -> int:
    """Lock one line and take its next ticket."""
    lines = exact.dumps([{"object": line[0], "order_key": line[1], "count": 1}])
    row = session.execute(text(TAKE_TICKETS), {"connection": connection_id, "lines": lines}).one()
    return int(row.next_ticket) - 1


def _row(connection_id: int, action: New, ticket: int) -> tuple[Any, ...]:
    """The columns of COPY_ACTIONS, without the times."""
    return (
        action.id,
        connection_id,
        action.object,
        action.operation,
        action.record_id,
        action.external_id_field,
        action.external_id,
        exact.dumps(action.fields),
        action.idempotency_key,
        action.content_hash,
        action.order_key,
        ticket,
        action.priority,
        action.after_failure,
        action.mergeable,
        action.if_unmodified_since,
        action.callback_url,
        "ready" if action.alone else "waiting",
        action.source,
    )


def promote(session: Session, connection_id: int, lines: Collection[Line]) -> set[str]:
    """Make the first unfinished action of each line ready, where it waits for nobody; the objects of which some became so.

    The caller holds the lines' locks.
    """
    if not lines:
        return set()
    values = {"connection": connection_id, "lines": _lines(lines)}
    return set(session.scalars(text(PROMOTE), values))


def lock_lines(session: Session, connection_id: int, lines: Collection[Line]) -> None:
    """Lock the lines that exist, in the order that everybody keeps."""
    if not lines:
        return
    session.execute(
        text(
            """
            SELECT 1 FROM sfsync.action_lines l
              JOIN jsonb_to_recordset(CAST(:lines AS jsonb)) AS w(object text, order_key text)
                ON l.object = w.object AND l.order_key = w.order_key
             WHERE l.connection_id = :connection ORDER BY l.object, l.order_key FOR UPDATE OF l
            """
        ),
        {"connection": connection_id, "lines": _lines(lines)},
    )


def _lines(lines: Collection[Line]) -> str:
    return exact.dumps([{"object": obj, "order_key": key} for obj, key in sorted(lines)])


class Woken(NamedTuple):
    """A queue that has work. `slept`: nobody was at it or on the way, so that whoever waits for it waits for a wake-up."""

    id: int
    slept: bool


def awaken(session: Session, connection_id: int, object_name: str) -> Woken:
    """Say that a queue has work. The last statement of its transaction."""
    values = {"connection": connection_id, "object": object_name}
    found = session.scalar(text(AWAKE), values)
    return Woken(found, slept=False) if found is not None else Woken(session.scalar(text(AWAKEN), values), slept=True)


def read(session: Session, action_id: UUID) -> dict[str, Any] | None:
    """One action as callers see it, with its `user_id`; None when there is none."""
    row = session.execute(text(f"SELECT {COLUMNS} {FROM} WHERE a.id = :id"), {"id": action_id}).mappings().first()
    return None if row is None else _shown(row)


def find(
    session: Session,
    *,
    user_ids: Collection[str] | None = None,
    states: Collection[str] = (),
    object_name: str | None = None,
    idempotency_key: str | None = None,
    error_code: str | None = None,
    older_than_minutes: float | None = None,
    before: tuple[datetime, UUID] | None = None,
    limit: int = 100,
) -> list[dict[str, Any]]:
    """Actions, newest first, of these users (None: of all), in these states (none given: in any).

    `before`: only what comes after the action of this time and id in the list.
    """
    conditions = ["true"]
    conditions += ["c.user_id = ANY(:users)"] if user_ids is not None else []
    conditions += ["a.state = ANY(:states)"] if states else []
    conditions += ["lower(a.object) = lower(:object)"] if object_name is not None else []
    conditions += ["a.idempotency_key = :key"] if idempotency_key is not None else []
    conditions += ["a.error ->> 'code' = :code"] if error_code is not None else []
    conditions += (
        ["a.created_at < statement_timestamp() - make_interval(secs => :seconds)"] if older_than_minutes else []
    )
    conditions += ["(a.created_at, a.id) < (:before_at, :before_id)"] if before else []
    query = (
        f"SELECT {COLUMNS} {FROM} WHERE {' AND '.join(conditions)} ORDER BY a.created_at DESC, a.id DESC LIMIT :limit"
    )
    values = {
        "users": list(user_ids or ()),
        "states": list(states),
        "object": object_name,
        "key": idempotency_key,
        "code": error_code,
        "seconds": 60 * (older_than_minutes or 0.0),
        "before_at": before and before[0],
        "before_id": before and before[1],
        "limit": limit,
    }
    return [_shown(row) for row in session.execute(text(query), values).mappings()]


def attempts(session: Session, action_id: UUID) -> list[dict[str, Any]]:
    """What was tried for one action, in order."""
    query = "SELECT at, way, state, code, message FROM sfsync.action_attempts WHERE action_id = :id ORDER BY id"
    return [dict(row) for row in session.execute(text(query), {"id": action_id}).mappings()]


def settled(session: Session, ids: Collection[UUID]) -> set[UUID]:
    """Those of `ids` with which nothing more happens by itself."""
    query = "SELECT id FROM sfsync.actions WHERE id = ANY(:ids) AND state = ANY(:states)"
    return set(session.scalars(text(query), {"ids": list(ids), "states": list(SETTLED)}))


def states(session: Session, ids: Collection[UUID]) -> dict[UUID, dict[str, Any]]:
    """State, outcome and error of each of `ids`."""
    query = "SELECT id, state, outcome, error FROM sfsync.actions WHERE id = ANY(:ids)"
    rows = session.execute(text(query), {"ids": list(ids)})
    return {row.id: {"state": row.state, "outcome": row.outcome, "error": row.error} for row in rows}


def _shown(row: RowMapping) -> dict[str, Any]:
    shown = dict(row)
    shown["fields"] = exact.loads(shown["fields"])
    return shown
