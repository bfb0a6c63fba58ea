"""Postgres: engine, transactions, a raw connection for COPY, and claims (take, renew, release).

Claims use Postgres's clock in the SQL and nothing else: no worker's clock decides who owns what. What is written is
`clock_timestamp()`. What is due, old or expired is compared with `statement_timestamp()`: the former may change while a
statement runs, so that no index is used for it and every row is looked at, the finished ones of years included.
"""

import os
import select
import socket
import threading
import time
import uuid
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, LiteralString, NamedTuple, TypeVar, cast

import psycopg
from sqlalchemy import Engine, create_engine, event, exc, text
from sqlalchemy.orm import Session
from sqlalchemy.pool import ConnectionPoolEntry, QueuePool

from worker.errors import FencedError, SettingsError
from worker.log import get_logger

log = get_logger(__name__)

MINIMUM_SERVER = 16
TRUSTED_SECONDS = 5.0  # a connection that rested no longer and has heard nothing from the server is taken to be alive
DUPLICATE, DEADLOCK = "23505", "40P01"  # SQLSTATEs
TRIES = 5  # of a transaction that Postgres ended
CLAIMABLE = {"runs", "run_pages", "firings", "ingest_jobs"}  # tables with the claim columns, keyed by id


T = TypeVar("T")


def owner() -> str:
    """Who we are in a claim: host, process, thread. For people; the token decides."""
    return f"{socket.gethostname()}:{os.getpid()}:{threading.get_native_id()}"


class _Engines(NamedTuple):
    """A process's engine, and the same for statements that are alone."""

    common: Engine
    alone: Engine


class Database:
    """One Postgres, for one process. The engine is made lazily and anew in each process: a pool must not cross a fork."""

    def __init__(self, url: str, *, pool_size: int = 11, application: str = "sfsync") -> None:
        self.url = url
        self.pool_size = pool_size
        self.application = application
        self._engines: dict[int, _Engines] = {}
        self._lock = threading.Lock()

    @property
    def engine(self) -> Engine:
        """This process's engine."""
        return self._of_process().common

    def _of_process(self) -> _Engines:
        pid = os.getpid()
        with self._lock:
            if pid not in self._engines:
                engine = self._make_engine()
                alone = engine.execution_options(isolation_level="AUTOCOMMIT")
                self._engines = {pid: _Engines(engine, alone)}  # a parent's engine is left alone, not disposed
            return self._engines[pid]

    def _make_engine(self) -> Engine:
        scheme, rest = self.url.split("://", 1)
        assert scheme in ("postgresql", "postgres")
        engine = create_engine(
            f"postgresql+psycopg://{rest}",
            poolclass=QueuePool,
            pool_size=self.pool_size,
            max_overflow=2,
            pool_timeout=30,
            connect_args={
                "connect_timeout": 5,
                "application_name": self.application,
                "prepare_threshold": None,  # PgBouncer in transaction mode keeps no prepared statements
                "keepalives_idle": 10,
                "keepalives_interval": 5,
                "keepalives_count": 3,
                "tcp_user_timeout": 30_000,
                "options": "-c timezone=UTC -c lock_timeout=30s -c idle_in_transaction_session_timeout=300s",
            },
        )
        _watch(engine)
        return engine

    @contextmanager
    def transaction(self) -> Iterator[Session]:
        """A transaction on our own tables: committed at the end of the block, rolled back when it raises."""
        with Session(self.engine, expire_on_commit=False) as session, session.begin():
            yield session

    @contextmanager
    def alone(self) -> Iterator[Session]:
        """For one statement: each is a transaction of its own, which saves two round trips."""
        with Session(self._of_process().alone, expire_on_commit=False) as session:
            yield session

    def close(self) -> None:
        """Close this process's connections."""
        with self._lock:
            engines = self._engines.pop(os.getpid(), None)
        if engines is not None:
            engines.common.dispose()

    def now(self) -> datetime:
        """Postgres's clock, aware UTC. Doors read it once per step."""
        with self.alone() as session:
            return cast(datetime, session.scalar(text("SELECT clock_timestamp()")))

    def check_server(self) -> None:
        """Raise SettingsError when the server cannot be reached or is older than PostgreSQL 16."""
        try:
            with psycopg.connect(self.url, connect_timeout=5) as connection:
                version = connection.info.server_version // 10_000
        except psycopg.OperationalError as error:
            raise SettingsError(f"DATABASE_URL: cannot connect ({str(error).strip().splitlines()[0]})") from None
        if version < MINIMUM_SERVER:
            raise SettingsError(f"DATABASE_URL: PostgreSQL {version} is too old; {MINIMUM_SERVER} or newer is needed")


def _watch(engine: Engine) -> None:
    """Hand out no dead connection. Unlike SQLAlchemy's pre-ping this asks the server only where there is a doubt.

    A server that ends a connection says so: then bytes wait at the socket, which costs nothing to see. What a silent network
    swallows, no earlier ping would have told of either.
    """

    @event.listens_for(engine, "checkin")
    def rest(_connection: Any, entry: ConnectionPoolEntry) -> None:
        entry.info["rests_since"] = time.monotonic()

    @event.listens_for(engine, "checkout")
    def check(connection: psycopg.Connection[Any], entry: ConnectionPoolEntry, _proxy: Any) -> None:
        since = entry.info.get("rests_since")
        if since is None or (time.monotonic() - since < TRUSTED_SECONDS and not _has_news(connection)):
            return
        try:
            engine.dialect.do_ping(cast(Any, connection))
        except psycopg.Error:
            raise exc.InvalidatePoolError from None  # the others that rest are as old: each is made anew


def _has_news(connection: psycopg.Connection[Any]) -> bool:
    """Whether the server has said something since the last answer: mostly, that it closes."""
    try:
        poll = select.poll()
        poll.register(connection.fileno(), select.POLLIN)
        return bool(poll.poll(0))
    except (psycopg.Error, ValueError, OSError):  # it is closed
        return True


def sqlstate(error: exc.DBAPIError) -> str:
    """Postgres's code for an error; "" where it gave none, as when a connection breaks."""
    return getattr(error.orig, "sqlstate", None) or ""


def persist(transaction: Callable[[], T], states: Collection[str]) -> T:
    """What a whole transaction gives; it is begun anew, a few times, where Postgres ends it by one of these SQLSTATEs."""
    tries = TRIES
    while True:
        try:
            return transaction()
        except exc.DBAPIError as error:
            if sqlstate(error) not in states or (tries := tries - 1) == 0:
                raise


def raw(session: Session) -> psycopg.Connection[Any]:
    """The psycopg connection beneath `session`, in the same transaction: for COPY and composed SQL on mirror tables."""
    return cast("psycopg.Connection[Any]", session.connection().connection.driver_connection)


def uuid_array(ids: Iterable[uuid.UUID]) -> str:
    """Ids as text that Postgres casts to uuid[]: for hundreds of them a tenth of the time that psycopg takes for a list."""
    return "{" + ",".join([one.hex for one in ids]) + "}"


@dataclass(frozen=True, slots=True)
class Claim:
    """A worker's time-limited hold on one row. `token` only grows: a slow former owner holds a smaller one."""

    table: str
    id: int | uuid.UUID
    token: int


def _sql(table: str, statement: LiteralString) -> Any:
    if table not in CLAIMABLE:
        raise ValueError(f"{table} has no claims")
    return text(statement.replace("{table}", f"sfsync.{table}"))


def take(session: Session, table: str, row_id: int, ttl: timedelta) -> Claim | None:
    """Claim a `ready` row whose claim is free or expired; None when somebody holds it or it is not ready.

    Counts the attempt, so that a row which kills its worker runs out of attempts too. `due_at` is the caller's question.
    """
    token = session.scalar(
        _sql(
            table,
            """
            UPDATE {table} SET claim_token = nextval('sfsync.claim_tokens'), claim_owner = :owner,
                   claim_until = clock_timestamp() + :ttl, attempts = attempts + 1
             WHERE id = (SELECT id FROM {table}
                          WHERE id = :id AND state = 'ready' AND (claim_until IS NULL OR claim_until < clock_timestamp())
                            FOR UPDATE SKIP LOCKED)
            RETURNING claim_token
            """,
        ),
        {"id": row_id, "owner": owner(), "ttl": ttl},
    )
    return None if token is None else Claim(table, row_id, token)


def renew(session: Session, claim: Claim, ttl: timedelta) -> bool:
    """Prolong a claim; False when it is no longer ours."""
    renewed = session.execute(
        _sql(
            claim.table,
            "UPDATE {table} SET claim_until = clock_timestamp() + :ttl"
            " WHERE id = :id AND claim_token = :token AND claim_until IS NOT NULL",  # once given back it stays free
        ),
        {"id": claim.id, "token": claim.token, "ttl": ttl},
    )
    return bool(cast(Any, renewed).rowcount)


def guard(session: Session, claim: Claim) -> None:
    """Lock the claimed row until the transaction ends; FencedError when the claim is no longer ours.

    Every write of a step goes behind this, in its own transaction: a worker that was overtaken writes nothing.
    """
    held = session.scalar(
        _sql(
            claim.table,
            "SELECT true FROM {table} WHERE id = :id AND claim_token = :token AND state = 'ready' FOR UPDATE",
        ),
        {"id": claim.id, "token": claim.token},
    )
    if not held:
        raise FencedError(f"{claim.table} {claim.id} is no longer ours")


def release(session: Session, claim: Claim, *, due_at: datetime | None = None, progress: bool = False) -> None:
    """Give a claim back, in the transaction of the step's last write. `progress` sets the attempts back to 0."""
    session.execute(
        _sql(
            claim.table,
            """
            UPDATE {table} SET claim_owner = NULL, claim_until = NULL, attempts = CASE WHEN :progress THEN 0 ELSE attempts END
             WHERE id = :id AND claim_token = :token
            """,
        ),
        {"id": claim.id, "token": claim.token, "progress": progress},
    )
    if due_at is not None:
        session.execute(
            _sql(claim.table, "UPDATE {table} SET due_at = :due_at WHERE id = :id AND claim_token = :token"),
            {"id": claim.id, "token": claim.token, "due_at": due_at},
        )


_overruns: dict[int, float] = {}  # keepers whose claim was lost while their owner still works → since when (monotonic)


def longest_overrun() -> float:
    """Seconds that some step of this process has gone on after its claim was lost; 0 when none does."""
    now = time.monotonic()
    return max((now - since for since in list(_overruns.values())), default=0.0)


class Keeper:
    """Renews one claim from a thread of its own while its owner works.

    `lost` is set, and `on_lost` called once, when the claim could not be renewed for half its length or was taken by another:
    the owner must stop before anyone else can start. `on_lost` is where the owner's open call is cut off.
    """

    def __init__(self, database: Database, claim: Claim, ttl: timedelta) -> None:
        self.database = database
        self.claim = claim
        self.ttl = ttl
        self.lost = threading.Event()
        self._on_lost: list[Any] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"keep-{claim.table}-{claim.id}", daemon=True)

    def on_lost(self, call: Any) -> None:
        """Have `call()` run (in the keeper's thread) when the claim is lost."""
        self._on_lost.append(call)

    def check(self) -> None:
        """Raise FencedError when the claim was lost."""
        if self.lost.is_set():
            raise FencedError(f"{self.claim.table} {self.claim.id} is no longer ours")

    def __enter__(self) -> "Keeper":
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stop.set()
        self._thread.join()
        _overruns.pop(id(self), None)

    def _run(self) -> None:
        pause = self.ttl.total_seconds() / 6
        failures = 0
        while not self._stop.wait(pause):
            try:
                with self.database.transaction() as session:
                    session.execute(text("SET LOCAL lock_timeout = '2s'"))
                    kept = renew(session, self.claim, self.ttl)
            except Exception as error:  # the database may be away: give up after half the claim's length
                failures += 1
                log.warning(
                    "claim.renewal_failed", table=self.claim.table, id=self.claim.id, error=type(error).__name__
                )
                if failures < 3:
                    continue
                kept = False
            else:
                failures = 0
            if not kept:
                self._lose()
                return

    def _lose(self) -> None:
        self.lost.set()
        _overruns[id(self)] = time.monotonic()
        for call in self._on_lost:
            call()
