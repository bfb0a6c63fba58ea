"""What the status page shows, from what monitoring and history tell. Pure."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from worker.checks import Check, overall
from worker.history import History
from worker.monitoring import Status
from worker.shim.site.charts import Chart, stacked

LANES = {"actions": 1, "refresh": 2, "upkeep": 3, "backfill": 4, "shim": 5, "cli": 6}
OUTCOMES = {"delivered": 1, "rejected": 5, "conflict": 6, "cancelled": 3}
KINDS = {"refresh": 2, "settle": 3, "load": 4, "verify": 1}
WORDS = {"healthy": "All is well", "degraded": "Needs a look", "unhealthy": "Something is wrong"}
WORST_FIRST = ("unhealthy", "degraded", "healthy")
SHOWN_ROWS = 100  # of mirrors and of connections: the page is made anew every two seconds
SHOWN_CHECKS = 20


@dataclass(frozen=True, slots=True)
class Seen:
    """Everything that one rendering needs, read at one moment."""

    status: Status
    checks: list[Check]
    runs: list[dict[str, Any]]
    failing: list[dict[str, Any]]
    calls: History
    actions: History
    rows: History


@dataclass(frozen=True, slots=True)
class Tile:
    """A headline number. `level`: healthy, degraded or unhealthy."""

    name: str
    value: str
    note: str
    level: str = "healthy"


def context(seen: Seen) -> dict[str, Any]:
    """The names that the template knows."""
    level = overall(seen.checks)
    attention = [check for level in WORST_FIRST[:2] for check in seen.checks if check.status == level]
    names = {check.name for check in attention}
    # Few keep their places by name; of more than are shown, those that need a look come first.
    mirrors = sorted(seen.status.mirrors, key=lambda one: f"mirror {one['user_id']}/{one['object']}" not in names)
    connections = sorted(seen.status.connections, key=lambda one: one["state"] == "active")
    return {
        "at": seen.status.at,
        "level": level,
        "verdict": WORDS[level],
        "attention": attention[:SHOWN_CHECKS],
        "attention_left_out": max(0, len(attention) - SHOWN_CHECKS),
        "tiles": tiles(seen),
        "connections": connections[:SHOWN_ROWS],
        "connections_left_out": max(0, len(connections) - SHOWN_ROWS),
        "instances": {one["id"]: one["instance_url"] for one in seen.status.connections},
        "orgs": {org["organization_id"]: org for org in seen.status.orgs},
        "mirrors": mirrors[:SHOWN_ROWS],
        "mirrors_left_out": max(0, len(mirrors) - SHOWN_ROWS),
        "actions": seen.status.actions,
        "failing": seen.failing,
        "runs": seen.runs,
        "processes": [one for one in seen.status.processes if one["alive"]],
        "charts": charts(seen),
    }


def tiles(seen: Seen) -> list[Tile]:
    """The headline numbers: how far behind, what waits, what needs a person, what is left, what was proven. Levels are those of the
    checks, whose thresholds are settings."""
    status = seen.status
    held = sum(row["count"] for row in status.actions if row["state"] == "held")
    differing = sum(row["differences"] or 0 for row in status.mirrors)
    unrepaired = any((row["differences"] or 0) > (row["repaired"] or 0) for row in status.mirrors)
    verified = [row["verified_at"] for row in status.mirrors if row["verified_at"]]
    lags = [row["settled_lag"] for row in status.mirrors if row["settled_lag"] is not None]
    return [
        Tile(
            "Furthest behind",
            age(status.worst_lag_seconds),
            f"known complete: {age(max(lags))} ago" if lags else "",
            _level(seen, "mirror "),
        ),
        Tile(
            "Oldest undelivered action",
            age(status.oldest_undelivered_seconds),
            _waiting(status),
            _level(seen, "actions"),
        ),
        Tile("Held for a person", f"{held:,}", "actions", "degraded" if held else "healthy"),
        _allowance(seen),
        Tile(
            "Differences found",
            f"{differing:,}" if verified else "—",
            f"last verified {age((status.at - max(verified)).total_seconds())} ago" if verified else "not verified yet",
            "degraded" if unrepaired else "healthy",
        ),
    ]


def _level(seen: Seen, name: str) -> str:
    """The worst of the checks of that name, or whose name begins with it and a blank."""
    return overall(
        [one for one in seen.checks if one.name == name or (name.endswith(" ") and one.name.startswith(name))]
    )


def _waiting(status: Status) -> str:
    waiting = sum(row["count"] for row in status.actions if row["state"] in ("waiting", "ready", "sending", "in_doubt"))
    return f"{waiting:,} on their way"


def _allowance(seen: Seen) -> Tile:
    """The org that has the smallest share left."""
    known = [org for org in seen.status.orgs if org["max"]]
    if not known:
        return Tile("API calls left", "—", "no org has said yet")
    least = min(known, key=lambda org: org["left"] / org["max"])
    share = least["left"] / least["max"]
    left = f"{least['left']:,} of {least['max']:,} in 24 hours"
    if least["blocked_until"]:
        left = f"spent, says the org; asked again {least['blocked_until']:%H:%M} UTC"
    return Tile("API calls left", f"{share:.0%}", left, _level(seen, "allowance "))


def charts(seen: Seen) -> list[Chart]:
    """What the last hours were like."""
    return [
        stacked("API calls", "an hour", _labels(seen.calls, "%d %b %H:%M"), seen.calls.counts, LANES),
        stacked("Records changed in mirrors", "ten minutes", _labels(seen.rows), seen.rows.counts, KINDS),
        stacked("Actions finished", "ten minutes", _labels(seen.actions), seen.actions.counts, OUTCOMES),
    ]


def _labels(history: History, form: str = "%H:%M") -> list[str]:
    return [f"{begin:{form}} UTC" for begin in history.begins]


def age(seconds: float | None) -> str:
    """Seconds for people: 42 s, 3 min, 5 h, 2 d; a dash for None."""
    if seconds is None:
        return "—"
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:,.0f} {unit}"
    return f"{max(0.0, seconds):,.0f} s"


def since(at: datetime | None, now: datetime) -> str:
    """How long ago something was."""
    return "—" if at is None else f"{age((now - at).total_seconds())} ago"


def rate(rows: int | None, seconds: float | None) -> str:
    """Rows a second; a dash where that says nothing."""
    return "—" if not rows or not seconds else f"{rows / seconds:,.0f}/s"


def share(done: int | None, whole: int | None) -> int | None:
    """Percent of a run that is done; None while the whole is not known."""
    return None if not whole else min(100, round(100 * (done or 0) / whole))
