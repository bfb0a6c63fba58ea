"""Import and export in the layout of Salesforce's Data Export: one CSV per object, a header of API names.

Source: Salesforce Help, "Export Backup Data from Salesforce". Nothing is dropped: an object or column that the org does
not know becomes one of its own. Ids, owners and audit stamps are kept as they are.
"""

import csv
from collections.abc import Callable, Iterator, Mapping
from itertools import chain, islice
from pathlib import Path
from typing import Any

from local_org.catalogue import COMPOUND_TYPES, Field, ObjectType
from local_org.define import free_prefix
from local_org.derive import derive
from local_org.dml import default_of
from local_org.errors import ApiError
from local_org.ids import number_of, to_18
from local_org.objects.build import area, build, is_deleted, owner, record_id, system_fields, text
from local_org.objects.setup import ENTITY, FIELD
from local_org.org import Org
from local_org.schema import quoted
from local_org.values import NUMBERS, Stored, datetime_text, from_json, number_text, time_text
from local_org.words import API_NAME

BLOCK = 5_000
SHORT_TEXT = 255
LONG_TEXT = 131_072
Progress = Callable[[str, int], None]


class ExchangeError(ValueError):
    """A file cannot be imported; the message names file, line and column."""


def import_folder(org: Org, folder: Path, progress: Progress = lambda _name, _done: None) -> dict[str, int]:
    """Import every CSV of `folder`; rows by object. Raises ExchangeError and leaves the object unimported."""
    csv.field_size_limit(1 << 30)
    files = sorted(folder.glob("*.csv"))
    if not files:
        raise ExchangeError(f"there is no CSV file in {folder}")
    counts = {file.stem: _import_file(org, file, progress) for file in files}
    org.store.keep_setting("bin_since_ms", org.store.clock.now_ms())
    if "User" in counts:
        _first_user_is_admin(org)
    return counts


def _first_user_is_admin(org: Org) -> None:
    with org.store.read() as conn:
        first = conn.execute('SELECT "Id" FROM "User" ORDER BY "IsActive" DESC, "Id" LIMIT 1').fetchone()
    if first is not None:
        org.store.keep_setting("admin", first[0])


def _import_file(org: Org, file: Path, progress: Progress) -> int:
    try:
        with file.open(encoding="utf-8-sig", newline="") as source:
            reader = csv.DictReader(source)
            item = _prepare(org, file, _header(file, reader))
            return _load(org, item, _rows(file.name, item, reader), progress)
    except UnicodeDecodeError as error:
        raise ExchangeError(f"{file.name}: it is not UTF-8 ({error.reason} at byte {error.start})") from None
    except csv.Error as error:
        raise ExchangeError(f"{file.name}: it is not CSV ({error})") from None


def _header(file: Path, reader: "csv.DictReader[str]") -> list[str]:
    """The columns. Raises ExchangeError for what cannot be one."""
    header = list(reader.fieldnames or ())
    if not header:
        raise ExchangeError(f"{file.name}: there is no header line")
    lower = [column.lower() for column in header]
    for column in header:
        if not API_NAME.fullmatch(column):
            text_ = "is no API name; columns are parted by commas and named as fields are, such as AccountId or Key__c"
            raise ExchangeError(f"{file.name}: the column {column[:80]!r} {text_}")
        if lower.count(column.lower()) > 1:
            raise ExchangeError(f"{file.name}: the column {column} is there twice")
    return header


def _prepare(org: Org, file: Path, header: list[str]) -> ObjectType:
    """The object with a field for each column; a new object for a name that the org does not know."""
    item = org.store.catalogue.object(file.stem)
    if item is None or any(item.field(column) is None for column in header):
        first_id, longest = _survey(file, header)
        known = item or _new_object(org, file, header, first_id)
        item = known.with_fields(_new_field(name, longest[name]) for name in header if known.field(name) is None)
        org.store.add_objects([item])
    return item


def _new_object(org: Org, file: Path, header: list[str], first_id: str) -> ObjectType:
    """An object of the file's name; its records keep their ids, so their key prefix becomes its own."""
    name = file.stem
    if not API_NAME.fullmatch(name):
        raise ExchangeError(f"{file.name}: the file is named as its object is, such as Account.csv or Meter__c.csv")
    prefix = first_id[:3] if to_18(first_id) else free_prefix(org)
    taken = org.store.catalogue.of_id(prefix)
    if taken is not None:
        raise ExchangeError(f"{file.name}: its ids begin with {prefix} as those of {taken.name} do")
    owned = [owner()] if "ownerid" in (column.lower() for column in header) else []
    fields = [record_id(name), *owned, is_deleted(), *system_fields()]
    return build(name, prefix, f"{name}s", fields, custom=name.endswith("__c"))


def _survey(file: Path, columns: list[str]) -> tuple[str, dict[str, int]]:
    """The first id of a file ("" without one), and the length of the longest value of each column."""
    longest = dict.fromkeys(columns, 0)
    first_id = ""
    with file.open(encoding="utf-8-sig", newline="") as source:
        for row in csv.DictReader(source):
            first_id = first_id or row.get("Id") or ""
            for column in columns:
                longest[column] = max(longest[column], len(row[column] or ""))
    return first_id, longest


def _new_field(column: str, longest: int) -> Field:
    """A text field that holds the column's longest value."""
    named = {"name_field": True, "id_lookup": True} if column.lower() == "name" else {}
    custom = column.endswith("__c")
    if longest > SHORT_TEXT:
        return area(column, column, LONG_TEXT, custom=custom)
    return text(column, column, SHORT_TEXT, custom=custom, **named)


def _rows(name: str, item: ObjectType, reader: "csv.DictReader[str]") -> Iterator[dict[str, Stored]]:
    known = {column: item.field(column) for column in reader.fieldnames or ()}
    fields = {column: field for column, field in known.items() if field and field.type not in COMPOUND_TYPES}
    for row in reader:
        if None in row or None in row.values():
            raise ExchangeError(f"{name}, line {reader.line_num}: it has not as many values as the header")
        try:
            yield {field.name: from_json(field, row[column]) for column, field in fields.items()}
        except ApiError as error:
            raise ExchangeError(f"{name}, line {reader.line_num}: {error}") from None


def _load(org: Org, item: ObjectType, rows: Iterator[dict[str, Stored]], progress: Progress) -> int:
    base: dict[str, Any] = {field.name: default_of(field) for field in item.stored}
    for name, value in ((name, org.admin_id) for name in ("OwnerId", "CreatedById", "LastModifiedById")):
        if name in base:
            base[name] = value
    marks = ", ".join("?" * len(base))
    columns = ", ".join(quoted(column) for column in base)
    statement = f"INSERT OR REPLACE INTO {quoted(item.name)} ({columns}) VALUES ({marks})"
    now = org.store.clock.now_ms()
    done, highest = 0, -1
    with org.store.write() as conn:
        while block := list(islice(rows, BLOCK)):
            whole = [_complete(org, conn, item, base, row, now) for row in block]
            conn.executemany(statement, [tuple(row[name] for name in base) for row in whole])
            conn.executemany(
                "INSERT OR REPLACE INTO _deletions VALUES (?, ?, ?, ?)",
                [(item.name, r["Id"], r["SystemModstamp"], r["Id"]) for r in whole if r.get("IsDeleted")],
            )
            highest = max(highest, *(number_of(row["Id"]) or -1 for row in whole))
            done += len(block)
            progress(item.name, done)
        if highest >= 0:  # our own ids come back: the counter goes on behind them
            conn.execute(
                "INSERT INTO _counters VALUES (?, ?) ON CONFLICT (prefix) DO UPDATE SET next = max(next, excluded.next)",
                (item.key_prefix, highest + 1),
            )
    return done


def _complete(
    org: Org, conn: Any, item: ObjectType, base: Mapping[str, Any], row: dict[str, Stored], now: int
) -> dict[str, Any]:
    """The row with defaults, with what the platform works out, and with what the file says above both."""
    whole: dict[str, Any] = {**base, **{name: value for name, value in row.items() if value is not None}}
    derive(item.name, whole, None, frozenset(row), now)
    whole |= {name: value for name, value in row.items() if value is not None}
    for name in ("CreatedDate", "LastModifiedDate", "SystemModstamp"):
        if name in base and whole[name] is None:
            whole[name] = whole.get("LastModifiedDate") or whole.get("CreatedDate") or now
    if not whole.get("Id"):
        whole["Id"] = org.store.next_id(conn, item.key_prefix)
    return whole


def export_folder(org: Org, folder: Path) -> dict[str, int]:
    """Write every object that has records as a CSV; rows by object. Deleted records are written too."""
    folder.mkdir(parents=True, exist_ok=True)
    counts = {}
    with org.store.read() as conn:
        for item in org.store.catalogue.objects():
            if item.name in (ENTITY, FIELD):
                continue  # the org writes these itself
            columns = ", ".join(quoted(field.name) for field in item.stored)
            rows = conn.execute(f'SELECT {columns} FROM {quoted(item.name)} ORDER BY "Id"')
            count = _export_object(folder / f"{item.name}.csv", item, rows)
            if count:
                counts[item.name] = count
    return counts


def _export_object(file: Path, item: ObjectType, rows: Iterator[tuple[Any, ...]]) -> int:
    first = next(rows, None)
    if first is None:
        return 0
    with file.open("w", encoding="utf-8", newline="") as target:
        writer = csv.writer(target, quoting=csv.QUOTE_ALL, lineterminator="\n")
        writer.writerow([field.name for field in item.stored])
        count = 0
        for row in chain([first], rows):
            writer.writerow([as_text(field, value) for field, value in zip(item.stored, row, strict=True)])
            count += 1
    return count


def as_text(field: Field, stored: Any) -> str:
    """A stored value as the Data Export writes it."""
    if stored is None:
        return ""
    match field.type:
        case "boolean":
            return "true" if stored else "false"
        case "datetime":
            return datetime_text(stored).replace("+0000", "Z")
        case "time":
            return time_text(stored)
        case kind if kind in NUMBERS:
            return number_text(stored, field.scale)
        case _:
            return str(stored)
