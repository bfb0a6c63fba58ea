"""What goes into one call. Pure.

A batch is of one object, one operation and one external-id field; its actions are heads of different lines, so that no
order within a line can be broken by it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar
from uuid import UUID

from worker.salesforce.limits import COLLECTION_RECORDS

BATCH_BYTES = 4 * 1024 * 1024  # ours: far below what the org takes (50 MB), and quick to send again

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Pending:
    """An action as it is sent. `doubted`: an earlier sending had no answer. `attempts` counts this one."""

    id: UUID
    operation: str
    record_id: str | None
    external_id_field: str | None
    external_id: str | None
    fields: dict[str, Any]
    order_key: str
    attempts: int
    doubted: bool


def cut(sizes: Sequence[int], *, records: int = COLLECTION_RECORDS, size: int = BATCH_BYTES) -> int:
    """How many of the first actions, with these sizes in bytes, go into one call: at least one."""
    total = 0
    for number, one in enumerate(sizes[:records]):
        total += one
        if total > size:
            return max(number, 1)
    return min(len(sizes), records)


def halves(actions: Sequence[T]) -> tuple[Sequence[T], Sequence[T]]:
    """Two parts of a batch that was refused as a whole, to find the one that is to blame. At least two actions."""
    middle = len(actions) // 2
    return actions[:middle], actions[middle:]


def body(action: Pending) -> dict[str, Any]:
    """One record of the call's body."""
    if action.operation == "update":
        return {**action.fields, "Id": action.record_id}
    if action.external_id_field is not None:
        return {**action.fields, action.external_id_field: action.external_id}
    return dict(action.fields)
