"""A connected user with kept describes, and a runtime without Redis and without an org."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import psycopg
import pytest
from psycopg.types.json import Jsonb

from tests.integration.actions.conftest import CONTACT, OPPORTUNITY
from worker.runtime import Runtime
from worker.settings import load_settings
from worker.triggers import store
from worker.triggers.store import Asked

START = datetime(2026, 3, 28, 12, 0, tzinfo=UTC)
CONTACT_WORK = {"workflow_action": "execute_service", "capability": "create_contact", "parameters": {"LastName": "Ito"}}
DESCRIBES = (CONTACT, OPPORTUNITY)


@pytest.fixture
def rt(database_url: str) -> Iterator[Runtime]:
    """No Redis listens at this address."""
    environ = {"DATABASE_URL": database_url, "REDIS_URL": "redis://127.0.0.1:1/0", "ENCRYPTION_KEY": "A" * 43}
    runtime = Runtime(load_settings(environ))
    yield runtime
    runtime.close()


@pytest.fixture
def connection_id(database_url: str) -> int:
    """The user `u`, with Contact mirrored."""
    with psycopg.connect(database_url) as connection:
        row = connection.execute(
            """
            INSERT INTO salesforce_oauth_tokens (user_id, grant_type, login_url, schema_name, access_token)
            VALUES ('u', 'refresh_token', 'https://login.salesforce.com', 'salesforce', 'x') RETURNING id
            """
        ).fetchone()
        assert row
        for one in DESCRIBES:
            connection.execute(
                "INSERT INTO sfsync.object_describes (connection_id, object, describe) VALUES (%s, %s, %s)",
                (row[0], one["name"].lower(), Jsonb(one)),
            )
        connection.execute(
            "INSERT INTO sfsync.mirrors (connection_id, object, table_name, state, fresh_cursor, describe)"
            " VALUES (%s, 'Contact', 'contact', 'live', clock_timestamp(), %s)",
            (row[0], Jsonb(CONTACT)),
        )
    return int(row[0])


Add = Callable[..., int]
Rows = Callable[..., list[tuple[Any, ...]]]


@pytest.fixture
def add(rt: Runtime, connection_id: int) -> Add:
    """Add a trigger, at START; by default one that creates a contact every hour."""

    def make(**asked: Any) -> int:
        given: dict[str, Any] = {"name": "t", "type": "scheduled_trigger", "cron": "0 * * * *", **CONTACT_WORK} | asked
        if given["type"] == "manual_trigger":
            given.pop("cron")
        if given.get("workflow_action") == "process_data":
            given = {name: value for name, value in given.items() if name not in ("capability", "parameters")}
        now = given.pop("now", START)
        new = store.checked(Asked(**given), now, rt.triggers.capabilities)
        with rt.database.transaction() as session:
            return store.add(session, connection_id, new, now).id

    return make


@pytest.fixture
def rows(database_url: str) -> Rows:
    """Run one statement."""

    def run(statement: str, *values: object) -> list[tuple[Any, ...]]:
        with psycopg.connect(database_url, autocommit=True) as connection:
            cursor = connection.execute(statement.encode(), values or None)
            return cursor.fetchall() if cursor.description else []

    return run
