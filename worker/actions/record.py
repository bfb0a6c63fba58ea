"""Writing down what came of claimed actions: one transaction, then wake-ups for what it let go on."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import text
from sqlalchemy.orm import Session

from worker import db, exact
from worker.actions import family, store
from worker.actions.changes import Change
from worker.actions.claims import Batch, fenced
from worker.actions.deps import DELIVER, ActionDeps
from worker.actions.lifecycle import FINISHED, PASSED
from worker.actions.store import Line
from worker.db import DEADLOCK, Claim, uuid_array
from worker.salesforce.limits import COLLECTION_RECORDS

_BEHIND = """c.shared AND c.state IN ('ready', 'held') AND EXISTS (
         SELECT 1 FROM sfsync.actions m JOIN sfsync.actions b
             ON b.connection_id = m.connection_id AND b.object = m.object AND b.order_key = m.order_key
          WHERE m.id = c.id AND b.ticket <> 0 AND b.ticket < m.ticket AND b.state IN ('waiting', 'ready', 'sending', 'in_doubt'))"""
# Of actions that were sent together for one record only the first is ready or held afterwards: the others wait behind it.
# The claim is looked at behind a CASE: Postgres would take it for what leaves one row, and go through all changes for each.
# With it the attempts are written down; a look that found nothing is no news. What it answers: how many were changed, and those
# of them with which something is to be done yet, which are few where creates are delivered.
CHANGE = """
WITH n AS MATERIALIZED (
  SELECT c.*, {behind} AS behind
    FROM jsonb_to_recordset(CAST(:changes AS jsonb)) AS c(
         id uuid, state text, outcome jsonb, error jsonb, record_id text, attempt_back int, after float8, doubt float8,
         certain bool, finished bool, alone bool, shared bool)),
logged AS (
  INSERT INTO sfsync.action_attempts (action_id, way, state, code, message)
  SELECT id, :way, state, error ->> 'code', error ->> 'message' FROM n WHERE state <> 'in_doubt' OR :state <> 'in_doubt'),
changed AS (
UPDATE sfsync.actions a
   SET state = CASE WHEN n.behind THEN 'waiting' ELSE n.state END, outcome = n.outcome,
       error = CASE WHEN n.state = 'delivered' THEN NULL ELSE coalesce(n.error, a.error) END,
       record_id = coalesce(n.record_id, a.record_id), attempts = greatest(a.attempts - coalesce(n.attempt_back, 0), 0),
       due_at = clock_timestamp() + make_interval(secs => coalesce(n.after, 0)), mergeable = a.mergeable AND n.alone IS NOT TRUE,
       doubt_until = CASE WHEN n.certain IS NOT TRUE THEN greatest(a.doubt_until, clock_timestamp() + make_interval(secs => n.doubt)) END,
       claim_token = NULL, claim_owner = NULL, claim_until = NULL,
       finished_at = CASE WHEN n.finished THEN clock_timestamp() END
  FROM n
 WHERE a.id = n.id AND a.id = ANY(CAST(:ids AS uuid[]))
   AND CASE WHEN a.state = :state AND (a.claim_token = :token OR a.ingest_job_id = :job) THEN true ELSE false END
RETURNING a.id, a.object, a.order_key, a.record_id, a.state, a.ticket, a.doubt_until, a.doubt_until > clock_timestamp() AS may_land)
SELECT total.number, c.id, c.object, c.order_key, c.record_id, c.state, c.doubt_until, c.may_land
  FROM (SELECT count(*) AS number FROM changed) AS total
  LEFT JOIN changed AS c ON c.ticket <> 0 OR c.may_land
""".replace("{behind}", _BEHIND)
# What an unanswered sending could still overwrite waits until it can no longer land: the record's line is kept quiet.
QUIET = """
INSERT INTO sfsync.action_lines AS l (connection_id, object, order_key, quiet_until)
SELECT :connection, w.object, w.order_key, w.until
  FROM jsonb_to_recordset(CAST(:lines AS jsonb)) AS w(object text, order_key text, until timestamptz)
 ORDER BY w.object, w.order_key
    ON CONFLICT (connection_id, object, order_key) DO UPDATE SET quiet_until = greatest(l.quiet_until, EXCLUDED.quiet_until)
"""


def record(deps: ActionDeps, batch: Batch, changes: Sequence[Change], *, under: Claim | None = None) -> None:
    """Write the changes, all or none; `under`: the claim on the Bulk job that the batch went by. FencedError: not ours any more."""
    if not changes:
        return

    def at_once() -> list[int]:
        with deps.database.transaction() as session:
            if under is not None:
                db.guard(session, under)
            return write(session, batch, changes)

    # Our locks have an order; the rows of the URLs that are told of outcomes have none. Postgres ends one of two that wait for
    # each other: it writes again, for without its outcomes the whole batch would be in doubt.
    for queue_id in db.persist(at_once, (DEADLOCK,)):
        deps.wake(DELIVER, queue_id)


def write(session: Session, batch: Batch, changes: Sequence[Change]) -> list[int]:
    """Write what became of claimed actions, and let go on what waited for it. All or nothing.

    The ids of other queues that have work because of it, to be woken after the commit. FencedError when one of the actions is no
    longer under this claim: somebody else decides about it now.
    """
    connection_id, object_name = batch.queue.connection_id, batch.queue.object
    ending = [one.id for one in changes if one.state in PASSED]
    store.lock_lines(session, connection_id, _lines(batch, changes) | family.lines_of_children(session, ending))
    rows = session.execute(text(CHANGE), _values(batch, changes)).all()
    if rows[0].number != len(changes):
        raise fenced(batch)
    behind = {row.id for row in rows if row.state == "waiting"}
    ended = {one for one in ending if one not in behind}
    keep_quiet(session, connection_id, [row for row in rows if row.may_land and row.id in ended])
    moved = behind.union(ended) - {one.id for one in batch.actions if one.ticket == 0}
    waiting = {(object_name, row.order_key) for row in rows if row.id in moved}
    delivered = {one.id for one in changes if one.state == "delivered"}
    settled = family.settle(session, connection_id, ended, waiting, well=delivered)
    return [store.awaken(session, connection_id, one).id for one in sorted(settled.objects - {object_name})]


def _lines(batch: Batch, changes: Sequence[Change]) -> set[Line]:
    """The lines of the actions and of their records.

    Nothing stands behind what stands alone, and there is nothing to keep quiet for it unless a sending had no answer.
    """
    orders = {one.id: one.order_key for one in batch.actions if one.ticket or one.doubted}
    keys = [(orders[one.id], one.record_id) for one in changes if one.id in orders]
    return {(batch.queue.object, key) for pair in keys for key in pair if key}


def _values(batch: Batch, changes: Sequence[Change]) -> dict[str, Any]:
    updates = {one.id for one in batch.actions if one.operation == "update"}
    return {
        "changes": _json([_row(one, shared=one.id in updates) for one in changes]),
        "ids": uuid_array(one.id for one in changes),
        "token": batch.token,
        "state": batch.state,
        "job": batch.job,
        "way": "look" if batch.state == "in_doubt" else batch.way,
    }


def _json(rows: Sequence[dict[str, Any]]) -> str:
    """The rows as JSON, a batch's worth at a time: the encoder holds Python's lock until it is done, 0.1 s for a Bulk job's."""
    starts = range(0, len(rows), COLLECTION_RECORDS)
    parts = [exact.dumps(rows[start : start + COLLECTION_RECORDS])[1:-1] for start in starts]
    return f"[{','.join(parts)}]"


def keep_quiet(session: Session, connection_id: int, rows: Sequence[Any]) -> None:
    """Let nothing go for these actions' lines and records until what was sent of them can no longer land.

    Rows of object, order_key, record_id, doubt_until.
    """
    if rows:
        keys = {(row.object, key): row.doubt_until for row in rows for key in (row.order_key, row.record_id) if key}
        held = [{"object": obj, "order_key": key, "until": until.isoformat()} for (obj, key), until in keys.items()]
        session.execute(text(QUIET), {"connection": connection_id, "lines": exact.dumps(held)})


def _row(change: Change, *, shared: bool) -> dict[str, Any]:
    """What CHANGE is told of one action; what is not said is false, null or 0."""
    row: dict[str, Any] = {"id": change.id.hex, "state": change.state}
    if change.problem:
        row["error"] = {**change.problem.as_json(), **(change.details or {})}
    said = {
        "outcome": change.outcome,
        "record_id": change.record_id,
        "attempt_back": int(change.attempt_back),
        "after": change.after.total_seconds(),
        "certain": change.certain,
        "finished": change.state in FINISHED,
        "alone": change.alone,
        "shared": shared,
    }
    row |= {name: value for name, value in said.items() if value}
    if change.doubt is not None:
        row["doubt"] = change.doubt.total_seconds()
    return row
