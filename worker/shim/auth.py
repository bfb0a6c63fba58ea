"""Who is asking: API keys as `Authorization: Bearer`. A key acts only within its scopes and for its users."""

from typing import Annotated

from fastapi import Depends, Request

from worker.access import Caller, authenticate
from worker.runtime import Runtime
from worker.shim.envelope import Refusal


def runtime_of(request: Request) -> Runtime:
    """The process's runtime, put there by `make_app`."""
    rt: Runtime = request.app.state.runtime
    return rt


def caller_of(request: Request) -> Caller:
    """The caller; refuses a request without a valid key, without saying what is wrong with it."""
    scheme, _, key = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and key:
        with runtime_of(request).database.transaction() as session:
            caller = authenticate(session, key.strip())
        if caller is not None:
            return caller
    raise Refusal(
        401,
        "UNAUTHORIZED",
        "A valid API key is needed: Authorization: Bearer <key>. `sfsync api-keys create` makes one.",
        headers={"WWW-Authenticate": "Bearer"},
    )


def require(caller: Caller, scope: str, user_id: str | None = None) -> None:
    """Refuse when the key lacks `scope` or may not act for `user_id`."""
    if not caller.may(scope):
        raise Refusal(403, "FORBIDDEN", f"This API key lacks the scope {scope}.")
    if user_id is not None and not caller.may_act_for(user_id):
        raise Refusal(403, "FORBIDDEN", "This API key may not act for this user_id.")


Key = Annotated[Caller, Depends(caller_of)]
Wiring = Annotated[Runtime, Depends(runtime_of)]
