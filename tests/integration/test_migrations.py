"""Our own tables."""

import psycopg
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from psycopg import sql

import models.access
import models.action
import models.budget
import models.callback
import models.connection
import models.event
import models.mirror
import models.trigger  # noqa: F401 - imported so that their tables are known
from models.base import SCHEMA, Base
from models.migrations import migration_engine, upgrade
from worker.local_servers import EmbeddedPostgres


def test_migrated_tables_equal_the_models(database_url: str) -> None:
    engine = migration_engine(database_url)
    with engine.connect() as connection:
        context = MigrationContext.configure(
            connection,
            opts={
                "include_schemas": True,
                "include_name": lambda name, kind, _: kind != "schema" or name in (SCHEMA, "public"),
                "version_table_schema": SCHEMA,
                "compare_type": True,
            },
        )
        assert compare_metadata(context, Base.metadata) == []
    engine.dispose()


def test_migrating_twice_changes_nothing(database_url: str) -> None:
    upgrade(database_url)
    with psycopg.connect(database_url) as connection:
        row = connection.execute("SELECT nextval('sfsync.read_numbers'), nextval('sfsync.claim_tokens')").fetchone()
    assert row == (1, 1)


def test_the_checks_of_the_migrated_tables_are_those_of_the_models(
    postgres: EmbeddedPostgres, database_url: str
) -> None:
    """The comparison above leaves them out."""
    fresh = f"{database_url}_models"
    with psycopg.connect(postgres.url, autocommit=True) as server:
        server.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(fresh.rsplit("/", 1)[1])))
    engine = migration_engine(fresh)
    with engine.begin() as connection:
        connection.exec_driver_sql(f"CREATE SCHEMA {SCHEMA}")
        Base.metadata.create_all(connection)
    engine.dispose()
    assert _checks(database_url) == _checks(fresh)


def _checks(url: str) -> set[tuple[str, str, str]]:
    with psycopg.connect(url) as connection:
        rows = connection.execute(
            "SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid) FROM pg_constraint WHERE contype = 'c'"
            " AND connamespace IN ('sfsync'::regnamespace, 'public'::regnamespace)"
        )
        return {(str(table), str(name), str(rule)) for table, name, rule in rows}
