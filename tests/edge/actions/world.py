"""An org over the wire, our database and a connection between them: what the tests of delivery are made of."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import psycopg

from tests.edge.test_local_org import client_of
from tests.org import Org
from worker.actions import deliver
from worker.actions.accept import Accepted, accept
from worker.actions.deps import ActionDeps
from worker.actions.intent import Intent
from worker.db import Database
from worker.salesforce import rest, soql
from worker.settings import load_settings
from worker.steps import Step

Rows = Callable[..., list[tuple[Any, ...]]]
COLLECTIONS = "/composite/sobjects"
LATER = timedelta(seconds=700)  # past the settling time
# Describes are kept: the org is the same.
EMPTY = """
TRUNCATE sfsync.actions, sfsync.action_lines, sfsync.action_queues, sfsync.ingest_jobs, sfsync.callback_endpoints CASCADE;
DELETE FROM salesforce_oauth_tokens WHERE user_id <> 'u'
"""
CONNECT = """
INSERT INTO salesforce_oauth_tokens (user_id, grant_type, login_url, schema_name, access_token, salesforce_user_id)
VALUES ('u', 'client_credentials', %s, 'salesforce', 'x', %s)
ON CONFLICT (user_id) DO UPDATE SET state = 'active', salesforce_user_id = EXCLUDED.salesforce_user_id,
       former_salesforce_user_id = NULL, user_changed_at = NULL RETURNING id
"""


class World:
    """An org, our database, a connection between them. What was there before in the database is forgotten."""

    def __init__(self, org: Org, database: Database, database_url: str, **settings: Any) -> None:
        self.org = org
        self.url = database_url
        self.remembered: list[tuple[str, str]] = []
        given = {"idempotency_keys": False, "bulk_poll_seconds": 0.1, **settings}
        self.deps = ActionDeps(
            database,
            load_settings({"DATABASE_URL": database_url, "ENCRYPTION_KEY": "A" * 43}, **given),
            lambda _: client_of(org),
            self._remember,
            lambda *_, **__: None,
        )
        self.rows(EMPTY)
        ((self.connection_id,),) = self.rows(CONNECT, org.url, org.user_id)
        org.control.advance_clock(60)  # what earlier tests made in a shared org is too old to be taken for ours

    def _remember(self, _connection_id: int, object_name: str, ids: list[str]) -> None:
        self.remembered += [(object_name, one) for one in ids]

    def rows(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.url, autocommit=True) as connection:
            cursor = connection.execute(statement.encode(), values or None)
            return cursor.fetchall() if cursor.description else []

    def accept(self, *intents: Intent) -> list[Accepted]:
        return accept(self.deps, self.connection_id, intents, source="cli")

    def step(self, *, later: timedelta = timedelta(0), queue: str = "%") -> Step:
        ((queue_id,),) = self.rows("SELECT id FROM sfsync.action_queues WHERE object LIKE %s", queue)
        return deliver.step(self.deps, queue_id, now=self.deps.database.now() + later, chance=lambda: 0.0)

    def states(self) -> list[str]:
        return [row[0] for row in self.rows("SELECT state FROM sfsync.actions ORDER BY created_at, ticket, id")]

    def error(self) -> dict[str, Any]:
        return dict(self.rows("SELECT error FROM sfsync.actions WHERE error IS NOT NULL")[0][0])

    def find(self, object_name: str, name: str, *fields: str) -> list[dict[str, Any]]:
        field = "LastName" if object_name in ("Contact", "Lead") else "Name"
        where = f"{field} = {soql.literal(name)}"
        page = rest.query(client_of(self.org), soql.select(object_name, ["Id", *fields], where=where))
        return page.records

    def spoil(self, action: dict[str, Any], **match: Any) -> None:
        self.org.control.add_fault(match={"path_regex": COLLECTIONS, **match}, action=action)

    def writes(self) -> int:
        return sum(COLLECTIONS in entry["path"] for entry in self.org.control.ledger())


def rest_create(org: Org, object_name: str, fields: dict[str, Any]) -> str:
    """Somebody else's record."""
    answer = client_of(org).call("POST", f"sobjects/{object_name}", json=fields, idempotent=False)
    return str(answer.body["id"])
