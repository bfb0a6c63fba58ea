"""Deletion, the recycle bin, undelete and purge.

Source: SOAP API Developer Guide, "delete()", "undelete()", "emptyRecycleBin()"; Object Reference, cascades.
"""

from collections.abc import Iterator
from typing import Any

from local_org import dml, rollups, rules
from local_org.catalogue import ChildRelationship, ObjectType
from local_org.dml import Change, Row
from local_org.errors import ApiError, not_found
from local_org.ids import to_18
from local_org.schema import quoted

MAX_DEPTH = 32
BIN_MS = 15 * 86_400_000
MAX_EMPTIED = 2_000


def delete(change: Change, item: ObjectType, record_id: str) -> None:
    """Move a row and what hangs on it to the recycle bin. Raises ApiError."""
    if not item.deletable:
        text = f"entity type {item.name} does not support delete"
        raise ApiError(400, "CANNOT_INSERT_UPDATE_ACTIVATE_ENTITY", text, [])
    row = dml.living(change, item, record_id)
    change.lock([row["Id"]])
    _delete_row(change, dml.whole(change, item), row, root=row["Id"], depth=0)


def _delete_row(change: Change, item: ObjectType, row: Row, root: str, depth: int) -> None:
    if depth > MAX_DEPTH:
        raise ApiError(400, "DELETE_FAILED", "Your attempt to delete the record could not be completed", [])
    for relation in change.store.catalogue.children(item.name):
        _release_children(change, item, row, relation, root, depth)
    if item.field("IsDeleted") is not None and item.undeletable:
        _mark_deleted(change, item, row, cascaded=depth > 0)
    else:
        _remove(change, item, row["Id"])
    _log(change, item, row["Id"], root)
    rollups.follow(change, item, row)


def _release_children(
    change: Change, item: ObjectType, row: Row, relation: ChildRelationship, root: str, depth: int
) -> None:
    """Delete, refuse or let go of the rows that refer to `row` through one relationship."""
    child = change.store.catalogue.object(relation.child_object)
    if child is None or relation.field in dml.BOOKKEEPING or relation.field == "MasterRecordId":
        return
    for child_row in list(_referring(change, child, relation.field, row["Id"])):
        if relation.restricted_delete:
            raise _in_use(item, row, child, child_row)
        if relation.cascade_delete:
            _delete_row(change, child, child_row, root, depth + 1)
        elif child.fields[relation.field.lower()].nillable:
            _let_go(change, child, child_row, relation.field, root)


def _referring(change: Change, child: ObjectType, field_name: str, record_id: str) -> Iterator[Row]:
    alive = ' AND NOT "IsDeleted"' if child.field("IsDeleted") else ""
    sql = f'SELECT "Id" FROM {quoted(child.name)} WHERE {quoted(field_name)} = ?{alive} ORDER BY "Id"'
    for (child_id,) in change.conn.execute(sql, (record_id,)).fetchall():
        found = dml.current(change, child, child_id)
        if found is not None and found[field_name] == record_id and not found.get("IsDeleted"):
            yield found


def _in_use(item: ObjectType, row: Row, child: ObjectType, child_row: Row) -> ApiError:
    name = item.name_field.name if item.name_field else "Id"
    text = (
        f"Your attempt to delete {row.get(name)} could not be completed because it is associated with the following "
        f"{child.label_plural.lower()}.: {_shown_name(child, child_row)}\n"
    )
    return ApiError(400, "DELETE_FAILED", text, [])


def _shown_name(item: ObjectType, row: Row) -> Any:
    return row.get(item.name_field.name) if item.name_field else row["Id"]


def _mark_deleted(change: Change, item: ObjectType, row: Row, *, cascaded: bool) -> None:
    values: Row = {"IsDeleted": 1}
    if change.cascade_stamps or not cascaded:
        values |= dml.stamps(change, item)
    dml.set_columns(change.conn, item, row["Id"], values)
    change.journal(item.name, row["Id"], "delete", values)


def _remove(change: Change, item: ObjectType, record_id: str) -> None:
    change.conn.execute(f'DELETE FROM {quoted(item.name)} WHERE "Id" = ?', (record_id,))
    change.journal(item.name, record_id, "remove", {})


def _log(change: Change, item: ObjectType, record_id: str, root: str) -> None:
    change.conn.execute(
        "INSERT OR REPLACE INTO _deletions VALUES (?, ?, ?, ?)", (item.name, record_id, change.now_ms, root)
    )


def _let_go(change: Change, child: ObjectType, row: Row, field_name: str, root: str) -> None:
    """Clear a lookup without stamping its row, as the platform does; undelete restores it."""
    change.conn.execute(
        "INSERT OR REPLACE INTO _cleared VALUES (?, ?, ?, ?, ?)",
        (root, child.name, row["Id"], field_name, row[field_name]),
    )
    dml.set_columns(change.conn, child, row["Id"], {field_name: None})
    change.journal(child.name, row["Id"], "clear", {field_name: None})


def undelete(change: Change, item: ObjectType, record_id: str) -> None:
    """Take a row out of the recycle bin, with what was deleted together with it. Raises ApiError, also where a unique
    value has found another owner meanwhile."""
    row = dml.current(change, item, record_id)
    if row is None:
        raise not_found()
    if not row.get("IsDeleted"):
        raise ApiError(400, "UNDELETE_FAILED", "Entity is not in the recycle bin", [])
    together = change.conn.execute(
        "SELECT object, id FROM _deletions WHERE root = ? ORDER BY id = root DESC", (record_id,)
    ).fetchall()
    for name, deleted_id in together or [(item.name, record_id)]:
        _restore(change, name, deleted_id, cascaded=deleted_id != record_id)
    _restore_lookups(change, record_id)
    change.conn.execute("DELETE FROM _deletions WHERE root = ?", (record_id,))
    change.conn.execute("DELETE FROM _cleared WHERE root = ?", (record_id,))


def _restore(change: Change, object_name: str, record_id: str, *, cascaded: bool) -> None:
    item = change.store.catalogue.object(object_name)
    if item is None or item.field("IsDeleted") is None:
        return
    rules.check_unique(change, item, dml.load(change.conn, item, record_id) or {}, record_id)
    values: Row = {"IsDeleted": 0}
    if item.field("MasterRecordId") is not None:
        values["MasterRecordId"] = None
    if change.cascade_stamps or not cascaded:
        values |= dml.stamps(change, item)
    dml.set_columns(change.conn, item, record_id, values)
    change.journal(object_name, record_id, "undelete", values)
    rollups.follow(change, item, dml.load(change.conn, item, record_id))


def _restore_lookups(change: Change, root: str) -> None:
    """Point back to the restored row what was let go and has not been pointed elsewhere since."""
    cleared = change.conn.execute("SELECT object, id, field, value FROM _cleared WHERE root = ?", (root,)).fetchall()
    for name, record_id, field_name, value in cleared:
        column = quoted(field_name)
        sql = f'UPDATE {quoted(name)} SET {column} = ? WHERE "Id" = ? AND {column} IS NULL'
        change.conn.execute(sql, (value, record_id))


def merge(change: Change, item: ObjectType, winner_id: str, loser_ids: list[str]) -> None:
    """Merge up to two rows into a third: they are deleted, then their children move, then the winner is saved.

    Raises ApiError.
    """
    full = dml.whole(change, item)
    if not full.mergeable or not 1 <= len(loser_ids) <= 2:
        raise ApiError(400, "INVALID_OPERATION", f"these {full.label_plural} cannot be merged", [])
    winner = dml.living(change, full, winner_id)
    if len({to_18(named) for named in (winner_id, *loser_ids)}) <= len(loser_ids):
        raise ApiError(400, "INVALID_ID_FIELD", "a record cannot be merged with itself", [])
    losers = [dml.living(change, full, loser_id) for loser_id in loser_ids]
    change.lock([winner["Id"], *(loser["Id"] for loser in losers)])
    for loser in losers:
        values: Row = {"IsDeleted": 1, "MasterRecordId": winner["Id"], **dml.stamps(change, full)}
        dml.set_columns(change.conn, full, loser["Id"], values)
        change.journal(full.name, loser["Id"], "merge", values)
        _log(change, full, loser["Id"], loser["Id"])
    for relation in change.store.catalogue.children(full.name):
        for loser in losers:
            _move_children(change, relation, loser["Id"], winner["Id"])
    dml.set_columns(change.conn, full, winner["Id"], dml.stamps(change, full))
    change.journal(full.name, winner["Id"], "update", {})


def _move_children(change: Change, relation: ChildRelationship, old: str, new: str) -> None:
    child = change.store.catalogue.object(relation.child_object)
    if child is None or relation.field == "MasterRecordId":
        return
    for row in list(_referring(change, child, relation.field, old)):
        values: Row = {relation.field: new, **dml.stamps(change, child)}
        dml.set_columns(change.conn, child, row["Id"], values)
        change.journal(child.name, row["Id"], "update", values)
        rollups.follow(change, child, row, {**row, **values})


def empty_bin(change: Change, bin_since_ms: int) -> int:
    """Remove for good what was deleted more than 15 days ago, at most MAX_EMPTIED rows; how many there were.

    What was imported as deleted is in the bin since the import, `bin_since_ms`.
    """
    oldest = change.now_ms - BIN_MS
    if bin_since_ms > oldest:
        return 0
    sql = "SELECT object, id, root FROM _deletions WHERE at_ms <= ? LIMIT ?"
    rows = change.conn.execute(sql, (oldest, MAX_EMPTIED)).fetchall()
    for name, record_id, root in rows:
        item = change.store.catalogue.object(name)
        row = None if item is None else dml.load(change.conn, item, record_id)
        if item is not None and row is not None and row.get("IsDeleted"):
            _remove(change, item, record_id)
        change.conn.execute("DELETE FROM _deletions WHERE object = ? AND id = ?", (name, record_id))
        change.conn.execute("DELETE FROM _cleared WHERE root = ?", (root,))
    return len(rows)


def purge(change: Change, item: ObjectType, record_id: str) -> None:
    """Remove a row from the recycle bin, or at once if it was not there (hardDelete). Raises ApiError."""
    row = dml.current(change, item, record_id)
    if row is None:
        raise not_found()
    if not row.get("IsDeleted"):
        delete(change, item, record_id)
    together = change.conn.execute("SELECT object, id FROM _deletions WHERE root = ?", (record_id,)).fetchall()
    for name, deleted_id in together or [(item.name, record_id)]:
        target = change.store.catalogue.object(name)
        if target is not None:
            _remove(change, target, deleted_id)
    change.conn.execute("DELETE FROM _cleared WHERE root = ?", (record_id,))
