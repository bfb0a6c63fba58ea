"""What the mirror's use cases are given."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from worker.db import Database
from worker.salesforce.client import OrgClient
from worker.settings import Settings

STEP = "mirror.step"  # task names: wake-ups carry a run's or a page's id
PAGE = "mirror.page"


class Wake(Protocol):
    """Sends a wake-up after a commit: best effort, never raises."""

    def __call__(self, name: str, row_id: int, lane: str | None = None) -> None: ...


@dataclass(frozen=True)
class MirrorDeps:
    """`client` makes a new client of a connection's org at each call: one for each thread of a step."""

    database: Database
    settings: Settings
    client: Callable[[int], OrgClient]
    wake: Wake
