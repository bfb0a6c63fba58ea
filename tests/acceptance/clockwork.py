"""A worker or a beat whose clock for what is due stands in the table sim_clock: `python -m tests.acceptance.clockwork worker|beat`.

Claims go by Postgres's own clock as ever.
"""

import sys
from datetime import datetime
from typing import cast

from sqlalchemy import text

from beat_schedule import BEAT_SCHEDULE
from worker.app import run_beat
from worker.runtime import Runtime
from worker.service import serve
from worker.settings import load_settings


def now(rt: Runtime) -> datetime:
    """What the clock in the table says."""
    with rt.database.transaction() as session:
        return cast(datetime, session.scalar(text("SELECT at FROM sim_clock")))


def main(role: str) -> int:
    """Be a worker or a beat until SIGTERM."""
    settings = load_settings()
    if role == "beat":
        BEAT_SCHEDULE["triggers"]["schedule"] = 0.3
        run_beat(settings)
        return 0
    Runtime.now = now  # type: ignore[method-assign]
    return serve(settings, "refresh", 2)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
