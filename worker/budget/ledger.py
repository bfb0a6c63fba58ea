"""The ledger of one process: permits in hand, what was spent on what, and slots for parallel calls.

Permits come in blocks, each by one short transaction that locks the org's row, and are spent in memory. What was spent is
summed up and written once a second, with the org's own count: the newest wins. A killed process loses its block until
that lapses, its slots until their lease ends, and a second's bookings. Postgres's clock is read inside the transactions;
tests pass another `now`.
"""

import atexit
import os
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import cast

from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from worker import attribution
from worker.attribution import Attribution
from worker.budget import accounts, policy
from worker.budget.accounts import Booking
from worker.budget.slots import Slots
from worker.db import Database
from worker.errors import CrowdedError, OverBudgetError, TransientError
from worker.log import get_logger
from worker.salesforce.metering import Kind, Permit
from worker.salesforce.usage import Usage
from worker.settings import Settings

log = get_logger(__name__)

WRITE_SECONDS = 1.0  # between two writes
IDLE_SECONDS = 30.0  # a block that nobody spent from for so long is given back
TAKEN_PAUSE = timedelta(seconds=2)  # when other threads were faster
ORG_KNOWN_SECONDS = 300.0  # how long we trust that a connection still belongs to its org


def read_clock(session: Session) -> datetime:
    """Postgres's clock."""
    return cast(datetime, session.scalar(text("SELECT clock_timestamp()")))


@dataclass
class _Block:
    """Calls granted together: `minute` is their key in the org's row."""

    minute: int
    left: int
    until: float  # monotonic


@dataclass
class _Purse:
    """What this process holds of one org. Guarded by the ledger's lock."""

    blocks: dict[bool, list[_Block]] = field(
        default_factory=lambda: {True: [], False: []}
    )  # for action lanes, for others
    settled: Counter[int] = field(default_factory=Counter)  # minute → permits spent or given back since the last write
    bookings: dict[Attribution, Booking] = field(default_factory=dict)
    report: Usage | None = None
    unheard: int = 0
    reserved_spent: int = 0
    touched: float = 0.0


class Ledger:
    """Of one process. Safe between threads; made anew after a fork (see runtime)."""

    def __init__(
        self,
        database: Database,
        settings: Settings,
        *,
        lane: str = "",
        now: Callable[[Session], datetime] = read_clock,
        clock: Callable[[], float] = time.monotonic,
        writes_itself: bool = True,
    ) -> None:
        self.database = database
        self.settings = settings
        self.lane = lane  # of calls that no step is bound to
        self.slots = Slots(database, settings, f"{socket.gethostname()}:{os.getpid()}:{id(self):x}")
        self._now = now
        self._clock = clock
        self._writes_itself = writes_itself
        self._lock = threading.Lock()
        self._purses: dict[str, _Purse] = {}
        self._orgs: dict[int, tuple[str, float]] = {}
        self._writer: threading.Thread | None = None
        self._stop = threading.Event()
        self._writing = threading.Lock()

    def meter(self, connection_id: int) -> "OrgMeter":
        """The budget of a connection's org, for its client."""
        return OrgMeter(self, connection_id)

    def org_of(self, connection_id: int) -> str:
        """The org that a connection belongs to; `connection:ID` while it is not known."""
        with self._lock:
            known = self._orgs.get(connection_id)
        if known is not None and self._clock() - known[1] < ORG_KNOWN_SECONDS:
            return known[0]
        with self.database.transaction() as session:
            org = accounts.org_of(session, connection_id) or f"connection:{connection_id}"
        with self._lock:
            self._orgs[connection_id] = (org, self._clock())
        return org

    # permits

    def take(self, org: str, lane: str, kind: Kind) -> _Block:
        """One permit, from a block in hand or a new one. Raises OverBudgetError when the lane must wait."""
        reserved = lane in policy.ACTION_LANES
        if kind in (Kind.QUERY_JOB, Kind.INGEST_JOB):
            self._check_bulk(org, kind)
        block = self._spend(org, reserved)
        if block is None:
            self._take_block(org, lane, probing=kind is Kind.LIMITS)
            block = self._spend(org, reserved)
        if block is None:  # another thread was faster: the next block is asked for by whoever tries again
            raise OverBudgetError("the org's permits are taken", code="ALLOWANCE", retry_after=TAKEN_PAUSE)
        return block

    def give_back(self, block: _Block) -> None:
        """Return a permit that was not needed."""
        with self._lock:
            block.left += 1

    def _spend(self, org: str, reserved: bool) -> _Block | None:
        with self._lock:
            purse = self._purse(org)
            now = self._clock()
            blocks = purse.blocks[reserved]
            for lapsed in (one for one in blocks if one.until <= now):
                purse.settled[lapsed.minute] += lapsed.left
                lapsed.left = 0
            blocks[:] = [one for one in blocks if one.left]
            if not blocks:
                return None
            blocks[0].left -= 1
            purse.touched = now
            return blocks[0]

    def _take_block(self, org: str, lane: str, *, probing: bool) -> None:
        with self.database.transaction() as session:
            now = self._now(session)
            account = accounts.lock(session, org, now, self.settings.reserve_share)
            granted = policy.grant(account, lane, now)
            if not granted.calls and not probing:
                raise OverBudgetError(granted.reason, code="ALLOWANCE", retry_after=granted.wait)
            calls = granted.calls or 1
            minute = accounts.minute_of(now)
            accounts.add_permits(session, org, minute, calls)
        with self._lock:
            until = self._clock() + policy.BLOCK_LASTS.total_seconds()
            self._purse(org).blocks[lane in policy.ACTION_LANES].append(_Block(minute, calls, until))

    def _check_bulk(self, org: str, kind: Kind) -> None:
        self.write()
        with self.database.transaction() as session:
            reason = accounts.bulk_refusal(session, org, self._now(session), ingest=kind is Kind.INGEST_JOB)
        if reason:
            raise OverBudgetError(reason, code="BULK_ALLOWANCE", retry_after=policy.BLOCKED_FOR)

    # bookings

    def book(self, org: str, what: Attribution, block: _Block, kind: Kind, permit: Permit) -> None:
        """Book one call with what its answer said of the allowance, or give its permit back when it never left."""
        with self._lock:
            purse = self._purse(org)
            if not permit.used:
                block.left += 1
                return
            purse.settled[block.minute] += 1
            _hear(purse, permit.usage)
            purse.reserved_spent += what.lane in policy.ACTION_LANES
            purse.bookings.setdefault(what, Booking()).add(kind)
        self._start_writing()

    def book_bulk(self, org: str, what: Attribution, booking: Booking) -> None:
        """Book Bulk work that came with a call booked elsewhere."""
        with self._lock:
            self._purse(org).bookings.setdefault(what, Booking()).merge(booking)
        self._start_writing()

    def refused(self, org: str, error: OverBudgetError) -> None:
        """The org refused a call because all are spent: nobody calls it for a while."""
        if error.code != "REQUEST_LIMIT_EXCEEDED" or isinstance(error, CrowdedError):
            return
        with self.database.transaction() as session:
            until = self._now(session) + policy.BLOCKED_FOR
            accounts.block(session, org, until)
        with self._lock:
            purse = self._purse(org)
            for blocks in purse.blocks.values():
                for one in blocks:
                    purse.settled[one.minute] += one.left
                    one.left = 0
        log.warning("org.allowance_spent", org=org, until=until.isoformat(timespec="seconds"))

    # writing

    def write(self) -> None:
        """Write what was spent and heard since the last time, give idle blocks back, renew or return slots."""
        with self._writing:
            with self._lock:
                dirty = {org: taken for org, purse in self._purses.items() if (taken := self._collect(purse))}
            leases = self.slots.due()
            if not dirty and not leases:
                return
            try:
                with self.database.transaction() as session:
                    now = self._now(session)
                    for org in sorted({*dirty, *leases}):  # sorted: two processes never wait for each other
                        if org in dirty:
                            accounts.settle(session, org, dirty[org], now, self.settings.reserve_share)
                        if org in leases:
                            self.slots.renew(session, org, leases[org])
            except Exception:
                with self._lock:
                    for org, spent in dirty.items():
                        self._put_back(self._purse(org), spent)
                raise

    def _collect(self, purse: _Purse) -> accounts.Spent | None:
        now = self._clock()
        if now - purse.touched > IDLE_SECONDS:
            for blocks in purse.blocks.values():
                for one in blocks:
                    purse.settled[one.minute] += one.left
                blocks.clear()
        if not (purse.settled or purse.bookings or purse.report):
            return None
        taken = accounts.Spent(dict(purse.settled), purse.bookings, purse.report, purse.unheard, purse.reserved_spent)
        purse.settled, purse.bookings = Counter(), {}
        purse.report, purse.unheard, purse.reserved_spent = None, 0, 0
        return taken

    def _put_back(self, purse: _Purse, spent: accounts.Spent) -> None:
        purse.settled.update(spent.settled)
        for what, booking in spent.bookings.items():
            purse.bookings.setdefault(what, Booking()).merge(booking)
        purse.report = purse.report or spent.report
        purse.unheard += spent.unheard
        purse.reserved_spent += spent.reserved_spent

    def _start_writing(self) -> None:
        if not self._writes_itself or self._writer is not None:
            return
        with self._lock:
            if self._writer is None:
                self._writer = threading.Thread(target=self._keep_writing, name="ledger", daemon=True)
                self._writer.start()
                atexit.register(self.close)  # a command that ends writes what it spent

    def _keep_writing(self) -> None:
        while not self._stop.wait(WRITE_SECONDS):
            self._try_to_write()

    def _try_to_write(self) -> None:
        try:
            self.write()
        except Exception as error:  # kept, and written the next time
            log.info("ledger.not_written", error=type(error).__name__)

    def close(self) -> None:
        """Write the rest, return blocks and slots, and stop writing. Never raises."""
        atexit.unregister(self.close)
        self._stop.set()
        with self._lock:
            for purse in self._purses.values():
                purse.touched = float("-inf")
        self.slots.let_go()
        self._try_to_write()

    def _purse(self, org: str) -> _Purse:
        return self._purses.setdefault(org, _Purse())


def _hear(purse: _Purse, usage: Usage | None) -> None:
    """Keep the newest count, and how many calls it does not hold."""
    if usage is None or usage.at is None:
        purse.unheard += 1
        return
    known = purse.report
    if known is None or known.at is None or (known.at, known.used) <= (usage.at, usage.used):
        purse.report, purse.unheard = usage, 0


class OrgMeter:
    """One connection's view of its org's budget: what its client asks and tells. See worker.salesforce.metering.Meter."""

    def __init__(self, ledger: Ledger, connection_id: int) -> None:
        self._ledger = ledger
        self._connection_id = connection_id

    @property
    def _org(self) -> str:
        return self._ledger.org_of(self._connection_id)

    def check(self) -> None:
        """Raise OverBudgetError when a call would have to wait."""
        org, lane = self._org, self._what().lane
        self._ledger.give_back(self._ledger.take(org, lane, Kind.CALL))

    @contextmanager
    def permit(self, kind: Kind) -> Iterator[Permit]:
        """Leave for one call. Raises OverBudgetError or, when Postgres cannot be asked, TransientError."""
        if kind is Kind.FREE:
            yield Permit()
            return
        what = self._what()
        try:
            org = self._org
            self._ledger.slots.enter(org, what.lane)
        except SQLAlchemyError as error:
            raise TransientError(f"the ledger cannot be asked ({type(error).__name__})", code="LEDGER") from None
        try:
            try:
                block = self._ledger.take(org, what.lane, kind)
            except SQLAlchemyError as error:
                raise TransientError(f"the ledger cannot be asked ({type(error).__name__})", code="LEDGER") from None
            permit = Permit()
            try:
                yield permit
            finally:
                self._ledger.book(org, what, block, kind, permit)
        finally:
            self._ledger.slots.leave(org)

    def _what(self) -> Attribution:
        what = attribution.current()
        lane = what.lane or self._ledger.lane or "cli"
        return Attribution(what.object, lane, what.cause or "other")

    def refused(self, error: OverBudgetError) -> None:
        """The org refused a call because an allowance is spent."""
        try:
            self._ledger.refused(self._org, error)
        except SQLAlchemyError as failed:
            log.info("ledger.not_written", error=type(failed).__name__)

    def bulk(self, *, bytes: int = 0, ingest_rows: int = 0) -> None:  # noqa: A002
        """Bytes of results that were read, rows that were uploaded."""
        if bytes or ingest_rows:
            booking = Booking(result_bytes=bytes, ingest_rows=ingest_rows)
            self._ledger.book_bulk(self._org, self._what(), booking)
