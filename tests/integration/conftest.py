"""A connected user with kept describes, and one statement at a time."""

from collections.abc import Callable
from typing import Any

import psycopg
import pytest
from psycopg.types.json import Jsonb

from tests.describes import ACCOUNT, CONTACT, OPPORTUNITY
from tests.integration.cli import Cli

Rows = Callable[..., list[tuple[Any, ...]]]


@pytest.fixture
def rows(database_url: str) -> Rows:
    """Run one statement, or several without values."""

    def run(statement: str, *values: object) -> list[tuple[Any, ...]]:
        with psycopg.connect(database_url, autocommit=True) as connection:
            cursor = connection.execute(statement.encode(), values or None)
            return cursor.fetchall() if cursor.description else []

    return run


@pytest.fixture
def connection_id(rows: Rows) -> int:
    """The user `u`."""
    ((made,),) = rows(
        "INSERT INTO salesforce_oauth_tokens (user_id, grant_type, login_url, schema_name, access_token)"
        " VALUES ('u', 'refresh_token', 'https://login.salesforce.com', 'salesforce', 'x') RETURNING id"
    )
    for one in (ACCOUNT, CONTACT, OPPORTUNITY):
        keep = "INSERT INTO sfsync.object_describes (connection_id, object, describe) VALUES (%s, %s, %s)"
        rows(keep, made, one["name"].lower(), Jsonb(one))
    return int(made)


@pytest.fixture
def cli(
    connection_id: int, database_url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Cli:
    """`sfsync` with the user `u` connected; no Redis."""
    assert connection_id
    given = {"DATABASE_URL": database_url, "ENCRYPTION_KEY": "A" * 43, "REDIS_URL": "redis://127.0.0.1:1/0"}
    return Cli(monkeypatch, capsys, given)
