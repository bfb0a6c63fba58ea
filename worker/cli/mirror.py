"""`sfsync mirror` and `sfsync verify`: bring objects into Postgres, and prove that they are right there."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Annotated, Any

import typer
from sqlalchemy import select
from sqlalchemy.orm import Session

from models.connection import Connection
from models.mirror import Mirror, Verification
from worker.cli.following import Followed, follow, live_lanes
from worker.cli.output import Exit, Json, UserId, age, console, errors, fail, number, show_json, show_table
from worker.errors import DisconnectedError
from worker.mirror.deps import STEP
from worker.mirror.requests import LANES, mirror_ids, request_run, request_update
from worker.runtime import Runtime
from worker.settings import load_settings

Objects = Annotated[
    list[str] | None, typer.Option("--object", help="An object's API name; may be given several times.")
]
Full = Annotated[bool, typer.Option("--full", help="Read everything again, also where the mirror is live.")]
Wait = Annotated[bool, typer.Option("--wait", help="Return when it is done; without a worker it is done here.")]
Quick = Annotated[bool, typer.Option("--quick", help="Compare ids and stamps only.")]
Repair = Annotated[bool, typer.Option("--repair", help="Take the org's word where the two differ.")]


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command()(mirror)
    app.command()(verify)


def mirror(
    user_id: UserId, objects: Objects = None, full: Full = False, wait: Wait = False, as_json: Json = False
) -> None:
    """Mirror objects of a connection: load those that are new, refresh those that are live.

    Without --object: everything this connection mirrors, or else the default objects.
    """
    rt = _runtime()
    with rt.database.transaction() as session:
        connection = _connection(session, user_id)
        wanted = list(dict.fromkeys(objects or mirror_ids(session, connection.id) or rt.settings.objects))
        every = rt.settings.refresh_seconds
        asked = dict(
            request_update(session, connection.id, name, "manual", refresh_seconds=every, full=full) for name in wanted
        )
    for run_id, lane in asked.items():
        rt.wake(STEP, run_id, lane)
    if not wait:
        _asked(rt, wanted, asked, as_json=as_json)
        return
    runs = follow(rt, list(asked), quiet=as_json)
    _show_runs(runs, as_json=as_json)
    _refuse_unfinished(runs)


def _asked(rt: Runtime, wanted: Sequence[str], asked: dict[int, str], *, as_json: bool) -> None:
    idle = set(asked.values()) - live_lanes(rt)
    if as_json:
        show_json([{"object": name, "run_id": run} for name, run in zip(wanted, asked, strict=True)])
    else:
        console.print(f"Asked for: {', '.join(wanted)}. See it with: sfsync status")
    if idle:
        lanes = " and ".join(sorted(idle))
        errors.print(f"No worker of the lane {lanes} is running: start one (sfsync worker), or add --wait.")


def verify(
    user_id: UserId, objects: Objects = None, quick: Quick = False, repair: Repair = False, as_json: Json = False
) -> None:
    """Compare every record and field of the mirrors with the org; exit 1 when something differs.

    A difference counts only if a refresh and a read by Id, both made after it was seen, still show it.
    """
    rt = _runtime()
    with rt.database.transaction() as session:
        connection = _connection(session, user_id)
        known = {name.lower(): mirror_id for name, mirror_id in mirror_ids(session, connection.id).items()}
        for name in objects or ():
            if name.lower() not in known:
                raise fail(f"{name} is not mirrored: sfsync mirror --user-id {user_id} --object {name}", Exit.REFUSED)
        wanted = [known[name.lower()] for name in objects or ()] or list(known.values())
        if not wanted:
            raise fail(f"nothing is mirrored yet: sfsync mirror --user-id {user_id}", Exit.REFUSED)
        options = {"quick": quick, "repair": repair}
        asked = [request_run(session, one, "verify", "manual", options) for one in wanted]
    for run_id in asked:
        rt.wake(STEP, run_id, LANES["verify"])
    runs = follow(rt, asked, quiet=as_json)
    found = _verifications(rt, runs)
    _show_verifications(found, as_json=as_json)
    _refuse_unfinished(runs)
    if any(one["differences"] for one in found):
        raise typer.Exit(Exit.DIFFERENCES)


def _runtime() -> Runtime:
    rt = Runtime(load_settings(), application="sfsync-cli")
    rt.database.check_server()
    return rt


def _connection(session: Session, user_id: str) -> Connection:
    connection = session.scalar(select(Connection).where(Connection.user_id == user_id))
    if connection is None or connection.state != "active":
        state = "there is no connection" if connection is None else f"the connection is {connection.state}"
        raise DisconnectedError(f"{state}: sfsync connect --user-id {user_id}")
    return connection


def _refuse_unfinished(runs: Sequence[Followed]) -> None:
    for run in runs:
        if run.state != "done":
            raise fail(f"{run.object}: the {run.kind} is {run.state}: {run.error}", Exit.REFUSED)


def _show_runs(runs: Sequence[Followed], *, as_json: bool) -> None:
    if as_json:
        hidden = ("connection_state", "user_id", "due", "lane")
        show_json(
            [{k: v for k, v in asdict(run).items() if k not in hidden} | {"seconds": run.seconds} for run in runs]
        )
        return
    show_table(
        "Mirrored",
        ("object", "", "#rows read", "#changed", "#left", "#rejected", "#calls", "#took"),
        [
            (r.object, r.kind, r.rows_read, r.rows_changed, r.rows_deleted, r.rows_rejected, r.calls, age(r.seconds))
            for r in runs
        ],
    )


def _verifications(rt: Runtime, runs: Sequence[Followed]) -> list[dict[str, Any]]:
    with rt.database.transaction() as session:
        query = select(Verification, Mirror.object).join(Mirror, Mirror.id == Verification.mirror_id)
        rows = session.execute(
            query.where(Verification.run_id.in_([r.id for r in runs])).order_by(Verification.id)
        ).all()
    nul_bytes = {run.id: run.nul_bytes for run in runs}
    names = ("depth", "records", "fields", "differences", "missing", "surplus", "moved", "repaired", "calls", "details")
    return [
        {"object": name, "started_at": one.started_at, "finished_at": one.finished_at}
        | {field: getattr(one, field) for field in names}
        | {"nul_bytes": nul_bytes.get(one.run_id or 0, 0)}
        for one, name in rows
    ]


def _show_verifications(found: Sequence[dict[str, Any]], *, as_json: bool) -> None:
    if as_json:
        show_json(list(found))
        return
    columns = ("records", "fields", "differences", "missing", "surplus", "moved", "repaired", "calls")
    rows = [
        (
            one["object"],
            *(one[name] for name in columns),
            age((one["finished_at"] - one["started_at"]).total_seconds()),
        )
        for one in found
    ]
    show_table("Verified", ("object", *(f"#{name}" for name in columns), "#took"), rows)
    for one in found:
        if one["nul_bytes"]:
            console.print(f"{one['object']}: {number(one['nul_bytes'])} NUL bytes, which text of Postgres cannot hold")
        for detail in one["details"]:
            console.print(f"{one['object']} {detail['id']}: {detail['kind']}{_fields(detail)}", highlight=False)


def _fields(detail: dict[str, Any]) -> str:
    shown = [f"{field['field']} is {field['org']!r} in the org, {field['mirror']!r} here" for field in detail["fields"]]
    return f" ({'; '.join(shown)})" if shown else ""
