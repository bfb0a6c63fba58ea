"""SQL functions that translations call, and one way to run a piece of SQL."""

import re
import sqlite3
from datetime import UTC, datetime
from functools import lru_cache
from zoneinfo import ZoneInfo

from local_org.soql.sql import Sql


def run(conn: sqlite3.Connection, sql: Sql) -> sqlite3.Cursor:
    """Execute, with our SQL functions at hand where the text needs them."""
    if "soql_" in sql.text:
        conn.create_function("soql_local", 2, _local, deterministic=True)
        conn.create_function("soql_like", 2, _like, deterministic=True)
    return conn.execute(sql.text, sql.values)


def _local(ms: int | None, zone: str) -> str | None:
    """A moment as date and time of a zone: 2026-11-22 10:00:00."""
    if ms is None:
        return None
    return datetime.fromtimestamp(ms / 1000, UTC).astimezone(ZoneInfo(zone)).strftime("%Y-%m-%d %H:%M:%S")


def _like(pattern: str, text: str | None) -> bool:
    """LIKE with regard to case, for case-sensitive fields."""
    return text is not None and _expression(pattern).fullmatch(text) is not None


@lru_cache(maxsize=64)
def _expression(pattern: str) -> re.Pattern[str]:
    signs = re.findall(r"\\.|.", pattern, re.DOTALL)
    wild = {"%": ".*", "_": "."}
    return re.compile("".join(wild.get(s) or re.escape(s[-1]) for s in signs), re.DOTALL)
