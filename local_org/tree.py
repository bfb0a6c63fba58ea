"""sObject Tree: nested records created together. Source: REST API Developer Guide, "sObject Tree"."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from local_org import dml
from local_org.catalogue import ObjectType
from local_org.collections import type_name
from local_org.context import Answer, Context
from local_org.errors import ApiError, unknown_field, unknown_type

MAX_RECORDS, MAX_DEPTH, MAX_TYPES = 200, 5, 5
Record = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Node:
    """A record of the tree; `parent` is the index of the node it hangs on, through the field `link`."""

    item: ObjectType
    reference_id: str
    values: Record
    parent: int | None
    link: str


def create(ctx: Context, object_name: str) -> Answer:
    """POST composite/tree/{object}: 201 for all, 400 for none."""
    nodes: list[Node] = []
    _collect(ctx, ctx.object(object_name), ctx.json_object(), nodes, None, "", 1)
    _check_size(nodes)
    made: list[str] = []
    failed: list[Record] = []
    try:
        with ctx.writing() as change:
            for node in nodes:
                _create(change, node, made, failed)
            if failed:
                raise _RollbackError
    except _RollbackError:
        return Answer(400, {"hasErrors": True, "results": failed})
    results = [{"referenceId": node.reference_id, "id": made[i]} for i, node in enumerate(nodes)]
    return Answer(201, {"hasErrors": False, "results": results})


class _RollbackError(Exception):
    """At least one record failed."""


def _collect(
    ctx: Context, item: ObjectType, tree: Record, nodes: list[Node], parent: int | None, link: str, depth: int
) -> None:
    """Append the records of {"records": […]}, each before its children."""
    if depth > MAX_DEPTH:
        raise ApiError(400, "INVALID_INPUT", f"The tree is deeper than {MAX_DEPTH} levels")
    for record in _records(tree):
        named = ctx.catalogue.object(type_name(record))
        if named is None or named.name != item.name:
            raise unknown_type(type_name(record))
        nested = dict(_children(record))
        values = {name: value for name, value in record.items() if name not in nested and name != "attributes"}
        nodes.append(Node(item, str(record["attributes"].get("referenceId", "")), values, parent, link))
        here = len(nodes) - 1
        for name, subtree in nested.items():
            child, field = _child(ctx, item, name)
            _collect(ctx, child, subtree, nodes, here, field, depth + 1)


def _records(tree: Record) -> list[Record]:
    records = tree.get("records")
    if not isinstance(records, list) or not all(isinstance(record, dict) for record in records):
        raise ApiError(400, "JSON_PARSER_ERROR", "The records list is missing or is no list of objects")
    return records


def _children(record: Record) -> Iterator[tuple[str, Record]]:
    for name, value in record.items():
        if isinstance(value, dict) and isinstance(value.get("records"), list):
            yield name, value


def _child(ctx: Context, item: ObjectType, name: str) -> tuple[ObjectType, str]:
    for relation in ctx.catalogue.children(item.name):
        child = ctx.catalogue.object(relation.child_object)
        if child is not None and (relation.name or "").lower() == name.lower():
            return child, relation.field
    raise unknown_field(name, item.name)


def _check_size(nodes: list[Node]) -> None:
    ids = [node.reference_id for node in nodes]
    if len(nodes) > MAX_RECORDS:
        raise ApiError(400, "EXCEEDED_ID_LIMIT", f"The tree has more than {MAX_RECORDS} records")
    if len({node.item.name for node in nodes}) > MAX_TYPES:
        raise ApiError(400, "INVALID_INPUT", f"The tree has more than {MAX_TYPES} types of records")
    if len(set(ids)) < len(ids) or "" in ids:
        raise ApiError(400, "INVALID_INPUT", "Each record needs a referenceId of its own")


def _create(change: dml.Change, node: Node, made: list[str], failed: list[Record]) -> None:
    values = dict(node.values)
    if node.parent is not None:
        if not made[node.parent]:
            made.append("")
            return
        values[node.link] = made[node.parent]
    try:
        with dml.saving(change, node.item):
            made.append(dml.insert(change, node.item, values))
    except ApiError as error:
        made.append("")
        failed.append({"referenceId": node.reference_id, "errors": [error.row_error()]})
