"""Our own tables."""

import psycopg
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

import models.access
import models.action
import models.connection
import models.mirror  # noqa: F401 - imported so that their tables are known
from models.base import SCHEMA, Base
from models.migrations import migration_engine, upgrade


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
