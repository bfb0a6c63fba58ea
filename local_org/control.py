"""The control path: change data behind the clients' backs, set the clock, script faults, read the ledger. No login: loopback only."""

import json
import random
import re
import sqlite3
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

from local_org import define, deletion, dml, exchange, seed
from local_org.catalogue import ObjectType
from local_org.context import Answer
from local_org.errors import ApiError
from local_org.objects.setup import ENTITY, FIELD
from local_org.org import Org
from local_org.schema import quoted
from local_org.words import MAX_NUMBER

BLOCK = 2_000
MIN_DATE_MS, MAX_DATE_MS = 0, 64_060_588_800_000  # 1970, and the end of the year 3999
WRITABLE_TEXT = frozenset({"string", "textarea", "phone"})
CHANGED_FIELDS = {"Account": "Phone", "Contact": "Title", "Opportunity": "NextStep", "Lead": "Title"}
Handler = Callable[[Org, dict[str, Any]], Any]


def answer(org: Org, method: str, path: str, query: str, body: bytes) -> Answer:
    """Carry out one call below `/__org__/`: 400 with {"error"} for what cannot be done, 404 for an unknown path."""
    for verb, pattern, handler in ROUTES:
        match = pattern.fullmatch(path)
        if match and verb == method:
            try:
                given = json.loads(body) if body.strip() else {}
                named = {**dict(parse_qsl(query)), **match.groupdict()}
                return Answer(
                    200, handler(org, {"items": given, **named} if isinstance(given, list) else {**given, **named})
                )
            except (
                ValueError,
                LookupError,
                TypeError,
                AttributeError,
                ArithmeticError,
                RecursionError,
                OSError,
            ) as error:
                return Answer(400, {"error": f"{type(error).__name__}: {error}"})
            except ApiError as error:
                return Answer(400, {"error": f"{error.code}: {error.message}"})
            except sqlite3.Error as error:
                return Answer(400, {"error": f"the store cannot do this: {error}"})
    return Answer(404, {"error": f"there is no {method} {path} on the control path"})


def status(org: Org, _values: dict[str, Any]) -> dict[str, Any]:
    """Counts of living records, clock and settings."""
    counts = {}
    with org.store.read() as conn:
        for item in (each for each in org.store.catalogue.objects() if each.name not in (ENTITY, FIELD)):
            alive = 'WHERE NOT "IsDeleted"' if item.field("IsDeleted") else ""
            counts[item.name] = conn.execute(f"SELECT count(*) FROM {quoted(item.name)} {alive}").fetchone()[0]
    return {
        "records": {name: count for name, count in counts.items() if count},
        "now_ms": org.store.clock.exact_ms(),
        "settings": asdict(org.settings),
    }


def _object(org: Org, values: dict[str, Any]) -> ObjectType:
    return define.existing(org, str(values["object"]))


def _chosen(org: Org, item: ObjectType, values: dict[str, Any], *, deleted: bool = False) -> list[str]:
    """The ids that the caller names, or `count` that the seed picks: always the same from the same data."""
    if "ids" in values:
        return define.ids(values["ids"])
    condition = f'WHERE "IsDeleted" = {int(deleted)}' if item.field("IsDeleted") else ""
    factor, offset = _scramble(int(values.get("seed", 0)))
    sql = (
        f'SELECT "Id" FROM {quoted(item.name)} {condition}'
        f' ORDER BY (rowid * {factor} + {offset}) % 2147483647, "Id" LIMIT ?'
    )
    with org.store.read() as conn:
        return [row[0] for row in conn.execute(sql, (int(values["count"]),))]


def _scramble(number: int) -> tuple[int, int]:
    chance = random.Random(number)  # noqa: S311 - repeatable, not secret
    return chance.randrange(1_000_003, 2_000_003) | 1, chance.randrange(1 << 30)


def _in_blocks(org: Org, ids: list[str], one: Callable[[dml.Change, str], None]) -> None:
    """Change records in transactions of a bounded size, each with its own stamp."""
    for start in range(0, len(ids), BLOCK):
        with org.store.write() as conn, dml.unruled(org.store, conn, org.admin_id) as change:
            change.cascade_stamps = org.settings.cascade_stamps
            for record in ids[start : start + BLOCK]:
                one(change, record)


def change_rows(org: Org, values: dict[str, Any]) -> dict[str, Any]:
    """Change `count` records (or those of `ids`), with `fields` or with a text of our own."""
    item = _object(org, values)
    ids = _chosen(org, item, values)
    given = values.get("fields")
    field = _text_field(item)
    mark = f"{values.get('seed', 0)}-{org.store.clock.exact_ms()}"

    def one(change: dml.Change, record: str) -> None:
        dml.update(change, item, record, given or {field: f"changed {mark} {record[-7:-3]}"})

    _in_blocks(org, ids, one)
    return {"ids": ids}


def _text_field(item: ObjectType) -> str:
    if item.name in CHANGED_FIELDS:
        return CHANGED_FIELDS[item.name]
    for field in item.stored:
        if field.type in WRITABLE_TEXT and field.updateable and not field.unique and field.length >= 40:
            return field.name
    raise ValueError(f"{item.name} has no text to change: give `fields`")


def delete_rows(org: Org, values: dict[str, Any]) -> dict[str, Any]:
    """Delete `count` records (or those of `ids`); they go to the recycle bin."""
    item = _object(org, values)
    ids = _chosen(org, item, values)
    _in_blocks(org, ids, lambda change, record: deletion.delete(change, item, record))
    return {"ids": ids}


def undelete_rows(org: Org, values: dict[str, Any]) -> dict[str, Any]:
    """Take `count` records (or those of `ids`) out of the recycle bin."""
    item = _object(org, values)
    ids = _chosen(org, item, values, deleted=True)
    _in_blocks(org, ids, lambda change, record: deletion.undelete(change, item, record))
    return {"ids": ids}


def purge_rows(org: Org, values: dict[str, Any]) -> dict[str, Any]:
    """Remove `count` deleted records (or those of `ids`, deleted or not) for good."""
    item = _object(org, values)
    ids = _chosen(org, item, values, deleted=True)
    _in_blocks(org, ids, lambda change, record: deletion.purge(change, item, record))
    return {"ids": ids}


def create_rows(org: Org, values: dict[str, Any]) -> dict[str, Any]:
    """Create `count` records as seeding does, stamped now; or one for each of `records`."""
    item = _object(org, values)
    if "records" not in values:
        return {"ids": seed.create(org, item.name, int(values["count"]))}
    ids: list[str] = []
    with org.store.write() as conn, dml.unruled(org.store, conn, org.admin_id) as change:
        ids.extend(dml.insert(change, item, record) for record in values["records"])
    return {"ids": ids}


def export(org: Org, values: dict[str, Any]) -> dict[str, Any]:
    """Write the org as a Data Export folder at `folder`; rows by object."""
    return exchange.export_folder(org, Path(str(values["folder"])))


def merge_rows(org: Org, values: dict[str, Any]) -> dict[str, Any]:
    """Merge the records of `losers` (one or two) into `winner`."""
    with org.store.write() as conn, org.changing(conn, org.admin_id) as change:
        deletion.merge(change, _object(org, values), values["winner"], values["losers"])
    return {"ids": values["losers"]}


def hold_rows(org: Org, values: dict[str, Any]) -> dict[str, Any]:
    """Lock the records of `ids` for `seconds` by the org's clock, as somebody's long transaction would."""
    held = define.ids(values["ids"])
    org.locks.hold(held, int(float(values["seconds"]) * 1000))
    return {"ids": held}


def late_commits(org: Org, values: dict[str, Any]) -> dict[str, Any]:
    """Let the next `times` writes over the API become visible `seconds` after their stamp."""
    org.late.times, org.late.seconds = int(values.get("times", 1)), float(values["seconds"])
    return {}


def set_rules(org: Org, values: dict[str, Any]) -> dict[str, Any]:
    """Replace the validation, duplicate and assignment rules; see custom_rules."""
    org.rules.replace(values.get("validation", []), values.get("duplicate", []), values.get("assignment", []))
    return {}


def hide(org: Org, values: dict[str, Any]) -> dict[str, Any]:
    """Hide things from a user; see define.hide."""
    define.hide(org, values)
    return {}


def put_client(org: Org, values: dict[str, Any]) -> dict[str, Any]:
    """Add or replace a connected app."""
    define.put_client(org, values)
    return {"id": values["id"]}


def add_user(org: Org, values: dict[str, Any]) -> dict[str, Any]:
    """Add a user; the id."""
    return {"id": define.add_user(org, values)}


def apply_definition(org: Org, values: dict[str, Any]) -> dict[str, Any]:
    """Objects, fields, users, rules, sight, apps, settings and records in one document; see define."""
    define.apply(org, values)
    return {}


def snapshot(org: Org, values: dict[str, Any]) -> dict[str, Any]:
    """Keep the data as `name`."""
    org.store.snapshot(_plain_name(values))
    return {}


def restore(org: Org, values: dict[str, Any]) -> dict[str, Any]:
    """Bring back the data of the snapshot `name`."""
    org.restore(_plain_name(values))
    return {}


def _plain_name(values: dict[str, Any]) -> str:
    name = str(values.get("name", "default"))
    if not name.isalnum():
        raise ValueError("a snapshot's name has letters and digits only")
    return name


def journal(org: Org, values: dict[str, Any]) -> list[dict[str, Any]]:
    """Every change of a record from number `since` on."""
    names = ("seq", "at_ms", "object", "id", "operation", "user_id", "changed")
    with org.store.read() as conn:
        rows = conn.execute("SELECT * FROM _journal WHERE seq > ? ORDER BY seq", (int(values.get("since", 0)),))
        return [dict(zip(names, (*row[:-1], json.loads(row[-1])), strict=True)) for row in rows]


def set_usage(org: Org, values: dict[str, Any]) -> dict[str, Any]:
    """Pretend that `calls` were made in the last 24 hours."""
    org.usage.set(min(max(int(values["calls"]), 0), MAX_NUMBER))
    return {}


def ledger(org: Org, values: dict[str, Any]) -> list[dict[str, Any]]:
    """Calls from number `since` on."""
    return org.ledger.entries(int(values.get("since", 0)))


def clear_ledger(org: Org, _values: dict[str, Any]) -> dict[str, Any]:
    """Forget all calls."""
    org.ledger.clear()
    return {}


def set_clock(org: Org, values: dict[str, Any]) -> dict[str, Any]:
    """Set the org's clock (`now_ms`, `frozen`) or move it (`advance_seconds`)."""
    clock = org.store.clock
    if "now_ms" in values:
        clock.set(_moment(int(values["now_ms"])), frozen=bool(values.get("frozen", False)))
    if "advance_seconds" in values:
        milliseconds = int(float(values["advance_seconds"]) * 1000)
        _moment(clock.exact_ms() + milliseconds)
        clock.advance(milliseconds)
    org.store.keep_clock()
    return {"now_ms": clock.exact_ms()}


def _moment(now_ms: int) -> int:
    """Raises ValueError for a time outside the years that the platform knows."""
    if not MIN_DATE_MS <= now_ms < MAX_DATE_MS:
        raise ValueError(f"the clock goes from 1970 to 4000, in milliseconds: {now_ms}")
    return now_ms


def expire_tokens(org: Org, _values: dict[str, Any]) -> dict[str, Any]:
    """End every session; refresh tokens stay."""
    return {"ended": org.tokens.end_all_sessions()}


def revoke_tokens(org: Org, _values: dict[str, Any]) -> dict[str, Any]:
    """End every grant and session: all must log in again."""
    org.tokens.revoke_all()
    return {}


def list_faults(org: Org, _values: dict[str, Any]) -> list[dict[str, Any]]:
    """The rules in force and how often they were used."""
    return org.faults.listed()


def add_faults(org: Org, values: dict[str, Any]) -> dict[str, Any]:
    """Add rules: one {"match", "action"} or a list of them."""
    for rule in values.get("items", [values]):
        org.faults.add({key: rule[key] for key in ("match", "action") if key in rule})
    return {}


def clear_faults(org: Org, _values: dict[str, Any]) -> dict[str, Any]:
    """Forget all rules."""
    org.faults.clear()
    return {}


def add_bulk_fault(org: Org, values: dict[str, Any]) -> dict[str, Any]:
    """Add a rule that spoils Bulk jobs or their result pages; see bulk_faults.BulkFault for its words."""
    org.jobs.faults.add(values)
    return {}


def clear_bulk_faults(org: Org, _values: dict[str, Any]) -> dict[str, Any]:
    """Forget these rules; jobs that hang go on."""
    org.jobs.faults.clear()
    return {}


def add_object(org: Org, values: dict[str, Any]) -> dict[str, Any]:
    """Add an object; see define.add_object."""
    return {"name": define.add_object(org, values)}


def add_field(org: Org, values: dict[str, Any]) -> dict[str, Any]:
    """Add or replace a field of an object: `field` is its name, the rest are the catalogue's words."""
    words = {key: value for key, value in values.items() if key not in ("name", "field")}
    (name,) = define.add_fields(org, str(values["name"]), [{"name": str(values["field"]), "custom": True, **words}])
    return {"field": name}


def recalculate(org: Org, values: dict[str, Any]) -> dict[str, Any]:
    """Work out the roll-up fields of `object` again, without stamping the records."""
    define.recalculate(org, str(values["object"]))
    return {}


def remove_field(org: Org, values: dict[str, Any]) -> dict[str, Any]:
    """Take a field out of an object's describe; its values stay on disk."""
    item = _object(org, {"object": values["name"]})
    if item.field(str(values["field"])) is None:
        raise ValueError(f"{item.name} has no field {values['field']}")
    org.store.add_objects([replace(item, fields=item.without_fields([str(values["field"])]).fields)])
    return {"field": values["field"]}


def rename_object(org: Org, values: dict[str, Any]) -> dict[str, Any]:
    """Give the object `name` the API name `to`."""
    org.store.rename_object(_object(org, {"object": values["name"]}), str(values["to"]))
    return {"name": values["to"]}


def change_settings(org: Org, values: dict[str, Any]) -> dict[str, Any]:
    """Change settings of the org; see org.Settings."""
    org.change_settings(values)
    return asdict(org.settings)


ROUTES: tuple[tuple[str, re.Pattern[str], Handler], ...] = tuple(
    (method, re.compile(path), handler)
    for method, path, handler in (
        ("GET", "status", status),
        ("POST", "rows/change", change_rows),
        ("POST", "rows/delete", delete_rows),
        ("POST", "rows/create", create_rows),
        ("POST", "rows/undelete", undelete_rows),
        ("POST", "rows/purge", purge_rows),
        ("POST", "rows/merge", merge_rows),
        ("POST", "rows/hold", hold_rows),
        ("POST", "late-commits", late_commits),
        ("POST", "rollups/recalculate", recalculate),
        ("POST", "rules", set_rules),
        ("POST", "hide", hide),
        ("POST", "clients", put_client),
        ("POST", "snapshot", snapshot),
        ("POST", "restore", restore),
        ("GET", "journal", journal),
        ("POST", "usage", set_usage),
        ("POST", "export", export),
        ("GET", "ledger", ledger),
        ("DELETE", "ledger", clear_ledger),
        ("POST", "clock", set_clock),
        ("POST", "tokens/expire-all", expire_tokens),
        ("POST", "tokens/revoke", revoke_tokens),
        ("GET", "faults", list_faults),
        ("POST", "faults", add_faults),
        ("DELETE", "faults", clear_faults),
        ("POST", "bulk-faults", add_bulk_fault),
        ("DELETE", "bulk-faults", clear_bulk_faults),
        ("POST", "objects", add_object),
        ("POST", r"objects/(?P<name>\w+)/rename", rename_object),
        ("POST", r"objects/(?P<name>\w+)/fields", add_field),
        ("DELETE", r"objects/(?P<name>\w+)/fields/(?P<field>\w+)", remove_field),
        ("POST", "settings", change_settings),
        ("POST", "users", add_user),
        ("POST", "define", apply_definition),
    )
)
