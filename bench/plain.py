"""The plain way: what one client does by hand with files that already lie on disk. Runs in a process of its own.

Argument (JSON): {"url", "schema", "table", "columns", "files", "job"}; job is "copy" (COPY into the table with its key)
or "upsert" (COPY into an unlogged table, then one INSERT ... ON CONFLICT).
"""

import json
import sys
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql

from bench.measure import report, timed

CHUNK_BYTES = 1 << 18


def copy_files(
    connection: psycopg.Connection[Any], table: sql.Composable, columns: list[str], files: list[str]
) -> None:
    """COPY CSV files with a header line, as they are."""
    names = sql.SQL(", ").join(map(sql.Identifier, columns))
    statement = sql.SQL("COPY {} ({}) FROM STDIN (FORMAT csv, HEADER, FORCE_NULL ({}))").format(table, names, names)
    for file in files:
        with connection.cursor().copy(statement) as copy, Path(file).open("rb") as source:
            while chunk := source.read(CHUNK_BYTES):
                copy.write(chunk)
        connection.commit()


def copy(connection: psycopg.Connection[Any], table: sql.Composable, columns: list[str], files: list[str]) -> None:
    """The first load's opponent."""
    copy_files(connection, table, columns, files)


def upsert(connection: psycopg.Connection[Any], table: sql.Composable, columns: list[str], files: list[str]) -> None:
    """The refresh's opponent."""
    staging = sql.Identifier("bench_staging")
    connection.execute(sql.SQL("CREATE UNLOGGED TABLE {} (LIKE {} INCLUDING DEFAULTS)").format(staging, table))
    copy_files(connection, staging, columns, files)
    names = sql.SQL(", ").join(map(sql.Identifier, columns))
    assignments = sql.SQL(", ").join(
        sql.SQL("{0} = EXCLUDED.{0}").format(sql.Identifier(column)) for column in columns if column != "id"
    )
    connection.execute(
        sql.SQL("INSERT INTO {} ({}) SELECT {} FROM {} ON CONFLICT (id) DO UPDATE SET {}").format(
            table, names, names, staging, assignments
        )
    )
    connection.execute(sql.SQL("DROP TABLE {}").format(staging))
    connection.commit()


def main(argument: dict[str, Any]) -> None:
    """Run one job and report its cost."""
    job = {"copy": copy, "upsert": upsert}[argument["job"]]
    with psycopg.connect(argument["url"], options="-c timezone=UTC") as connection:
        table = sql.Identifier(argument["schema"], argument["table"])
        report(lambda: timed(lambda: job(connection, table, argument["columns"], argument["files"])))


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
