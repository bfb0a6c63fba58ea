"""The pool of connections."""

import psycopg
from sqlalchemy import text

from worker.db import Database


def test_a_connection_that_the_server_ended_is_not_handed_out(database: Database) -> None:
    for kind in (database.transaction, database.alone):
        with kind() as session:
            pid = session.scalar(text("SELECT pg_backend_pid()"))
        with psycopg.connect(database.url, autocommit=True) as other:
            other.execute("SELECT pg_terminate_backend(%s, 5000)", (pid,))
        with kind() as session:
            assert session.scalar(text("SELECT pg_backend_pid()")) != pid
