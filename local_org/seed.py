"""Data from numbers: the n-th record of an object is the same in every org that was seeded, whatever its size.

Stamps lie in the past and many records share one, as after a mass update.
"""

import json
import marshal
import os
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from queue import Queue
from typing import Any

from local_org.catalogue import ObjectType
from local_org.dml import default_of
from local_org.ids import numbered
from local_org.made import (
    BLOCK,
    FIRST,
    LAST,
    LENGTH_BYTES,
    MAKERS,
    START_MS,
    USERS,
    Block,
    Row,
    block,
    blocks,
    completed,
    user_id,
    values_of,
)
from local_org.objects.sales import FORECASTS, LEAD_STATUSES, STAGES
from local_org.org import DEFAULT_USERNAME, Org
from local_org.schema import create_indexes, quoted

Progress = Callable[[str, int, int], None]  # object, records so far, records in the end

LARGE = 4 * BLOCK
BLOCKS_A_COMMIT = 20
BLOCKS_AHEAD = 2
DEFAULT_COUNTS = {"Account": 500, "Contact": 4_000, "Opportunity": 1_200, "Lead": 500}
ORDER = ("Account", "Contact", "Opportunity", "Lead")  # parents first
_ROOT = Path(__file__).parents[1]


def parse_counts(text: str) -> dict[str, int]:
    """ "Contact=40000,Account=500" or a plain number (that many contacts with a tenth of accounts). Raises ValueError."""
    if text.strip().isdigit():
        total = int(text)
        return {"Account": max(1, total // 10), "Contact": total, "Opportunity": total // 4, "Lead": total // 10}
    counts = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, equals, count = part.partition("=")
        if not equals or not count.strip().isdigit():
            raise ValueError(f"{part!r} is not OBJECT=COUNT")
        counts[name.strip()] = int(count)
    return counts


def seed_basics(org: Org, *, users: int = USERS) -> None:
    """The organization, its profile and `users` users, where they are missing; 0 users: they will be imported."""
    with org.store.read() as conn:
        if conn.execute('SELECT 1 FROM "Organization"').fetchone():
            return
    _write(org, "Profile", iter([_dated({"Id": numbered("00e", 0), "Name": "System Administrator"})]))
    _write(org, "User", (_user(number) for number in range(users)))
    name = {"Id": org.organization_id, "Name": "Local Org", "OrganizationType": "Developer Edition"}
    more = {"InstanceName": "LO1", "FiscalYearStartMonth": 1, "LanguageLocaleKey": "en_US", "TimeZoneSidKey": "GMT"}
    _write(org, "Organization", iter([_dated(name | more | {"DefaultLocaleSidKey": "en_US"})]))
    _write(org, "OpportunityStage", (_stage(n, label) for n, label in enumerate(STAGES)))
    _write(org, "LeadStatus", (_lead_status(n, label) for n, label in enumerate(LEAD_STATUSES)))


def _dated(row: Row) -> Row:
    return row | dict.fromkeys(("CreatedDate", "LastModifiedDate", "SystemModstamp"), START_MS)


def _stage(number: int, label: str) -> Row:
    probability, forecast, closed, won = STAGES[label]
    values = {
        "Id": numbered("01J", number),
        "MasterLabel": label,
        "ApiName": label,
        "IsActive": 1,
        "SortOrder": number + 1,
        "IsClosed": int(closed),
        "IsWon": int(won),
        "ForecastCategory": FORECASTS[forecast],
        "ForecastCategoryName": forecast,
        "DefaultProbability": probability,
    }
    return _dated(values)


def _lead_status(number: int, label: str) -> Row:
    values = {"Id": numbered("01K", number), "MasterLabel": label, "ApiName": label, "SortOrder": number + 1}
    return _dated(values | {"IsDefault": int(number == 0), "IsConverted": int(label == "Closed - Converted")})


def seed(org: Org, counts: dict[str, int], progress: Progress = lambda _name, _done, _of: None) -> None:
    """Bring each object up to its count; records that are there stay. Raises ValueError for an object without a maker."""
    create_missing_indexes(org)
    unknown = sorted(set(counts) - set(ORDER))
    if unknown:
        raise ValueError(f"cannot make {', '.join(unknown)}: choose from {', '.join(ORDER)}")
    for name in ORDER:
        wanted = counts.get(name, 0)
        have = _counter(org, name)
        if wanted > have:
            accounts = max(counts.get("Account", 0), _counter(org, "Account"))
            _load(org, name, have, wanted, accounts, progress)


def create(org: Org, name: str, count: int) -> list[str]:
    """`count` more records, stamped now; their ids. Raises ValueError for an object without a maker."""
    if name not in MAKERS:
        raise ValueError(f"cannot make {name}: choose from {', '.join(ORDER)}")
    item, accounts = _item(org, name), _counter(org, "Account")
    base = _base(item)
    with org.store.write() as conn:
        first = org.store.reserve(conn, item.key_prefix, count)
        stamps = dict.fromkeys(("CreatedDate", "LastModifiedDate", "SystemModstamp"), org.store.clock.now_ms())
        for numbers in blocks(first, first + count):
            rows = [completed(name, base, MAKERS[name](number, accounts) | stamps) for number in numbers]
            _insert(conn, item, values_of(rows))
    return [numbered(item.key_prefix, number) for number in range(first, first + count)]


def _counter(org: Org, name: str) -> int:
    item = _item(org, name)
    with org.store.read() as conn:
        row = conn.execute("SELECT next FROM _counters WHERE prefix = ?", (item.key_prefix,)).fetchone()
    return int(row[0]) if row else 0


def _write(org: Org, name: str, rows: Iterator[Row]) -> None:
    """Insert a few rows in one transaction."""
    item = _item(org, name)
    base = _base(item)
    with org.store.write() as conn:
        done = 0
        while block := list(islice(rows, BLOCK)):
            _insert(conn, item, values_of([completed(item.name, base, row) for row in block]))
            done += len(block)
        org.store.reserve(conn, item.key_prefix, done)


def _load(org: Org, name: str, have: int, wanted: int, accounts: int, progress: Progress) -> None:
    """Make the records that are missing and insert them, some blocks a transaction; a load that is cut goes on where it
    was. A large one gets its indexes afterwards."""
    item = _item(org, name)
    large = wanted - have > LARGE
    if large:
        _drop_indexes(org, item)
    made = _made_aside if large else _made_here
    blocks = made(name, _base(item), have, wanted, accounts)
    done = have
    while done < wanted:
        with org.store.write() as conn:
            for block in islice(blocks, BLOCKS_A_COMMIT):
                _insert(conn, item, block)
                org.store.reserve(conn, item.key_prefix, len(block[1]))
                done += len(block[1])
                progress(name, done, wanted)
    create_missing_indexes(org)


def _made_here(name: str, base: Row, have: int, wanted: int, accounts: int) -> Iterator[Block]:
    return (block(name, base, numbers, accounts) for numbers in blocks(have, wanted))


def _made_aside(name: str, base: Row, have: int, wanted: int, accounts: int) -> Iterator[Block]:
    """The same blocks in the same order from processes beside this one, which end with it: their pipe breaks."""
    workers = os.cpu_count() or 1
    with ExitStack() as cleanup:
        processes = [
            cleanup.enter_context(_Maker([name, base, have, wanted, accounts, worker, workers]))
            for worker in range(workers)
        ]
        for number in range(len(blocks(have, wanted))):
            yield processes[number % workers].next()


class _Maker:
    """A process that makes blocks of records, some of them ahead of their use."""

    def __init__(self, order: list[Any]) -> None:
        self._order = order
        self._ready: Queue[Block | Exception] = Queue(BLOCKS_AHEAD)

    def __enter__(self) -> "_Maker":
        command = [sys.executable, "-P", "-m", "local_org.made"]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=_ROOT)
        assert self._process.stdin is not None
        marshal.dump(self._order, self._process.stdin)
        self._process.stdin.close()
        threading.Thread(target=self._read, name="seed", daemon=True).start()
        return self

    def _read(self) -> None:
        assert self._process.stdout is not None
        try:
            while length := int.from_bytes(self._process.stdout.read(LENGTH_BYTES)):
                self._ready.put(marshal.loads(self._process.stdout.read(length)))  # noqa: S302 - from our own process
            self._ready.put(EOFError())
        except (EOFError, ValueError, TypeError, OSError) as error:
            self._ready.put(error)

    def next(self) -> Block:
        """Raises RuntimeError if the process ended too early."""
        found = self._ready.get()
        if isinstance(found, Exception):
            raise RuntimeError("the making of records was cut short") from found
        return found

    def __exit__(self, *_exception: object) -> None:
        self._process.kill()
        self._process.wait()


def _item(org: Org, name: str) -> ObjectType:
    item = org.store.catalogue.object(name)
    assert item is not None
    return item


def _drop_indexes(org: Org, item: ObjectType) -> None:
    """A table without indexes takes rows faster. That they are missing is noted with the data."""
    with org.store.write() as conn:
        for index in _index_names(conn, item.name):
            conn.execute(f"DROP INDEX {quoted(index)}")
        conn.execute("INSERT OR REPLACE INTO _settings VALUES ('unindexed', ?)", (json.dumps(item.name),))


def create_missing_indexes(org: Org) -> None:
    """Give a table its indexes back, one after the other, also when the load before was cut."""
    name = org.store.setting("unindexed")
    if name is None:
        return
    for statement in create_indexes(_item(org, name)):
        with org.store.write() as conn:
            conn.execute(statement)
    with org.store.write() as conn:
        conn.execute("DELETE FROM _settings WHERE name = 'unindexed'")


def _index_names(conn: Any, name: str) -> list[str]:
    rows = conn.execute(
        "SELECT name FROM sqlite_master WHERE type = 'index' AND tbl_name = ? AND sql IS NOT NULL", (name,)
    )
    return [row[0] for row in rows.fetchall()]


def _base(item: ObjectType) -> Row:
    """What every record has: defaults and owners. Columns that are null in all of them are left out."""
    defaults = {field.name: default_of(field) for field in item.stored}
    people = dict.fromkeys(("OwnerId", "CreatedById", "LastModifiedById"), user_id(0))
    return {name: value for name, value in (defaults | people).items() if value is not None and name in defaults}


def _insert(conn: sqlite3.Connection, item: ObjectType, rows: Block) -> None:
    names, values = rows
    columns = ", ".join(quoted(column) for column in names)
    marks = ", ".join("?" * len(names))
    conn.executemany(f"INSERT INTO {quoted(item.name)} ({columns}) VALUES ({marks})", values)


def _user(number: int) -> Row:
    first, last = FIRST[number % len(FIRST)], LAST[number % len(LAST)]
    username = DEFAULT_USERNAME if number == 0 else f"user{number}@local-org.example"
    stamps = dict.fromkeys(("CreatedDate", "LastModifiedDate", "SystemModstamp"), START_MS)
    return {
        "Id": user_id(number),
        "Username": username,
        "FirstName": first,
        "LastName": last,
        "Email": username,
        "Alias": f"user{number}",
        "IsActive": 1,
        "ProfileId": numbered("00e", 0),
        "TimeZoneSidKey": "GMT",
        "LocaleSidKey": "en_US",
        "EmailEncodingKey": "UTF-8",
        "LanguageLocaleKey": "en_US",
        **stamps,
    }
