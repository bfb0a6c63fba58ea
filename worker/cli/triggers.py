"""`sfsync triggers`: work that a timetable or a caller starts."""

import sys
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any
from zoneinfo import ZoneInfo

import typer

from models.trigger import Trigger
from worker import exact
from worker.cli.output import Exit, Json, UserId, age, console, fail, is_narrow, show_json, show_table
from worker.runtime import Runtime
from worker.settings import load_settings
from worker.triggers import fire as firing
from worker.triggers import store
from worker.triggers.schedule import ScheduleError, interval
from worker.triggers.store import Asked

NEXT = 5  # due times shown

triggers = typer.Typer(no_args_is_help=True, help="Work that a timetable or a caller starts.")
TriggerId = Annotated[int, typer.Argument(help="The trigger's id, as `list` shows it.")]


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.add_typer(triggers, name="triggers")


def _runtime() -> Runtime:
    rt = Runtime(load_settings(), application="sfsync-cli")
    rt.database.check_server()
    return rt


Cron = Annotated[str | None, typer.Option(help="Five fields: minute hour day month weekday.")]
TimeZone = Annotated[str | None, typer.Option(help="Of the cron line, as Europe/Berlin; UTC if none.")]
Every = Annotated[str | None, typer.Option(help="An interval instead of a cron line: 90s, 15m, 2h, 1d.")]
Objects = Annotated[list[str] | None, typer.Option("--object", help="Refresh this object; several times.")]
AllObjects = Annotated[bool, typer.Option("--all-objects", help="Refresh all that is mirrored.")]
Capability = Annotated[str | None, typer.Option(help="Execute this capability.")]
Parameters = Annotated[str | None, typer.Option(help="Its parameters, a JSON object.")]
Actions = Annotated[Path | None, typer.Option(help="Do these writes: a file of JSON lines; - for stdin.")]
Missed = Annotated[
    str | None, typer.Option(help="What was missed while nobody looked: skip, once, all. New ones: once.")
]
MissedLimit = Annotated[int | None, typer.Option(help="With all: at most so many, the newest. New ones: 10.")]
Grace = Annotated[str | None, typer.Option(help="Later than this is missed. New ones: 60s.")]
Overlap = Annotated[
    str | None,
    typer.Option(help="While earlier work goes on: skip, queue, allow. New ones: skip by the timetable, else allow."),
]


@triggers.command()
def add(
    user_id: UserId,
    name: Annotated[str, typer.Argument(help="What to call it; one of that name for each user.")],
    cron: Cron = None,
    time_zone: TimeZone = None,
    every: Every = None,
    objects: Objects = None,
    all_objects: AllObjects = False,
    capability: Capability = None,
    parameters: Parameters = None,
    actions: Actions = None,
    missed: Missed = None,
    missed_limit: MissedLimit = None,
    grace: Grace = None,
    overlap: Overlap = None,
    disabled: Annotated[bool, typer.Option("--disabled", help="Add it switched off.")] = False,
    as_json: Json = False,
) -> None:
    """Add a trigger. With --cron or --every the timetable fires it, without them `fire` does."""
    given = {
        "name": name,
        "type": "manual_trigger",
        **_schedule(cron, time_zone, every),
        **_work(objects, all_objects, capability, parameters, actions),
        **_policies(missed, missed_limit, grace, overlap),
    }
    if "workflow_action" not in given:
        raise fail("choose what it does: --object or --all-objects, --capability, or --actions", Exit.USAGE)
    rt = _runtime()
    now = rt.now()
    new = store.checked(Asked(**given, enabled=not disabled), now, rt.triggers.capabilities)
    with rt.database.transaction() as session:
        connection_id = store.connection_of(session, user_id)
        if connection_id is None:
            raise fail(f"{user_id} is not connected; `sfsync connect --user-id {user_id}`", Exit.DISCONNECTED)
        row = store.add(session, connection_id, new, now)
        found = store.shown(session, trigger_id=row.id)[0]
    _show_trigger(row, found, "Added", now, as_json=as_json)


@triggers.command()
def change(
    trigger_id: TriggerId,
    name: Annotated[str | None, typer.Option(help="Call it so.")] = None,
    cron: Cron = None,
    time_zone: TimeZone = None,
    every: Every = None,
    by_hand: Annotated[
        bool, typer.Option("--by-hand", help="Take it off the timetable: only `fire` fires it.")
    ] = False,
    objects: Objects = None,
    all_objects: AllObjects = False,
    capability: Capability = None,
    parameters: Parameters = None,
    actions: Actions = None,
    missed: Missed = None,
    missed_limit: MissedLimit = None,
    grace: Grace = None,
    overlap: Overlap = None,
    as_json: Json = False,
) -> None:
    """Change a trigger: only what is given. A new schedule counts from now; what has fired already stays as it was."""
    changes = {
        **({"name": name} if name is not None else {}),
        **_schedule(cron, time_zone, every),
        **_work(objects, all_objects, capability, parameters, actions),
        **_policies(missed, missed_limit, grace, overlap),
    }
    if by_hand and changes.keys() & {"cron", "time_zone", "every_seconds"}:
        raise fail("--by-hand has no schedule beside it; choose one of them", Exit.USAGE)
    changes |= {"type": "manual_trigger"} if by_hand else {}
    if not changes:
        raise fail("nothing to change was given; `sfsync triggers change --help` names what can be", Exit.USAGE)
    rt = _runtime()
    now = rt.now()
    with rt.database.transaction() as session:
        row = _found(store.alter(session, trigger_id, changes, now, rt.triggers.capabilities), trigger_id)
        found = store.shown(session, trigger_id=trigger_id)[0]
    _show_trigger(row, found, "Changed", now, as_json=as_json)


def _schedule(cron: str | None, time_zone: str | None, every: str | None) -> dict[str, Any]:
    """When it fires, as far as it was given."""
    given = {"cron": cron, "time_zone": time_zone, "every_seconds": None if every is None else _seconds(every)}
    found = {name: value for name, value in given.items() if value is not None}
    return found | ({"type": "scheduled_trigger"} if cron is not None or every is not None else {})


def _seconds(text: str) -> float:
    try:
        return interval(text).total_seconds()
    except ScheduleError as error:
        raise fail(str(error), Exit.USAGE) from None


def _work(
    objects: list[str] | None,
    all_objects: bool,
    capability: str | None,
    parameters: str | None,
    actions: Path | None,
) -> dict[str, Any]:
    """What it does, as far as it was given."""
    filled = {} if parameters is None else {"parameters": _object(parameters, "--parameters")}
    kinds = {"--object": bool(objects), "--all-objects": all_objects, "--capability": capability, "--actions": actions}
    chosen = [option for option, given in kinds.items() if given]
    if len(chosen) > 1:
        raise fail(f"{chosen[0]} and {chosen[1]} are two kinds of work; choose one of them", Exit.USAGE)
    if objects or all_objects:
        return {"workflow_action": "process_data", "objects": list(objects or ()), **filled}
    if capability is not None:
        return {"workflow_action": "execute_service", "capability": capability, **filled}
    if actions is not None:
        return {"workflow_action": "execute_service", "actions": _lines(actions), **filled}
    return filled


def _policies(missed: str | None, missed_limit: int | None, grace: str | None, overlap: str | None) -> dict[str, Any]:
    """What becomes of missed and overlapping due times, as far as it was given."""
    given = {
        "missed": missed,
        "missed_limit": missed_limit,
        "grace_seconds": None if grace is None else _seconds(grace),
        "overlap": overlap,
    }
    return {name: value for name, value in given.items() if value is not None}


def _show_trigger(row: Trigger, found: Mapping[str, Any], done: str, now: datetime, *, as_json: bool) -> None:
    upcoming = store.upcoming(row, now, NEXT) if row.enabled else []
    if as_json:
        show_json({**found, "upcoming": upcoming})
        return
    console.print(f"[green]✓[/green] {done} the trigger {row.id}: {_plain(found)}", highlight=False)
    _show_upcoming(upcoming, row.time_zone)
    if not row.enabled:
        console.print(f"  it is switched off: sfsync triggers enable {row.id}", highlight=False)
    elif not upcoming:
        console.print(f"  fire it: sfsync triggers fire {row.id}", highlight=False)


def _object(text: str, option: str) -> dict[str, Any]:
    try:
        value = exact.loads(text)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise fail(f'{option} is no JSON object, such as {{"LastName": "Ito"}}', Exit.USAGE)
    return value


def _lines(file: Path) -> list[dict[str, Any]]:
    try:
        text = sys.stdin.read() if str(file) == "-" else file.read_text()
    except OSError as error:
        raise fail(f"--actions: cannot read {file} ({error.strerror})", Exit.USAGE) from None
    return [
        _object(line, f"--actions: line {number}") for number, line in enumerate(text.splitlines(), 1) if line.strip()
    ]


def _plain(trigger: Mapping[str, Any]) -> str:
    return f"{trigger['name']}, {_when(trigger)}: {_what(trigger)}"


def _when(trigger: Mapping[str, Any]) -> str:
    if trigger.get("cron"):
        return f"{trigger['cron']} ({trigger['time_zone']})"
    return f"every {age(trigger['every_seconds'])}" if trigger.get("every_seconds") else "by hand"


def _what(trigger: Mapping[str, Any]) -> str:
    if "objects" in trigger:
        return f"refresh {', '.join(trigger['objects']) or 'all that is mirrored'}"
    return str(trigger["capability"]) if "capability" in trigger else _counted(len(trigger["actions"]), "action")


def _counted(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def _show_upcoming(upcoming: Sequence[datetime], time_zone: str) -> None:
    for number, at in enumerate(upcoming):
        local = at.astimezone(ZoneInfo(time_zone))
        utc = "" if time_zone == "UTC" else f"  ({at:%Y-%m-%d %H:%M} UTC)"
        console.print(f"  {'next' if number == 0 else '    '}  {local:%a %Y-%m-%d %H:%M:%S %Z}{utc}", highlight=False)


@triggers.command("list")
def list_(
    user_id: Annotated[str | None, typer.Option("--user-id", help="Only of this user.")] = None, as_json: Json = False
) -> None:
    """List triggers: when they fire next, and how it went last."""
    rt = _runtime()
    with rt.database.transaction() as session:
        found = store.shown(session, users=[user_id] if user_id else None)
    if as_json:
        show_json(found)
        return
    if is_narrow():
        columns: tuple[str, ...] = ("!id", "trigger", "does", "!next due", "!last", "!state")
        show_table("Triggers (UTC)", columns, [_narrow_row(one) for one in found])
        return
    columns = ("!id", "user", "name", "when", "does", "!next due", "!last", "!state")
    show_table("Triggers (UTC)", columns, [_row(one) for one in found])


def _narrow_row(trigger: Mapping[str, Any]) -> list[object]:
    """As `_row`, in fewer and higher cells."""
    number, user, name, when, what, *rest = _row(trigger)
    return [number, f"{name}\n{user}", f"{what}\n{when}", *rest]


def _row(trigger: Mapping[str, Any]) -> list[object]:
    last = trigger.get("last_state")
    resting = trigger["enabled"] and trigger["connection_state"] != "active"
    state = f"rests:\n{trigger['connection_state']}" if resting else "enabled" if trigger["enabled"] else "disabled"
    return [
        str(trigger["id"]),
        trigger["user_id"],
        trigger["name"],
        _when(trigger).replace(" (", "\n("),
        _what(trigger),
        _stacked(trigger["next_due_at"]),
        f"{_stacked(trigger['last_at'])}\n{last}" if last else None,
        state,
    ]


def _stacked(at: datetime | None) -> str | None:
    return f"{at:%Y-%m-%d}\n{at:%H:%M:%S}" if at else None


@triggers.command()
def show(
    trigger_id: TriggerId,
    limit: Annotated[int, typer.Option(min=1, help="Firings at most, newest first.")] = 20,
    as_json: Json = False,
) -> None:
    """Show one trigger: what it does, its next due times, its firings and what they caused."""
    rt = _runtime()
    with rt.database.transaction() as session:
        row, _ = _found(store.find(session, trigger_id), trigger_id)
        trigger = store.shown(session, trigger_id=trigger_id)[0]
        upcoming = store.upcoming(row, rt.now(), NEXT) if row.enabled else []
        history = store.firings(session, trigger_id, limit)
    if as_json:
        show_json({**trigger, "upcoming": upcoming, "firings": history})
        return
    for name, value in trigger.items():
        shown = exact.dumps(value) if isinstance(value, dict | list) else "–" if value is None else str(value)
        console.print(f"{name:>18}  {shown}", highlight=False, markup=False)
    _show_upcoming(upcoming, row.time_zone)
    if is_narrow():
        columns: tuple[str, ...] = ("!id", "!due", "!state", "caused", "reason")
        show_table("Firings (UTC)", columns, [_narrow_firing(one) for one in history])
        return
    columns = ("!id", "!due", "!fired", "!cause", "!state", "#missed", "caused", "reason")
    show_table("Firings (UTC)", columns, [_firing_row(one) for one in history])


def _narrow_firing(one: Mapping[str, Any]) -> list[object]:
    """As `_firing_row`, in fewer and higher cells; what was fired by hand was due when it was."""
    number, due, fired, cause, state, missed, caused, reason = _firing_row(one)
    stands_for = f"\n+{missed} missed" if missed else ""
    return [number, due or fired, f"{state}\n{cause}{stands_for}", caused, reason]


def _firing_row(one: Mapping[str, Any]) -> list[object]:
    runs, actions = one["run_ids"], one["action_ids"]
    caused = [f"{'run' if len(runs) == 1 else 'runs'} {', '.join(map(str, runs))}"] if runs else []
    caused += [f"action {actions[0]}" if len(actions) == 1 else f"{len(actions)} actions"] if actions else []
    moments = (_stacked(one["due_at"]), _stacked(one["fired_at"]))
    return [str(one["id"]), *moments, one["cause"], one["state"], one["missed"], "; ".join(caused), one["reason"]]


def _found(found: Any, trigger_id: int) -> Any:
    if found is None:
        raise fail(f"there is no trigger {trigger_id}; `sfsync triggers list` shows them", Exit.REFUSED)
    return found


@triggers.command()
def fire(
    trigger_id: TriggerId,
    parameters: Annotated[str, typer.Option(help="A JSON object.")] = "{}",
    idempotency_key: Annotated[str | None, typer.Option(help="The same key again fires nothing new.")] = None,
    as_json: Json = False,
) -> None:
    """Fire a trigger now, whatever its timetable says."""
    rt = _runtime()
    given = _object(parameters, "--parameters")
    fired = _found(firing.fire(rt.triggers, trigger_id, given, idempotency_key, rt.now()), trigger_id)
    with rt.database.transaction() as session:
        found = store.firing(session, fired.id)
    assert found is not None
    if as_json:
        show_json({**found, "repeated": fired.repeated})
        return
    before = " (it was fired before under this key)" if fired.repeated else ""
    console.print(f"Firing {fired.id} is {found['state']}{before}. {found['reason'] or ''}", highlight=False)
    console.print(f"  follow it: sfsync triggers show {trigger_id}", highlight=False)


@triggers.command()
def enable(trigger_id: TriggerId, as_json: Json = False) -> None:
    """Switch a trigger on. What fell due while it was off is not made up for."""
    _switch(trigger_id, enabled=True, as_json=as_json)


@triggers.command()
def disable(trigger_id: TriggerId, as_json: Json = False) -> None:
    """Switch a trigger off. What it has started goes on."""
    _switch(trigger_id, enabled=False, as_json=as_json)


def _switch(trigger_id: int, *, enabled: bool, as_json: bool) -> None:
    rt = _runtime()
    now = rt.now()
    with rt.database.transaction() as session:
        row, _ = _found(store.find(session, trigger_id, lock=True), trigger_id)
        store.enable(row, now, enabled=enabled)
    if as_json:
        show_json({"id": row.id, "enabled": row.enabled, "next_due_at": row.next_due_at})
        return
    console.print(f"{'Enabled' if enabled else 'Disabled'} the trigger {row.id}, {row.name}.", highlight=False)
    _show_upcoming(store.upcoming(row, now, NEXT) if enabled else [], row.time_zone)


@triggers.command()
def remove(trigger_id: TriggerId, as_json: Json = False) -> None:
    """Forget a trigger with its history. What it has started goes on."""
    with _runtime().database.transaction() as session:
        _found(store.find(session, trigger_id, lock=True), trigger_id)
        store.remove(session, trigger_id)
    if as_json:
        show_json({"id": trigger_id, "removed": True})
    else:
        console.print(f"Removed the trigger {trigger_id}.")
