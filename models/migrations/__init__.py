"""Alembic migrations of our own tables, forward only; `upgrade()` is what `sfsync migrate` runs."""

from pathlib import Path

from alembic import command
from alembic.config import Config
from sqlalchemy import Engine, create_engine, text

LOCK = 0x5F5C  # an advisory lock: two starts at once migrate one after the other


def migration_engine(database_url: str) -> Engine:
    """An engine without a default schema: every name is then qualified, and comparing with the models is exact."""
    url = f"postgresql+psycopg://{database_url.split('://', 1)[1]}"
    return create_engine(url, connect_args={"options": "-c search_path=pg_catalog -c lock_timeout=30s"})


def upgrade(database_url: str) -> None:
    """Bring our own tables to the newest version; harmless when they are."""
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent))
    engine = migration_engine(database_url)
    try:
        with engine.begin() as connection:
            connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": LOCK})
            connection.execute(text("CREATE SCHEMA IF NOT EXISTS sfsync"))
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
    finally:
        engine.dispose()
