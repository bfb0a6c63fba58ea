"""Rows of a query's result as JSON records: parents, children, compound fields."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from local_org.catalogue import Field
from local_org.formats import formatted
from local_org.soql.plan import ChildRecords, Compound, Leaf, Output, ParentRecord, Plan, TypedParent
from local_org.values import to_json

Row = Sequence[Any]
Record = dict[str, Any]
Children = Callable[[Plan, str, tuple[str, ...]], Record | None]


@dataclass(frozen=True, slots=True)
class Rendering:
    """`children` gives the result of a child query for one parent: (plan, parent id, relationship path).

    `numeric_datetimes`: as epoch milliseconds, which is what JSON of Bulk API 1.0 has.
    """

    version: str
    zone: str
    children: Children
    numeric_datetimes: bool = False

    def record(self, plan: Plan, row: Row, path: tuple[str, ...] = ()) -> Record:
        """One record with its attributes, its values in the order in which they were selected."""
        record_id = str(row[0])
        attributes = self._attributes(plan.item.name, record_id)
        return {"attributes": attributes, **self._values(plan.outputs, row, record_id, path, attributes["url"])}

    def group(self, plan: Plan, row: Row) -> Record:
        """One group of an aggregate query."""
        return {"attributes": {"type": "AggregateResult"}, **self._values(plan.outputs, row, "", ())}

    def _attributes(self, kind: str, record_id: str, *, url_kind: str | None = None) -> Record:
        url = f"/services/data/v{self.version}/sobjects/{url_kind or kind}/{record_id}"
        return {"type": kind, "url": url}

    def _values(
        self, outputs: Sequence[Output], row: Row, record_id: str, path: tuple[str, ...], url: str = ""
    ) -> Record:
        return {output.key: self._value(output, row, record_id, path, url) for output in outputs}

    def _value(self, output: Output, row: Row, record_id: str, path: tuple[str, ...], url: str) -> Any:
        match output:
            case Leaf(field=field, index=index):
                return blob_url(url, field, row[index]) or self._leaf(output, field, row[index])
            case Compound():
                return compound_json(output.field, {part.field: row[part.index] for part in output.parts})
            case ParentRecord():
                return self._parent(output, row, path)
            case TypedParent():
                return self._typed_parent(output, row, path)
            case ChildRecords(key=key, plan=plan):
                return self.children(plan, record_id, (*path, key))

    def _leaf(self, leaf: Leaf, field: Field, stored: Any) -> Any:
        if leaf.formatted:
            return formatted(field, stored, self.zone)
        if self.numeric_datetimes and field.type == "datetime":
            return stored
        return to_json(field, stored)

    def _parent(self, output: ParentRecord, row: Row, path: tuple[str, ...]) -> Record | None:
        record_id = row[output.id_index]
        if record_id is None:
            return None
        if output.type_index is None:
            attributes = self._attributes(output.kind, record_id)
        else:
            attributes = self._attributes("Name", record_id, url_kind=row[output.type_index])
        return {"attributes": attributes, **self._values(output.outputs, row, record_id, path, attributes["url"])}

    def _typed_parent(self, output: TypedParent, row: Row, path: tuple[str, ...]) -> Record | None:
        record_id, kind = row[output.id_index], row[output.type_index]
        if record_id is None:
            return None
        outputs = output.branches.get(kind, output.otherwise)
        attributes = self._attributes(kind, record_id)
        return {"attributes": attributes, **self._values(outputs, row, record_id, path, attributes["url"])}


def blob_url(record_url: str, field: Field, stored: Any) -> str | None:
    """Where the bytes of a blob are; None for other fields and for no bytes."""
    return f"{record_url}/{field.name}" if field.type == "base64" and stored is not None else None


def compound_json(field: Field, parts: dict[Field, Any]) -> Record | None:
    """An address or a location as an object, None if every part is null."""
    if all(stored is None for stored in parts.values()):
        return None
    values = {part_key(field, part): to_json(part, stored) for part, stored in parts.items()}
    return dict(sorted(values.items()))


def part_key(field: Field, part: Field) -> str:
    """City for BillingCity of BillingAddress; latitude for Place__Latitude__s of Place__c."""
    if field.type == "location":
        return "latitude" if "latitude" in part.name.lower() else "longitude"
    name = part.name.removeprefix(field.name.removesuffix("Address"))
    return name[0].lower() + name[1:]
