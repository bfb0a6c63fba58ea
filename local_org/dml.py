"""Changes to records, as every API makes them: one row at a time, inside a transaction of the store."""

import json
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from local_org import rollups, rules
from local_org.catalogue import Catalogue, Field, ObjectType
from local_org.derive import derive
from local_org.errors import ApiError, deleted, not_found
from local_org.ids import numbered, to_18
from local_org.locks import LockedError, Locks, unable_to_lock
from local_org.schema import quoted
from local_org.store import Store
from local_org.values import Stored, from_json
from local_org.writes import Writes

Row = dict[str, Any]
BOOKKEEPING = frozenset({"CreatedDate", "CreatedById", "LastModifiedDate", "LastModifiedById", "SystemModstamp"})


@dataclass(slots=True)
class Change:
    """One transaction's frame: who changes, when (whole seconds), and what the user may see.

    `patient` is true while a locked row is worth waiting for: then the whole transaction is tried again. `at_end` is
    done last in the transaction, also where what it wrote becomes visible later. `has_rules`: whether `check_saved` may
    refuse a row of an object. `lasting`: references that need not be looked at again. `matches`: what is known of keys.
    """

    store: Store
    writes: Writes
    user_id: str
    now_ms: int
    catalogue: Catalogue
    allow_duplicates: bool = False
    cascade_stamps: bool = True
    check_saved: "Callable[[Change, ObjectType, str], None] | None" = None
    has_rules: Callable[[ObjectType], bool] = lambda _item: True
    assigned: Callable[[ObjectType], str | None] = lambda _item: None
    locks: Locks | None = None
    owner: int = 0
    patient: bool = False
    touched: list[tuple[str, str]] = field(default_factory=list)
    at_end: list[Callable[[], object]] = field(default_factory=list)
    lasting: rules.Lasting = field(default_factory=set)
    blank: dict[str, Row] = field(default_factory=dict)
    matches: "Matches | None" = None

    @property
    def conn(self) -> sqlite3.Connection:
        """The transaction's connection; everything is written that was to be written before."""
        return self.writes.now()

    def lock(self, record_ids: Iterable[str]) -> None:
        """Hold rows to the end of the transaction. Raises LockedError if waiting may help, else ApiError."""
        if self.locks is None:
            return
        try:
            self.locks.take(self.owner, record_ids)
        except LockedError as locked:
            if self.patient:
                raise
            raise unable_to_lock(locked.record_id) from None

    def saved(self, item: ObjectType, record_id: str) -> None:
        """Check the org's own rules on a row that was just written."""
        if self.check_saved is not None:
            self.check_saved(self, item, record_id)

    def journal(self, object_name: str, record_id: str, operation: str, changed: Mapping[str, Stored]) -> None:
        self.touched.append((object_name, record_id))
        self.writes.entry((self.now_ms, object_name, record_id, operation, self.user_id, json.dumps(changed)))


@contextmanager
def unruled(store: Store, conn: sqlite3.Connection, user_id: str) -> Iterator[Change]:
    """A frame in the transaction of `conn` for which there are no rules of the org and no row locks."""
    change = Change(store, Writes(conn), user_id, store.clock.now_ms(), store.catalogue)
    yield change
    change.writes.now()


@contextmanager
def savepoint(change: Change) -> Iterator[None]:
    """Undo what the block did if it raises."""
    change.conn.execute("SAVEPOINT row")
    try:
        yield
    except BaseException:
        change.writes.forget()
        change.conn.execute("ROLLBACK TO row")
        change.conn.execute("RELEASE row")
        change.lasting.clear()
        change.matches = None
        raise
    change.conn.execute("RELEASE row")


_NOTHING_TO_UNDO = nullcontext()


def saving(change: Change, item: ObjectType | None) -> AbstractContextManager[None]:
    """Undo what a save of one row of `item` (None: anything else) did if it raises ApiError.

    A save is mostly refused before it has written anything, and then a savepoint would be a quarter of its time: SQLite copies
    every page that is written inside of one. Only the org's own rules look at a row that is there already, and only an open
    transaction that has the row is ended before it is looked at.
    """
    if item is None or change.has_rules(item) or change.store.has_open:
        return savepoint(change)
    return _NOTHING_TO_UNDO


# -- reading


def load(conn: sqlite3.Connection, item: ObjectType, record_id: str) -> Row | None:
    """All stored columns of a row, deleted or not."""
    names = tuple(item.columns)
    row = conn.execute(_load_sql(item.name, names), (record_id,)).fetchone()
    return None if row is None else dict(zip(names, row, strict=True))


@lru_cache(256)
def _load_sql(object_name: str, names: tuple[str, ...]) -> str:
    columns = ", ".join(quoted(name) for name in names)
    return f'SELECT {columns} FROM {quoted(object_name)} WHERE "Id" = ?'


def living(change: Change, item: ObjectType, record_id: str) -> Row:
    """A row that can be written. Raises ApiError: MALFORMED_ID, NOT_FOUND or ENTITY_IS_DELETED."""
    id18 = to_18(record_id)
    if id18 is None or not id18.startswith(item.key_prefix):
        text = f"{item.label} ID: id value of incorrect type: {record_id}"
        raise ApiError(400, "MALFORMED_ID", text, ["Id"])
    row = current(change, item, id18)
    if row is None:
        raise not_found()
    if row.get("IsDeleted"):
        raise deleted()
    return row


def current(change: Change, item: ObjectType, id18: str) -> Row | None:
    """A row that is about to be written, deleted or not, with what an open transaction has made of it."""
    change.store.commit_open(change.conn, id18)
    return load(change.conn, whole(change, item), id18)


def whole(change: Change, item: ObjectType) -> ObjectType:
    """The object with the fields that the user may not see, too."""
    return change.store.catalogue.object(item.name) or item


# -- writing


def insert(change: Change, item: ObjectType, values: Mapping[str, Any], *, free: str | None = None) -> str:
    """A new row; its id. Raises ApiError. `free`: a key that no row was found to have."""
    if not item.createable:
        raise _not_allowed(item, "create")
    _no_id(values)
    given = rules.read_values(change, item, values, creating=True)
    full = whole(change, item)
    row = _defaults(change, full) | {name: value for name, value in given.items() if value is not None}
    if owner := change.assigned(full):
        row["OwnerId"] = owner
    derive(full.name, row, None, frozenset(given), change.now_ms)
    rules.check_required(full, row, full.columns)
    _check(change, full, row, None, free)
    row |= stamps(change, full, creating=True)
    change.lock(_parents(full, row))
    row["Id"] = numbered(full.key_prefix, change.writes.count(full.key_prefix))
    _number(change, full, row)
    _name(full, row)
    change.writes.row(_insert_sql(full.name, tuple(row)), tuple(row.values()))
    change.saved(full, row["Id"])
    change.journal(full.name, row["Id"], "insert", {name: value for name, value in row.items() if value is not None})
    rollups.follow(change, full, row)
    return str(row["Id"])


def _parents(item: ObjectType, values: Mapping[str, Stored]) -> list[str]:
    """The parents that a save locks: those that take the row along when they are deleted."""
    return [str(value) for f in item.cascading if (value := values.get(f.name)) is not None]


def _no_id(values: Mapping[str, Any]) -> None:
    if any(name.lower() == "id" for name in values):
        text = "The Id field should not be specified in the sobject data."
        raise ApiError(400, "INVALID_FIELD", text, ["Id"])


def _not_allowed(item: ObjectType, verb: str) -> ApiError:
    text = f"entity type {item.name} does not support {verb}"
    return ApiError(400, "CANNOT_INSERT_UPDATE_ACTIVATE_ENTITY", text, [])


def _check(change: Change, item: ObjectType, values: Row, own_id: str | None, free: str | None = None) -> None:
    rules.check_values(item, values)
    rules.check_references(change, item, values)
    rules.check_unique(change, item, values, own_id, free)


def _defaults(change: Change, item: ObjectType) -> Row:
    """A row with nothing but what nobody gives."""
    made = change.blank.get(item.name)
    if made is None:
        made = dict.fromkeys(item.columns) | {f.name: default_of(f) for f in item.defaulted}
        if item.field("OwnerId") is not None and "User" in item.fields["ownerid"].reference_to:
            made["OwnerId"] = change.user_id
        change.blank[item.name] = made
    return made.copy()


def default_of(item: Field) -> Stored:
    """The stored form of a field's default: false for a boolean without one."""
    if item.default is None:
        return 0 if item.type == "boolean" else None
    return from_json(item, item.default)


def stamps(change: Change, item: ObjectType, *, creating: bool = False) -> Row:
    now: Row = {
        "LastModifiedDate": change.now_ms,
        "LastModifiedById": change.user_id,
        "SystemModstamp": change.now_ms,
    }
    if creating:
        now |= {"CreatedDate": change.now_ms, "CreatedById": change.user_id}
    return {name: value for name, value in now.items() if name.lower() in item.fields}


def _number(change: Change, item: ObjectType, row: Row) -> None:
    for one in item.numbered:
        count = change.writes.count(f"{item.name}.{one.name}")
        row[one.name] = auto_number(str(one.auto_number), count + 1)


def _name(item: ObjectType, row: Row) -> None:
    """A record of a custom object that is given no name is called by its id. Source: Object Reference, "Custom Objects"."""
    field = next((one for one in item.stored if one.name_field), None) if item.custom else None
    if field is not None and field.type == "string" and row[field.name] is None:
        row[field.name] = row["Id"][:15]


def auto_number(pattern: str, count: int) -> str:
    """A display format with the number in its braces: "C-{0000}" and 7 give C-0007."""
    head, _, rest = pattern.partition("{")
    zeros, _, tail = rest.partition("}")
    return f"{head}{count:0{len(zeros)}d}{tail}"


@lru_cache(256)
def _insert_sql(object_name: str, names: tuple[str, ...]) -> str:
    columns = ", ".join(quoted(name) for name in names)
    return f"INSERT INTO {quoted(object_name)} ({columns}) VALUES ({', '.join('?' * len(names))})"


def update(change: Change, item: ObjectType, record_id: str, values: Mapping[str, Any]) -> None:
    """Change a row; a change without new values stamps it, too. Raises ApiError."""
    if not item.updateable:
        raise _not_allowed(item, "update")
    _no_id(values)
    full = whole(change, item)
    old = living(change, item, record_id)
    given = rules.read_values(change, item, values, creating=False)
    _check_converted(full, old)
    row = {**old, **given}
    if owner := change.assigned(full):
        row["OwnerId"] = owner
    derive(full.name, row, old, frozenset(given), change.now_ms)
    changed = {name: value for name, value in row.items() if value != old[name]}
    rules.check_required(full, row, given)
    _check(change, full, changed, old["Id"])
    change.lock([old["Id"], *_parents(full, changed)])
    changed |= stamps(change, full)
    set_columns(change.conn, full, old["Id"], changed)
    change.saved(full, old["Id"])
    change.journal(full.name, old["Id"], "update", changed)
    rollups.follow(change, full, old, row)


def _check_converted(item: ObjectType, old: Row) -> None:
    if item.name == "Lead" and old.get("IsConverted"):
        raise ApiError(400, "CANNOT_UPDATE_CONVERTED_LEAD", "cannot reference converted lead", [])


def set_columns(conn: sqlite3.Connection, item: ObjectType, record_id: str, values: Mapping[str, Stored]) -> None:
    columns = ", ".join(f"{quoted(name)} = ?" for name in values)
    conn.execute(f'UPDATE {quoted(item.name)} SET {columns} WHERE "Id" = ?', (*values.values(), record_id))


def upsert(change: Change, item: ObjectType, key: Field, value: Any, values: Mapping[str, Any]) -> tuple[str, bool]:
    """Update the row with this key, or insert it: (id, created). Raises ApiError, 300 for several matches."""
    matches = matching(change, item, key, value)
    if len(matches) > 1:
        raise several(item, matches)
    if matches:
        update(change, item, matches[0], values)
        return matches[0], False
    if key.type == "id":
        if value is not None:
            raise not_found() if to_18(str(value)) else living_error(item, value)
        return insert(change, item, values), True
    record_id = insert(change, item, {**values, key.name: value}, free=key.name)
    if change.matches is not None:
        change.matches.ids[rules.folded(key, from_json(key, value))] = [record_id]
    return record_id, True


def living_error(item: ObjectType, value: Any) -> ApiError:
    return ApiError(400, "MALFORMED_ID", f"{item.label} ID: id value of incorrect type: {value}", ["Id"])


def matching(change: Change, item: ObjectType, key: Field, value: Any) -> list[str]:
    """Ids of the living rows with this key."""
    stored = from_json(key, value)
    if stored is None:
        return []
    known = change.matches.of(item, key, stored) if change.matches else None
    return rules.find_by_key(change.conn, item, key, stored) if known is None else known


@dataclass(frozen=True, slots=True)
class Matches:
    """The living rows that have some values of a key, for as long as nothing is done but upserts by this key."""

    item: ObjectType
    key: Field
    ids: dict[Stored | bytes, list[str]]

    def of(self, item: ObjectType, key: Field, stored: Stored) -> list[str] | None:
        """Ids of the rows with this value; None where it was not looked for."""
        return self.ids.get(rules.folded(key, stored)) if item is self.item and key is self.key else None


@contextmanager
def looking_up(change: Change, item: ObjectType, key: Field, values: Iterable[Any]) -> Iterator[None]:
    """Look for the rows with these values of a key at once, for upserts by it in the block."""
    if not change.store.has_open:  # else the look at a row may bring another value of its key
        change.matches = Matches(item, key, rules.find_all_by_key(change.conn, item, key, _stored(key, values)))
    try:
        yield
    finally:
        change.matches = None


def _stored(key: Field, values: Iterable[Any]) -> Iterator[Stored]:
    for value in values:
        try:
            yield from_json(key, value)
        except ApiError:  # for whoever saves this row
            continue


def several(item: ObjectType, matches: list[str]) -> ApiError:
    text = f"Multiple records of {item.name} match: {', '.join(matches)}"
    return ApiError(300, "DUPLICATE_EXTERNAL_ID", text, [])
