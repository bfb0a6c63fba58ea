"""The shim in this process, on a real Postgres, without Redis and without an org."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import psycopg
import pytest
from fastapi import FastAPI
from psycopg import sql
from psycopg.types.json import Jsonb
from starlette.testclient import TestClient

from tests.conftest import new_database
from worker import access
from worker.db import Database
from worker.local_servers import EmbeddedPostgres
from worker.log import setup_logging
from worker.runtime import Runtime
from worker.settings import decode_keys, load_settings
from worker.shim.app import make_app
from worker.tokens.vault import Vault

USER = "u-1"
KEY = "A" * 43
NO_ORG = "http://127.0.0.1:1"  # nobody listens there


@pytest.fixture(scope="session", autouse=True)
def logging() -> None:
    """As in the product: what structlog does by itself, a traceback with every variable in colours, takes seconds."""
    setup_logging(level="ERROR")


@dataclass
class Shim:
    """The application on a database of its own: `client` has the key `write`; others go by `keys`."""

    client: TestClient
    runtime: Runtime
    app: FastAPI
    keys: dict[str, str]
    url: str

    def as_key(self, name: str) -> dict[str, str]:
        """The header for another key."""
        return {"Authorization": f"Bearer {self.keys[name]}"}

    def take_keys(self) -> None:
        """New keys, nobody known, nobody slowed down."""
        self.keys = make_keys(self.runtime.database)
        self.client.headers = self.as_key("write")
        self.app.state.known_callers = access.KnownCallers()
        for name in ("rates", "sign_ins"):
            getattr(self.app.state, name)._buckets.clear()

    def empty(self) -> None:
        """As a fresh database, except that ids go on."""
        with psycopg.connect(self.url) as connection:
            tables = connection.execute(
                "SELECT format('%I.%I', schemaname, tablename) FROM pg_tables WHERE tablename <> 'alembic_version'"
                " AND (schemaname = 'sfsync' OR tablename = 'salesforce_oauth_tokens')"
            )
            names = ", ".join(name for (name,) in tables)
            connection.execute(f"TRUNCATE {names}; DROP SCHEMA IF EXISTS salesforce CASCADE".encode())


def runtime_of(url: str, **environ: str) -> Runtime:
    """A runtime on the database at `url`. No Redis listens at its address: it must not need one."""
    settings = {
        "DATABASE_URL": url,
        "REDIS_URL": "redis://127.0.0.1:1/0",
        "ENCRYPTION_KEY": KEY,
        "SALESFORCE_CLIENT_ID": "app",
        "SALESFORCE_LOGIN_URL": NO_ORG,
        "SALESFORCE_ALLOWED_HOSTS": NO_ORG,
        "SFSYNC_SHIM_BODY_BYTES": "2000",
        "SFSYNC_SHIM_BATCH_BYTES": "100000",
        "SFSYNC_SHIM_REQUESTS_PER_MINUTE": "1000000",
    }
    return Runtime(load_settings(settings | environ))


@contextmanager
def start_shim(url: str, **environ: str) -> Iterator[Shim]:
    """A shim on the database at `url`."""
    runtime = runtime_of(url, **environ)
    app = make_app(runtime)
    with TestClient(app, raise_server_exceptions=False) as client:
        shim = Shim(client, runtime, app, {}, url)
        shim.take_keys()
        yield shim
    runtime.close()


def make_keys(database: Database) -> dict[str, str]:
    """API keys: one per scope for USER, `other` for another user, `all` for everybody."""
    made = {}
    with database.transaction() as session:
        for name, scopes, users in (
            ("read", ["read"], [USER]),
            ("write", ["read", "write", "trigger"], [USER]),
            ("other", ["read", "write", "trigger"], ["u-2"]),
            ("all", ["read", "write"], None),
            ("admin", ["admin"], None),
        ):
            made[name] = access.create_key(session, name, scopes, users)[1]
    return made


@pytest.fixture(scope="module")
def shared(postgres: EmbeddedPostgres) -> Iterator[Shim]:
    """One shim with a connected USER for all tests of a module that leave things as they are."""
    with new_database(postgres) as url:
        connect(url)
        with start_shim(url) as shim:
            yield shim


@pytest.fixture(scope="module")
def new_url(postgres: EmbeddedPostgres) -> Iterator[str]:
    """A database for all tests of a module."""
    with new_database(postgres) as url:
        yield url


@pytest.fixture(scope="module")
def reused(new_url: str) -> Iterator[Shim]:
    """One shim for all tests of a module that change things: to start it costs more than most tests."""
    with start_shim(new_url) as shim:
        yield shim


@pytest.fixture
def shim(reused: Shim) -> Iterator[Shim]:
    """A shim of one test, as if it were new."""
    reused.take_keys()
    yield reused
    reused.client.cookies.clear()
    reused.empty()


@pytest.fixture
def database_url(shim: Shim) -> str:
    """The shim's own database."""
    return shim.url


@pytest.fixture
def client(shim: Shim) -> TestClient:
    """A client with the key `write`."""
    return shim.client


@pytest.fixture
def keys(shim: Shim) -> dict[str, str]:
    """See `make_keys`."""
    return shim.keys


FIELD: dict[str, Any] = {"createable": True, "updateable": True, "nillable": True}


def describe(name: str, prefix: str, *fields: dict[str, Any]) -> dict[str, Any]:
    flags = dict.fromkeys(("createable", "updateable", "deletable", "queryable"), True)
    return {"name": name, "keyPrefix": prefix, **flags, "fields": [FIELD | field for field in fields]}


ID = {"name": "Id", "type": "id", "createable": False, "updateable": False, "nillable": False}
DESCRIBES = (
    describe(
        "Contact",
        "003",
        ID,
        {"name": "LastName", "type": "string", "length": 80, "nillable": False},
        {"name": "Name", "type": "string", "length": 121, "createable": False, "updateable": False},
        {"name": "Email", "type": "email", "length": 80},
    ),
    describe(
        "Opportunity",
        "006",
        ID,
        {"name": "Name", "type": "string", "length": 120, "nillable": False},
        {"name": "StageName", "type": "picklist", "length": 255, "nillable": False},
        {"name": "CloseDate", "type": "date", "nillable": False},
        {"name": "Amount", "type": "currency", "precision": 18, "scale": 2},
    ),
    describe("Account", "001", ID, {"name": "Name", "type": "string", "length": 255, "nillable": False}),
)


@pytest.fixture
def connected(database_url: str) -> int:
    """See `connect`."""
    return connect(database_url)


def connect(url: str) -> int:
    """USER is connected; Contact and Opportunity are mirrored, Account is not yet. The connection's id."""
    with psycopg.connect(url) as connection:
        row = connection.execute(
            """
            INSERT INTO salesforce_oauth_tokens (user_id, grant_type, login_url, schema_name, access_token)
            VALUES (%s, 'refresh_token', %s, 'salesforce', 'x') RETURNING id
            """,
            (USER, NO_ORG),
        ).fetchone()
        assert row
        for column in ("access_token", "refresh_token"):
            sealed = Vault(decode_keys(KEY)).encrypt(
                "token", table="salesforce_oauth_tokens", column=column, row=row[0]
            )
            statement = sql.SQL("UPDATE salesforce_oauth_tokens SET {} = %s").format(sql.Identifier(column))
            connection.execute(statement, (sealed,))
        connection.execute("CREATE SCHEMA salesforce")
        connection.execute(
            "CREATE TABLE salesforce.contact (id text PRIMARY KEY, lastname text, name text, email text)"
        )
        connection.execute(
            "CREATE TABLE salesforce.opportunity"
            " (id text PRIMARY KEY, name text, stagename text, closedate date, amount numeric)"
        )
        for one in DESCRIBES:
            connection.execute(
                "INSERT INTO sfsync.object_describes (connection_id, object, describe) VALUES (%s, %s, %s)",
                (row[0], one["name"].lower(), Jsonb(one)),
            )
        for one in DESCRIBES[:2]:
            connection.execute(
                "INSERT INTO sfsync.mirrors (connection_id, object, table_name, state, fresh_cursor, describe)"
                " VALUES (%s, %s, %s, 'live', clock_timestamp(), %s)",
                (row[0], one["name"], one["name"].lower(), Jsonb(one)),
            )
        connection.execute(
            "INSERT INTO salesforce.contact VALUES ('003000000000002AAA', 'Zorn', 'Zorn', NULL),"
            " ('003000000000001AAA', 'Abe', 'Abe', 'a@b.example')"
        )
        connection.execute(
            "INSERT INTO salesforce.opportunity VALUES"
            " ('006000000000001AAA', 'old', 'Won', '2026-01-01', 1234567890123456.78),"
            " ('006000000000002AAA', 'new', 'Won', '2026-02-01', NULL)"
        )
    return int(row[0])


def body_of(answer: Any) -> dict[str, Any]:
    """The envelope; every answer is one."""
    body: dict[str, Any] = json.loads(answer.content)
    assert isinstance(body["ok"], bool)
    assert ("data" in body) == body["ok"]
    assert ("error" in body) != body["ok"]
    assert answer.headers["X-Request-Id"]
    return body
