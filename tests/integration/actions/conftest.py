"""A connection with a kept describe: accepting asks no org."""

from collections.abc import Callable
from typing import Any

import psycopg
import pytest
from psycopg.types.json import Jsonb

from worker.actions.deps import ActionDeps
from worker.db import Database
from worker.settings import Settings, load_settings

FIELD: dict[str, Any] = {"createable": True, "updateable": True, "nillable": True}


def describe(name: str, prefix: str, *fields: dict[str, Any]) -> dict[str, Any]:
    """A small describe answer."""
    flags = dict.fromkeys(("createable", "updateable", "deletable", "queryable"), True)
    return {"name": name, "keyPrefix": prefix, **flags, "fields": [FIELD | field for field in fields]}


CONTACT = describe(
    "Contact",
    "003",
    {"name": "Id", "type": "id", "createable": False, "updateable": False, "nillable": False},
    {"name": "LastName", "type": "string", "length": 80, "nillable": False},
    {"name": "Email", "type": "email", "length": 80},
    {"name": "AccountId", "type": "reference", "length": 18, "relationshipName": "Account", "referenceTo": ["Account"]},
    {"name": "Name", "type": "string", "length": 121, "createable": False, "updateable": False},
)
ACCOUNT = describe("Account", "001", {"name": "Name", "type": "string", "length": 255, "nillable": False})
KEY = {"name": "External_Key__c", "type": "string", "length": 64, "externalId": True, "unique": True}
OPPORTUNITY = describe(
    "Opportunity",
    "006",
    {"name": "Name", "type": "string", "length": 120, "nillable": False},
    {"name": "Amount", "type": "currency", "precision": 18, "scale": 2},
    KEY,
)


@pytest.fixture
def settings(database_url: str) -> Settings:
    return load_settings({"DATABASE_URL": database_url, "ENCRYPTION_KEY": "A" * 43})


@pytest.fixture
def connection_id(database_url: str) -> int:
    with psycopg.connect(database_url) as connection:
        row = connection.execute(
            """
            INSERT INTO salesforce_oauth_tokens (user_id, grant_type, login_url, schema_name, access_token)
            VALUES ('u', 'refresh_token', 'https://login.salesforce.com', 'salesforce', 'x') RETURNING id
            """
        ).fetchone()
        assert row
        for one in (ACCOUNT, CONTACT, OPPORTUNITY):
            connection.execute(
                "INSERT INTO sfsync.object_describes (connection_id, object, describe) VALUES (%s, %s, %s)",
                (row[0], one["name"].lower(), Jsonb(one)),
            )
    return int(row[0])


@pytest.fixture
def woken() -> list[int]:
    return []


@pytest.fixture
def deps(database: Database, settings: Settings, woken: list[int]) -> ActionDeps:
    def nobody(_connection_id: int) -> Any:
        raise AssertionError("the org must not be asked")

    return ActionDeps(
        database, settings, nobody, lambda *_: None, lambda _name, row_id, _lane=None: woken.append(row_id)
    )


Rows = Callable[..., list[tuple[Any, ...]]]


@pytest.fixture
def rows(database_url: str) -> Rows:
    def run(statement: str, *values: object) -> list[tuple[Any, ...]]:
        with psycopg.connect(database_url, autocommit=True) as connection:
            cursor = connection.execute(statement.encode(), values or None)
            return cursor.fetchall() if cursor.description else []

    return run
