"""The shim in this process, on a real Postgres, without Redis and without an org."""

import json
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from psycopg.types.json import Jsonb
from starlette.testclient import TestClient

from worker import access
from worker.db import Database
from worker.runtime import Runtime
from worker.settings import load_settings
from worker.shim.app import make_app

USER = "u-1"


@pytest.fixture
def runtime(database_url: str) -> Iterator[Runtime]:
    """No Redis listens at this address: the shim must not need it."""
    environ = {
        "DATABASE_URL": database_url,
        "REDIS_URL": "redis://127.0.0.1:1/0",
        "ENCRYPTION_KEY": "A" * 43,
        "SFSYNC_SHIM_BODY_BYTES": "2000",
    }
    rt = Runtime(load_settings(environ))
    yield rt
    rt.close()


@pytest.fixture
def keys(database: Database) -> dict[str, str]:
    """API keys: one per scope for USER, `other` for another user, `all` for everybody."""
    made = {}
    with database.transaction() as session:
        for name, scopes, users in (
            ("read", ["read"], [USER]),
            ("write", ["read", "write"], [USER]),
            ("other", ["read", "write"], ["u-2"]),
            ("all", ["read", "write"], None),
        ):
            made[name] = access.create_key(session, name, scopes, users)[1]
    return made


@pytest.fixture
def client(runtime: Runtime, keys: dict[str, str]) -> Iterator[TestClient]:
    """A client with the key `write`."""
    app = make_app(runtime)
    with TestClient(app, raise_server_exceptions=False, headers={"Authorization": f"Bearer {keys['write']}"}) as client:
        yield client


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
    """USER is connected; Contact and Opportunity are mirrored, Account is not yet."""
    with psycopg.connect(database_url) as connection:
        row = connection.execute(
            """
            INSERT INTO salesforce_oauth_tokens (user_id, grant_type, login_url, schema_name, access_token)
            VALUES (%s, 'refresh_token', 'https://login.salesforce.com', 'salesforce', 'x') RETURNING id
            """,
            (USER,),
        ).fetchone()
        assert row
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
