"""The org's clock: real time plus an offset that tests can set. It may also stand still."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field


def _system_ms() -> int:
    return time.time_ns() // 1_000_000


@dataclass(slots=True)
class Clock:
    """Epoch milliseconds, UTC. `frozen_ms` set means that time stands still there."""

    offset_ms: int = 0
    frozen_ms: int | None = None
    system_ms: Callable[[], int] = field(default=_system_ms)

    def exact_ms(self) -> int:
        return self.frozen_ms if self.frozen_ms is not None else self.system_ms() + self.offset_ms

    def now_ms(self) -> int:
        """Now in whole seconds: what the platform stamps records with."""
        return self.exact_ms() // 1000 * 1000

    def set(self, now_ms: int, *, frozen: bool = False) -> None:
        self.offset_ms = now_ms - self.system_ms()
        self.frozen_ms = now_ms if frozen else None

    def advance(self, milliseconds: int) -> None:
        if self.frozen_ms is not None:
            self.frozen_ms += milliseconds
        self.offset_ms += milliseconds
