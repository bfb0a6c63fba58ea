"""Settling what is in doubt: sent, and no answer came. Never a blind second create.

Updates, upserts and deletes are sent again: twice is once; the record's next action waits until the first sending can no
longer land. A create with a key is looked up by it, and sent again (as an upsert on it) when it is not there. A create
without a key is looked for among the records that our user created since (see doubt.py); it is sent again only when the
settling time has passed and no record of ours is unexplained, else a person must decide.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.orm import Session

from worker.actions import claims, doubt, exact
from worker.actions.batching import Pending
from worker.actions.claims import Batch, Change, Doubt, Queue
from worker.actions.deps import ActionDeps
from worker.actions.describes import describe_of
from worker.actions.outcome import Delivered, Problem
from worker.attribution import attributed
from worker.errors import OrgComplaint, RejectedError
from worker.log import get_logger
from worker.salesforce import rest, soql
from worker.salesforce.describe import ObjectDescribe

log = get_logger(__name__)

REFUSED = "refused"  # in an action's error: a second sending was refused, while the first may still land
BEFORE = timedelta(seconds=5)  # how far before the sending a record may be stamped: stamps have whole seconds
LOOK_AGAIN = timedelta(seconds=15)
MAX_RECORDS = 10_000  # of ours since the sending: more are not looked through


def resolve(deps: ActionDeps, queue: Queue, *, now: datetime) -> bool:
    """Take one look at what is in doubt and due; False when nothing is."""
    with deps.database.transaction() as session:
        held = claims.claim_doubt(session, queue, now=now, ttl=timedelta(seconds=deps.settings.request_seconds))
    if held is None:
        return False
    repeatable = [one for one in held.batch.actions if one.operation != "create"]
    if repeatable:
        _write(deps, held.batch, [Change(one.id, "ready") for one in repeatable])
    for keyed in (True, False):
        creates = [
            one
            for one in held.batch.actions
            if one.operation == "create" and (one.external_id_field is not None) == keyed
        ]
        if creates:
            with attributed(cause="doubt"):
                (_by_key if keyed else _by_content)(deps, held, creates, now)
    return True


def _write(deps: ActionDeps, batch: Batch, changes: Sequence[Change]) -> None:
    if not changes:
        return
    with deps.database.transaction() as session:
        claims.write(session, batch, changes)
    for change in changes:
        log.info("action.doubt_settled", action=str(change.id), state=change.state)


def _by_key(deps: ActionDeps, held: Doubt, actions: Sequence[Pending], now: datetime) -> None:
    """Look for the keys; what is there is delivered, what is not is sent again."""
    field = str(actions[0].external_id_field)
    same = [one for one in actions if one.external_id_field == field]
    client = deps.client(held.batch.queue.connection_id)
    where = soql.in_list(field, [one.external_id for one in same])
    page = rest.query(client, soql.select(held.batch.queue.object, ["Id", field], where=where))
    there = {str(record[field]): str(record["Id"]) for record in page.records}
    _write(deps, held.batch, [_keyed(one, there.get(str(one.external_id)), held, now) for one in same])


def _keyed(action: Pending, record_id: str | None, held: Doubt, now: datetime) -> Change:
    if record_id is not None:
        return _adopt(action.id, record_id)
    problem = held.errors[action.id]
    if not problem.get(REFUSED):
        return Change(action.id, "ready")
    if now < held.until[action.id]:
        return Change(action.id, "in_doubt", after=held.until[action.id] - now)
    return Change(action.id, "rejected", problem=Problem(problem["code"], problem["message"], tuple(problem["fields"])))


def _adopt(action_id: UUID, record_id: str) -> Change:
    found = Delivered(record_id, created=True, adopted=True)
    return Change(action_id, "delivered", outcome=found.as_json(), record_id=record_id)


def _by_content(deps: ActionDeps, held: Doubt, actions: Sequence[Pending], now: datetime) -> None:
    """One read for all of them, then one transaction that compares it with every outcome that is known by then."""
    queue = held.batch.queue
    describe = describe_of(deps, queue.connection_id, queue.object)
    since = min(held.sent_at[one.id] for one in actions) - BEFORE
    try:
        records = _ours(deps, queue, describe, actions, since)
    except RejectedError as error:
        problem = Problem("IN_DOUBT", f"It was sent without an answer, and the org cannot be looked through: {error}")
        return _write(deps, held.batch, [Change(one.id, "held", problem=problem) for one in actions])
    with deps.database.transaction() as session:
        pairing = _pairing(session, queue, describe, records)
        claims.write(session, held.batch, [_unkeyed(one, pairing, held, now) for one in actions])
    log.info("actions.looked_for", actions=len(actions), records=len(records), adopted=len(pairing.adopted))
    return None


ONE_AT_A_TIME = "SELECT pg_advisory_xact_lock(1, CAST(:queue AS int))"
UNKEYED = """
SELECT id, CAST(fields AS text) AS fields, sent_at FROM sfsync.actions
 WHERE connection_id = :connection AND object = :object AND operation = 'create' AND external_id_field IS NULL
   AND state = :state
 ORDER BY sent_at, id
"""
NAMED = """
SELECT record_id FROM sfsync.actions
 WHERE connection_id = :connection AND operation IN ('create', 'upsert') AND record_id = ANY(:ids)
"""


def _pairing(session: Session, queue: Queue, describe: ObjectDescribe, records: Sequence[doubt.Found]) -> doubt.Pairing:
    """Pair everything in doubt with what the org holds. The order of the statements matters, for each sees what was
    committed before it: a create that gets its outcome in between is still seen as under way, so its record is left alone.
    """
    of_queue = {"connection": queue.connection_id, "object": queue.object}
    session.execute(text(ONE_AT_A_TIME), {"queue": queue.id})
    flying = session.execute(text(UNKEYED), {**of_queue, "state": "sending"}).all()
    doubtful = session.execute(text(UNKEYED), {**of_queue, "state": "in_doubt"}).all()
    values = {"connection": queue.connection_id, "ids": [one.id for one in records]}
    named = set(session.scalars(text(NAMED), values))
    return doubt.pair(
        [doubt.Suspect(row.id, _comparable(describe, row), row.sent_at - BEFORE) for row in doubtful],
        [one for one in records if one.id not in named],
        [_comparable(describe, row) for row in flying],
    )


def _comparable(describe: ObjectDescribe, row: Any) -> dict[str, Any]:
    return doubt.comparable(describe, exact.loads(row.fields))


def _unkeyed(action: Pending, pairing: doubt.Pairing, held: Doubt, now: datetime) -> Change:
    if action.id in pairing.adopted:
        return _adopt(action.id, pairing.adopted[action.id])
    left = held.until[action.id] - now
    if left > timedelta(0):  # it may still land
        return Change(action.id, "in_doubt", after=min(LOOK_AGAIN, left + timedelta(seconds=1)))
    if not pairing.unexplained:
        return Change(action.id, "ready", certain=True)
    text = "It was sent without an answer. One of these records may be it: retry it if none is, else cancel it."
    return Change(
        action.id,
        "held",
        problem=Problem("IN_DOUBT", text),
        details={"candidates": list(pairing.unexplained[:20])},
        certain=True,
    )


USER = "SELECT salesforce_user_id FROM public.salesforce_oauth_tokens WHERE id = :connection"
NOBODY = OrgComplaint("UNKNOWN_USER", "the org did not say which user this connection is")


def _ours(
    deps: ActionDeps, queue: Queue, describe: ObjectDescribe, actions: Sequence[Pending], since: datetime
) -> list[doubt.Found]:
    """Records that our user created since, deleted ones too, with the fields that were sent."""
    with deps.database.transaction() as session:
        user = session.scalar(text(USER), {"connection": queue.connection_id})
    if user is None:
        raise RejectedError(0, (NOBODY,))
    names = sorted({name for one in actions for name in doubt.comparable(describe, one.fields)})
    where = soql.all_of(f"CreatedById = {soql.literal(user)}", f"CreatedDate >= {soql.literal(since)}")
    client = deps.client(queue.connection_id)
    fields = list(dict.fromkeys(["Id", "CreatedDate", *names]))
    page = rest.query(client, soql.select(describe.name, fields, where=where), all_rows=True)
    rows = list(page.records)
    while page.next_url:
        if len(rows) > MAX_RECORDS:
            raise RejectedError(0, (TOO_MANY,))
        page = rest.more(client, page.next_url)
        rows += page.records
    return [_found(describe, row) for row in rows]


TOO_MANY = OrgComplaint("TOO_MANY_RECORDS", f"more than {MAX_RECORDS:,} records were created by this user since")


def _found(describe: ObjectDescribe, row: dict[str, Any]) -> doubt.Found:
    return doubt.Found(str(row["Id"]), doubt.comparable(describe, row), rest.parse_instant(row["CreatedDate"]))
