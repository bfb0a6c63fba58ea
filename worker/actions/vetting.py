"""Checking what SQL enqueued: it could not ask describe, so a worker does before anything is sent.

What is wrong is rejected with a reason that says who refused it; what is right gets the org's own names, a create its key,
and takes its turn. Killed anywhere, or done by two workers at once: what is checked is found checked.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any
from uuid import UUID

from sqlalchemy import RowMapping, text
from sqlalchemy.orm import Session

from worker import exact
from worker.actions import family, store
from worker.actions.check import Fault, canonical
from worker.actions.checking import external_key, intent_faults
from worker.actions.deps import ActionDeps
from worker.actions.describes import describe_again, describe_of
from worker.actions.intent import Intent, well_formed
from worker.actions.queues import Queue
from worker.errors import RejectedError, SyncError
from worker.log import get_logger
from worker.salesforce.describe import ObjectDescribe

log = get_logger(__name__)

AT_ONCE = 2_000

UNCHECKED = """
SELECT a.id, a.operation, a.record_id, a.external_id_field, a.external_id, CAST(a.fields AS text) AS fields, a.order_key, a.ticket,
       (SELECT jsonb_object_agg(p.field, jsonb_build_object('id', p.parent_id, 'object', b.object))
          FROM sfsync.action_parents p JOIN sfsync.actions b ON b.id = p.parent_id WHERE p.action_id = a.id) AS parents
  FROM sfsync.actions a
 WHERE a.connection_id = :connection AND a.object = :object AND NOT a.checked AND a.state = 'waiting'
 ORDER BY a.created_at LIMIT :limit
"""
LET_GO = """
UPDATE sfsync.actions a
   SET checked = true, object = :name, fields = n.fields, external_id_field = n.external_id_field, external_id = n.external_id,
       ticket = n.ticket, state = CASE WHEN n.alone THEN 'ready' ELSE 'waiting' END, due_at = clock_timestamp()
  FROM jsonb_to_recordset(CAST(:actions AS jsonb)) AS n(
       id uuid, fields jsonb, external_id_field text, external_id text, ticket bigint, alone bool)
 WHERE a.id = n.id AND NOT a.checked AND a.state = 'waiting'
"""
RENAME_PARENT = """
UPDATE sfsync.action_parents p SET field = n.field
  FROM jsonb_to_recordset(CAST(:fields AS jsonb)) AS n(id uuid, given text, field text)
 WHERE p.action_id = n.id AND p.field = n.given AND p.field <> n.field
"""
REFUSE = """
WITH refused AS (
    UPDATE sfsync.actions a
       SET checked = true, state = 'rejected', error = n.error, finished_at = clock_timestamp(), ticket = greatest(a.ticket, 0)
      FROM jsonb_to_recordset(CAST(:actions AS jsonb)) AS n(id uuid, error jsonb)
     WHERE a.id = n.id AND NOT a.checked AND a.state = 'waiting'
    RETURNING a.id, a.error)
INSERT INTO sfsync.action_attempts (action_id, way, state, code, message)
SELECT id, 'check', 'rejected', error ->> 'code', error ->> 'message' FROM refused
"""


@dataclass(frozen=True, slots=True)
class _Row:
    """An unchecked action: what it asks, and the order key of its line."""

    id: UUID
    order_key: str
    ticket: int
    intent: Intent
    parents: Mapping[str, store.Parent]


def vet(deps: ActionDeps, queue: Queue) -> bool:
    """Check some of what a queue has still to check; False when it is nothing.

    Raises what asking the org for a describe may raise where none is kept.
    """
    values = {"connection": queue.connection_id, "object": queue.object, "limit": AT_ONCE}
    with deps.database.transaction() as session:
        rows = [_row(queue, row) for row in session.execute(text(UNCHECKED), values).mappings()]
    if not rows:
        return False
    try:
        describe, wrong = _judge(deps, queue, rows)
    except RejectedError as error:  # there is no such object
        first = error.complaints[0]
        describe, wrong = None, {row.id: [Fault(first.code, first.message)] for row in rows}
    with deps.database.transaction() as session:
        _write(deps, session, queue, rows, describe, wrong)
    log.info("actions.checked", actions=len(rows), rejected=len(wrong))
    return True


def _row(queue: Queue, row: RowMapping) -> _Row:
    parents = {
        name: store.Parent(UUID(parent["id"]), parent["object"], "create", "waiting")
        for name, parent in (row["parents"] or {}).items()
    }
    intent = Intent(
        object=queue.object,
        operation=row["operation"],
        fields=exact.loads(row["fields"]),
        record_id=row["record_id"],
        external_id_field=row["external_id_field"],
        external_id=row["external_id"],
        parents={name: parent.id for name, parent in parents.items()},
    )
    return _Row(row["id"], row["order_key"], row["ticket"], intent, parents)


def _judge(deps: ActionDeps, queue: Queue, rows: Sequence[_Row]) -> tuple[ObjectDescribe, dict[UUID, list[Fault]]]:
    """By the kept describe; what it refuses is judged by the org's present one, where it can be asked."""
    describe = describe_of(deps, queue.connection_id, queue.object)
    wrong = _faults(describe, rows)
    if wrong:
        try:
            describe = describe_again(deps, queue.connection_id, queue.object)
        except RejectedError:
            raise
        except SyncError as error:
            log.info("actions.describe_kept", error=type(error).__name__)
        else:
            wrong = _faults(describe, rows)
    return describe, wrong


def _faults(describe: ObjectDescribe, rows: Sequence[_Row]) -> dict[UUID, list[Fault]]:
    found = {}
    for row in rows:
        _, sentences = well_formed(row.intent)
        formal = [Fault("VALIDATION_ERROR", sentence) for sentence in sentences]
        found[row.id] = formal or intent_faults(describe, row.intent, row.parents)
    return {action_id: faults for action_id, faults in found.items() if faults}


def _write(
    deps: ActionDeps,
    session: Session,
    queue: Queue,
    rows: Sequence[_Row],
    describe: ObjectDescribe | None,
    wrong: Mapping[UUID, Sequence[Fault]],
) -> None:
    """The verdicts, in one transaction. The lines are locked first, as everywhere."""
    name = describe.name if describe else queue.object
    lines = {(queue.object, row.order_key) for row in rows if row.ticket} | family.lines_of_children(session, wrong)
    store.lock_lines(session, queue.connection_id, lines)
    refused = [{"id": str(one), "error": _error(faults)} for one, faults in wrong.items()]
    session.execute(text(REFUSE), {"actions": exact.dumps(refused)})
    right = [row for row in rows if row.id not in wrong]
    if describe is not None and right:
        if name != queue.object:  # nobody knew the org's spelling when these came: they move to the line of that name
            right = _renumbered(session, queue.connection_id, name, right)
            lines |= {(name, row.order_key) for row in right if row.ticket}
        chosen = deps.settings.external_key_field
        passed = [_passed(describe, row, chosen) for row in right]
        session.execute(text(LET_GO), {"name": name, "actions": exact.dumps(passed)})
        fields = [
            {"id": str(row.id), "given": given, "field": found.name}
            for row in right
            for given in row.parents
            if (found := describe.field(given))
        ]
        session.execute(text(RENAME_PARENT), {"fields": exact.dumps(fields)})
    children = [row.id for row in right if row.parents]  # whose parents may have failed meanwhile
    settled = family.settle(session, queue.connection_id, [*wrong, *children], lines)
    for other in sorted(({name} | settled.objects) - {queue.object}):
        store.awaken(session, queue.connection_id, other)


def _renumbered(session: Session, connection_id: int, name: str, rows: Sequence[_Row]) -> list[_Row]:
    return [
        replace(row, ticket=store.take_ticket(session, connection_id, (name, row.order_key))) if row.ticket else row
        for row in sorted(rows, key=lambda one: (one.order_key, one.ticket))
    ]


def _passed(describe: ObjectDescribe, row: _Row, chosen: str) -> dict[str, Any]:
    fields = canonical(describe, row.intent.fields)
    external_id_field, external_id = external_key(describe, replace(row.intent, fields=fields), row.id, chosen)
    return {
        "id": str(row.id),
        "fields": fields,
        "external_id_field": external_id_field,
        "external_id": external_id,
        "ticket": row.ticket,
        "alone": row.ticket == 0,
    }


def _error(faults: Sequence[Fault]) -> dict[str, Any]:
    """The action's `error`: the first fault's code, everybody's words; `by` tells it from a refusal of the org."""
    fields = list(dict.fromkeys(name for fault in faults for name in fault.fields))
    message = " ".join(fault.message for fault in faults)
    return {"code": faults[0].code, "message": message, "fields": fields, "by": "sfsync"}
