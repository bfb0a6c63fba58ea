"""Events: written by triggers, read in an order in which none is missed."""

import psycopg
import pytest

from worker import events
from worker.db import Database
from worker.events import GAP_SECONDS, Event, Reader

INSERT = "INSERT INTO sfsync.events (connection_id, kind, data) VALUES (1, 'run', '{}') RETURNING id"


@pytest.fixture
def connection_row(database_url: str) -> str:
    with psycopg.connect(database_url) as connection:
        connection.execute(
            "INSERT INTO salesforce_oauth_tokens (user_id, grant_type, login_url, schema_name, access_token)"
            " VALUES ('u-1', 'refresh_token', 'x', 'salesforce', 'x')"
        )
    return database_url


def insert(connection: "psycopg.Connection[tuple[int]]") -> int:
    row = connection.execute(INSERT).fetchone()
    assert row
    return row[0]


def read(database: Database, reader: Reader, now: float) -> list[int]:
    with database.transaction() as session:
        return [event.id for event in reader.read(session, now)]


def test_an_event_that_is_committed_late_is_read_and_nobody_resumes_past_it(
    database: Database, connection_row: str
) -> None:
    with psycopg.connect(connection_row) as slow, psycopg.connect(connection_row, autocommit=True) as quick:
        reader = Reader()
        early = insert(slow)  # taken before the reader begins, not committed
        known = insert(quick)
        with database.transaction() as session:
            reader.begin(session, 0.0)
        assert (reader.seen, reader.low) == (known, early - 1)
        late, newer = insert(slow), insert(quick)
        assert read(database, reader, 1.0) == [newer]
        assert reader.low == early - 1
        slow.commit()
        assert read(database, reader, 2.0) == [early, late]
        assert reader.low == newer
        assert read(database, reader, 3.0) == []


def test_what_was_rolled_back_is_not_waited_for_for_ever(database: Database, connection_row: str) -> None:
    with psycopg.connect(connection_row) as undone, psycopg.connect(connection_row, autocommit=True) as quick:
        reader = Reader()
        with database.transaction() as session:
            reader.begin(session, 0.0)
        insert(undone)
        newer = insert(quick)
        undone.rollback()
        assert read(database, reader, 1.0) == [newer]
        assert reader.low < newer - 1
        read(database, reader, 2.0 + GAP_SECONDS)
        assert reader.low == newer


def test_states_that_a_caller_waits_for_are_told_and_the_way_there_is_not(
    database: Database, connection_row: str
) -> None:
    with psycopg.connect(connection_row, autocommit=True) as connection:
        connection.execute(
            "INSERT INTO sfsync.actions (id, connection_id, object, operation, fields, content_hash, order_key, ticket, state, source)"
            " VALUES (gen_random_uuid(), 1, 'Contact', 'create', '{}', sha256('x'), 'x', 0, 'ready', 'http')"
        )
        sending = "state = 'sending', way = 'collection', sent_at = now(), claim_token = 1, claim_owner = 'x', claim_until = now()"
        free = "claim_token = NULL, claim_owner = NULL, claim_until = NULL"
        for change in (
            sending,
            f"state = 'ready', {free}",
            f'state = \'held\', error = \'{{"code": "X", "message": "x"}}\', {free}',
            "state = 'waiting'",
            "state = 'ready'",
            "state = 'cancelled', finished_at = now()",
        ):
            connection.execute(f"UPDATE sfsync.actions SET {change}".encode())
    with database.transaction() as session:
        found: list[Event] = events.past(session, ["u-1"], after=0, until=1000)
        assert events.past(session, ["u-2"], after=0, until=1000) == []
    assert [event.data["state"] for event in found] == ["held", "waiting", "cancelled"]
    assert found[0].data["error"]["code"] == "X"


def test_events_are_forgotten_after_a_day(database: Database, connection_row: str) -> None:
    with psycopg.connect(connection_row, autocommit=True) as connection:
        old, new = insert(connection), insert(connection)
        connection.execute("UPDATE sfsync.events SET at = at - interval '25 hours' WHERE id = %s", (old,))
    with database.transaction() as session:
        events.forget(session)
        assert events.oldest(session) == new
