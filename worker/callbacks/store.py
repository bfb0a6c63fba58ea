"""Callbacks at rest: what is to be told, the secrets that it is signed with, and what came of each call."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.orm import Session

from worker import exact
from worker.callbacks.calling import Answer
from worker.db import owner


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One URL of one caller, under a claim. `failures`: calls in a row that failed."""

    id: int
    connection_id: int
    url: str
    failures: int
    token: int


@dataclass(frozen=True, slots=True)
class Message:
    """One thing to tell."""

    id: int
    message_id: UUID
    kind: str
    payload: Mapping[str, Any]
    attempts: int
    created_at: datetime


def enqueue(session: Session, *, connection_id: int, url: str, kind: str, payload: Mapping[str, Any]) -> int:
    """Have something told to a URL once this transaction commits; the callback's id."""
    query = text("SELECT sfsync.enqueue_callback(:connection, :url, :kind, CAST(:payload AS jsonb))")
    values = {"connection": connection_id, "url": url, "kind": kind, "payload": exact.dumps(payload)}
    return int(session.execute(query, values).scalar_one())


DUE = """
SELECT id FROM sfsync.callback_endpoints
 WHERE next_due_at <= statement_timestamp() AND (claim_until IS NULL OR claim_until < statement_timestamp())
 ORDER BY next_due_at LIMIT :limit
"""
TAKE = """
UPDATE sfsync.callback_endpoints SET claim_token = nextval('sfsync.claim_tokens'), claim_owner = :owner,
       claim_until = clock_timestamp() + :ttl
 WHERE id = (SELECT id FROM sfsync.callback_endpoints
              WHERE id = :id AND disabled_at IS NULL AND next_due_at <= statement_timestamp()
                AND (claim_until IS NULL OR claim_until < statement_timestamp()) FOR UPDATE SKIP LOCKED)
RETURNING id, connection_id, url, failures, claim_token
"""
NEXT = """
SELECT id, message_id, kind, CAST(payload AS text) AS payload, attempts, created_at FROM sfsync.callbacks
 WHERE endpoint_id = :endpoint AND state = 'waiting' AND due_at <= statement_timestamp() ORDER BY due_at, id LIMIT 1
"""
RENEW = """
UPDATE sfsync.callback_endpoints SET claim_until = clock_timestamp() + :ttl WHERE id = :id AND claim_token = :token RETURNING id
"""
LOG = """
INSERT INTO sfsync.callback_attempts (callback_id, status, error, seconds) VALUES (:id, :status, :error, :seconds)
"""
WRITE = """
UPDATE sfsync.callbacks SET state = :state, attempts = attempts + 1, due_at = clock_timestamp() + :after,
       finished_at = CASE WHEN :state <> 'waiting' THEN clock_timestamp() END
 WHERE id = :id AND state = 'waiting'
"""
COUNT = "UPDATE sfsync.callback_endpoints SET failures = :failures WHERE id = :id AND claim_token = :token RETURNING id"
# What is enqueued in these moments may see the endpoint awake and not wake it: so an endpoint that was told something is looked
# at once more a second later, and upkeep wakes what a longer transaction left asleep.
RELEASE = """
UPDATE sfsync.callback_endpoints e SET claim_token = NULL, claim_owner = NULL, claim_until = NULL,
       next_due_at = CASE WHEN e.disabled_at IS NULL THEN
                     coalesce((SELECT greatest(min(c.due_at), clock_timestamp() + :pause) FROM sfsync.callbacks c
                                WHERE c.endpoint_id = e.id AND c.state = 'waiting' HAVING count(*) > 0),
                              clock_timestamp() + :look_again) END
 WHERE e.id = :id AND e.claim_token = :token
"""
DISABLE = """
UPDATE sfsync.callback_endpoints SET disabled_at = clock_timestamp(), disabled_reason = :reason, next_due_at = NULL
 WHERE id = :id AND claim_token = :token
"""
GIVE_UP = """
UPDATE sfsync.callbacks SET state = 'failed', finished_at = clock_timestamp() WHERE endpoint_id = :id AND state = 'waiting'
"""
FORGOTTEN = """
UPDATE sfsync.callback_endpoints e SET next_due_at = clock_timestamp()
 WHERE e.next_due_at IS NULL AND e.disabled_at IS NULL
   AND EXISTS (SELECT 1 FROM sfsync.callbacks c WHERE c.endpoint_id = e.id AND c.state = 'waiting')
"""
# Nobody tells a disabled URL anything. What comes for it waits for a day, in case that somebody enables it.
UNTELLABLE = """
UPDATE sfsync.callbacks c SET state = 'failed', finished_at = clock_timestamp()
  FROM sfsync.callback_endpoints e
 WHERE e.id = c.endpoint_id AND e.disabled_at IS NOT NULL
   AND c.state = 'waiting' AND c.created_at < statement_timestamp() - :tried_for
"""
PRUNE = """
DELETE FROM sfsync.callbacks WHERE id IN (
    SELECT id FROM sfsync.callbacks WHERE finished_at < statement_timestamp() - :age ORDER BY finished_at LIMIT :limit)
"""
SECRETS = """
SELECT id, secret FROM sfsync.callback_secrets
 WHERE connection_id = :connection AND (retires_at IS NULL OR retires_at > statement_timestamp()) ORDER BY created_at DESC
"""


def due_endpoints(session: Session, limit: int) -> list[int]:
    """Endpoints that have something to be told now and nobody at them."""
    return list(session.scalars(text(DUE), {"limit": limit}))


def take(session: Session, endpoint_id: int, ttl: timedelta) -> Endpoint | None:
    """Claim an endpoint; None when it is not due, disabled, or somebody is at it."""
    row = session.execute(text(TAKE), {"id": endpoint_id, "owner": owner(), "ttl": ttl}).first()
    return None if row is None else Endpoint(row.id, row.connection_id, row.url, row.failures, row.claim_token)


def renew(session: Session, endpoint: Endpoint, ttl: timedelta) -> bool:
    """Prolong the claim; False when it is no longer ours."""
    return session.execute(text(RENEW), {"id": endpoint.id, "token": endpoint.token, "ttl": ttl}).first() is not None


def next_message(session: Session, endpoint: Endpoint) -> Message | None:
    """What is to be told next, in the order of enqueueing where nothing failed."""
    row = session.execute(text(NEXT), {"endpoint": endpoint.id}).first()
    if row is None:
        return None
    return Message(row.id, row.message_id, row.kind, exact.loads(row.payload), row.attempts, row.created_at)


def secrets(session: Session, connection_id: int, decrypt: Callable[[str, str], str]) -> list[str]:
    """The caller's secrets that sign now, the newest first. `decrypt`: ciphertext and its row's id → secret."""
    return [decrypt(row.secret, row.id) for row in session.execute(text(SECRETS), {"connection": connection_id})]


def write(
    session: Session,
    endpoint: Endpoint,
    message: Message,
    answer: Answer,
    *,
    state: str,
    after: timedelta,
    failures: int,
) -> bool:
    """Write down what came of one call; False, and nothing written, when the endpoint is no longer ours."""
    held = session.execute(text(COUNT), {"id": endpoint.id, "token": endpoint.token, "failures": failures}).first()
    if held is None:
        return False
    session.execute(text(WRITE), {"id": message.id, "state": state, "after": after})
    told = {"id": message.id, "status": answer.status, "error": answer.error, "seconds": answer.seconds}
    session.execute(text(LOG), told)
    return True


def release(session: Session, endpoint: Endpoint, *, pause: timedelta, look_again: bool) -> None:
    """Give the endpoint back; it is due when its next message is, but not before the pause is over."""
    values = {"id": endpoint.id, "token": endpoint.token, "pause": pause}
    session.execute(text(RELEASE), {**values, "look_again": timedelta(seconds=1) if look_again else None})


def disable(session: Session, endpoint: Endpoint, reason: str) -> None:
    """Tell this URL nothing more; what waits for it is given up."""
    session.execute(text(DISABLE), {"id": endpoint.id, "token": endpoint.token, "reason": reason})
    session.execute(text(GIVE_UP), {"id": endpoint.id})


def upkeep(session: Session, *, tried_for: timedelta, keep: timedelta, limit: int) -> int:
    """Wake endpoints whose hint was lost; forget callbacks that ended long ago. How many were forgotten."""
    session.execute(text(FORGOTTEN))
    session.execute(text(UNTELLABLE), {"tried_for": tried_for})
    return len(session.execute(text(PRUNE + " RETURNING id"), {"age": keep, "limit": limit}).all())


# For people.

COLUMNS = """c.id, c.message_id, u.user_id, e.url, c.kind, c.state, c.attempts, c.due_at, c.created_at, c.finished_at,
       last.status, last.error"""
FROM = """FROM sfsync.callbacks c JOIN sfsync.callback_endpoints e ON e.id = c.endpoint_id
  JOIN public.salesforce_oauth_tokens u ON u.id = e.connection_id
  LEFT JOIN LATERAL (SELECT a.status, a.error FROM sfsync.callback_attempts a
                      WHERE a.callback_id = c.id ORDER BY a.id DESC LIMIT 1) AS last ON true"""


def find(
    session: Session, *, user_id: str | None, states: Collection[str] = (), limit: int = 50
) -> list[dict[str, Any]]:
    """Callbacks, newest first, with the last answer of each."""
    conditions = ["true"]
    conditions += ["u.user_id = :user"] if user_id is not None else []
    conditions += ["c.state = ANY(:states)"] if states else []
    query = f"SELECT {COLUMNS} {FROM} WHERE {' AND '.join(conditions)} ORDER BY c.id DESC LIMIT :limit"
    values = {"user": user_id, "states": list(states), "limit": limit}
    return [dict(row) for row in session.execute(text(query), values).mappings()]


def read(session: Session, callback_id: int) -> dict[str, Any] | None:
    """One callback with its payload and every call; None when there is none."""
    query = f"SELECT {COLUMNS}, CAST(c.payload AS text) AS payload {FROM} WHERE c.id = :id"
    row = session.execute(text(query), {"id": callback_id}).mappings().first()
    if row is None:
        return None
    log = "SELECT at, status, error, seconds FROM sfsync.callback_attempts WHERE callback_id = :id ORDER BY id"
    calls = [dict(call) for call in session.execute(text(log), {"id": callback_id}).mappings()]
    return {**row, "payload": exact.loads(row["payload"]), "calls": calls}


REDO = """
UPDATE sfsync.callbacks SET state = 'waiting', attempts = 0, due_at = clock_timestamp(), finished_at = NULL,
       created_at = clock_timestamp()
 WHERE id = ANY(:ids) AND (finished_at IS NOT NULL OR due_at > statement_timestamp()) RETURNING id, endpoint_id
"""
WAKE = """
UPDATE sfsync.callback_endpoints SET next_due_at = least(next_due_at, clock_timestamp())
 WHERE id = ANY(:ids) AND disabled_at IS NULL
"""


def redo(session: Session, ids: Sequence[int]) -> list[int]:
    """Tell these again, whatever came of them; a day of tries begins anew. Those that there are."""
    rows = session.execute(text(REDO), {"ids": list(ids)}).all()
    session.execute(text(WAKE), {"ids": sorted({row.endpoint_id for row in rows})})
    return [row.id for row in rows]


def endpoints(session: Session, user_id: str | None) -> list[dict[str, Any]]:
    """URLs with what waits for them."""
    query = """
        SELECT e.id, u.user_id, e.url, e.failures, e.next_due_at, e.disabled_at, e.disabled_reason,
               (SELECT count(*) FROM sfsync.callbacks c WHERE c.endpoint_id = e.id AND c.state = 'waiting') AS waiting
          FROM sfsync.callback_endpoints e JOIN public.salesforce_oauth_tokens u ON u.id = e.connection_id
         WHERE CAST(:user AS text) IS NULL OR u.user_id = :user ORDER BY e.id
    """
    return [dict(row) for row in session.execute(text(query), {"user": user_id}).mappings()]


def enable(session: Session, endpoint_id: int) -> bool:
    """Tell a disabled URL what comes from now on; False when there is none that is disabled."""
    query = """
        UPDATE sfsync.callback_endpoints SET disabled_at = NULL, disabled_reason = NULL, failures = 0,
               next_due_at = clock_timestamp() WHERE id = :id AND disabled_at IS NOT NULL RETURNING id
    """
    return session.execute(text(query), {"id": endpoint_id}).first() is not None


def has_secret(session: Session, connection_id: int) -> bool:
    """Whether a caller has a secret that signs now."""
    return session.execute(text(SECRETS), {"connection": connection_id}).first() is not None


def add_secret(session: Session, connection_id: int, secret_id: str, ciphertext: str) -> None:
    """Keep a caller's new secret; the older ones go on signing until they are retired."""
    query = "INSERT INTO sfsync.callback_secrets (id, connection_id, secret) VALUES (:id, :connection, :secret)"
    session.execute(text(query), {"id": secret_id, "connection": connection_id, "secret": ciphertext})


def retire_secret(session: Session, secret_id: str, after: timedelta) -> bool:
    """Have a secret sign only until then; False when there is none."""
    query = "UPDATE sfsync.callback_secrets SET retires_at = clock_timestamp() + :after WHERE id = :id RETURNING id"
    return session.execute(text(query), {"id": secret_id, "after": after}).first() is not None


def list_secrets(session: Session, user_id: str | None) -> list[dict[str, Any]]:
    """Secrets without themselves."""
    query = """
        SELECT s.id, u.user_id, s.created_at, s.retires_at, s.retires_at <= statement_timestamp() AS retired
          FROM sfsync.callback_secrets s JOIN public.salesforce_oauth_tokens u ON u.id = s.connection_id
         WHERE CAST(:user AS text) IS NULL OR u.user_id = :user ORDER BY u.user_id, s.created_at
    """
    return [dict(row) for row in session.execute(text(query), {"user": user_id}).mappings()]
