"""What goes into one call. Pure.

A batch is of one kind; its actions are heads of different lines, so that no order within a line can be broken by it. Waiting
updates of one record may ride on the same row of the call where their callers allow it (`Row`).
"""

import itertools
from collections.abc import Collection, Iterator, Sequence
from datetime import datetime
from typing import Any, NamedTuple, TypeVar
from uuid import UUID

from worker.salesforce.limits import COLLECTION_RECORDS, COMPOSITE_SUBREQUESTS

BATCH_BYTES = 4 * 1024 * 1024  # ours: far below what the org takes (50 MB), and quick to send again
MERGED_UPDATES = 1_000  # of one record in one row: a line may be endless
MERGED_AT_ONCE = 5_000  # of one call: their outcomes must be written down under its claim
PATIENCE = 3  # sendings after which what fails is sent in ever smaller batches, so that it takes nobody along

# How an action travels: see docs/architecture.md.
COLLECTION = "collection"  # sObject Collections
UPSERT = "upsert"  # the same, by an external id: sending it twice makes one record
BULK = "bulk"  # a Bulk 2.0 ingest job
KEYED = "idempotency_key"  # the UI API, one record under its own key
CONDITIONAL = "conditional"  # Composite, with If-Unmodified-Since
WAYS = (COLLECTION, UPSERT, BULK, KEYED, CONDITIONAL)

# Records of these get an owner by the org's assignment rules when REST makes them, and not when the UI API or Bulk does.
ASSIGNED = frozenset({"lead", "case"})

OWNER = "OwnerId"
KEEP_OWNER = {"Sforce-Auto-Assign": "FALSE"}  # without it REST applies those rules to updates, too

T = TypeVar("T")
H = TypeVar("H", "Head", "Pending")


class Head(NamedTuple):
    """What decides the call in which an action goes. Hundreds are looked at for each call, so it is light.

    `attempts` counts this sending. `doubted`: an earlier one had no answer; it went by `way`. `size`: of its fields, in bytes.
    `parents`: ids of records that the org locks with it.
    """

    id: UUID
    operation: str
    external_id_field: str | None
    attempts: int
    doubted: bool
    way: str | None
    mergeable: bool
    if_unmodified_since: datetime | None
    size: int
    parents: Collection[str]


class Pending(NamedTuple):
    """An action as it is sent: a `Head` with what it says. Light, too."""

    id: UUID
    operation: str
    record_id: str | None
    external_id_field: str | None
    external_id: str | None
    fields: dict[str, Any]
    order_key: str
    attempts: int
    doubted: bool
    ticket: int = 0
    way: str | None = None
    mergeable: bool = False
    if_unmodified_since: datetime | None = None
    size: int = 0
    parents: Collection[str] = ()


Kind = tuple[str, str | None, str, bool]
Row = tuple[Pending, ...]  # actions that share one record of a call, in the order in which they were accepted


def way_of(action: Head | Pending) -> str:
    """How an action is sent, unless a better way is chosen for it (a Bulk job, an idempotency key)."""
    if action.if_unmodified_since is not None:
        return CONDITIONAL
    if is_bound_to_key(action):
        return KEYED
    return UPSERT if action.operation in ("create", "upsert") and action.external_id_field is not None else COLLECTION


def is_bound_to_key(action: Head | Pending) -> bool:
    """Whether it was sent under its idempotency key without an answer: only that way is it known again."""
    return action.doubted and action.operation == "create" and action.way == KEYED


def kind_of(action: Head | Pending) -> Kind:
    """What goes into one call together."""
    return action.operation, action.external_id_field, way_of(action), action.attempts > PATIENCE


def most(action: Head | Pending) -> int:
    """How many actions of its kind go into one call."""
    match way_of(action):
        case "idempotency_key":
            return 1
        case "conditional":
            return COMPOSITE_SUBREQUESTS if action.operation == "update" else 1
    return max(1, COLLECTION_RECORDS >> max(0, action.attempts - PATIENCE))


def pick(window: Sequence[H], busy: Collection[str] = ()) -> list[H]:
    """One call's worth of the most urgent kind, from actions in the order of their urgency.

    Children of one parent ride together, and not while others of that parent are under way (`busy`): the org locks the parent.
    Nothing when all must wait for that.
    """
    taken = frozenset(busy)
    free = [one for one in window if taken.isdisjoint(one.parents)]
    if not free:
        return []
    kind = kind_of(free[0])
    same = [one for one in free if kind_of(one) == kind]
    chosen = list(itertools.islice(_siblings_together(same), most(same[0])))
    return chosen[: cut([one.size for one in chosen], records=len(chosen))]


def _siblings_together(actions: Sequence[H]) -> Iterator[H]:
    children: dict[str, list[H]] = {}
    for one in actions:
        for parent in one.parents:
            children.setdefault(parent, []).append(one)
    taken: set[UUID] = set()
    for one in actions:
        family = [one]
        for parent in sorted(one.parents):
            family += children[parent]
        for each in family:
            if each.id not in taken:
                taken.add(each.id)
                yield each


def cut(sizes: Sequence[int], *, records: int = COLLECTION_RECORDS, size: int = BATCH_BYTES) -> int:
    """How many of the first actions, with these sizes in bytes, go into one call: at least one."""
    total = 0
    for number, one in enumerate(sizes[:records]):
        total += one
        if total > size:
            return max(number, 1)
    return min(len(sizes), records)


def halves(rows: Sequence[T]) -> tuple[Sequence[T], Sequence[T]]:
    """Two parts of a batch that was refused as a whole, to find the one that is to blame. At least two rows."""
    middle = len(rows) // 2
    return rows[:middle], rows[middle:]


def owned_apart(object_name: str, rows: Sequence[Row]) -> list[Sequence[Row]]:
    """Rows in the calls that they need: whether the org's assignment rules apply is said once for a call, and creates
    that name an owner are not to be given another."""
    kind = rows[0][0]
    if object_name.lower() not in ASSIGNED or kind.operation not in ("create", "upsert"):
        return [rows]
    owned = [row for row in rows if row[0].fields.get(OWNER)]
    return [part for part in (owned, [row for row in rows if not row[0].fields.get(OWNER)]) if part]


def headers_for(object_name: str, actions: Sequence[Pending]) -> dict[str, str]:
    """Headers of a call: an update, and what names its owner, leaves or sets the owner as it says."""
    if object_name.lower() not in ASSIGNED or actions[0].operation == "delete":
        return {}
    says = actions[0].operation == "update" or all(one.fields.get(OWNER) for one in actions)
    return dict(KEEP_OWNER) if says else {}


def merged(row: Row) -> Pending:
    """The actions of a row as one: what was accepted later wins."""
    first = row[0]
    if len(row) == 1:
        return first
    fields = {name: value for one in row for name, value in one.fields.items()}
    return Pending(
        id=first.id,
        operation=first.operation,
        record_id=first.record_id,
        external_id_field=first.external_id_field,
        external_id=first.external_id,
        fields=fields,
        order_key=first.order_key,
        attempts=first.attempts,
        doubted=any(one.doubted for one in row),
        ticket=first.ticket,
        way=first.way,
    )


def body(action: Pending) -> dict[str, Any]:
    """One record of the call's body."""
    if action.operation == "update":
        return {**action.fields, "Id": action.record_id}
    if action.external_id_field is not None:
        return {**action.fields, action.external_id_field: action.external_id}
    return dict(action.fields)
