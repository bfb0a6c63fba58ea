"""Records on disk: one SQLite file, many readers on snapshots, one writer at a time."""

import json
import sqlite3
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

from local_org import schema
from local_org.catalogue import Catalogue, Field, ObjectType
from local_org.clock import Clock
from local_org.ids import numbered
from local_org.objects.setup import ENTITY, FIELD, entity_definition, entity_row, field_definition, field_row
from local_org.snapshots import Snapshots


class Store:
    """The org's data folder. `read()` and `write()` give SQLite connections inside a transaction."""

    def __init__(self, folder: Path, clock: Clock | None = None) -> None:
        self.folder = folder
        self.clock = clock or Clock()
        self._pool: SimpleQueue[sqlite3.Connection] = SimpleQueue()
        self._all: list[sqlite3.Connection] = []
        self._write_lock = threading.RLock()
        self._swap_lock = threading.RLock()  # a new connection is not to fall between the halves of a restore
        self.folder.mkdir(parents=True, exist_ok=True)
        self._snapshots = Snapshots(folder)
        self._open()

    def _open(self) -> None:
        self._file = self._snapshots.current()
        self._writer = self.connect()
        self._writer.executescript(schema.SYSTEM_TABLES)
        self._load_catalogue()
        self._load_clock()
        self._oldest_open: int | None = None
        self._next_due: int | None = None
        self._remember_late(self._writer)

    def connect(self) -> sqlite3.Connection:
        """A new connection, in autocommit; the caller closes it."""
        conn = sqlite3.connect(self._file, timeout=60, isolation_level=None, check_same_thread=False)
        for pragma in (
            "journal_mode=WAL",
            "synchronous=NORMAL",
            "temp_store=FILE",  # a sort of millions of rows has no place in memory
            "cache_size=-16000",
            "threads=2",  # for sorting
        ):
            conn.execute(f"PRAGMA {pragma}")
        conn.create_function("lower_text", 1, _lower, deterministic=True)
        conn.create_function("org_now_ms", 0, self.clock.exact_ms)
        return conn

    def close(self) -> None:
        with self._write_lock:
            for conn in self._all:
                conn.close()
            self._all.clear()
            self._pool = SimpleQueue()
            self._snapshots.close()
            self._writer.close()

    @contextmanager
    def read(self) -> Iterator[sqlite3.Connection]:
        """A connection on one snapshot of the data. Never write through it."""
        self.apply_due()
        with self._snapshot() as conn:
            yield conn

    @contextmanager
    def _snapshot(self) -> Iterator[sqlite3.Connection]:
        pool = self._pool
        try:
            conn = pool.get_nowait()
        except Empty:
            with self._swap_lock:
                pool, conn = self._pool, self.connect()
                self._all.append(conn)
        conn.execute("BEGIN")
        try:
            yield conn
        finally:
            conn.execute("ROLLBACK")
            pool.put(conn)

    @contextmanager
    def write(self) -> Iterator[sqlite3.Connection]:
        """The one writing connection, in a transaction: committed at the end, rolled back on an exception."""
        with self._write_lock:
            self.apply_due()
            with self._transaction() as conn:
                yield conn

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        conn = self._writer
        conn.execute("BEGIN IMMEDIATE")
        try:
            yield conn
        except BaseException:
            conn.execute("ROLLBACK")
            raise
        else:
            conn.execute("COMMIT")
        finally:
            if self._late_moved:
                self._remember_late(conn)

    # -- snapshots

    def snapshot(self, name: str) -> None:
        """Keep the data as it is now under a name (letters and digits)."""
        with self._write_lock:
            self._snapshots.keep(name, self.connect())

    def restore(self, name: str) -> None:
        """Bring the data back to a snapshot. Raises ValueError if there is none of this name."""
        with self._write_lock, self._swap_lock:
            self._snapshots.bring_back(name)
            old, writer = self._file, self._writer
            self._pool = SimpleQueue()  # who reads the old file now may end in peace
            self._open()
            self._snapshots.forget(old)
            writer.close()

    # -- settings

    def setting(self, name: str, default: Any = None) -> Any:
        """A value kept with the data (JSON)."""
        with self._snapshot() as conn:
            row = conn.execute("SELECT value FROM _settings WHERE name = ?", (name,)).fetchone()
        return default if row is None else json.loads(row[0])

    def keep_setting(self, name: str, value: Any) -> None:
        with self._write_lock:
            self._writer.execute("INSERT OR REPLACE INTO _settings VALUES (?, ?)", (name, json.dumps(value)))

    def _load_clock(self) -> None:
        kept = self.setting("clock")
        if kept is not None:
            self.clock.offset_ms, self.clock.frozen_ms = kept

    def keep_clock(self) -> None:
        """Remember the clock's setting with the data."""
        self.keep_setting("clock", [self.clock.offset_ms, self.clock.frozen_ms])

    # -- catalogue

    def _load_catalogue(self) -> None:
        rows = self._writer.execute("SELECT data FROM _objects").fetchall()
        version, modified_ms = self.setting("catalogue", [1, 0])
        self.catalogue = Catalogue((ObjectType.from_data(json.loads(row[0])) for row in rows), version, modified_ms)

    def add_objects(self, items: Iterable[ObjectType], *, indexes: bool = True) -> None:
        """Add objects, or replace them by versions with more fields; makes tables, columns and indexes."""
        with self.write() as conn:
            catalogue = self.catalogue
            for definitions in (entity_definition(), field_definition()):
                conn.execute(schema.create_table(definitions))
            for item in items:
                self._add_object(conn, item, indexes)
                catalogue = catalogue.changed(item, self.clock.now_ms())
            value = json.dumps([catalogue.version, catalogue.modified_ms])
            conn.execute("INSERT OR REPLACE INTO _settings VALUES ('catalogue', ?)", (value,))
        self.catalogue = catalogue

    def _add_object(self, conn: sqlite3.Connection, item: ObjectType, indexes: bool) -> None:
        old = self.catalogue.object(item.name)
        if old is None:
            conn.execute(schema.create_table(item))
        else:
            self._alter(conn, item)
        if indexes:
            self.create_indexes(conn, item)
        conn.execute("INSERT OR REPLACE INTO _objects VALUES (?, ?)", (item.name, json.dumps(item.to_data())))
        self._define(conn, item)

    def _define(self, conn: sqlite3.Connection, item: ObjectType) -> None:
        """Write the records that tell of the object and its fields; the tables for them are the first to be made."""
        now = self.clock.now_ms()
        conn.execute(f'DELETE FROM "{FIELD}" WHERE "EntityDefinitionId" = ?', (item.name,))
        for table, rows in (
            (ENTITY, [entity_row(item, now)]),
            (FIELD, [field_row(item, field, now) for field in item.fields.values()]),
        ):
            columns = ", ".join(schema.quoted(name) for name in rows[0])
            sql = f'INSERT OR REPLACE INTO "{table}" ({columns}) VALUES ({", ".join("?" * len(rows[0]))})'
            conn.executemany(sql, [tuple(row.values()) for row in rows])

    def _alter(self, conn: sqlite3.Connection, item: ObjectType) -> None:
        have = {row[1].lower() for row in conn.execute(f"PRAGMA table_info({schema.quoted(item.name)})")}
        for field in item.stored:
            if field.name.lower() not in have:
                conn.execute(schema.add_column(item, field))

    def rename_object(self, item: ObjectType, name: str) -> None:
        """Give an object another API name; its records keep their ids."""
        renamed = replace(item, name=name)
        with self.write() as conn:
            conn.execute(f"ALTER TABLE {schema.quoted(item.name)} RENAME TO {schema.quoted(name)}")
            for table in ("_journal", "_deletions", "_cleared", "_late"):
                conn.execute(f"UPDATE {table} SET object = ? WHERE object = ?", (name, item.name))
            conn.execute("DELETE FROM _objects WHERE name = ?", (item.name,))
            conn.execute("INSERT INTO _objects VALUES (?, ?)", (name, json.dumps(renamed.to_data())))
            others = [one for one in self.catalogue.objects() if one.name != item.name]
            now = self.clock.now_ms()
            catalogue = Catalogue([*others, renamed], self.catalogue.version + 1, now)
            value = json.dumps([catalogue.version, catalogue.modified_ms])
            conn.execute("INSERT OR REPLACE INTO _settings VALUES ('catalogue', ?)", (value,))
        self.catalogue = catalogue

    def create_indexes(self, conn: sqlite3.Connection, item: ObjectType) -> None:
        for statement in schema.create_indexes(item):
            conn.execute(statement)

    def column_sql(self, item: ObjectType, field: Field, alias: str) -> str:
        return schema.column_sql(self.catalogue, item, field, alias)

    # -- ids

    def next_id(self, conn: sqlite3.Connection, key_prefix: str) -> str:
        return numbered(key_prefix, self.reserve(conn, key_prefix, 1))

    def reserve(self, conn: sqlite3.Connection, key_prefix: str, count: int) -> int:
        """Take `count` numbers of a counter; the first of them (counting starts at 0)."""
        sql = "INSERT INTO _counters VALUES (?1, ?2) ON CONFLICT (prefix) DO UPDATE SET next = next + ?2 RETURNING next"
        return int(conn.execute(sql, (key_prefix, count)).fetchone()[0]) - count

    # -- transactions that are stamped now and become visible later

    def oldest_open_ms(self) -> int | None:
        """The stamp of the oldest transaction that has not become visible yet."""
        self.apply_due()
        return self._oldest_open

    def add_late(
        self,
        conn: sqlite3.Connection,
        commit_ms: int,
        stamp_ms: int,
        changes: Iterable[tuple[str, str, dict[str, Any] | None]],
    ) -> None:
        """Hold back new versions (table, id, all stored columns or None for a row that goes) until `commit_ms`, or for as
        long as an older version of one of them is held back."""
        versions = list(changes)
        older = [self._commit_of(conn, record_id) or 0 for _, record_id, _ in versions]
        commit_ms = max([commit_ms, *older])
        conn.executemany(
            "INSERT INTO _late (commit_ms, stamp_ms, object, id, changed) VALUES (?, ?, ?, ?, ?)",
            [(commit_ms, stamp_ms, name, record_id, json.dumps(row)) for name, record_id, row in versions],
        )
        self._late_moved = True

    def hold_back(
        self,
        conn: sqlite3.Connection,
        touched: Iterable[tuple[str, str]],
        stamp_ms: int,
        commit_ms: int,
        journal_since: int,
    ) -> None:
        """Undo what was written since the savepoint "late" (the journal stood at `journal_since`), and let it become
        visible at `commit_ms`."""
        rows: list[tuple[str, str, dict[str, Any] | None]] = []
        for name, record_id in dict.fromkeys(touched):
            found = _rows(conn, f'SELECT * FROM {schema.quoted(name)} WHERE "Id" = ?', record_id)
            rows.append((name, record_id, found[0] if found else None))
            logged = _rows(conn, "SELECT * FROM _deletions WHERE object = ? AND id = ?", name, record_id)
            cleared = _rows(conn, "SELECT * FROM _cleared WHERE root = ?", record_id)
            rows += [("_deletions", record_id, entry) for entry in logged]
            rows += [("_cleared", record_id, entry) for entry in cleared]
        new = _rows(conn, "SELECT * FROM _journal WHERE seq > ? ORDER BY seq", journal_since)
        rows += [("_journal", entry["id"], entry | {"seq": None}) for entry in new]
        counters = conn.execute("SELECT prefix, next FROM _counters").fetchall()
        conn.execute("ROLLBACK TO late")
        conn.executemany("INSERT OR REPLACE INTO _counters VALUES (?, ?)", counters)
        self.add_late(conn, commit_ms, stamp_ms, rows)

    def commit_open(self, conn: sqlite3.Connection, record_id: str) -> None:
        """End the open transaction that has written this record, if there is one, before somebody else writes it.

        The platform lets the second writer wait for the first; here the first becomes visible at once. So no older
        version can ever take the place of a newer one.
        """
        if self._next_due is None or (commit_ms := self._commit_of(conn, record_id)) is None:
            return
        self._apply_late(conn, commit_ms)

    def _commit_of(self, conn: sqlite3.Connection, record_id: str) -> int | None:
        """When a version of this record that is held back becomes visible; the latest of them."""
        sql = "SELECT max(commit_ms) FROM _late WHERE id = ? AND object <> '_journal'"
        found: int | None = conn.execute(sql, (record_id,)).fetchone()[0]
        return found

    def last_journal(self, conn: sqlite3.Connection) -> int:
        """The number of the journal's newest entry."""
        return int(conn.execute("SELECT coalesce(max(seq), 0) FROM _journal").fetchone()[0])

    def _remember_late(self, conn: sqlite3.Connection) -> None:
        self._oldest_open, self._next_due = conn.execute("SELECT min(stamp_ms), min(commit_ms) FROM _late").fetchone()
        self._late_moved = False

    @property
    def has_open(self) -> bool:
        """Whether transactions are stamped that are not visible yet."""
        return self._next_due is not None

    @property
    def has_due(self) -> bool:
        """Whether transactions wait to become visible whose time has come."""
        return self._next_due is not None and self.clock.exact_ms() >= self._next_due

    def apply_due(self) -> None:
        """Let transactions become visible whose time has come."""
        if not self.has_due:
            return
        with self._write_lock:
            if self._writer.in_transaction:
                return
            with self._transaction() as conn:
                self._apply_late(conn, self.clock.exact_ms())

    def _apply_late(self, conn: sqlite3.Connection, now_ms: int) -> None:
        due = conn.execute(
            "SELECT object, id, changed FROM _late WHERE commit_ms <= ? ORDER BY seq", (now_ms,)
        ).fetchall()
        for name, record_id, changed in due:
            row: dict[str, Any] | None = json.loads(changed)
            if row is None:
                conn.execute(f'DELETE FROM {schema.quoted(name)} WHERE "Id" = ?', (record_id,))
                continue
            columns = ", ".join(schema.quoted(column) for column in row)
            marks = ", ".join("?" * len(row))
            conn.execute(
                f"INSERT OR REPLACE INTO {schema.quoted(name)} ({columns}) VALUES ({marks})",
                tuple(row.values()),
            )
            if row.get("IsDeleted") == 0:
                conn.execute("DELETE FROM _deletions WHERE object = ? AND id = ?", (name, record_id))
        conn.execute("DELETE FROM _late WHERE commit_ms <= ?", (now_ms,))
        self._late_moved = True


def _rows(conn: sqlite3.Connection, sql: str, *values: Any) -> list[dict[str, Any]]:
    """The rows of a query, each with its columns' names."""
    cursor = conn.execute(sql, values)
    names = [column[0] for column in cursor.description]
    return [dict(zip(names, row, strict=True)) for row in cursor]


def _lower(text: Any) -> Any:
    return text.lower() if isinstance(text, str) else text
