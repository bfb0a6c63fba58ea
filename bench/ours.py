"""Our way: a worker's steps, driven in a process of its own, as a backfill worker runs them.

Argument (JSON): {"run_id"}; settings come from the environment. The measured part begins when the org's job is finished
(its time is the org's own) and ends with the commit of the last page, or of the merge for a refresh.
"""

import json
import sys
import time
from typing import Any

from sqlalchemy import text

from bench.measure import report
from worker.mirror import due, steps
from worker.runtime import Runtime, runtime

PAGES_ARE_THERE = "SELECT count(*) > 0 FROM sfsync.run_pages WHERE run_id = :run"
RUN = "SELECT state, stage, error FROM sfsync.runs WHERE id = :run"


def ask(rt: Runtime, statement: str, run_id: int) -> Any:
    """First row of one statement about the run."""
    with rt.database.transaction() as session:
        return session.execute(text(statement), {"run": run_id}).one()


def drive(rt: Runtime, run_id: int) -> float:
    """Take every step of the run; seconds from its first page to its end (without indexes and ANALYZE for a load)."""
    begin: float | None = None
    while True:
        steps.step(rt.mirrors, run_id)
        state, stage, error = ask(rt, RUN, run_id)
        if begin is None and ask(rt, PAGES_ARE_THERE, run_id)[0]:
            begin = time.perf_counter()
            load_pages(rt)
            if kind_is_load(rt, run_id):
                return time.perf_counter() - begin
        if state == "done":
            assert begin is not None
            return time.perf_counter() - begin
        if state != "ready":
            raise RuntimeError(f"the run ended as {state} at {stage}: {error}")


def load_pages(rt: Runtime) -> None:
    """Every page that is ready, until there is none."""
    while True:
        with rt.database.transaction() as session:
            pages = due.due_pages(session, limit=16)
        if not pages:
            return
        for page in pages:
            steps.load_page(rt.mirrors, page)


def kind_is_load(rt: Runtime, run_id: int) -> bool:
    """Whether the run is a first load."""
    return bool(ask(rt, "SELECT kind = 'load' FROM sfsync.runs WHERE id = :run", run_id)[0])


if __name__ == "__main__":
    argument = json.loads(sys.argv[1])
    report(lambda: drive(runtime(), argument["run_id"]))
