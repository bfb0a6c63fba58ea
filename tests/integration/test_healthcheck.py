"""`sfsync healthcheck`: alive is who was seen lately and, while there is work, ends steps."""

import json
import socket
from collections.abc import Callable
from typing import Any

import pytest
from typer.testing import CliRunner

from tests.integration.conftest import Rows
from worker import pulse
from worker.cli.main import app
from worker.cli.output import Exit
from worker.db import Database

Ask = Callable[[str], dict[str, Any]]


@pytest.fixture
def ask(database_url: str, monkeypatch: pytest.MonkeyPatch) -> Ask:
    monkeypatch.setenv("DATABASE_URL", database_url)
    monkeypatch.setenv("ENCRYPTION_KEY", "A" * 43)

    def run(service: str) -> dict[str, Any]:
        done = CliRunner().invoke(app, ["healthcheck", service, "--json"])
        found: dict[str, Any] = json.loads(done.output)
        assert done.exit_code == (Exit.OK if found["alive"] else Exit.UNAVAILABLE)
        assert ("alive" in CliRunner().invoke(app, ["healthcheck", service]).output) == found["alive"]
        return found

    return run


def beat(database: Database, service: str, lanes: str, steps: int = 0) -> None:
    with database.transaction() as session:
        pulse.beat(session, service, "worker", lanes, steps=steps)


def test_a_worker_is_alive_while_it_is_seen(ask: Ask, database: Database, rows: Rows) -> None:
    assert "has started" in ask("actions")["trouble"]
    beat(database, "actions", "actions")
    assert ask("actions")["alive"]
    assert not ask("refresh")["alive"]
    rows("UPDATE sfsync.processes SET seen_at = clock_timestamp() - interval '31 s'")
    assert "not seen for" in ask("actions")["trouble"]
    beat(database, "actions", "actions")
    rows("UPDATE sfsync.processes SET host = 'another'")
    assert socket.gethostname() in ask("actions")["trouble"]


def test_a_worker_that_ends_no_step_is_dead_only_while_there_is_work(ask: Ask, database: Database, rows: Rows) -> None:
    beat(database, "refresh", "refresh upkeep", steps=1)
    rows("UPDATE sfsync.processes SET last_step_at = clock_timestamp() - interval '10 min'")
    assert ask("refresh")["alive"]
    rows(
        """
        INSERT INTO salesforce_oauth_tokens (user_id, grant_type, login_url, schema_name, access_token)
        VALUES ('u', 'refresh_token', 'https://login.salesforce.com', 's', 'x');
        INSERT INTO sfsync.mirrors (connection_id, object, table_name) SELECT id, 'Contact', 'contact' FROM salesforce_oauth_tokens;
        INSERT INTO sfsync.runs (mirror_id, kind, lane, cause) SELECT id, 'refresh', 'refresh', 'manual' FROM sfsync.mirrors
        """
    )
    assert "no step has ended for 6" in ask("refresh")["trouble"]
    beat(database, "refresh", "refresh upkeep", steps=1)
    assert ask("refresh")["alive"]


def test_beat_is_alive_while_its_ticks_arrive(ask: Ask, database: Database, rows: Rows) -> None:
    assert "no tick yet" in ask("beat")["trouble"]
    with database.transaction() as session:
        pulse.tick(session)
    assert ask("beat")["alive"]
    rows("UPDATE sfsync.processes SET seen_at = clock_timestamp() - interval '1 min'")
    assert "Redis" in ask("beat")["trouble"]
