"""The org: its store and everything that belongs to it, opened from one folder."""

import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from local_org import bulk1, bulk_query, bulk_rows
from local_org.access import Access
from local_org.bulk_jobs import Jobs, batches_since
from local_org.clock import Clock
from local_org.custom_rules import CustomRules
from local_org.deletion import MAX_EMPTIED, empty_bin
from local_org.dml import Change
from local_org.faults import Faults
from local_org.ids import numbered
from local_org.jwt import Signer
from local_org.ledger import Ledger
from local_org.locks import Locks
from local_org.objects import standard_objects
from local_org.store import Store
from local_org.tokens import Tokens
from local_org.usage import Usage
from local_org.words import check_words
from local_org.writes import Writes

ORGANIZATION_ID = "00DLo0000000001MAA"
DAY_MS = 86_400_000
UPKEEP_MS = 3_600_000
MAX_SETTING = 10**12
DEFAULT_USERNAME = "admin@local-org.example"
DEFAULT_PASSWORD = "local-org"  # noqa: S105 - documented, for a toy org


@dataclass(frozen=True, slots=True)
class Settings:
    """What can be set over the control path, kept with the data.

    `session_minutes` is the idle time-out; `api_limit` the calls per 24 hours; `bulk_pace_ms` how long a job
    stays in each state; `lock_wait_ms` how long a writer waits for a row, `write_ms` how long it holds what it
    wrote (as slow triggers would); `request_seconds` the longest
    request; `refresh_ms` how long a refresh takes; `concurrent_refresh_error` whether a second, simultaneous
    refresh is refused; `cascade_stamps` whether rows deleted or restored by cascade get a new stamp; `my_domain` the org's host
    for clients that come through the proxy; `password_grant` whether user names and passwords are accepted.
    """

    rotate: bool = False
    session_minutes: float = 120
    api_limit: int = 100_000
    bulk_pace_ms: int = 0
    lock_wait_ms: int = 10_000
    request_seconds: float = 600
    concurrent_refresh_error: bool = True
    cascade_stamps: bool = True
    my_domain: str = "local-org.my.salesforce.com"
    instance_url: str | None = None
    refresh_ms: int = 0
    write_ms: int = 0
    password_grant: bool = True
    security_token: str = ""

    def changed(self, values: dict[str, Any]) -> "Settings":
        """With these values. Raises ValueError for an unknown name, or a value of another type."""
        check_words(Settings, values, "settings")
        wrong = sorted(
            name for name, value in values.items() if isinstance(value, int | float) and not 0 <= value <= MAX_SETTING
        )
        if wrong:
            raise ValueError(f"settings: {', '.join(wrong)} must be from 0 to {MAX_SETTING}")
        return replace(self, **values)


@dataclass(slots=True)
class LateCommits:
    """The next `times` writes become visible `seconds` after their stamp."""

    times: int = 0
    seconds: float = 0


class Org:
    """One org in one data folder."""

    def __init__(self, folder: Path, clock: Clock | None = None) -> None:
        self.store = Store(folder, clock)
        missing = [item for item in standard_objects() if self.store.catalogue.object(item.name) is None]
        self.store.add_objects(missing)
        self.settings = Settings().changed(self.store.setting("settings", {}))
        self.tokens = Tokens(folder, self.store.clock)
        self.access = Access(self.store)
        self.ledger = Ledger(folder)
        self.faults = Faults()
        self.late = LateCommits()
        self.locks = Locks(self.store.clock)
        self.rules = CustomRules(self)
        self.usage = Usage(self.store)
        self.signer = Signer(folder)
        self.organization_id = ORGANIZATION_ID
        self.default_username = DEFAULT_USERNAME
        self.password = DEFAULT_PASSWORD
        self.jobs = Jobs(self, {"query": bulk_query.render, "ingest": bulk_rows.process, "batch": bulk1.work})
        self.jobs.resume()
        self._kept_up_ms = 0

    @property
    def admin_id(self) -> str:
        """The user that the default log-in and client credentials stand for; where users came in, the first."""
        return str(self.store.setting("admin", numbered("005", 0)))

    def change_settings(self, values: dict[str, Any]) -> None:
        self.settings = self.settings.changed(values)
        self.store.keep_setting("settings", asdict(self.settings))

    @contextmanager
    def changing(self, conn: sqlite3.Connection, user_id: str) -> Iterator[Change]:
        """A frame of the org's own in the transaction of `conn`."""
        change = self._change(conn, user_id)
        yield change
        change.writes.now()

    def _change(self, conn: sqlite3.Connection, user_id: str, **options: Any) -> Change:
        """The frame of a writing transaction: who, when, with which view of the catalogue."""
        return Change(
            self.store,
            Writes(conn),
            user_id,
            self.store.clock.now_ms(),
            self.access.catalogue(user_id),
            cascade_stamps=self.settings.cascade_stamps,
            check_saved=self.rules.check,
            has_rules=self.rules.has,
            locks=self.locks,
            **options,
        )

    @contextmanager
    def writing(
        self, user_id: str, *, allow_duplicates: bool = False, assigns: bool = False, patient: bool = False
    ) -> Iterator[Change]:
        """A transaction of one caller: the org's rules, row locks and late commits apply; its locks end with it.

        `assigns`: the rules that give records an owner, too.
        """
        with self.store.write() as conn:
            change = self._change(
                conn, user_id, allow_duplicates=allow_duplicates, owner=self.locks.owner(), patient=patient
            )
            if assigns:
                change.assigned = self.rules.owner_of
            try:
                yield from self._perhaps_late(change)
                for step in change.at_end:
                    step()
                change.writes.now()
            except BaseException:
                self.locks.free(change.owner)
                raise
        if self.settings.write_ms:
            time.sleep(self.settings.write_ms / 1000)
        self.locks.free(change.owner)

    def _perhaps_late(self, change: Change) -> Iterator[Change]:
        """Let the caller write; where a late commit is asked for, hold back what was written."""
        if self.late.times <= 0:
            yield change
            return
        self.late.times -= 1
        change.conn.execute("SAVEPOINT late")
        since = self.store.last_journal(change.conn)
        yield change
        commit_ms = change.now_ms + int(self.late.seconds * 1000)
        self.store.hold_back(change.conn, change.touched, change.now_ms, commit_ms, since)

    def restore(self, name: str) -> None:
        """Bring back a snapshot with the settings, rules and restrictions of its time; sessions stay."""
        self.store.restore(name)
        self.settings = Settings().changed(self.store.setting("settings", {}))
        self.access = Access(self.store)
        self.rules = CustomRules(self)

    @property
    def has_chores(self) -> bool:
        """Whether `upkeep` has something to do, or the next read has late commits to make visible: it may take a while."""
        return self.usage.is_behind or self._bin_is_due or self.store.has_due

    @property
    def _bin_is_due(self) -> bool:
        return abs(self.store.clock.now_ms() - self._kept_up_ms) >= UPKEEP_MS

    def upkeep(self) -> None:
        """Keep the count of calls; once an hour of the org's clock empty the recycle bin of what is too old, and forget
        old Bulk jobs."""
        if self.usage.is_behind:
            self.usage.keep()
        if not self._bin_is_due:
            return
        self._kept_up_ms = self.store.clock.now_ms()
        since = int(self.store.setting("bin_since_ms", 0))
        emptied = MAX_EMPTIED
        while emptied == MAX_EMPTIED:
            with self.store.write() as conn, self.changing(conn, self.admin_id) as change:
                emptied = empty_bin(change, since)
        self.jobs.forget_old()

    def jobs_today(self) -> int:
        """Query jobs of the last 24 hours."""
        return self.jobs.count_since("query", self.store.clock.now_ms() - DAY_MS)

    def batches_today(self) -> int:
        """Bulk batches of the last 24 hours."""
        return batches_since(self.jobs, self.store.clock.now_ms() - DAY_MS)

    def close(self) -> None:
        self.jobs.close()
        self.usage.keep()
        self.ledger.close()
        self.tokens.close()
        self.store.close()
