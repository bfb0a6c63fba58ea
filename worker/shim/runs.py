"""Mirrors, the runs that bring them up to date, and syncs: asking for it now, and following what becomes of it."""

from typing import Annotated, Any, Literal
from uuid import UUID

from fastapi import APIRouter, Path, Query
from fastapi.responses import JSONResponse
from pydantic import Field
from sqlalchemy.orm import Session

from worker.access import Caller
from worker.errors import RequestError
from worker.mirror import syncs
from worker.mirror.deps import STEP
from worker.mirror.requests import mirror_ids
from worker.records import COLLECTIONS, connection_of, known_name
from worker.runtime import Runtime
from worker.shim.answers import Shape, answers, refusals
from worker.shim.auth import Key, Wiring, require, user_of, users_of
from worker.shim.bodies import Body, body_of, described
from worker.shim.envelope import Refusal, ok
from worker.shim.shown import plain

router = APIRouter(tags=["mirrors"])

BASE = "/api/salesforce"
SYNC = "/api/integrations/salesforce"
LARGEST_PAGE = 1000
UserId = Annotated[str | None, Query(description="Whose; none given: everybody's that the key may act for.")]
ObjectName = Annotated[str, Path(description="An object's API name, in any case.", examples=["Contact"])]
RunState = Literal["ready", "done", "failed", "parked"]


class AskedFor(Body):
    """Bring one object up to date now."""

    user_id: str
    full: bool = Field(default=False, description="Read everything again, also where the mirror is live.")


class AskedSync(Body):
    """Bring several objects up to date now."""

    user_id: str
    data_types: list[str] | None = Field(
        default=None,
        description="Objects, or contacts, accounts, opportunities, leads; none given: all that is mirrored.",
        max_length=500,
    )
    full: bool = Field(default=False, description="Read everything again, also where the mirror is live.")


class MirrorShape(Shape):
    """One mirror."""

    object: str
    user_id: str
    state: str
    lag_seconds: float | None
    settled_lag_seconds: float | None


class RunShape(Shape):
    """One run. state: ready (asked for or under way), done, failed, parked (it gave up; ask again)."""

    id: int
    user_id: str
    object: str
    kind: str
    state: str
    error: str | None


class SyncShape(Shape):
    """Runs that were asked for together. status: running, done, or failed."""

    sync_id: str
    user_id: str
    status: str
    runs: list[RunShape]


class Mirrors(Shape):
    """Mirrors, by user and object."""

    mirrors: list[MirrorShape]


class Runs(Shape):
    """Runs, newest first."""

    runs: list[RunShape]
    next_before: int | None = Field(description="Send it as `before` for the next page; null after the last.")


class SyncStatus(Shape):
    """How a user's mirrors stand, and the last sync."""

    user_id: str
    status: str
    sync: SyncShape | None
    mirrors: list[MirrorShape]


RUN = {
    "id": 7,
    "user_id": "u-1",
    "object": "Contact",
    "kind": "refresh",
    "cause": "manual",
    "state": "ready",
    "stage": "begin",
    "rows_read": 0,
    "error": None,
}
SYNC_EXAMPLE = {"sync_id": "4f5b1e52-6a0c-4d0a-a5f0-0f0a5c6b9e11", "user_id": "u-1", "status": "running", "runs": [RUN]}
MIRROR = {
    "object": "Contact",
    "user_id": "u-1",
    "schema": "salesforce",
    "table": "contact",
    "state": "live",
    "lag_seconds": 4.2,
    "settled_lag_seconds": 61.0,
}


@router.get(
    f"{BASE}/mirrors", summary="List mirrors with their lags", responses=answers(Mirrors, {"mirrors": [MIRROR]})
)
def list_mirrors(rt: Wiring, caller: Key, user_id: UserId = None) -> JSONResponse:
    """All mirrors of the users that the key may act for."""
    users = users_of(caller, "read", user_id)
    with rt.database.transaction() as session:
        return ok({"mirrors": [plain(one) for one in syncs.find_mirrors(session, user_ids=users)]})


@router.get(f"{BASE}/mirrors/{{object_name}}", summary="One mirror", responses=answers(MirrorShape, MIRROR))
def get_mirror(rt: Wiring, caller: Key, object_name: ObjectName, user_id: UserId = None) -> JSONResponse:
    """Its state, its lags, when it was last verified."""
    named = user_of(caller, "read", user_id)
    with rt.database.transaction() as session:
        found = syncs.find_mirrors(session, user_ids=[named], object_name=object_name)
    if not found:
        raise RequestError("NOT_FOUND", f"{object_name[:80]} is not mirrored.")
    return ok(plain(found[0]))


@router.post(
    f"{BASE}/mirrors/{{object_name}}/refresh",
    summary="Bring one mirror up to date now",
    status_code=202,
    responses={**answers(SyncShape, SYNC_EXAMPLE, status=202), **refusals(422)},
    openapi_extra=described(AskedFor, {"user_id": "u-1"}),
)
def refresh_mirror(
    rt: Wiring, caller: Key, object_name: ObjectName, body: Annotated[AskedFor, body_of(AskedFor)]
) -> JSONResponse:
    """A mirror that is not there yet is begun. Follow it by its `sync_id`."""
    user_id = user_of(caller, "write", body.user_id)
    return _begin(rt, user_id, [object_name], full=body.full)


@router.get(
    f"{BASE}/runs", summary="List runs, newest first", responses=answers(Runs, {"runs": [RUN], "next_before": None})
)
def list_runs(
    rt: Wiring,
    caller: Key,
    user_id: UserId = None,
    object_name: Annotated[str | None, Query(alias="object", description="Only of this object.")] = None,
    state: Annotated[list[RunState] | None, Query(description="Only in these states.")] = None,
    before: Annotated[int | None, Query(ge=1, le=2**62, description="next_before of the page before.")] = None,
    limit: Annotated[int, Query(ge=1, le=LARGEST_PAGE)] = 100,
) -> JSONResponse:
    """Runs of the users that the key may act for."""
    users = users_of(caller, "read", user_id)
    with rt.database.transaction() as session:
        found = syncs.find_runs(
            session, user_ids=users, object_name=object_name, states=state or (), before=before, limit=limit + 1
        )
    following = found[limit - 1]["id"] if len(found) > limit else None
    return ok({"runs": [plain(one) for one in found[:limit]], "next_before": following})


@router.get(f"{BASE}/runs/{{run_id}}", summary="One run", responses=answers(RunShape, RUN))
def get_run(rt: Wiring, caller: Key, run_id: Annotated[int, Path(ge=1, le=2**62)]) -> JSONResponse:
    """How far it is, what it brought, what went wrong."""
    require(caller, "read")
    with rt.database.transaction() as session:
        return ok(plain(_mine(caller, syncs.read_run(session, run_id), "run")))


@router.post(
    f"{SYNC}/sync",
    summary="Bring a user's mirrors up to date now",
    status_code=202,
    responses={**answers(SyncShape, SYNC_EXAMPLE, status=202), **refusals(422)},
    openapi_extra=described(AskedSync, {"user_id": "u-1", "data_types": ["contacts", "Case"]}),
)
def begin_sync(rt: Wiring, caller: Key, body: Annotated[AskedSync, body_of(AskedSync)]) -> JSONResponse:
    """All that the user mirrors, or what `data_types` names. Runs that are under way already are joined."""
    user_id = user_of(caller, "write", body.user_id)
    wanted = [COLLECTIONS[one].object if one in COLLECTIONS else one for one in body.data_types or ()]
    return _begin(rt, user_id, wanted, full=body.full)


@router.get(f"{SYNC}/sync/{{sync_id}}", summary="What became of a sync", responses=answers(SyncShape, SYNC_EXAMPLE))
def get_sync(rt: Wiring, caller: Key, sync_id: UUID) -> JSONResponse:
    """Its runs, one by one."""
    require(caller, "read")
    with rt.database.transaction() as session:
        return ok(_sync(_mine(caller, syncs.read_sync(session, sync_id), "sync")))


@router.get(
    f"{SYNC}/status",
    summary="How a user's mirrors stand",
    responses=answers(SyncStatus, {"user_id": "u-1", "status": "running", "sync": SYNC_EXAMPLE, "mirrors": [MIRROR]}),
)
def sync_status(rt: Wiring, caller: Key, user_id: UserId = None) -> JSONResponse:
    """The last sync and every mirror. status: idle when nothing was ever asked for."""
    named = user_of(caller, "read", user_id)
    with rt.database.transaction() as session:
        connection_of(session, named)
        last = syncs.latest_sync(session, named)
        found = syncs.read_sync(session, last) if last else None
        mirrors = [plain(one) for one in syncs.find_mirrors(session, user_ids=[named])]
    sync = _sync(found) if found else None
    return ok({"user_id": named, "status": sync["status"] if sync else "idle", "sync": sync, "mirrors": mirrors})


def _begin(rt: Runtime, user_id: str, wanted: list[str], *, full: bool) -> JSONResponse:
    with rt.database.transaction() as session:
        connection_id = connection_of(session, user_id)
        known = {name.lower(): name for name in mirror_ids(session, connection_id)}
    objects = [known.get(name.lower()) or known_name(rt.actions, connection_id, name) for name in wanted]
    objects = list(dict.fromkeys(objects or known.values() or rt.settings.objects))
    with rt.database.transaction() as session:
        sync_id, asked = syncs.begin_sync(
            session, connection_id, objects, cause="manual", refresh_seconds=rt.settings.refresh_seconds, full=full
        )
        found = _sync(_whole(session, sync_id))
    for one in asked:
        rt.wake(STEP, one.run_id, one.lane)
    return ok(found, 202, {"Location": f"{SYNC}/sync/{sync_id}"})


def _whole(session: Session, sync_id: UUID) -> dict[str, Any]:
    found = syncs.read_sync(session, sync_id)
    assert found is not None, "it was made in this transaction"
    return found


def _sync(found: dict[str, Any]) -> dict[str, Any]:
    return plain({**found, "runs": [plain(one) for one in found["runs"]]})


def _mine(caller: Caller, found: dict[str, Any] | None, what: str) -> dict[str, Any]:
    """What belongs to another user is as good as none."""
    if found is None or not caller.may_act_for(found["user_id"]):
        raise Refusal.of("NOT_FOUND", f"There is no such {what}.")
    return found
