"""SQL functions that translations call, and one way to run a piece of SQL."""

import math
import re
import sqlite3
from datetime import UTC, datetime
from functools import lru_cache
from zoneinfo import ZoneInfo

from local_org.soql.sql import Sql

_RADIUS = {"km": 6371.0088, "mi": 3958.7613}


def run(conn: sqlite3.Connection, sql: Sql) -> sqlite3.Cursor:
    """Execute, with our SQL functions at hand where the text needs them."""
    if "soql_" in sql.text:
        conn.create_function("soql_local", 2, _local, deterministic=True)
        conn.create_function("soql_like", 2, _like, deterministic=True)
        conn.create_function("soql_distance", 5, _distance, deterministic=True)
    return conn.execute(sql.text, sql.values)


def _local(ms: int | None, zone: str) -> str | None:
    """A moment as date and time of a zone: 2026-11-22 10:00:00."""
    if ms is None:
        return None
    return datetime.fromtimestamp(ms / 1000, UTC).astimezone(ZoneInfo(zone)).strftime("%Y-%m-%d %H:%M:%S")


def _like(pattern: str, text: str | None) -> bool:
    """LIKE with regard to case, for case-sensitive fields."""
    return text is not None and _expression(pattern).fullmatch(text) is not None


def _distance(
    north: float | None, east: float | None, other_north: float, other_east: float, unit: str
) -> float | None:
    """The way between two places on a globe, in kilometres or miles; places in degrees."""
    if north is None or east is None:
        return None
    a, b, c, d = (math.radians(degrees) for degrees in (north, east, other_north, other_east))
    half = math.sin((c - a) / 2) ** 2 + math.cos(a) * math.cos(c) * math.sin((d - b) / 2) ** 2
    return _RADIUS[unit] * 2 * math.asin(min(1.0, math.sqrt(half)))


@lru_cache(maxsize=64)
def _expression(pattern: str) -> re.Pattern[str]:
    signs = re.findall(r"\\.|.", pattern, re.DOTALL)
    wild = {"%": ".*", "_": "."}
    return re.compile("".join(wild.get(s) or re.escape(s[-1]) for s in signs), re.DOTALL)
