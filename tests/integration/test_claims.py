"""Claims: one owner at a time, and a slow former owner writes nothing."""

from datetime import timedelta

import psycopg
import pytest

from worker import db
from worker.db import Database, Keeper
from worker.errors import FencedError

TTL = timedelta(seconds=60)
EXPIRED = timedelta(seconds=-1)


@pytest.fixture
def run_id(database_url: str) -> int:
    with psycopg.connect(database_url) as connection:
        row = connection.execute(
            """
            WITH c AS (INSERT INTO salesforce_oauth_tokens (user_id, grant_type, login_url, schema_name, access_token)
                       VALUES ('u', 'refresh_token', 'https://login.salesforce.com', 'salesforce', 'x') RETURNING id),
                 m AS (INSERT INTO sfsync.mirrors (connection_id, object, table_name)
                       SELECT id, 'Contact', 'contact' FROM c RETURNING id)
            INSERT INTO sfsync.runs (mirror_id, kind, lane, cause) SELECT id, 'load', 'backfill', 'manual' FROM m RETURNING id
            """
        ).fetchone()
    assert row
    return int(row[0])


def take(database: Database, run_id: int, ttl: timedelta = TTL) -> db.Claim | None:
    with database.transaction() as session:
        return db.take(session, "runs", run_id, ttl)


def test_a_row_is_claimed_by_one_worker_at_a_time(database: Database, run_id: int) -> None:
    assert take(database, run_id) is not None
    assert take(database, run_id) is None


def test_an_expired_claim_can_be_taken_over_and_fences_its_former_owner(database: Database, run_id: int) -> None:
    slow = take(database, run_id, EXPIRED)
    new = take(database, run_id)
    assert slow
    assert new
    assert new.token > slow.token
    with database.transaction() as session:
        assert not db.renew(session, slow, TTL)
        with pytest.raises(FencedError):
            db.guard(session, slow)
        db.guard(session, new)


def test_releasing_with_progress_sets_the_attempts_back(database: Database, database_url: str, run_id: int) -> None:
    for expected, progress in ((1, False), (0, True)):
        claim = take(database, run_id)
        assert claim
        with database.transaction() as session:
            db.release(session, claim, progress=progress)
        with psycopg.connect(database_url) as connection:
            row = connection.execute("SELECT attempts, claim_until FROM sfsync.runs").fetchone()
        assert row == (expected, None)


def test_a_fenced_release_changes_nothing(database: Database, database_url: str, run_id: int) -> None:
    slow = take(database, run_id, EXPIRED)
    new = take(database, run_id)
    assert slow
    assert new
    with database.transaction() as session:
        db.release(session, slow, progress=True)
    with psycopg.connect(database_url) as connection:
        row = connection.execute("SELECT attempts, claim_token FROM sfsync.runs").fetchone()
    assert row == (2, new.token)


def test_the_keeper_tells_its_owner_when_the_claim_is_lost(database: Database, run_id: int) -> None:
    ttl = timedelta(milliseconds=120)
    claim = take(database, run_id, ttl)
    assert claim
    calls: list[str] = []
    with Keeper(database, claim, ttl) as keeper:
        keeper.on_lost(lambda: calls.append("cut"))
        with database.transaction() as session:  # another worker takes it
            session.execute(db.text("UPDATE sfsync.runs SET claim_token = nextval('sfsync.claim_tokens')"))
        assert keeper.lost.wait(10)
        with pytest.raises(FencedError):
            keeper.check()
    assert calls == ["cut"]
