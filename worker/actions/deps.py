"""What the actions' use cases are given."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Protocol

from worker.db import Database
from worker.salesforce import rest
from worker.salesforce.client import OrgClient
from worker.settings import Settings

DELIVER = "actions.deliver"  # task name: wake-ups carry a queue's id
TRUSTED = timedelta(minutes=10)  # how long one look at the org's clock is carried on with our own

Remember = Callable[[int, str, list[str]], None]


class Wake(Protocol):
    """Sends a wake-up after a commit: best effort, never raises."""

    def __call__(self, name: str, row_id: int, lane: str | None = None, *, urgent: bool = False) -> None: ...


class OrgClocks:
    """The org's time without a call each time: the last `Date` seen, carried on with our monotonic clock.

    Never ahead of the org: a `Date` is cut to the second and was written before we received it.
    """

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._seen: dict[int, tuple[datetime, float]] = {}

    def note(self, connection_id: int, client: OrgClient) -> None:
        """Keep what the client's last answer said."""
        if client.org_time is not None:
            with self._lock:
                self._seen[connection_id] = (client.org_time, self._monotonic())

    def now(self, connection_id: int, client: OrgClient) -> datetime:
        """The org's time, or a little before it. Asks the org when nothing was seen for a while; raises TransientError."""
        with self._lock:
            seen = self._seen.get(connection_id)
        if seen is not None:
            passed = timedelta(seconds=self._monotonic() - seen[1])
            if passed < TRUSTED:
                return seen[0] + passed
        rest.org_time(client)
        self.note(connection_id, client)
        return rest.org_now(client)


@dataclass(frozen=True)
class ActionDeps:
    """`client` makes a new client of a connection's org; `remember` puts records by id into the mirror, where there is one."""

    database: Database
    settings: Settings
    client: Callable[[int], OrgClient]
    remember: Remember
    wake: Wake
    clocks: OrgClocks = field(default_factory=OrgClocks)
    wrong_callback: Callable[[int, str], str | None] = lambda _connection_id, _url: None  # what is wrong with a URL
    crowded: Callable[[], bool] = lambda: False  # others wait for a slot of this process: a long turn should end
    give_way: Callable[[], None] = lambda: None  # called where a step may pause for others of this process
