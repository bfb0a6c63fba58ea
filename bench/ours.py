"""Our way: a run's steps, taken in a process of its own as a backfill worker takes them.

Argument (JSON): {"run_id", "whole"}; settings come from the environment. The measured part begins when the first page is
asked for (the org's own work on the job is over) and ends with the commit of the last page, or of the merge for a refresh;
`whole`: from the first step to the end of the last. These moments are Postgres's.
"""

import json
import sys
import time
from datetime import datetime
from typing import Any

from sqlalchemy import text

from bench.measure import report
from worker.mirror import steps
from worker.runtime import Runtime, runtime

RUN = "SELECT kind, state, stage, error, due_at <= clock_timestamp() AS due FROM sfsync.runs WHERE id = :run"
LAST_PAGE = "SELECT max(loaded_at) FROM sfsync.run_pages WHERE run_id = :run"


def ask(rt: Runtime, statement: str, run_id: int) -> Any:
    """First row of one statement about the run."""
    with rt.database.transaction() as session:
        return session.execute(text(statement), {"run": run_id}).one()


def drive(rt: Runtime, run_id: int, *, whole: bool = False) -> float:
    """Take every step of the run; the seconds of the measured part."""
    begin: datetime | None = rt.database.now() if whole else None
    while True:
        run = ask(rt, RUN, run_id)
        if run.state == "done":
            break
        if run.state != "ready":
            raise RuntimeError(f"the run ended as {run.state} at {run.stage}: {run.error}")
        if not run.due:
            time.sleep(0.02)
            continue
        if begin is None and run.stage == "pages":
            begin = rt.database.now()
        steps.step(rt.mirrors, run_id)
    assert begin is not None
    end = ask(rt, LAST_PAGE, run_id)[0] if run.kind == "load" and not whole else rt.database.now()
    return float((end - begin).total_seconds())


if __name__ == "__main__":
    argument = json.loads(sys.argv[1])
    report(lambda: drive(runtime(), argument["run_id"], whole=argument.get("whole", False)))
