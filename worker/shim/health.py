"""Health: is the process up (`/healthz`), can it serve (`/readyz`), how is the whole product (`/api/salesforce/health`)."""

import time
from typing import Annotated, Any

from fastapi import APIRouter, Query
from fastapi.responses import JSONResponse
from sqlalchemy import text

from worker import monitoring
from worker.checks import is_somebodys, look, overall
from worker.errors import RejectedError, SettingsError, TransientError
from worker.records import connection_of
from worker.shim.answers import Shape, answers, refusals
from worker.shim.auth import Key, Wiring, user_of, users_of
from worker.shim.envelope import ok, refused
from worker.shim.shown import plain

router = APIRouter(tags=["health"])


class Health(Shape):
    """How it stands: healthy, degraded or unhealthy."""

    status: str


EXAMPLE = {
    "service": "salesforce",
    "status": "healthy",
    "timestamp": "2027-03-31T12:00:00.000Z",
    "checks": {"database": {"status": "healthy", "message": "PostgreSQL answers"}},
}


@router.get("/healthz", summary="Is the process up?", responses=answers(Health, {"status": "healthy"}))
async def healthz() -> JSONResponse:
    """Answers as long as the process does."""
    return ok({"status": "healthy"})


@router.get("/readyz", summary="Can it serve?", responses=answers(Health, {"status": "ready"}))
def readyz(rt: Wiring) -> JSONResponse:
    """503 while Postgres cannot be reached. Redis is not needed to accept work."""
    try:
        rt.database.check_server()
    except SettingsError:
        return refused(503, "UNAVAILABLE", "PostgreSQL cannot be reached.", headers={"Retry-After": "5"})
    return ok({"status": "ready"})


@router.get(
    "/api/salesforce/health",
    summary="How is everything?",
    responses={**answers(Health, EXAMPLE), **refusals(503)},
)
def health(rt: Wiring) -> JSONResponse:
    """Database, broker, workers, beat, connections and mirrors, each by a real check.

    Without Postgres: 503, with all of this in the error's `details`.
    """
    found = look(rt.database, rt.settings)
    status = overall(found)
    shown: dict[str, Any] = {
        check.name.replace(" ", "_"): {"status": check.status, "message": check.message}
        for check in found
        if not is_somebodys(check)  # no user's business is shown without a key
    }
    data = {"service": "salesforce", "status": status, "timestamp": monitoring.timestamp(), "checks": shown}
    if shown["database"]["status"] == "unhealthy":
        return refused(503, "UNAVAILABLE", "PostgreSQL cannot be reached.", data, {"Retry-After": "5"})
    return ok(data)


class Tokens(Shape):
    """Tokens by connection; never a token itself."""

    status: str
    tokens: list[dict[str, Any]]


class Reached(Shape):
    """Whether the org answers this connection now."""

    status: str
    message: str


class Summary(Shape):
    """Everything in a few numbers."""

    status: str


UserId = Annotated[str | None, Query(description="Whose. Default: everybody whom the key may act for.")]
TOKENS = """
SELECT c.user_id, c.state, c.state_reason, c.grant_type, c.issued_at, c.expires_at, r.outcome AS last_renewal, r.ended_at AS last_renewal_at
  FROM salesforce_oauth_tokens c
  LEFT JOIN LATERAL (SELECT outcome, ended_at FROM sfsync.renewals r WHERE r.connection_id = c.id ORDER BY r.id DESC LIMIT 1) r ON true
 WHERE CAST(:users AS text[]) IS NULL OR c.user_id = ANY(CAST(:users AS text[])) ORDER BY c.user_id
"""
NUMBERS = """
WITH c AS (SELECT id, state FROM salesforce_oauth_tokens
            WHERE CAST(:users AS text[]) IS NULL OR user_id = ANY(CAST(:users AS text[]))),
m AS (SELECT m.* FROM sfsync.mirrors m JOIN c ON c.id = m.connection_id),
a AS (SELECT a.state, a.created_at FROM sfsync.actions a JOIN c ON c.id = a.connection_id
       WHERE a.state IN ('waiting', 'ready', 'sending', 'in_doubt', 'held'))
SELECT (SELECT count(*) FROM c WHERE state = 'active') AS connections, (SELECT count(*) FROM c WHERE state = 'revoked') AS revoked,
       (SELECT count(*) FROM m) AS mirrors, (SELECT count(*) FROM m WHERE state = 'live') AS live,
       (SELECT extract(epoch FROM clock_timestamp() - min(fresh_cursor))::float8 FROM m WHERE state = 'live') AS worst_lag_seconds,
       (SELECT extract(epoch FROM clock_timestamp() - min(settled_cursor))::float8 FROM m WHERE state = 'live') AS worst_settled_lag_seconds,
       (SELECT min(verified_at) FROM m) AS verified_at,
       (SELECT count(*) FROM a WHERE state <> 'held') AS undelivered, (SELECT count(*) FROM a WHERE state = 'held') AS held,
       (SELECT extract(epoch FROM clock_timestamp() - min(created_at))::float8 FROM a) AS oldest_undelivered_seconds
"""
TOKENS_EXAMPLE = {
    "status": "healthy",
    "tokens": [{"user_id": "u-1", "state": "active", "grant_type": "authorization_code", "last_renewal": "renewed"}],
}
REACHED = {"status": "healthy", "message": "The org answered.", "user_id": "u-1", "seconds": 0.12}
SUMMARY = {
    "status": "healthy",
    "connections": 1,
    "revoked": 0,
    "mirrors": 3,
    "live": 3,
    "worst_lag_seconds": 12.5,
    "worst_settled_lag_seconds": 140.0,
    "verified_at": "2027-03-31T12:00:00Z",
    "undelivered": 0,
    "held": 0,
    "oldest_undelivered_seconds": None,
}


@router.get("/api/salesforce/health/tokens", summary="How tokens stand", responses=answers(Tokens, TOKENS_EXAMPLE))
def tokens(rt: Wiring, caller: Key, user_id: UserId = None) -> JSONResponse:
    """State, expiry where it is known, and the last renewal of each connection. Never a token."""
    users = users_of(caller, "read", user_id)
    with rt.database.transaction() as session:
        rows = [dict(row) for row in session.execute(text(TOKENS), {"users": users and list(users)}).mappings()]
    status = "healthy" if all(row["state"] == "active" for row in rows) else "degraded"
    return ok({"status": status, "tokens": [plain(row) for row in rows]})


@router.get(
    "/api/salesforce/health/connection",
    summary="Does the org answer this connection?",
    responses=answers(Reached, REACHED),
)
def connection(rt: Wiring, caller: Key, user_id: UserId = None) -> JSONResponse:
    """Asks the org, with the stored token, renewed if need be. Spends one API call. `status` is unhealthy when it fails."""
    named = user_of(caller, "read", user_id)
    with rt.database.transaction() as session:
        connection_id = connection_of(session, named)
    begin = time.monotonic()
    try:
        rt.client(connection_id).call("GET", "limits", idempotent=True)
    except (TransientError, RejectedError) as error:
        why = error.complaints[0].message if isinstance(error, RejectedError) else "The org did not answer."
        return ok({"status": "unhealthy", "message": why, "user_id": named})
    seconds = round(time.monotonic() - begin, 3)
    return ok({"status": "healthy", "message": "The org answered.", "user_id": named, "seconds": seconds})


@router.get(
    "/api/salesforce/health/summary", summary="Everything in a few numbers", responses=answers(Summary, SUMMARY)
)
def summary(rt: Wiring, caller: Key, user_id: UserId = None) -> JSONResponse:
    """Counts and the two ages that matter: how far the mirror furthest behind is, and how long the oldest action waits."""
    users = users_of(caller, "read", user_id)
    with rt.database.transaction() as session:
        row = dict(session.execute(text(NUMBERS), {"users": users and list(users)}).mappings().one())
    return ok({**plain(row), "status": "healthy" if row["revoked"] == 0 and row["held"] == 0 else "degraded"})
