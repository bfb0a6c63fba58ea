"""What a query's columns are, as GET query?columns=true tells it.

The form is known from the vendor's command line, which reads it; no guide describes it.
"""

from typing import Any

from local_org.catalogue import Field
from local_org.soql.plan import ChildRecords, Compound, Leaf, Output, ParentRecord, Plan
from local_org.values import INTEGERS, NUMBERS

_APEX_TYPES = {
    "id": "Id",
    "reference": "Id",
    "boolean": "Boolean",
    "int": "Integer",
    "long": "Long",
    "date": "Date",
    "datetime": "Datetime",
    "time": "Time",
    "address": "Address",
    "location": "Location",
    **dict.fromkeys(NUMBERS, "Double"),
}


def column_metadata(plan: Plan) -> dict[str, Any]:
    """The whole answer."""
    return {
        "columnMetadata": [_column(output) for output in plan.outputs],
        "entityName": plan.item.name,
        "groupBy": plan.kind == "groups",
        "idSelected": any(output.key == "Id" for output in plan.outputs),
        "keyPrefix": plan.item.key_prefix,
    }


def _column(output: Output) -> dict[str, Any]:
    match output:
        case Leaf(function=None) | Compound():
            return _entry(output.key, output.field)
        case Leaf(function=function):
            return _entry(output.key, output.field) | {"aggregate": True, "displayName": function}
        case ChildRecords(plan=plan):
            return _entry(output.key) | {"aggregate": True, "joinColumns": [_column(o) for o in plan.outputs]}
        case ParentRecord(outputs=outputs):
            return _entry(output.key) | {"joinColumns": [_column(o) for o in outputs]}
    return _entry(output.key)


def _entry(name: str, field: Field | None = None) -> dict[str, Any]:
    kind = field.type if field else ""
    return {
        "aggregate": False,
        "apexType": _APEX_TYPES.get(kind, "String") if field else None,
        "booleanType": kind == "boolean",
        "columnName": name,
        "custom": bool(field and field.custom),
        "displayName": name,
        "foreignKeyName": field.relationship_name if field else None,
        "insertable": bool(field and field.createable),
        "joinColumns": [],
        "numberType": kind in NUMBERS | INTEGERS,
        "textType": bool(field) and kind not in _APEX_TYPES,
        "updatable": bool(field and field.updateable),
    }
