"""`sfsync status` and `sfsync doctor`: how fresh, how busy, what is wrong and what to do."""

from dataclasses import asdict
from typing import Annotated, Any

import typer

from worker import monitoring
from worker.budget import report
from worker.checks import checks_of, look, overall
from worker.cli.opening import open_database
from worker.cli.output import Exit, Json, age, console, show_json, show_table
from worker.db import Database
from worker.settings import Settings, load_settings

ForUser = Annotated[str | None, typer.Option("--user-id", help="Only this user's connection.")]
SHOWN_CHECKS = 10
MARKS = {"healthy": "[green]✓[/green]", "degraded": "[yellow]![/yellow]", "unhealthy": "[red]✗[/red]"}


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command()(status)
    app.command()(doctor)


def status(
    user_id: ForUser = None,
    usage: Annotated[bool, typer.Option("--usage", help="What the orgs' calls were spent on.")] = False,
    hours: Annotated[int, typer.Option(min=1, help="With --usage: so many hours back.")] = 24,
    as_json: Json = False,
) -> None:
    """Show lags and intervals, verifications and runs, allowances, actions by state, processes; or what calls were spent on."""
    settings = load_settings()
    database = open_database(settings)
    if usage:
        _usage(database, settings, user_id, hours, as_json=as_json)
        return
    seen = monitoring.status(database, settings, user_id)
    attention = [check for check in checks_of(seen, settings) if check.status != "healthy"]
    if as_json:
        show_json({**asdict(seen), "attention": [asdict(check) for check in attention]})
        return
    show_table(
        "Connections",
        ("user", "state", "org", "username", "schema"),
        [(c["user_id"], c["state"], c["organization_id"], c["username"], c["schema_name"]) for c in seen.connections],
    )
    _show_orgs(seen.orgs)
    show_table(
        "Mirrors",
        ("user", "object", "state", "#records", "#behind", "#settled", "#every", "verified", "#differences", "run"),
        [
            (
                m["user_id"],
                m["object"],
                m["state"],
                m["records"],
                age(m["fresh_lag"]),
                age(m["settled_lag"]),
                _interval(m),
                m["verified_at"] and f"{m['verified_at']:%Y-%m-%d %H:%M:%S}",
                m["differences"],
                _run(m),
            )
            for m in seen.mirrors
        ],
    )
    for mirror in seen.mirrors:
        for note in _notes(mirror):
            console.print(f"{mirror['user_id']} {mirror['object']}: {note}", highlight=False)
    for reason in sorted({m["effective_reason"] for m in seen.mirrors if m["effective_reason"]}):
        console.print(f"Refreshes are {reason}", highlight=False)
    if seen.actions:
        rows = [(a["state"], a["count"], age(a["oldest_seconds"])) for a in seen.actions]
        show_table("Actions", ("state", "#count", "#oldest"), rows)
    if seen.triggers:
        fired = [(t["user_id"], t["name"], *_trigger(t)) for t in seen.triggers]
        show_table("Triggers", ("user", "name", "next due", "last"), fired)
    show_table(
        "Processes",
        ("name", "lanes", "#steps", "#last seen", "#last step"),
        [
            (p["name"], p["lanes"], p["steps"], age(p["seen_seconds"]), age(p["step_seconds"]))
            for p in seen.processes
            if p["alive"]
        ],
    )
    if attention:
        names = ", ".join(check.name for check in attention[:SHOWN_CHECKS])
        more = f" and {len(attention) - SHOWN_CHECKS} more" if len(attention) > SHOWN_CHECKS else ""
        console.print(
            f"[yellow]![/yellow] Needs a look: {names}{more}; `sfsync doctor` says what to do", highlight=False
        )


def _notes(mirror: dict[str, Any]) -> list[str]:
    """What a reader of the tables should know of a mirror."""
    lost, filling, skipped = (", ".join(mirror[name]) for name in ("lost_fields", "unfilled_fields", "skipped_fields"))
    since = mirror["lost_since"]
    notes = {
        f"the org no longer shows it since {since}: its records stand still": since,
        f"the org no longer shows {lost}: these columns stand still": lost,
        f"columns that are being filled: {filling}": filling,
        f"binary, not mirrored: {skipped}": skipped,
        f"{mirror['repaired']} of the differences were repaired": mirror["repaired"],
        f"{mirror['rejected']} records that no column can hold are in sfsync.rejects": mirror["rejected"],
        f"{mirror['nul_bytes']} NUL bytes could not be kept": mirror["nul_bytes"],
    }
    return [text for text, holds in notes.items() if holds]


def _interval(mirror: dict[str, Any]) -> str:
    """The interval that is kept and, where the allowance does not permit it, the one that is wanted."""
    wanted = age(mirror["wanted_seconds"])
    if not mirror["effective_reason"]:
        return wanted
    if mirror["effective_reason"].startswith("paused"):
        return f"paused ({wanted})"
    return f"{age(mirror['effective_seconds'])} ({wanted})"


def _trigger(row: dict[str, Any]) -> tuple[str | None, str | None]:
    """When it is due next, and how its last firing ended."""
    due = f"{row['next_due_at']:%Y-%m-%d %H:%M:%S}" if row["next_due_at"] else None
    last = None if row["failed"] is None else f"failed: {row['reason']}" if row["failed"] else "done"
    return (due if row["enabled"] else "disabled"), last


def _show_orgs(orgs: list[dict[str, Any]]) -> None:
    columns = (
        "org",
        "#calls used",
        "#a day",
        "#reserve left",
        "#an hour now",
        "#used in a day",
        "runs out",
        "#at once",
    )
    rows = [
        (
            org["organization_id"],
            org["used"],
            org["max"],
            org["reserve_left"],
            round(org.get("calls_per_hour", 0)),
            org.get("used_in_a_day"),
            _ends(org),
            f"{org['parallel_calls']} of {org['parallel_calls_max']}",
        )
        for org in orgs
    ]
    show_table("API allowance", columns, rows)


def _ends(org: dict[str, Any]) -> str:
    if org["blocked_until"]:
        return f"spent; asked again {org['blocked_until']:%H:%M}"
    out = org.get("runs_out_at")
    return f"{out:%Y-%m-%d %H:%M}" if out else "not within a day"


def _usage(database: Database, settings: Settings, user_id: str | None, hours: int, *, as_json: bool) -> None:
    now = database.now()
    with database.transaction() as session:
        orgs = report.orgs(session, settings, now, user_id=user_id)
        rows = report.usage(session, now, hours=hours, user_id=user_id)
    if as_json:
        show_json({"orgs": orgs, "usage": rows})
        return
    _show_orgs(orgs)
    bulk = [(org["organization_id"], *(_of(org["bulk"], name) for name in BULK)) for org in orgs if org["ours"]]
    show_table("Bulk, 24 hours", ("org", "query jobs", "results (MB)", "ingest batches", "ingest rows"), bulk)
    columns = ("org", "hour", "object", "lane", "cause", "#calls")
    shown = [
        (r["organization_id"], f"{r['hour']:%Y-%m-%d %H:%M}", r["object"], r["lane"], r["cause"], r["calls"])
        for r in rows
    ]
    show_table(f"Calls of the last {hours} h", columns, shown)


BULK = ("query_jobs", "result_mb", "ingest_batches", "ingest_rows")


def _of(bulk: dict[str, int], name: str) -> str:
    return f"{bulk[name]:,} of {bulk[f'{name}_max']:,}"


def _run(mirror: dict[str, object]) -> str | None:
    if mirror["run_id"] is None:
        return None
    expected = mirror["rows_expected"]
    progress = f" {mirror['rows_read']:,} of {expected:,}" if expected else ""
    error = f": {mirror['run_error']}" if mirror["run_error"] else ""
    return f"{mirror['run_kind']} {mirror['run_stage']}{progress}{error}"


def doctor(as_json: Json = False) -> None:
    """Look at every part and say what is wrong and what to do. Exits 6 when something is unhealthy."""
    settings = load_settings()
    database = Database(settings.database_url.get_secret_value(), pool_size=2, application="sfsync-cli")
    found = look(database, settings)
    if as_json:
        show_json({"status": overall(found), "checks": [asdict(check) for check in found]})
    else:
        for check in found:
            console.print(f"{MARKS[check.status]} {check.name}: {check.message}", highlight=False)
            if check.remedy:
                console.print(f"    → {check.remedy}", style="bold", highlight=False)
    if overall(found) == "unhealthy":
        raise typer.Exit(Exit.UNAVAILABLE)
