"""One database for the tests of a module: a world empties it, which costs less than a new one."""

from collections.abc import Iterator

import pytest

from tests.conftest import new_database
from worker.db import Database
from worker.local_servers import EmbeddedPostgres


@pytest.fixture(scope="module")
def database_url(postgres: EmbeddedPostgres) -> Iterator[str]:
    with new_database(postgres) as url:
        yield url


@pytest.fixture(scope="module")
def database(database_url: str) -> Iterator[Database]:
    database = Database(database_url)
    yield database
    database.close()
