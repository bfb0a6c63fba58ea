"""/metrics: the numbers behind the status page, for Prometheus. Read from Postgres at each scrape, so every shim tells the same.

What is counted over a time (outcomes, runs, renewals) is told as a gauge over the last hour or day, because old rows are pruned
and a counter must not fall.
"""

from collections.abc import Iterable, Iterator
from typing import Any

from fastapi import APIRouter
from fastapi.responses import Response
from prometheus_client import CollectorRegistry
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector

from worker import history, monitoring
from worker.checks import checks_of
from worker.monitoring import Status
from worker.runtime import Runtime
from worker.shim.auth import Key, Wiring, require
from worker.shim.envelope import Refusal

router = APIRouter(tags=["health"])

LEVELS = {"healthy": 0, "degraded": 1, "unhealthy": 2}
QUANTILES = ("0.5", "0.95", "1")
RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "Prometheus text",
        "content": {"text/plain": {"schema": {"type": "string"}, "example": 'sfsync_actions{state="held"} 0.0'}},
    }
}


@router.get("/metrics", summary="Numbers for Prometheus", responses=RESPONSES)
def metrics(rt: Wiring, caller: Key) -> Response:
    """Needs a key with the scope read that is bound to no user: the labels name every connection."""
    require(caller, "read")
    if caller.user_ids is not None:
        raise Refusal.of("FORBIDDEN", "Metrics tell of every user; this API key is bound to some.")
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Numbers(list(families(rt))))
    return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)


class _Numbers(Collector):
    def __init__(self, found: list[Metric]) -> None:
        self._found = found

    def collect(self) -> Iterable[Metric]:
        return self._found


def gauge(name: str, help_text: str, labels: tuple[str, ...], values: Iterable[tuple[Any, ...]]) -> Metric:
    """One family; each of `values` is the labels' values and the number. None: nothing is known, so nothing is told."""
    family = GaugeMetricFamily(f"sfsync_{name}", help_text, labels=labels)
    for *given, value in values:
        if value is not None:
            family.add_metric([str(one) for one in given], float(value))
    return family


def families(rt: Runtime) -> Iterator[Metric]:
    """Every family, read at one moment."""
    status = monitoring.status(rt.database, rt.settings)
    checks = checks_of(status, rt.settings)
    yield gauge("check", "0 healthy, 1 degraded, 2 unhealthy", ("check",), [(c.name, LEVELS[c.status]) for c in checks])
    yield from _mirrors(status)
    yield from _actions(status)
    yield from _orgs(status)
    yield from _processes(status)
    with rt.database.transaction() as session:
        lanes, durations = history.lanes(session), history.durations(session)
        renewals = history.renewals(session)
    yield gauge("runs_due", "Runs that are due and not taken up", ("lane",), [(r["lane"], r["waiting"]) for r in lanes])
    oldest = [(row["lane"], row["oldest_seconds"]) for row in lanes]
    yield gauge("runs_due_oldest_seconds", "For how long the oldest of them has been due", ("lane",), oldest)
    runs = [(row["kind"], row["runs"]) for row in durations]
    yield gauge("runs_done_last_hour", "Runs that were done within the last hour", ("kind",), runs)
    seconds = [
        (row["kind"], name, value)
        for row in durations
        for name, value in zip(QUANTILES, row["seconds"] or (), strict=False)
    ]
    yield gauge("run_seconds_last_hour", "How long they took", ("kind", "quantile"), seconds)
    yield gauge(
        "renewals_last_day", "Renewals of tokens within the last day", ("outcome",), [*sorted(renewals.items())]
    )


def _mirrors(status: Status) -> Iterator[Metric]:
    labels = ("user_id", "object")
    for name, help_text, key in (
        ("mirror_fresh_lag_seconds", "Since the org's time up to which changes were read", "fresh_lag"),
        ("mirror_settled_lag_seconds", "Since the time up to which the mirror is known complete", "settled_lag"),
        ("mirror_interval_seconds", "The refresh interval that is kept", "effective_seconds"),
        ("mirror_interval_wanted_seconds", "The refresh interval that is wanted", "wanted_seconds"),
        ("mirror_records", "Records in the mirror, by Postgres's estimate", "records"),
        ("mirror_differences", "Records that differed at the last verification", "differences"),
    ):
        yield gauge(name, help_text, labels, [(m["user_id"], m["object"], m[key]) for m in status.mirrors])
    verified = [
        (m["user_id"], m["object"], m["verified_at"].timestamp())
        for m in status.mirrors
        if m["verified_at"] is not None
    ]
    yield gauge("mirror_verified_timestamp_seconds", "When the mirror was verified last", labels, verified)
    live = [(m["user_id"], m["object"], m["state"], 1) for m in status.mirrors]
    yield gauge("mirror_state", "1 for the state that the mirror is in", (*labels, "state"), live)


def _actions(status: Status) -> Iterator[Metric]:
    counts = [(row["state"], row["count"]) for row in status.actions]
    yield gauge("actions", "Actions by state; finished ones of the last hour", ("state",), counts)
    ages = [(row["state"], row["oldest_seconds"]) for row in status.actions]
    yield gauge("actions_oldest_seconds", "Age of the oldest of them", ("state",), ages)
    oldest = [(status.oldest_undelivered_seconds or 0.0,)]
    yield gauge("actions_undelivered_oldest_seconds", "Age of the oldest action that is not finished", (), oldest)


def _orgs(status: Status) -> Iterator[Metric]:
    for name, help_text, key in (
        ("org_api_calls_used", "API calls of the last 24 hours, by the org's own count", "used"),
        ("org_api_calls_max", "API calls that the org allows in 24 hours", "max"),
        ("org_api_reserve_left", "Of the rest, what only actions may use", "reserve_left"),
        ("org_api_calls_ours", "API calls of the last 24 hours that were ours", "ours"),
        ("org_parallel_calls", "Calls that may be under way at once, taken by processes", "parallel_calls"),
    ):
        yield gauge(
            name, help_text, ("organization_id",), [(org["organization_id"], org.get(key)) for org in status.orgs]
        )


def _processes(status: Status) -> Iterator[Metric]:
    alive = [one for one in status.processes if one["alive"]]
    steps = [(one["name"], one["lanes"], one["step_seconds"]) for one in alive]
    yield gauge("process_last_step_seconds", "Since a process finished a step", ("process", "lanes"), steps)
