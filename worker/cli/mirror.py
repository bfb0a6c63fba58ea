"""`sfsync mirror` and `sfsync verify`: bring objects into Postgres, and prove that they are right there."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Annotated, Any

import typer
from sqlalchemy import ColumnElement, func, select
from sqlalchemy.orm import Session

from models.connection import Connection
from models.mirror import Drift, Mirror, Run, Verification
from worker.cli.following import Followed, follow, live_lanes
from worker.cli.output import Exit, Json, UserId, age, console, errors, fail, number, show_json, show_table
from worker.errors import DisconnectedError, TransientError
from worker.mirror import choice
from worker.mirror.choice import Choice
from worker.mirror.deps import STEP
from worker.mirror.requests import LANES, ensure_mirror, mirror_ids, request_run, request_update
from worker.mirror.schema import UnfitObjectError
from worker.monitoring import status
from worker.runtime import Runtime
from worker.settings import load_settings

Objects = Annotated[
    list[str] | None, typer.Option("--object", help="An object's API name; may be given several times.")
]
Full = Annotated[bool, typer.Option("--full", help="Read everything again, also where the mirror is live.")]
Wait = Annotated[bool, typer.Option("--wait", help="Return when it is done; without a worker it is done here.")]
Fields = Annotated[
    list[str] | None,
    typer.Option("--field", help="Mirror these fields only; several times; beside what a mirror needs."),
]
AllFields = Annotated[bool, typer.Option("--all-fields", help="Mirror every field again.")]
Where = Annotated[
    str | None, typer.Option("--where", help='Mirror the records that meet this SOQL condition; "": all.')
]
Every = Annotated[float | None, typer.Option("--every", help="Seconds between two refreshes of these mirrors.")]
AuditEvery = Annotated[
    float | None, typer.Option("--audit-every", help="Seconds between two audits of these mirrors; 0: none.")
]
Remove = Annotated[bool, typer.Option("--remove", help="Stop mirroring these objects.")]
Drop = Annotated[
    bool | None, typer.Option("--drop-tables/--keep-tables", help="With --remove: what becomes of the records here.")
]
List = Annotated[bool, typer.Option("--list", help="Show what is mirrored and how; ask for nothing.")]
Sample = Annotated[
    int | None,
    typer.Option("--sample", min=1, help="Compare ids and stamps of all, and every field of so many picked by chance."),
]
History = Annotated[bool, typer.Option("--history", help="Show earlier verifications; compare nothing.")]
Quick = Annotated[bool, typer.Option("--quick", help="Compare ids and stamps only.")]
Repair = Annotated[bool, typer.Option("--repair", help="Take the org's word where the two differ.")]


LISTED = (
    "object", "schema_name", "table_name", "state", "state_reason", "chosen_fields", "row_filter", "refresh_seconds",
    "skipped_fields", "lost_fields", "lost_since", "unfilled_fields", "next_audit_at",
)  # fmt: skip
VERIFIED = (
    "started_at", "finished_at", "depth", "cause", "records", "fields", "differences", "missing", "surplus", "calculated",
    "rejected", "moved", "repaired", "calls", "nul_bytes", "details",
)  # fmt: skip
MOST_SHOWN = 200  # verifications at once


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command()(mirror)
    app.command()(verify)
    app.command()(drift)


def mirror(
    user_id: UserId,
    objects: Objects = None,
    full: Full = False,
    wait: Wait = False,
    fields: Fields = None,
    all_fields: AllFields = False,
    where: Where = None,
    every: Every = None,
    audit_every: AuditEvery = None,
    remove: Remove = False,
    drop_tables: Drop = None,
    listing: List = False,
    as_json: Json = False,
) -> None:
    """Mirror objects of a connection: load those that are new, refresh those that are live.

    Without --object: everything this connection mirrors, or else the default objects. Columns, row filter and intervals
    can be given now or changed later, while everything runs.
    """
    rt = _runtime()
    if listing:
        _list(rt, user_id, as_json=as_json)
        return
    if remove:
        _remove(rt, user_id, objects or [], drop=drop_tables, as_json=as_json)
        return
    if drop_tables is not None:
        raise fail("--drop-tables and --keep-tables go with --remove", Exit.USAGE)
    if fields and all_fields:
        raise fail("--field and --all-fields contradict each other", Exit.USAGE)
    if (fields or where) and len(objects or []) != 1:
        raise fail("--field and --where belong to one object: name it with --object", Exit.USAGE)
    wish = Choice(choice.ALL if all_fields else fields, where, every, audit_every)
    with rt.database.transaction() as session:
        connection = _connection(session, user_id)
        mirrored = mirror_ids(session, connection.id)
    wanted = list(dict.fromkeys(objects or mirrored or rt.settings.objects))
    choices = _checked(rt, connection.id, wanted, mirrored, wish)
    asked = {}
    with rt.database.transaction() as session:
        for name, chosen in choices.items():
            seconds = rt.settings.refresh_seconds
            choice.apply(session, ensure_mirror(session, connection.id, name, refresh_seconds=seconds), chosen)
            run_id, lane = request_update(session, connection.id, name, "manual", refresh_seconds=seconds, full=full)
            asked[run_id] = lane
    for run_id, lane in asked.items():
        rt.wake(STEP, run_id, lane)
    if not wait:
        _asked(rt, list(choices), asked, as_json=as_json)
        return
    runs = follow(rt, [*asked, *_others(rt, list(asked))], quiet=as_json)
    while more := _others(rt, [run.id for run in runs]):  # back-fills of fields that these runs found
        runs += follow(rt, more, quiet=as_json)
    _show_runs(runs, as_json=as_json)
    _refuse_unfinished(runs)


def _checked(
    rt: Runtime, connection_id: int, wanted: Sequence[str], mirrored: dict[str, int], wish: Choice
) -> dict[str, Choice]:
    """Object → what to change, in the org's spelling. What is mirrored already and stays as it is needs no call."""
    known = {name.lower(): name for name in mirrored}
    found: dict[str, Choice] = {}
    client = None
    try:
        for name in wanted:
            if wish == Choice() and name.lower() in known:
                found[known[name.lower()]] = wish
                continue
            client = client or rt.client(connection_id)
            try:
                described = choice.described(client, name)
            except TransientError:  # the org is away: the load will say what is wrong, if anything is
                if wish != Choice():
                    raise
                found[name] = wish
            except UnfitObjectError as error:
                raise fail(str(error), Exit.REFUSED) from None
            else:
                found[described.name] = choice.check(client, described, wish)
    finally:
        if client is not None:
            client.close()
    return found


def _others(rt: Runtime, run_ids: Sequence[int]) -> list[int]:
    """Loads and back-fills of the same mirrors that a change of their choice, or a new field, has asked for."""
    query = select(Run.id).where(Run.kind.in_(("load", "backfill")), Run.state == "ready", Run.id.not_in(run_ids))
    mine = select(Run.mirror_id).where(Run.id.in_(run_ids))
    with rt.database.transaction() as session:
        return list(session.scalars(query.where(Run.mirror_id.in_(mine))))


def _remove(rt: Runtime, user_id: str, objects: Sequence[str], *, drop: bool | None, as_json: bool) -> None:
    if not objects:
        raise fail("say which objects: --object Contact", Exit.USAGE)
    if drop is None:
        raise fail("say what becomes of the records here: --keep-tables or --drop-tables", Exit.USAGE)
    with rt.database.transaction() as session:
        known = {name.lower(): one for name, one in mirror_ids(session, _connection(session, user_id).id).items()}
        for name in objects:
            if name.lower() not in known:
                raise fail(f"{name} is not mirrored{choice.nearest(name, known)}", Exit.REFUSED)
        for name in objects:
            choice.stop(session, known[name.lower()])
    with rt.database.transaction() as session:
        for name in objects:
            choice.remove(session, known[name.lower()], drop=drop)
    if as_json:
        show_json({"removed": list(objects), "tables": "dropped" if drop else "kept"})
    else:
        console.print(f"Removed: {', '.join(objects)}; the tables were {'dropped' if drop else 'kept'}.")


def _list(rt: Runtime, user_id: str, *, as_json: bool) -> None:
    rows = status(rt.database, rt.settings, user_id).mirrors
    if as_json:
        show_json([{name: row[name] for name in LISTED} for row in rows])
        return
    shown = [
        (
            row["object"],
            f"{row['schema_name']}.{row['table_name']}",
            row["state"] if row["lost_since"] is None else "lost",
            "all" if row["chosen_fields"] is None else len(row["chosen_fields"]),
            row["row_filter"],
            age(row["refresh_seconds"]),
            ", ".join(row["skipped_fields"]) or None,
            ", ".join(row["lost_fields"]) or None,
            ", ".join(row["unfilled_fields"]) or None,
        )
        for row in rows
    ]
    columns = ("object", "table", "state", "fields", "filter", "every", "binary: skipped", "no longer shown", "filling")
    show_table("Mirrors", columns, shown)


def drift(
    user_id: UserId,
    objects: Objects = None,
    limit: Annotated[int, typer.Option("--limit", min=1, help="How many of the latest entries.")] = 50,
    as_json: Json = False,
) -> None:
    """Show what changed in the org's schema, and in the tables here, and was followed; the latest last."""
    rt = _runtime()
    query = select(Mirror.object, Drift).join(Mirror, Mirror.id == Drift.mirror_id).join(Connection)
    query = query.where(Connection.user_id == user_id)
    if objects:
        query = query.where(func.lower(Mirror.object).in_([name.lower() for name in objects]))
    with rt.database.transaction() as session:
        rows = session.execute(query.order_by(Drift.id.desc()).limit(limit)).all()[::-1]
    if as_json:
        names = ("field", "change", "detail", "created_at")
        show_json([{"object": name} | {field: getattr(entry, field) for field in names} for name, entry in rows])
        return
    shown = [(f"{one.created_at:%Y-%m-%d %H:%M:%S}", name, one.field, one.change, one.detail) for name, one in rows]
    show_table("Drift", ("when", "object", "field", "change", "detail"), shown)


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
    user_id: UserId,
    objects: Objects = None,
    quick: Quick = False,
    sample: Sample = None,
    repair: Repair = False,
    history: History = False,
    as_json: Json = False,
) -> None:
    """Compare every record and field of the mirrors with the org; exit 1 when something differs.

    A difference counts only if a refresh and a read by Id, both made after it was seen, still show it.
    """
    if quick and sample:
        raise fail("--quick and --sample contradict each other", Exit.USAGE)
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
    if history:
        _show_verifications(_verifications(rt, Verification.mirror_id.in_(wanted)), as_json=as_json)
        return
    runs = follow(rt, _verify(rt, wanted, {"quick": quick, "sample": sample, "repair": repair}), quiet=as_json)
    found = _verifications(rt, Verification.run_id.in_([run.id for run in runs]))
    _show_verifications(found, as_json=as_json)
    _refuse_unfinished(runs)
    if any(one["differences"] for one in found):
        raise typer.Exit(Exit.DIFFERENCES)


def _verify(rt: Runtime, mirrors: Sequence[int], options: dict[str, Any]) -> list[int]:
    """Ask for a verification of each mirror; one that is under way with other options (an audit) is seen to its end first."""
    while True:
        with rt.database.transaction() as session:
            asked = [request_run(session, one, "verify", "manual", options) for one in mirrors]
            rows = session.scalars(select(Run).where(Run.id.in_(asked))).all()
            others = [run.id for run in rows if any(run.options.get(name) != value for name, value in options.items())]
        for run_id in asked:
            rt.wake(STEP, run_id, LANES["verify"])
        if not others:
            return asked
        follow(rt, others, quiet=True)


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


def _verifications(rt: Runtime, which: ColumnElement[bool]) -> list[dict[str, Any]]:
    query = select(Verification, Mirror.object).join(Mirror, Mirror.id == Verification.mirror_id).where(which)
    with rt.database.transaction() as session:
        rows = session.execute(query.order_by(Verification.id.desc()).limit(MOST_SHOWN)).all()[::-1]
    return [{"object": name} | {field: getattr(one, field) for field in VERIFIED} for one, name in rows]


def _show_verifications(found: Sequence[dict[str, Any]], *, as_json: bool) -> None:
    if as_json:
        show_json(list(found))
        return
    said = [
        name for name in ("missing", "surplus", "calculated", "moved", "repaired") if any(one[name] for one in found)
    ]
    columns = ("records", "fields", "differences", *said, "calls")
    rows = [
        (
            f"{one['finished_at']:%m-%d %H:%M:%S}",
            one["object"],
            f"{one['depth']}{', by itself' if one['cause'] == 'audit' else ''}",
            *(one[name] for name in columns),
            age((one["finished_at"] - one["started_at"]).total_seconds()),
        )
        for one in found
    ]
    show_table("Verified", ("when", "object", "depth", *(f"#{name}" for name in columns), "#took"), rows)
    for one in found:
        if one["calculated"]:
            text = "differ in calculated fields alone, which move without a stamp: audits sweep them"
            console.print(f"{one['object']}: {number(one['calculated'])} {text}", highlight=False)
        if one["rejected"]:
            text = "records that no column can hold: see the table sfsync.rejects"
            console.print(f"{one['object']}: {number(one['rejected'])} {text}", highlight=False)
        if one["nul_bytes"]:
            console.print(f"{one['object']}: {number(one['nul_bytes'])} NUL bytes, which text of Postgres cannot hold")
        for detail in one["details"]:
            console.print(f"{one['object']} {detail['id']}: {detail['kind']}{_fields(detail)}", highlight=False)


def _fields(detail: dict[str, Any]) -> str:
    shown = [f"{field['field']} is {field['org']!r} in the org, {field['mirror']!r} here" for field in detail["fields"]]
    return f" ({'; '.join(shown)})" if shown else ""
