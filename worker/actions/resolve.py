"""Settling what is in doubt: sent, and no answer came. Never a blind second create.

Updates, upserts and deletes are sent again: twice is once; the record's next action waits until the first sending can no
longer land. A create with a key is looked up by it, and sent again (as an upsert on it) when it is not there. A create that
went under an idempotency key is sent again under it: the org answers with what the first sending made. Any other create is
looked for among the records that our user created since (see doubt.py); it is sent again only when the settling time has passed
and no record of ours is unexplained, else a person must decide.
"""

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.orm import Session

from worker import exact
from worker.actions import claims, doubt
from worker.actions.batching import Pending, is_bound_to_key
from worker.actions.changes import REFUSED, Change
from worker.actions.claims import Batch, Doubt
from worker.actions.deps import DELIVER, ActionDeps
from worker.actions.describes import describe_of
from worker.actions.lifecycle import is_exhausted
from worker.actions.outcome import Delivered, Problem
from worker.actions.queues import Queue
from worker.actions.record import record, write
from worker.attribution import attributed
from worker.errors import OrgComplaint, RejectedError
from worker.log import get_logger
from worker.salesforce import composite, rest, soql
from worker.salesforce.describe import ObjectDescribe

log = get_logger(__name__)

BEFORE = timedelta(seconds=5)  # how far before the sending a record may be stamped: stamps have whole seconds
LOOK_AGAIN = timedelta(seconds=15)
KEY_LASTS = timedelta(days=20)  # the org keeps idempotency keys for about 30
MAX_RECORDS = 10_000  # of ours since the sending: more are not looked through


def resolve(deps: ActionDeps, queue: Queue, *, now: datetime) -> bool:
    """Take one look at what is in doubt and due; False when nothing is."""
    with deps.database.transaction() as session:
        held = claims.claim_doubt(session, queue, now=now, ttl=timedelta(seconds=deps.settings.request_seconds))
    if held is None:
        return False
    again, unmet, keyed, unkeyed = _sorted(held, now)
    _write(deps, held.batch, [_send_again(one, held) for one in again])
    with attributed(cause="doubt"):
        for look, actions in ((_by_values, unmet), (_by_key, keyed), (_by_content, unkeyed)):
            if actions:
                _look(look, deps, held, actions, now)
    return True


Look = Callable[[ActionDeps, Doubt, Sequence[Pending], datetime], None]


def _look(look: Look, deps: ActionDeps, held: Doubt, actions: Sequence[Pending], now: datetime) -> None:
    """What the org does not let us look for (a field or a permission is gone) is for a person, and holds nothing else up."""
    try:
        look(deps, held, actions, now)
    except RejectedError as error:
        problem = Problem("IN_DOUBT", f"It was sent without an answer, and the org cannot be looked through: {error}")
        _write(deps, held.batch, [Change(one.id, "held", problem=problem) for one in actions])


def _sorted(held: Doubt, now: datetime) -> tuple[list[Pending], list[Pending], list[Pending], list[Pending]]:
    """What is harmless to send again; conditional updates that were refused; creates with a key of the org; other creates."""
    again: list[Pending] = []
    unmet: list[Pending] = []
    keyed: list[Pending] = []
    unkeyed: list[Pending] = []
    for one in held.batch.actions:
        refused = bool(held.errors[one.id].get(REFUSED))
        fresh = now - held.sent_at[one.id] < KEY_LASTS
        if one.operation == "create":
            by_key = is_bound_to_key(one) and fresh and not refused
            (again if by_key else keyed if one.external_id_field is not None else unkeyed).append(one)
        else:
            (unmet if refused and one.if_unmodified_since is not None else again).append(one)
    return again, unmet, keyed, unkeyed


def _send_again(action: Pending, held: Doubt) -> Change:
    if not is_exhausted(action.attempts):
        return Change(action.id, "ready")
    problem = held.errors[action.id]
    code, message = problem.get("code", "NO_ANSWER"), problem.get("message", "no answer came")
    return Change(
        action.id, "held", problem=Problem(code, f"sent {action.attempts} times without an answer: {message}")
    )


def _write(deps: ActionDeps, batch: Batch, changes: Sequence[Change]) -> None:
    record(deps, batch, changes)
    for change in changes:
        log.info("action.doubt_settled", action=str(change.id), state=change.state)


def _by_values(deps: ActionDeps, held: Doubt, actions: Sequence[Pending], _: datetime) -> None:
    """A condition did not hold after an unanswered sending: it may have been met then, and unmet by that very change."""
    queue = held.batch.queue
    describe = describe_of(deps, queue.connection_id, queue.object)
    names = {name for one in actions for name in doubt.comparable(describe, one.fields)}
    stamp = [name for name in ("LastModifiedById",) if describe.field(name)]
    client = deps.client(queue.connection_id)
    ids = [str(one.record_id) for one in actions]
    rows = composite.retrieve(client, queue.object, ids, ["Id", *stamp, *sorted(names)])
    users = _users(deps, queue, min(held.sent_at[one.id] for one in actions))
    changes = []
    for one, row in zip(actions, rows, strict=True):
        sent = doubt.comparable(describe, one.fields)
        ours = row is not None and (not stamp or not users or row.get("LastModifiedById") in users)
        if row is not None and ours and sent and sent.items() <= doubt.comparable(describe, row).items():
            found = Delivered(str(one.record_id), adopted=True)
            changes.append(Change(one.id, "delivered", outcome=found.as_json()))
        else:
            changes.append(Change(one.id, "conflict", problem=_unmet(held.errors[one.id])))
    _write(deps, held.batch, changes)


def _unmet(error: dict[str, Any]) -> Problem:
    text = "It was sent once before without an answer; its record does not hold what was sent, and was changed since."
    return Problem(str(error.get("code", "PRECONDITION_FAILED")), f"{error.get('message', '')} {text}".strip())


def _by_key(deps: ActionDeps, held: Doubt, actions: Sequence[Pending], now: datetime) -> None:
    """Look for the keys; what is there is delivered, what is not is sent again."""
    field = str(actions[0].external_id_field)
    same = [one for one in actions if one.external_id_field == field]
    client = deps.client(held.batch.queue.connection_id)
    where = soql.in_list(field, [one.external_id for one in same])
    select = soql.select(held.batch.queue.object, ["Id", field], where=where)
    page = rest.query(client, select, all_rows=True)  # what somebody has deleted since was made all the same
    there = {str(record[field]): str(record["Id"]) for record in page.records}
    _write(deps, held.batch, [_keyed(one, there.get(str(one.external_id)), held, now) for one in same])


def _keyed(action: Pending, record_id: str | None, held: Doubt, now: datetime) -> Change:
    if record_id is not None:
        return _adopt(action.id, record_id)
    problem = held.errors[action.id]
    if not problem.get(REFUSED):
        return _send_again(action, held)
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
    records = _ours(deps, queue, describe, actions, since)
    settling = timedelta(seconds=deps.settings.settling_seconds)
    with deps.database.transaction() as session:
        pairing = _pairing(session, queue, describe, records, now)
        queues = write(session, held.batch, [_unkeyed(one, pairing, held, now, settling) for one in actions])
    for queue_id in queues:
        deps.wake(DELIVER, queue_id)
    log.info("actions.looked_for", actions=len(actions), records=len(records), adopted=len(pairing.adopted))


ONE_AT_A_TIME = "SELECT pg_advisory_xact_lock(1, CAST(:queue AS int))"
# One user of the org may have several connections: records that one of them made are not to be taken for another's.
SAME_USER = """
SELECT c.id FROM public.salesforce_oauth_tokens c JOIN public.salesforce_oauth_tokens me ON me.id = :connection
 WHERE c.id = me.id OR c.salesforce_user_id = me.salesforce_user_id
"""
# Sent under its idempotency key and to be sent so again: the org will name its record. The same as in `_sorted`.
BOUND = """(way = 'idempotency_key' AND doubt_until IS NOT NULL AND sent_at > :key_since
            AND NOT coalesce(CAST(error ->> 'refused' AS boolean), false))"""
# Every sending that may have made a record whose id is not written down yet; one that waits to be sent again under its key, too.
UNDER_WAY = """
SELECT CAST(fields AS text) AS fields FROM sfsync.actions
 WHERE connection_id = ANY(:connections) AND object = :object AND operation IN ('create', 'upsert')
   AND (state = 'sending' OR state = 'in_doubt' AND (external_id_field IS NOT NULL OR connection_id <> :connection OR {bound})
        OR state = 'ready' AND doubt_until IS NOT NULL)
""".replace("{bound}", BOUND)
DOUBTFUL = """
SELECT id, CAST(fields AS text) AS fields, sent_at FROM sfsync.actions
 WHERE connection_id = :connection AND object = :object AND operation = 'create' AND external_id_field IS NULL
   AND state = 'in_doubt' AND NOT {bound}
 ORDER BY sent_at, id
""".replace("{bound}", BOUND)
NAMED = """
SELECT record_id FROM sfsync.actions
 WHERE connection_id = ANY(:connections) AND operation IN ('create', 'upsert') AND record_id = ANY(:ids)
"""


def _pairing(
    session: Session, queue: Queue, describe: ObjectDescribe, records: Sequence[doubt.Found], now: datetime
) -> doubt.Pairing:
    """Pair everything in doubt with what the org holds. The order of the statements matters, for each sees what was
    committed before it: a create that gets its outcome in between is still seen as under way, so its record is left alone.
    """
    connections = session.scalars(text(SAME_USER), {"connection": queue.connection_id}).all()
    of_queue = {
        "connection": queue.connection_id,
        "connections": list(connections),
        "object": queue.object,
        "key_since": now - KEY_LASTS,
    }
    session.execute(text(ONE_AT_A_TIME), {"queue": queue.id})
    flying = session.execute(text(UNDER_WAY), of_queue).all()
    doubtful = session.execute(text(DOUBTFUL), of_queue).all()
    values = {"connections": list(connections), "ids": [one.id for one in records]}
    named = set(session.scalars(text(NAMED), values))
    return doubt.pair(
        [doubt.Suspect(row.id, _comparable(describe, row), row.sent_at - BEFORE) for row in doubtful],
        [one for one in records if one.id not in named],
        [_comparable(describe, row) for row in flying],
    )


def _comparable(describe: ObjectDescribe, row: Any) -> dict[str, Any]:
    return doubt.comparable(describe, exact.loads(row.fields))


def _unkeyed(action: Pending, pairing: doubt.Pairing, held: Doubt, now: datetime, settling: timedelta) -> Change:
    if action.id in pairing.adopted:
        return _adopt(action.id, pairing.adopted[action.id])
    left = held.until[action.id] - now
    if left > timedelta(0):  # it may still land: look soon, then ever less often, and at the end
        passed = settling - left
        return Change(action.id, "in_doubt", after=min(max(LOOK_AGAIN, passed), left + timedelta(seconds=1)))
    if pairing.under_way:  # a record of ours may be that of a sending whose answer is still to come
        return Change(action.id, "in_doubt", after=LOOK_AGAIN)
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


# Whose the connection is, and whose it was when the oldest of them was sent, if that was another (the org's clock may differ).
USERS = """
SELECT salesforce_user_id,
       CASE WHEN user_changed_at > :since - interval '15 minutes' THEN former_salesforce_user_id END
  FROM public.salesforce_oauth_tokens WHERE id = :connection
"""
NOBODY = OrgComplaint("UNKNOWN_USER", "the org did not say which user this connection is")


def _ours(
    deps: ActionDeps, queue: Queue, describe: ObjectDescribe, actions: Sequence[Pending], since: datetime
) -> list[doubt.Found]:
    """Records that our user created since, deleted ones too, with the fields that were sent."""
    users = _users(deps, queue, since)
    if not users:
        raise RejectedError(0, (NOBODY,))
    names = sorted({name for one in actions for name in doubt.comparable(describe, one.fields)})
    where = soql.all_of(soql.in_list("CreatedById", users), f"CreatedDate >= {soql.literal(since)}")
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


def _users(deps: ActionDeps, queue: Queue, since: datetime) -> list[str]:
    """Users of the org who may have sent something for this connection since then."""
    values = {"connection": queue.connection_id, "since": since}
    with deps.database.transaction() as session:
        return [str(one) for one in session.execute(text(USERS), values).one() if one is not None]


TOO_MANY = OrgComplaint("TOO_MANY_RECORDS", f"more than {MAX_RECORDS:,} records were created by this user since")


def _found(describe: ObjectDescribe, row: dict[str, Any]) -> doubt.Found:
    return doubt.Found(str(row["Id"]), doubt.comparable(describe, row), rest.parse_instant(row["CreatedDate"]))
