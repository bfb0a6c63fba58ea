"""Writing down what came of claimed actions: one transaction, then wake-ups for what it let go on."""

from collections.abc import Sequence

from worker import db
from worker.actions import claims
from worker.actions.changes import Change
from worker.actions.claims import Batch
from worker.actions.deps import DELIVER, ActionDeps
from worker.db import Claim


def record(deps: ActionDeps, batch: Batch, changes: Sequence[Change], *, under: Claim | None = None) -> None:
    """Write the changes, all or none; `under`: the claim on the Bulk job that the batch went by. FencedError: not ours any more."""
    if not changes:
        return
    with deps.database.transaction() as session:
        if under is not None:
            db.guard(session, under)
        queues = claims.write(session, batch, changes)
    for queue_id in queues:
        deps.wake(DELIVER, queue_id)
