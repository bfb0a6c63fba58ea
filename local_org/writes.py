"""What a transaction is about to write: new rows, entries of the journal and counters, in few statements for many rows."""

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

Values = Sequence[Any]
_JOURNAL = "INSERT INTO _journal (at_ms, object, id, operation, user_id, changed) VALUES (?, ?, ?, ?, ?, ?)"
_COUNTERS = "INSERT OR REPLACE INTO _counters VALUES (?, ?)"


@dataclass(slots=True)
class Writes:
    """The connection of a transaction, and what is to be written through it before it is used for anything else.

    Nobody sees that it is not there yet: whoever wants the connection asks `now()` for it, which writes first. Who ends the
    transaction asks, too.
    """

    conn: sqlite3.Connection
    pending: bool = False
    rows: dict[str, list[Values]] = field(default_factory=dict)
    entries: list[Values] = field(default_factory=list)
    numbers: dict[str, int] = field(default_factory=dict)

    def now(self) -> sqlite3.Connection:
        """The connection, on which everything is written."""
        if self.pending:
            self._write()
        return self.conn

    def row(self, sql: str, values: Values) -> None:
        """Add a row by a statement that only inserts."""
        self.pending = True
        self.rows.setdefault(sql, []).append(values)

    def entry(self, values: Values) -> None:
        """Add an entry of the journal."""
        self.pending = True
        self.entries.append(values)

    def count(self, prefix: str) -> int:
        """Take a number of a counter; counting starts at 0."""
        number = self.numbers.get(prefix)
        if number is None:
            row = self.conn.execute("SELECT next FROM _counters WHERE prefix = ?", (prefix,)).fetchone()
            number = int(row[0]) if row else 0
        self.pending = True
        self.numbers[prefix] = number + 1
        return number

    def forget(self) -> None:
        """Write nothing of it: what it belongs to is undone."""
        self.pending = False
        self.rows.clear()
        self.entries.clear()
        self.numbers.clear()

    def _write(self) -> None:
        rows, entries, numbers = list(self.rows.items()), self.entries.copy(), list(self.numbers.items())
        self.forget()
        for sql, values in rows:
            self.conn.executemany(sql, values)
        self.conn.executemany(_JOURNAL, entries)
        self.conn.executemany(_COUNTERS, numbers)
