"""getUpdated and getDeleted. Source: SOAP API Developer Guide, "Data Replication"; REST API Developer Guide,
"Get Updated", "Get Deleted".
"""

from typing import Any

from local_org.catalogue import ObjectType
from local_org.context import Context
from local_org.errors import ApiError
from local_org.schema import quoted
from local_org.values import datetime_text, parse_datetime

UPDATED_WINDOW_MS = 30 * 86_400_000
DELETED_WINDOW_MS = 15 * 86_400_000
MAX_IDS = 600_000
_MINUTE_MS = 60_000

_STAMPS = ("SystemModstamp", "LastModifiedDate", "CreatedDate")


def updated(ctx: Context, object_name: str) -> dict[str, Any]:
    """GET sobjects/{object}/updated: ids created or changed in start <= stamp < end, each once.

    `latestDateCovered` stops where the oldest transaction that is still open began: what that one has stamped
    is not visible yet, so the next window must begin there.
    """
    item = _replicated(ctx, object_name)
    start, end = _window(ctx, UPDATED_WINDOW_MS)
    stamp = next((name for name in _STAMPS if item.field(name) is not None), None)
    if stamp is None:
        raise _not_replicateable(item)
    oldest_open = ctx.store.oldest_open_ms()  # before the read: a commit in between only makes the answer earlier
    with ctx.store.read() as conn:
        now = ctx.store.clock.now_ms()
        row = quoted(item.name)
        conditions = [f"{row}.{quoted(stamp)} >= ?", f"{row}.{quoted(stamp)} < ?"]
        conditions += [f'{row}."IsDeleted" = 0'] if item.field("IsDeleted") else []
        conditions += [hidden] if (hidden := ctx.row_filter(item.name, row)) else []
        sql = f'SELECT "Id" FROM {row} WHERE {" AND ".join(conditions)} LIMIT ?'
        ids = [found[0] for found in conn.execute(sql, (start, end, MAX_IDS + 1))]
    _check_count(ids)
    return {"ids": ids, "latestDateCovered": datetime_text(_covered(end, now, oldest_open))}


def deleted(ctx: Context, object_name: str) -> dict[str, Any]:
    """GET sobjects/{object}/deleted: ids deleted in the window and not undeleted since."""
    item = _replicated(ctx, object_name)
    start, end = _window(ctx, DELETED_WINDOW_MS)
    if end - start <= _MINUTE_MS:
        raise _bad_window("endDate must be at least one minute greater than startDate")
    oldest_open = ctx.store.oldest_open_ms()
    with ctx.store.read() as conn:
        now = ctx.store.clock.now_ms()
        hidden = ctx.row_filter(item.name, "_deletions")
        sql = "SELECT id, at_ms FROM _deletions WHERE object = ? AND at_ms >= ? AND at_ms < ?"
        sql += f"{' AND ' + hidden if hidden else ''} LIMIT ?"
        rows = conn.execute(sql, (item.name, start, end, MAX_IDS + 1)).fetchall()
    _check_count(rows)
    return {
        "deletedRecords": [{"id": record_id, "deletedDate": datetime_text(ms)} for record_id, ms in rows],
        "earliestDateAvailable": datetime_text(_earliest(ctx, now)),
        "latestDateCovered": datetime_text(_covered(end, now, oldest_open)),
    }


def _earliest(ctx: Context, now: int) -> int:
    """How far back the log of deletions reaches; a purge of the log moves it forward."""
    return max(now - DELETED_WINDOW_MS, int(ctx.store.setting("deleted_log_start_ms", 0)))


def _covered(end: int, now: int, oldest_open: int | None) -> int:
    return min(end, now, end if oldest_open is None else oldest_open)


def _replicated(ctx: Context, object_name: str) -> ObjectType:
    item = ctx.object(object_name)
    if not item.replicateable:
        raise _not_replicateable(item)
    return item


def _not_replicateable(item: ObjectType) -> ApiError:
    return ApiError(400, "INVALID_TYPE_FOR_OPERATION", f"object {item.name} is not replicable")


def _bad_window(text: str) -> ApiError:
    return ApiError(400, "INVALID_REPLICATION_DATE", text)


def _check_count(found: list[Any]) -> None:
    if len(found) > MAX_IDS:
        raise ApiError(400, "EXCEEDED_ID_LIMIT", f"exceeded {MAX_IDS} ids: narrow the date range")


def _window(ctx: Context, longest_ms: int) -> tuple[int, int]:
    """start and end, whole minutes. Raises ApiError INVALID_REPLICATION_DATE."""
    start, end = (_moment(ctx, name) // _MINUTE_MS * _MINUTE_MS for name in ("start", "end"))
    now = ctx.store.clock.now_ms()
    if start >= end:
        raise _bad_window("startDate must be before endDate")
    if start < now - longest_ms - _MINUTE_MS:
        raise _bad_window(f"startDate cannot be more than {longest_ms // 86_400_000} days ago")
    return start, end


def _moment(ctx: Context, name: str) -> int:
    text = ctx.query.get(name, "")
    # An unescaped + arrives as a space.
    ms = parse_datetime(text.replace(" ", "+") if text[10:11] == "T" else text)
    if ms is None:
        raise ApiError(
            400, "MALFORMED_QUERY" if not text else "INVALID_REPLICATION_DATE", f"invalid {name} date: {text}"
        )
    return ms
