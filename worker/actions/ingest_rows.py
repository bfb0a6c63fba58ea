"""Actions as rows of a Bulk job's data, and its results as theirs. Pure.

The results of a job come in any order and carry the uploaded values, so a row is found again by what was uploaded for it:
equal rows are equal actions, and each of them may have any of their results.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any
from uuid import UUID

from worker.actions.batching import Pending, body
from worker.salesforce.ingest import NULL, ResultRow, Results
from worker.salesforce.limits import INGEST_CELL_CHARACTERS
from worker.steps import no_pause, paced

Cells = Mapping[str, str]  # by column


@dataclass(frozen=True, slots=True)
class Assigned:
    """`results`: what became of an action; `untried`: the org did not get to them; the others are in neither."""

    results: dict[UUID, ResultRow] = field(default_factory=dict)
    untried: set[UUID] = field(default_factory=set)


def cells(action: Pending) -> dict[str, str] | None:
    """The action's values by column; None when a Bulk job cannot carry them."""
    if action.operation == "delete":
        return {"Id": str(action.record_id)}
    found: dict[str, str] = {}
    for name, value in body(action).items():
        column, inner = _column(name, value)
        text = None if column is None else _text(inner)
        if column is None or text is None:
            return None
        found[column] = text
    return found


def _column(name: str, value: Any) -> tuple[str | None, Any]:
    """A parent named by its external id has a column of its own: `Account.Ext__c`."""
    if not isinstance(value, dict):
        return name, value
    if len(value) != 1:
        return None, None
    ((key, inner),) = value.items()
    return f"{name}.{key}", inner


def _text(value: Any) -> str | None:
    """One cell; None when a cell cannot say it. An empty text empties the field, as it does in JSON."""
    match value:
        case None | "":
            return NULL
        case bool():
            return "true" if value else "false"
        case Decimal():
            return format(value, "f")
        case int() | float():
            return str(value)
        case str():
            return None if value == NULL or len(value) > INGEST_CELL_CHARACTERS else value
        case _:
            return None


def table(actions: Sequence[Pending], pause: Callable[[], None] = no_pause) -> tuple[list[str], list[list[str]]]:
    """Columns and rows of the actions, which `cells` can say. The same for the same actions, whoever asks."""
    rows = [_cells(one) for one in paced(actions, pause)]
    columns = sorted({name for row in rows for name in row})
    return columns, [[row.get(name, "") for name in columns] for row in paced(rows, pause)]


def _cells(action: Pending) -> dict[str, str]:
    found = cells(action)
    assert found is not None, "what a job cannot carry is not put into one"
    return found


def assign(actions: Sequence[Pending], results: Results, pause: Callable[[], None] = no_pause) -> Assigned:
    """Each action's result: by the exact values, else by the values as an org may give them back, else by the key."""
    assigned = Assigned()
    left = list(actions)
    good = [row for row in results.tried if row.success]
    bad = [row for row in results.tried if not row.success]
    rows: list[ResultRow | Cells] = [*good, *bad, *results.untried]
    for look in (_exact, _loose, _key):
        left, rows = _assign_by(look, left, rows, assigned, pause)
    return assigned


Look = Callable[[Pending | None, Cells], Any]  # what two rows must share; None: it says nothing


def _assign_by(
    look: Look,
    actions: Sequence[Pending],
    rows: Sequence[ResultRow | Cells],
    assigned: Assigned,
    pause: Callable[[], None],
) -> tuple[list[Pending], list[ResultRow | Cells]]:
    waiting: dict[Any, list[Pending]] = defaultdict(list)
    for one in paced(reversed(actions), pause):
        waiting[look(one, _cells(one))].append(one)
    kind = actions[0] if actions else None
    over: list[ResultRow | Cells] = []
    for row in paced(rows, pause):
        key = look(kind, row.cells if isinstance(row, ResultRow) else row)
        if key is None or not waiting.get(key):
            over.append(row)
            continue
        action = waiting[key].pop()
        if isinstance(row, ResultRow):
            assigned.results[action.id] = row
        else:
            assigned.untried.add(action.id)
    unassigned = {one.id for some in waiting.values() for one in some}
    return [one for one in actions if one.id in unassigned], over


def _exact(_: Pending | None, row: Cells) -> Any:
    return frozenset((name.lower(), value) for name, value in row.items() if value != "")


def _loose(_: Pending | None, row: Cells) -> Any:
    """Without what a parser on the way may change: blanks at the ends, line ends, the form of a number or of nothing."""
    return frozenset((name.lower(), _plain(value)) for name, value in row.items() if _plain(value) not in ("", NULL))


def _plain(value: str) -> str:
    text = value.replace("\r\n", "\n").strip()
    return text.rstrip("0").rstrip(".") if "." in text and text.replace(".", "", 1).lstrip("-").isdigit() else text


def _key(kind: Pending | None, row: Cells) -> Any:
    """The record's id, or its external id in any case, where there is one."""
    by_name = {column.lower(): value.strip() for column, value in row.items()}
    if kind is not None and kind.operation in ("update", "delete"):
        return by_name.get("id", "")[:15] or None
    return by_name.get((kind.external_id_field or "").lower(), "").lower() or None if kind else None
