"""GET query and queryAll: SOQL in, JSON records out, page by page. Source: REST API Developer Guide, "Query"."""

import re
import sqlite3
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from local_org import cursors
from local_org.catalogue import Catalogue
from local_org.columns import column_metadata
from local_org.context import Context
from local_org.errors import ApiError
from local_org.objects.setup import ENTITY, FIELD
from local_org.records import Record, Rendering
from local_org.soql.parse import parse
from local_org.soql.plan import ChildRecords, Plan
from local_org.soql.runtime import run
from local_org.soql.scope import World
from local_org.soql.sql import Sql
from local_org.soql.translate import translate
from local_org.words import whole_number

if TYPE_CHECKING:
    from local_org.org import Org

DEFAULT_BATCH = 2_000
MIN_BATCH = 200
MAX_GROUPS = 2_000

_BATCH_OPTION = re.compile(r"batchSize\s*=\s*(\d+)", re.IGNORECASE)


def run_query(ctx: Context) -> Record:
    """GET query?q= (or ?explain=)."""
    if "explain" in ctx.query:
        return explain(ctx, ctx.query["explain"])
    if ctx.query.get("columns", "").lower() == "true":
        return columns(ctx, ctx.query.get("q", ""))
    return query(ctx, ctx.query.get("q", ""), all_rows=False, batch_size=_asked_batch(ctx))


def run_query_all(ctx: Context) -> Record:
    """GET queryAll?q=: deleted and archived rows too."""
    return query(ctx, ctx.query.get("q", ""), all_rows=True, batch_size=_asked_batch(ctx))


def _asked_batch(ctx: Context) -> int | None:
    match = _BATCH_OPTION.search(ctx.headers.get("sforce-query-options", ""))
    return whole_number(match[1]) if match else None


def translated(ctx: Context, conn: sqlite3.Connection, soql: str, *, all_rows: bool) -> Plan:
    """The plan of the query of a call. Raises ApiError."""
    return translated_for(ctx.org, ctx.user, conn, soql, all_rows=all_rows, catalogue=ctx.catalogue)


def translated_for(
    org: "Org", user: str, conn: sqlite3.Connection, soql: str, *, all_rows: bool, catalogue: Catalogue | None = None
) -> Plan:
    """The plan of a query, in the eyes of the user who asks. Raises ApiError."""
    world = World(
        text=soql,
        user=user,
        catalogue=catalogue or org.access.catalogue(user),
        column_sql=org.store.column_sql,
        row_filter=lambda name, alias: org.access.row_filter(user, name, alias),
        now_ms=org.store.clock.now_ms(),
        zone=_zone(conn, user),
        all_rows=all_rows,
    )
    return translate(world, parse(soql))


def _zone(conn: sqlite3.Connection, user: str) -> ZoneInfo:
    row = conn.execute('SELECT "TimeZoneSidKey" FROM "User" WHERE "Id" = ?', (user,)).fetchone()
    try:
        return ZoneInfo(row[0] if row and row[0] else "UTC")
    except (ZoneInfoNotFoundError, ValueError):
        return ZoneInfo("UTC")


def query(ctx: Context, soql: str, *, all_rows: bool, batch_size: int | None = None) -> Record:
    """The first page. `batch_size` is a wish, brought within 200 to 2000 rows."""
    with ctx.store.read() as conn:
        plan = translated(ctx, conn, soql, all_rows=all_rows)
        if plan.kind == "count":
            total = run(conn, plan.count()).fetchone()[0]
            return {"totalSize": total, "done": True, "records": []}
        if plan.kind == "groups":
            return _groups(ctx, conn, plan)
        batch = min(max(batch_size or DEFAULT_BATCH, MIN_BATCH), DEFAULT_BATCH)
        return _Pages(ctx, conn, soql, all_rows, batch).first(plan)


def _groups(ctx: Context, conn: sqlite3.Connection, plan: Plan) -> Record:
    rows = run(conn, plan.rows()).fetchmany(MAX_GROUPS + 1)
    if len(rows) > MAX_GROUPS:
        text = "Aggregate query does not support queryMore(), use LIMIT to restrict the results to a single batch"
        raise ApiError(400, "EXCEEDED_ID_LIMIT", text)
    rendering = Rendering(ctx.version, "UTC", lambda *_: None)
    records = [rendering.group(plan, row) for row in rows]
    return {"totalSize": len(records), "done": True, "records": records}


def more(ctx: Context, locator: str) -> Record:
    """A later page. The ids are those of the first call, the values are today's. Any `q` is ignored."""
    cursor, offset = cursors.find(ctx.store, locator, ctx.user)
    with ctx.store.read() as conn:
        plan = translated(ctx, conn, cursor.soql, all_rows=cursor.all_rows)
        for key in cursor.children:
            plan = _child_plan(plan, key)
        return _Pages(ctx, conn, cursor.soql, cursor.all_rows, cursor.batch).later(plan, cursor, offset)


def _child_plan(plan: Plan, key: str) -> Plan:
    found = [o.plan for o in plan.outputs if isinstance(o, ChildRecords) and o.key == key]
    if not found:
        raise cursors.invalid_locator()
    return found[0]


class _Pages:
    """Pages of one query on one snapshot of the data."""

    def __init__(self, ctx: Context, conn: sqlite3.Connection, soql: str, all_rows: bool, batch: int) -> None:
        self.ctx = ctx
        self.conn = conn
        self.soql = soql
        self.all_rows = all_rows
        self.batch = batch
        self.rendering = Rendering(ctx.version, _zone(conn, ctx.user).key, self._children)

    def first(self, plan: Plan, path: tuple[str, ...] = (), parent: str | None = None) -> Record:
        """A whole result if it fits into one page; otherwise its ids go to disk and the first page is read by them."""
        rows = run(self.conn, _linked(plan.rows(), parent)).fetchmany(self.batch + 1)
        if len(rows) > self.batch and plan.item.name in (ENTITY, FIELD):
            text = f"{plan.item.name} does not support queryMore(), use LIMIT to restrict the results to a single batch"
            raise ApiError(400, "EXCEEDED_ID_LIMIT", text)
        if len(rows) <= self.batch:
            records = [self.rendering.record(plan, row, path) for row in rows]
            return {"totalSize": len(records), "done": True, "records": records}
        found = run(self.conn, _linked(plan.ids(), parent))
        first = [row[0] for row in found.fetchmany(self.batch)]
        cursor = cursors.keep(
            self.ctx.store,
            found,
            first,
            soql=self.soql,
            all_rows=self.all_rows,
            batch=self.batch,
            user=self.ctx.user,
            children=path,
        )
        return self._page(plan, cursor, 0, first)

    def later(self, plan: Plan, cursor: cursors.Cursor, offset: int) -> Record:
        return self._page(plan, cursor, offset, cursors.ids(self.ctx.store, cursor, offset))

    def _page(self, plan: Plan, cursor: cursors.Cursor, offset: int, ids: list[str]) -> Record:
        rows = run(self.conn, plan.page(ids)).fetchall()
        records = [self.rendering.record(plan, row, cursor.children) for row in rows]
        end = offset + len(ids)
        if end >= cursor.total:
            return {"totalSize": cursor.total, "done": True, "records": records}
        url = self.ctx.url(f"query/{cursor.locator(end)}")
        return {"totalSize": cursor.total, "done": False, "nextRecordsUrl": url, "records": records}

    def _children(self, plan: Plan, parent: str, path: tuple[str, ...]) -> Record | None:
        result = self.first(plan, path, parent)
        return result if result["totalSize"] else None


def _linked(sql: Sql, parent: str | None) -> Sql:
    """A child query's first bound value is its parent's id."""
    return sql if parent is None else Sql(sql.text, (parent, *sql.values[1:]))


def columns(ctx: Context, soql: str) -> dict[str, Any]:
    """GET query?q=&columns=true: what the query's columns are; the vendor's command line asks for it."""
    with ctx.store.read() as conn:
        return column_metadata(translated(ctx, conn, soql, all_rows=False))


def explain(ctx: Context, soql: str) -> dict[str, Any]:
    """GET query?explain=: a plan in the platform's words, with true cardinalities."""
    with ctx.store.read() as conn:
        plan = translated(ctx, conn, soql, all_rows=False)
        table = plan.item.name
        size = conn.execute(f'SELECT count(*) FROM "{table}"').fetchone()[0]
        found = run(conn, plan.count()).fetchone()[0]
        steps = " ".join(row[3] for row in run(conn, "EXPLAIN QUERY PLAN " + plan.rows()))
    plans = {
        "cardinality": found,
        "fields": [],
        "leadingOperationType": "Index" if f"SEARCH {plan.row}" in steps else "TableScan",
        "notes": [],
        "relativeCost": round(found / size, 3) if size else 0.0,
        "sobjectCardinality": size,
        "sobjectType": table,
    }
    return {"plans": [plans], "sourceQuery": soql}
