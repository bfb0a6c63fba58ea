"""Health: is the process up (`/healthz`), can it serve (`/readyz`), how is the whole product (`/api/salesforce/health`)."""

from typing import Any

from fastapi import APIRouter
from fastapi.responses import JSONResponse

from worker import monitoring
from worker.errors import SettingsError
from worker.shim.answers import Shape, answers
from worker.shim.auth import Wiring
from worker.shim.envelope import ok, refused

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
    responses={**answers(Health, EXAMPLE), **answers(Health, EXAMPLE | {"status": "unhealthy"}, status=503)},
)
def health(rt: Wiring) -> JSONResponse:
    """Database, broker, workers, beat, connections and mirrors, each by a real check; 503 when one is unhealthy."""
    found = monitoring.checks(rt.database, rt.settings)
    status = monitoring.overall(found)
    shown: dict[str, Any] = {
        check.name.replace(" ", "_"): {"status": check.status, "message": check.message}
        for check in found
        if not check.name.startswith(
            ("connection ", "mirror ", "allowance ")
        )  # no user's business is shown without a key
    }
    data = {"service": "salesforce", "status": status, "timestamp": monitoring.timestamp(), "checks": shown}
    return ok(data, 503 if shown.get("database", {}).get("status") == "unhealthy" else 200)
