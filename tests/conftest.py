"""Real servers for the tests: each test process starts its own PostgreSQL and Valkey on free ports.

`DATABASE_URL` and `REDIS_URL` in the environment do not matter here: tests never touch a server that is not theirs.
"""

import itertools
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import psycopg
import pytest
from hypothesis import HealthCheck, settings
from psycopg import sql

from models.migrations import upgrade
from tests.org import Org, SharedOrgs, start_org
from worker.db import Database
from worker.local_servers import EmbeddedPostgres, EmbeddedValkey

TEMPLATE = "sfsync_template"
_numbers = itertools.count(1)

# A loaded machine is no fault of the code: properties are about values, not about time.
settings.register_profile("sfsync", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("sfsync")


@pytest.fixture(scope="session")
def postgres() -> Iterator[EmbeddedPostgres]:
    """A PostgreSQL of this test process, with a migrated template database in it.

    Its folder is none of pytest's: those are closed to the server's user where we are root, and their data would stay elsewhere.
    """
    with ExitStack() as cleanup:
        folder = Path(cleanup.enter_context(TemporaryDirectory(prefix="sfsync-test-", ignore_cleanup_errors=True)))
        folder.chmod(0o755)
        fast = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}
        server = cleanup.enter_context(EmbeddedPostgres(folder / "data", fast))
        with psycopg.connect(server.url, autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {TEMPLATE}")
        upgrade(_with_database(server.url, TEMPLATE))
        yield server


@pytest.fixture(scope="session")
def valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedValkey]:
    """A Valkey of this test process."""
    with EmbeddedValkey(tmp_path_factory.mktemp("valkey") / "data") as server:
        yield server


@pytest.fixture
def database_url(postgres: EmbeddedPostgres) -> Iterator[str]:
    """A fresh, migrated database for one test, dropped after it."""
    with new_database(postgres) as url:
        yield url


@contextmanager
def new_database(postgres: EmbeddedPostgres) -> Iterator[str]:
    """A fresh, migrated database while the block lasts."""
    name = f"test_{next(_numbers)}"
    with psycopg.connect(postgres.url, autocommit=True) as connection:
        connection.execute(
            sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(sql.Identifier(name), sql.Identifier(TEMPLATE))
        )
    yield _with_database(postgres.url, name)
    with psycopg.connect(postgres.url, autocommit=True) as connection:
        connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    """A `Database` on a fresh, migrated database."""
    database = Database(database_url)
    yield database
    database.close()


@pytest.fixture
def org(tmp_path: Path) -> Iterator[Org]:
    """A local org over plain HTTP with a little data; `start_org` gives others."""
    with start_org(tmp_path / "org", seed="Account=20,Contact=50,Opportunity=30") as running:
        yield running


@pytest.fixture(scope="session")
def orgs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SharedOrgs]:
    """Local orgs that the tests of this process share, each like new for every test."""
    shared = SharedOrgs(tmp_path_factory.mktemp("orgs"))
    yield shared
    shared.close()


def _with_database(url: str, name: str) -> str:
    return f"{url.rsplit('/', 1)[0]}/{name}"
