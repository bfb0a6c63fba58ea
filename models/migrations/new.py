"""Write a new migration from what the models say: `python -m models.migrations.new DATABASE_URL "message"`."""

import sys
from pathlib import Path

from alembic import command
from alembic.config import Config
from sqlalchemy import text

from models.migrations import migration_engine, upgrade


def main(database_url: str, message: str) -> None:
    """Migrate the database to the newest version, compare it with the models, write the difference."""
    folder = Path(__file__).parent
    if any((folder / "versions").glob("*.py")):
        upgrade(database_url)
    config = Config()
    config.set_main_option("script_location", str(folder))
    number = f"{len(list((folder / 'versions').glob('[0-9]*.py'))) + 1:04}"
    with migration_engine(database_url).begin() as connection:
        connection.execute(text("CREATE SCHEMA IF NOT EXISTS sfsync"))
        config.attributes["connection"] = connection
        command.revision(config, message, autogenerate=True, rev_id=number)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
