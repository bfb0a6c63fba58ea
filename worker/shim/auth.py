"""Who is asking: API keys as `Authorization: Bearer`. A key acts only within its scopes and for its users."""

import math
from collections.abc import Collection
from typing import Annotated, Any

from fastapi import Depends, Request, Security
from fastapi.security import HTTPBearer
from starlette.concurrency import run_in_threadpool

from worker.access import Caller, KnownCallers
from worker.records import check_user
from worker.runtime import Runtime
from worker.shim.envelope import Refusal
from worker.shim.rate import Rates

BEARER = HTTPBearer(auto_error=False, scheme_name="ApiKey", description="`sfsync api-keys create` makes a key.")


async def runtime_of(request: Request) -> Runtime:
    """The process's runtime, put there by `make_app`."""
    rt: Runtime = request.app.state.runtime
    return rt


async def caller_of(request: Request, _documented: Annotated[Any, Security(BEARER)]) -> Caller:
    """The caller; refuses a request without a valid key, without saying what is wrong with it."""
    scheme, _, key = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and key:
        known: KnownCallers = request.app.state.known_callers
        caller = known.find(key.strip()) or await run_in_threadpool(_look_up, request.app.state.runtime, known, key)
        if caller is not None:
            _slow_down(request.app.state.rates, caller)
            return caller
    raise Refusal.of(
        "UNAUTHORIZED",
        "A valid API key is needed: Authorization: Bearer <key>. `sfsync api-keys create` makes one.",
        headers={"WWW-Authenticate": "Bearer"},
    )


def _look_up(rt: Runtime, known: KnownCallers, key: str) -> Caller | None:
    with rt.database.transaction() as session:
        return known.authenticate(session, key.strip())


def _slow_down(rates: Rates, caller: Caller) -> None:
    seconds = rates.take(caller.key_id)
    if seconds is not None:
        headers = {"Retry-After": str(math.ceil(seconds))}
        raise Refusal.of("RATE_LIMITED", "This API key asks too often; see Retry-After.", headers=headers)


def require(caller: Caller, scope: str, user_id: str | None = None) -> None:
    """Refuse when the key lacks `scope` or may not act for `user_id`."""
    if not caller.may(scope):
        raise Refusal.of("FORBIDDEN", f"This API key lacks the scope {scope}.")
    if user_id is not None and not caller.may_act_for(user_id):
        raise Refusal.of("FORBIDDEN", "This API key may not act for this user_id.")


def user_of(caller: Caller, scope: str, user_id: Any) -> str:
    """The user that the caller names and may act for."""
    named = check_user(user_id)
    require(caller, scope, named)
    return named


def users_of(caller: Caller, scope: str, user_id: str | None) -> Collection[str] | None:
    """Whose things a list shows: the named user's, or everybody's that the key may act for (None: all)."""
    if user_id is not None:
        return [user_of(caller, scope, user_id)]
    require(caller, scope)
    return None if caller.user_ids is None else sorted(caller.user_ids)


Key = Annotated[Caller, Depends(caller_of)]
Wiring = Annotated[Runtime, Depends(runtime_of)]
