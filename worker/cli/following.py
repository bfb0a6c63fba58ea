"""Wait for runs with a progress bar each; where no worker is alive for a run's lane, take its steps here."""

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime

from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn
from sqlalchemy import text

from worker.cli.output import errors
from worker.errors import DisconnectedError
from worker.mirror import steps
from worker.runtime import Runtime
from worker.steps import Step

LOOK_SECONDS = 0.2
AT_ONCE = 2  # runs whose steps are taken here at the same time
STAGES = {
    "begin": "describing",
    "ask": "asking the org",
    "read": "reading",
    "wait": "the org is preparing",
    "pages": "loading",
    "loaded": "merging",
    "look": "looking again",
    "refresh": "refreshing",
    "confirm": "looking again",
    "report": "reporting",
}

RUNS = """
SELECT r.id, r.kind, r.lane, m.object, r.state, r.stage, r.rows_read, r.rows_expected, r.rows_changed, r.rows_deleted,
       r.rows_rejected, r.nul_bytes, r.calls, r.error, r.started_at, r.finished_at, c.state AS connection_state, c.user_id,
       r.due_at <= clock_timestamp() AND coalesce(r.claim_until < clock_timestamp(), true) AS due
  FROM sfsync.runs r JOIN sfsync.mirrors m ON m.id = r.mirror_id JOIN salesforce_oauth_tokens c ON c.id = m.connection_id
 WHERE r.id = ANY(:ids) ORDER BY r.id
"""
LIVE_LANES = """
SELECT DISTINCT unnest(string_to_array(lanes, ' ')) FROM sfsync.processes
 WHERE role = 'worker' AND seen_at > clock_timestamp() - interval '10 seconds'
"""


@dataclass(frozen=True, slots=True)
class Followed:
    """One run as it stands."""

    id: int
    kind: str
    lane: str
    object: str
    state: str
    stage: str
    rows_read: int
    rows_expected: int | None
    rows_changed: int
    rows_deleted: int
    rows_rejected: int
    nul_bytes: int
    calls: int
    error: str | None
    started_at: datetime | None
    finished_at: datetime | None
    connection_state: str
    user_id: str
    due: bool

    @property
    def seconds(self) -> float | None:
        """From the first step to the end."""
        return (self.finished_at - self.started_at).total_seconds() if self.finished_at and self.started_at else None


def look(rt: Runtime, run_ids: Sequence[int]) -> list[Followed]:
    """The runs as they stand."""
    with rt.database.transaction() as session:
        return [Followed(**row) for row in session.execute(text(RUNS), {"ids": list(run_ids)}).mappings()]


def live_lanes(rt: Runtime) -> set[str]:
    """Lanes for which a worker gave a sign of life in the last ten seconds."""
    with rt.database.transaction() as session:
        return set(session.scalars(text(LIVE_LANES)))


def follow(rt: Runtime, run_ids: Sequence[int], *, quiet: bool) -> list[Followed]:
    """Return when every run has ended. Raises DisconnectedError when the org's consent is gone."""
    with _bars(quiet) as progress, ThreadPoolExecutor(AT_ONCE, thread_name_prefix="step") as pool:
        driver = Driver(rt, pool.submit)
        bars: dict[int, TaskID] = {}
        while True:
            runs = look(rt, run_ids)
            for run in runs:
                _show(progress, bars, run)
            waiting = [run for run in runs if run.state == "ready"]
            if not waiting and not driver.busy():
                return runs
            _refuse_revoked(waiting)
            driver.drive(waiting)
            time.sleep(LOOK_SECONDS)


class Driver:
    """Takes the steps of runs whose lane has no worker."""

    def __init__(self, rt: Runtime, submit: Callable[..., Future[Step]]) -> None:
        self.rt = rt
        self.submit = submit
        self.said = False
        self.in_hand: dict[int, Future[Step]] = {}

    def busy(self) -> bool:
        """Whether a step is under way here. A bug in a step comes out here."""
        for run_id, future in list(self.in_hand.items()):
            if future.done():
                del self.in_hand[run_id]
                future.result()
        return bool(self.in_hand)

    def drive(self, runs: Sequence[Followed]) -> None:
        """Begin the steps that are due and that no worker will take."""
        self.busy()
        if not runs:
            return
        live = live_lanes(self.rt)
        for run in runs:
            if run.lane in live or not run.due or run.id in self.in_hand or len(self.in_hand) >= AT_ONCE:
                continue
            if not self.said:
                errors.print(f"No worker of the lane {run.lane} is running: the work is done here.", highlight=False)
                self.said = True
            self.in_hand[run.id] = self.submit(steps.step, self.rt.mirrors, run.id)


def _refuse_revoked(runs: Sequence[Followed]) -> None:
    for run in runs:
        if run.connection_state != "active":
            raise DisconnectedError(
                f"the connection of {run.user_id} is {run.connection_state}: sfsync connect --user-id {run.user_id}; "
                "what was asked for goes on then"
            )


def _bars(quiet: bool) -> Progress:
    return Progress(
        SpinnerColumn(),
        TextColumn("{task.fields[object]:<16} {task.description:<22}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=errors,
        disable=quiet,
        transient=False,
    )


def _show(progress: Progress, bars: dict[int, TaskID], run: Followed) -> None:
    if run.id not in bars:
        bars[run.id] = progress.add_task("", object=run.object, total=None)
    words = STAGES.get(run.stage, run.stage) if run.state == "ready" else run.state
    whole = run.rows_read if run.state == "done" else run.rows_expected
    progress.update(bars[run.id], description=words, completed=run.rows_read, total=whole)
    if run.state != "ready":
        progress.stop_task(bars[run.id])
