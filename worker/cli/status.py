"""`sfsync status` and `sfsync doctor`: how fresh, how busy, what is wrong and what to do."""

from dataclasses import asdict
from typing import Annotated, Any

import typer

from worker import monitoring
from worker.cli.opening import open_database
from worker.cli.output import Exit, Json, age, console, show_json, show_table
from worker.db import Database
from worker.settings import load_settings

ForUser = Annotated[str | None, typer.Option("--user-id", help="Only this user's connection.")]
MARKS = {"healthy": "[green]✓[/green]", "degraded": "[yellow]![/yellow]", "unhealthy": "[red]✗[/red]"}


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command()(status)
    app.command()(doctor)


def status(user_id: ForUser = None, as_json: Json = False) -> None:
    """Show each mirror's lag, its last verification and active run; actions by state; processes."""
    seen = monitoring.status(open_database(load_settings()), user_id)
    if as_json:
        show_json(asdict(seen))
        return
    show_table(
        "Connections",
        ("user", "state", "org", "username", "schema", "#calls used", "#calls a day"),
        [
            (
                c["user_id"],
                c["state"],
                c["organization_id"],
                c["username"],
                c["schema_name"],
                c["api_used"],
                c["api_max"],
            )
            for c in seen.connections
        ],
    )
    show_table(
        "Mirrors",
        ("user", "object", "state", "#records", "#behind", "#settled", "verified", "#differences", "run"),
        [
            (
                m["user_id"],
                m["object"],
                m["state"],
                m["records"],
                age(m["fresh_lag"]),
                age(m["settled_lag"]),
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
    if seen.actions:
        rows = [(a["state"], a["count"], age(a["oldest_seconds"])) for a in seen.actions]
        show_table("Actions", ("state", "#count", "#oldest"), rows)
    show_table(
        "Processes",
        ("name", "lanes", "#steps", "#last seen", "#last step"),
        [
            (p["name"], p["lanes"], p["steps"], age(p["seen_seconds"]), age(p["step_seconds"]))
            for p in seen.processes
            if p["alive"]
        ],
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
    found = monitoring.checks(database, settings.redis_url.get_secret_value())
    if as_json:
        show_json({"status": monitoring.overall(found), "checks": [asdict(check) for check in found]})
    else:
        for check in found:
            console.print(f"{MARKS[check.status]} {check.name}: {check.message}", highlight=False)
            if check.remedy:
                console.print(f"    → {check.remedy}", style="bold", highlight=False)
    if monitoring.overall(found) == "unhealthy":
        raise typer.Exit(Exit.UNAVAILABLE)
