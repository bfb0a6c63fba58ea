"""What the org says of its allowance: the newest word wins, whichever process brings it."""

from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import text

from worker.allowance import Allowances
from worker.db import Database
from worker.salesforce.usage import Usage

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


@pytest.fixture
def connection_id(database: Database) -> int:
    with database.transaction() as session:
        made = session.scalar(
            text(
                """
                INSERT INTO salesforce_oauth_tokens (user_id, organization_id, grant_type, login_url, schema_name, state)
                VALUES ('tester', '00D000000000001AAA', 'refresh_token', 'https://example.com', 'salesforce', 'disconnected')
                RETURNING id
                """
            )
        )
    assert isinstance(made, int)
    return made


def used(database: Database) -> int | None:
    with database.transaction() as session:
        return session.scalar(text("SELECT api_used FROM sfsync.orgs"))


def told(database: Database, connection_id: int, *words: Usage) -> None:
    allowances = Allowances()
    for word in words:
        allowances.note(connection_id, word)
    with database.transaction() as session:
        allowances.write(session)


def test_the_newest_word_wins_within_a_process(database: Database, connection_id: int) -> None:
    later = NOON + timedelta(seconds=1)
    told(database, connection_id, Usage(7, 100, later), Usage(6, 100, NOON), Usage(9, 100, None))
    assert used(database) == 7


def test_the_newest_word_wins_between_processes(database: Database, connection_id: int) -> None:
    told(database, connection_id, Usage(7, 100, NOON))
    told(database, connection_id, Usage(5, 100, NOON - timedelta(seconds=1)))
    assert used(database) == 7
    told(database, connection_id, Usage(1, 100, NOON + timedelta(hours=1)))  # the day rolled on
    assert used(database) == 1


def test_nothing_heard_writes_nothing(database: Database, connection_id: int) -> None:
    told(database, connection_id)
    assert used(database) is None
