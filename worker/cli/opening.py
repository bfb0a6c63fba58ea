"""How the commands open Postgres: few connections, and one helpful line when it is not there."""

from worker.db import Database
from worker.settings import Settings


def open_database(settings: Settings) -> Database:
    """The database of the settings, checked. Raises SettingsError when it cannot be reached or is too old."""
    database = Database(settings.database_url.get_secret_value(), pool_size=2, application="sfsync-cli")
    database.check_server()
    return database
