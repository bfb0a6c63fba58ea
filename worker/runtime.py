"""The composition root: Settings in, ready objects out. Nothing else wires anything; use cases get what they use, never this."""

import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from functools import cached_property
from typing import Any
from uuid import UUID

from celery import Celery
from kombu.exceptions import OperationalError
from sqlalchemy.orm import Session

from models.connection import Connection
from worker.actions.accept import accept
from worker.actions.deps import ActionDeps
from worker.actions.intent import Intent
from worker.app import make_app
from worker.budget.accounts import may_spend
from worker.budget.ledger import Ledger
from worker.callbacks.calling import Caller
from worker.callbacks.checking import wrong_url
from worker.callbacks.deliver import REVOKED, CallbackDeps
from worker.callbacks.store import enqueue
from worker.capabilities import CAPABILITIES, execute
from worker.db import Database
from worker.log import get_logger
from worker.mirror.deps import STEP, MirrorDeps
from worker.mirror.due import first_of_calls
from worker.mirror.remember import remember
from worker.mirror.requests import mirror_ids, request_update
from worker.pulse import PULSE
from worker.salesforce.client import OrgClient, http_options
from worker.salesforce.transport import HttpOptions
from worker.settings import Settings, load_settings
from worker.tokens.renew import StoredTokens
from worker.tokens.vault import Vault
from worker.triggers.deps import Started, TriggerDeps, WakeUp

log = get_logger(__name__)

THIN_SECONDS = 1.0  # one wake-up per task and row in this time: the poller sees the rest
REST_SECONDS = 10.0  # after a failed wake-up nobody waits for Redis for this long


class Waker:
    """Sends wake-ups: best effort, thinned, never raises; a Redis that is down or hung costs one short wait in ten seconds."""

    def __init__(self, app: Celery, clock: Callable[[], float] = time.monotonic) -> None:
        self.app = app
        self.clock = clock
        self._lock = threading.Lock()
        self._sent: dict[tuple[str, int], float] = {}
        self._resting_until = 0.0

    def wake(self, name: str, row_id: int, lane: str | None = None, *, urgent: bool = False) -> None:
        """Tell a worker of `lane` (default: the task's route) that row `row_id` has work for task `name`. After the commit.

        `urgent`: nobody is at this row, so a wake-up of a moment ago was for something else.
        """
        if not self._is_wanted(name, row_id, urgent=urgent):
            return
        try:
            self.app.send_task(name, [row_id], queue=lane)
        except Exception as error:  # whatever Redis does, the row is there and will be found
            with self._lock:
                self._resting_until = self.clock() + REST_SECONDS
            level = log.info if isinstance(error, OperationalError) else log.warning
            level("wake.failed", task=name, id=row_id, error=type(error).__name__)

    def _is_wanted(self, name: str, row_id: int, *, urgent: bool) -> bool:
        now = self.clock()
        with self._lock:
            recent = not urgent and now - self._sent.get((name, row_id), -THIN_SECONDS) < THIN_SECONDS
            if now < self._resting_until or recent:
                return False
            if len(self._sent) > 10_000:
                self._sent = {key: at for key, at in self._sent.items() if now - at < THIN_SECONDS}
            self._sent[name, row_id] = now
            return True


class Runtime:
    """Everything a door needs, made when first asked for; for one process."""

    def __init__(self, settings: Settings, *, application: str = "sfsync") -> None:
        self.settings = settings
        self.application = application

    @cached_property
    def database(self) -> Database:
        """Our Postgres."""
        threads = self.settings.worker_threads
        return Database(
            self.settings.database_url.get_secret_value(), pool_size=threads + 3, application=self.application
        )

    @cached_property
    def ledger(self) -> Ledger:
        """The budget of every org that this process calls; calls outside a step are booked under the process's own lane."""
        return Ledger(self.database, self.settings, lane=self.application.removeprefix("sfsync").removeprefix("-"))

    @cached_property
    def vault(self) -> Vault:
        """Where tokens are opened and closed."""
        return Vault(self.settings.keys)

    @cached_property
    def http(self) -> HttpOptions:
        """How we talk to orgs."""
        return http_options(self.settings)

    @cached_property
    def waker(self) -> Waker:
        """Who sends wake-ups."""
        return Waker(make_app(self.settings, client_name=self.application, publish_only=True))

    @cached_property
    def mirrors(self) -> MirrorDeps:
        """What the mirror's use cases use."""
        return MirrorDeps(database=self.database, settings=self.settings, client=self.client, wake=self.wake)

    @cached_property
    def actions(self) -> ActionDeps:
        """What the actions' use cases use; delivered records are remembered by the mirror."""
        return ActionDeps(
            database=self.database,
            settings=self.settings,
            client=self.client,
            remember=self._remember,
            wake=self.wake,
            crowded=lambda: PULSE.crowded,
            give_way=PULSE.give_way,
            wrong_callback=lambda connection_id, url: wrong_url(self.callbacks, connection_id, url),
        )

    @cached_property
    def callbacks(self) -> CallbackDeps:
        """What telling callers uses."""
        settings = self.settings
        return CallbackDeps(
            database=self.database,
            caller=Caller(settings.callback_allowed_hosts, settings.callback_seconds, settings.callback_ca_file),
            decrypt=lambda value, row: self.vault.decrypt(value, table="callback_secrets", column="secret", row=row),
            operator_secret=settings.webhook_secret.get_secret_value(),
        )

    @cached_property
    def triggers(self) -> TriggerDeps:
        """What the triggers' use cases use: runs of the mirror, actions, capabilities."""
        return TriggerDeps(
            database=self.database,
            settings=self.settings,
            capabilities=tuple(CAPABILITIES),
            refresh=self._refresh,
            write=self._write,
            execute=self._execute,
            wake=self.wake,
        )

    def now(self) -> datetime:
        """The clock by which things are due: Postgres's. A door reads it once per step."""
        return self.database.now()

    def tokens(self, connection_id: int) -> StoredTokens:
        """The stored tokens of a connection."""
        return StoredTokens(self.database, self.vault, self.settings, connection_id, self._announce)

    def client(self, connection_id: int) -> OrgClient:
        """A client of a connection's org, for one step in one thread."""
        return OrgClient(self.tokens(connection_id), self.http, meter=self.ledger.meter(connection_id))

    def wake(self, name: str, row_id: int, lane: str | None = None, *, urgent: bool = False) -> None:
        """See `Waker.wake`."""
        self.waker.wake(name, row_id, lane, urgent=urgent)

    def _remember(self, connection_id: int, object_name: str, ids: list[str]) -> None:
        remember(self.mirrors, connection_id, object_name, ids)

    def _announce(self, session: Session, connection_id: int, reason: str) -> None:
        """Have the operator told that a connection is revoked."""
        if self.settings.webhook_url:
            user_id = session.get_one(Connection, connection_id).user_id
            payload = {"user_id": user_id, "connection_id": connection_id, "reason": reason}
            enqueue(session, connection_id=connection_id, url=self.settings.webhook_url, kind=REVOKED, payload=payload)

    def may_spend(self, session: Session, connection_id: int, calls: int) -> bool:
        """Whether so many calls may be spent on upkeep now."""
        return may_spend(session, connection_id, calls, "upkeep", self.now(), self.settings.reserve_share)

    def _refresh(self, session: Session, connection_id: int, objects: Sequence[str]) -> tuple[list[int], list[WakeUp]]:
        every = self.settings.refresh_seconds
        names = objects or mirror_ids(session, connection_id)
        lanes = dict(request_update(session, connection_id, name, "trigger", refresh_seconds=every) for name in names)
        return list(lanes), [(STEP, run_id, lanes[run_id]) for run_id in first_of_calls(session, list(lanes))]

    def _write(self, connection_id: int, actions: Sequence[Mapping[str, Any]], *, key: str) -> list[UUID]:
        """A parent that is a number is the action of that place in the list, counted from 1."""
        intents = []
        for number, one in enumerate(actions, start=1):
            parents = {
                name: f"{key}:{parent}" if isinstance(parent, int) else parent
                for name, parent in one.get("parents", {}).items()
            }
            intents.append(Intent(**{**one, "parents": parents, "idempotency_key": f"{key}:{number}"}))
        return [one.id for one in accept(self.actions, connection_id, intents, source="trigger")]

    def _execute(self, connection_id: int, capability: str, parameters: Mapping[str, Any], *, key: str) -> Started:
        with self.database.transaction() as session:
            user_id = session.get_one(Connection, connection_id).user_id
        done = execute(self.actions, capability, user_id, parameters, source="trigger", idempotency_key=key)
        return Started(result=done.data) if done.action_id is None else Started(action_ids=[done.action_id])

    def close(self) -> None:
        """Write down what was spent and close this process's connections."""
        if "ledger" in self.__dict__:
            self.ledger.close()
        if "database" in self.__dict__:
            self.database.close()


_runtimes: dict[int, Runtime] = {}
_lock = threading.Lock()


def runtime() -> Runtime:
    """This process's runtime, from the environment; made anew after a fork."""
    pid = os.getpid()
    with _lock:
        if pid not in _runtimes:
            _runtimes.clear()
            _runtimes[pid] = Runtime(load_settings())
        return _runtimes[pid]
