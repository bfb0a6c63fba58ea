"""A runtime without Redis and without an org, and triggers of the user `u`."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from psycopg.types.json import Jsonb

from tests.describes import CONTACT
from tests.integration.conftest import Rows
from worker.runtime import Runtime
from worker.settings import load_settings
from worker.triggers import store
from worker.triggers.store import Asked

START = datetime(2026, 3, 28, 12, 0, tzinfo=UTC)
CONTACT_WORK = {"workflow_action": "execute_service", "capability": "create_contact", "parameters": {"LastName": "Ito"}}


@pytest.fixture
def rt(database_url: str) -> Iterator[Runtime]:
    """No Redis listens at this address."""
    environ = {"DATABASE_URL": database_url, "REDIS_URL": "redis://127.0.0.1:1/0", "ENCRYPTION_KEY": "A" * 43}
    runtime = Runtime(load_settings(environ))
    yield runtime
    runtime.close()


@pytest.fixture
def connection_id(connection_id: int, rows: Rows) -> int:
    """The user `u`, with Contact mirrored."""
    mirror = (
        "INSERT INTO sfsync.mirrors (connection_id, object, table_name, state, fresh_cursor, describe)"
        " VALUES (%s, 'Contact', 'contact', 'live', clock_timestamp(), %s)"
    )
    rows(mirror, connection_id, Jsonb(CONTACT))
    return connection_id


Add = Callable[..., int]


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
