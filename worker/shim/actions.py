"""Actions as such: what became of them; giving one up, sending one again."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal
from uuid import UUID

from fastapi import APIRouter, Query
from fastapi.responses import JSONResponse

from worker.access import Caller
from worker.actions import decide, store
from worker.actions.deps import ActionDeps
from worker.records import read_action
from worker.runtime import Runtime
from worker.shim.auth import Key, Wiring, require, users_of
from worker.shim.envelope import Refusal, ok

router = APIRouter(prefix="/api/salesforce/actions", tags=["actions"])

State = Literal["waiting", "ready", "sending", "in_doubt", "delivered", "rejected", "conflict", "held", "cancelled"]
States = Annotated[list[State] | None, Query(description="Only in these states.")]
LARGEST_PAGE = 1000


@dataclass(frozen=True, slots=True)
class Limits:
    """How large a request's body may be, by its path: in bytes."""

    usual: int
    batch: int

    def __call__(self, path: str) -> int:
        return self.batch if path == router.prefix else self.usual


@router.get("", summary="List actions, newest first")
def list_actions(
    rt: Wiring,
    caller: Key,
    user_id: Annotated[
        str | None, Query(description="Whose; none given: everybody's that the key may act for.")
    ] = None,
    state: States = None,
    limit: Annotated[int, Query(ge=1, le=LARGEST_PAGE)] = 100,
) -> JSONResponse:
    """Actions of the users that the key may act for."""
    users = users_of(caller, "read", user_id)
    with rt.database.transaction() as session:
        found = store.find(session, user_ids=users, states=state or (), limit=limit)
    return ok({"actions": [shown(one) for one in found]})


@router.get("/{action_id}", summary="What became of an action")
def get_action(rt: Wiring, caller: Key, action_id: UUID) -> JSONResponse:
    """Its state, its outcome or the org's error, its attempts."""
    return ok(shown(_allowed(rt, caller, "read", action_id)))


@router.post("/{action_id}/cancel", summary="Give up an action that is not under way")
def cancel_action(rt: Wiring, caller: Key, action_id: UUID) -> JSONResponse:
    """Only one that is waiting, ready or held."""
    return _decide(rt, caller, action_id, decide.cancel)


@router.post("/{action_id}/retry", summary="Send a held or rejected action again")
def retry_action(rt: Wiring, caller: Key, action_id: UUID) -> JSONResponse:
    """It goes to the end of its record's line."""
    return _decide(rt, caller, action_id, decide.retry)


def _decide(rt: Runtime, caller: Caller, action_id: UUID, decision: Callable[[ActionDeps, UUID], bool]) -> JSONResponse:
    _allowed(rt, caller, "write", action_id)
    try:
        decision(rt.actions, action_id)
    except decide.UndecidableError as error:
        raise Refusal.of("WRONG_STATE", f"{error}.") from None
    return ok(shown(_allowed(rt, caller, "write", action_id)))


def _allowed(rt: Runtime, caller: Caller, scope: str, action_id: UUID) -> dict[str, Any]:
    """The action, if the caller may know of it: another user's is as good as none."""
    require(caller, scope)
    action = read_action(rt.actions, action_id)
    if action is None or not caller.may_act_for(action["user_id"]):
        raise Refusal.of("NOT_FOUND", "There is no such action.")
    return action


def shown(action: dict[str, Any]) -> dict[str, Any]:
    """An action as JSON shows it."""
    hidden = {"connection_id"}
    return {
        name: value.isoformat().replace("+00:00", "Z") if hasattr(value, "isoformat") else value
        for name, value in action.items()
        if name not in hidden
    } | {"id": str(action["id"])}
