"""Renewals before anyone misses the token, on a real Postgres and against a token endpoint with rotation."""

import threading
from typing import Any

import psycopg
import pytest
from sqlalchemy import text

from tests.edge.scripted import answer
from tests.integration.tokens.issuer import Issuer, connected
from worker.db import Database
from worker.errors import DisconnectedError
from worker.settings import Settings
from worker.steps import Busy, Done
from worker.tokens import early
from worker.tokens.early import due_renewals, forget_attempts, renew_early
from worker.tokens.grants import put_expiry
from worker.tokens.renew import StoredTokens
from worker.tokens.vault import Vault


def sql(database: Database, statement: str, *values: object) -> list[tuple[Any, ...]]:
    with psycopg.connect(database.url, autocommit=True) as connection:
        cursor = connection.execute(statement.encode(), values or None)
        return cursor.fetchall() if cursor.description else []


def due(database: Database) -> list[int]:
    with database.transaction() as session:
        return due_renewals(session, 100)


def make_due(database: Database) -> None:
    sql(database, "UPDATE salesforce_oauth_tokens SET renew_at = clock_timestamp() - interval '1 second'")


WHEN = "SELECT extract(epoch FROM renew_at - renewed_at)::float / 86400 FROM salesforce_oauth_tokens"


def test_an_idle_refresh_token_is_used_in_time(tokens: StoredTokens, database: Database, issuer: Issuer) -> None:
    assert 4.7 < sql(database, WHEN)[0][0] < 6.1
    assert due(database) == []
    assert renew_early(tokens) == Busy()
    make_due(database)
    assert due(database) == [tokens.connection_id]
    assert renew_early(tokens) == Done()
    assert tokens.current().value == "access-2"
    assert due(database) == []
    assert renew_early(tokens) == Busy()
    assert len(issuer.requests) == 1


def test_a_session_whose_end_the_org_tells_is_renewed_before_it(
    tokens: StoredTokens, database: Database, issuer: Issuer
) -> None:
    issuer.introspection = {"active": True, "exp": 1795300000 + 7200}
    tokens.renew(tokens.current())
    hours = sql(database, WHEN)[0][0] * 24
    assert 1.39 < hours < 1.71
    with database.transaction() as session:
        put_expiry(session, tokens.connection_id, 99, None)  # of another version, or unknown: nothing changes
    assert sql(database, WHEN)[0][0] * 24 == pytest.approx(hours)


def test_session_lengths_are_learnt_from_tokens_that_the_org_refused(
    tokens: StoredTokens, database: Database, issuer: Issuer
) -> None:
    learnt = "SELECT session_seconds FROM salesforce_oauth_tokens"
    age = "UPDATE salesforce_oauth_tokens SET renewed_at = clock_timestamp() - CAST(%s AS interval)"
    tokens.renew(tokens.current())
    assert sql(database, learnt) == [(None,)]
    sql(database, age, "130 minutes")
    tokens.renew(tokens.current())
    assert sql(database, learnt) == [(7200.0,)]
    assert 1.39 < sql(database, WHEN)[0][0] * 24 < 1.71
    sql(database, age, "20 hours")
    make_due(database)
    renew_early(tokens)  # nobody refused this one: it teaches nothing
    sql(database, age, "50 minutes")
    tokens.renew(tokens.current())
    assert sql(database, learnt) == [(1800.0,)]


def test_many_workers_renew_a_due_connection_once(tokens: StoredTokens, database: Database, issuer: Issuer) -> None:
    make_due(database)
    found: list[object] = []
    threads = [threading.Thread(target=lambda: found.append(renew_early(tokens))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(map(repr, found)) == ["Busy()"] * 7 + ["Done()"]
    assert len(issuer.requests) == 1


def test_hundreds_due_at_once_go_a_few_at_a_time(database: Database, settings: Settings) -> None:
    for number in range(early.AT_ONCE + 4):
        connected(database, settings, user=f"u{number}")
    assert len({row[0] for row in sql(database, "SELECT renew_at FROM salesforce_oauth_tokens")}) > early.AT_ONCE
    make_due(database)
    assert len(due(database)) == early.AT_ONCE
    started = (
        "INSERT INTO sfsync.renewals (connection_id, fingerprint) SELECT min(id), 'x' FROM salesforce_oauth_tokens"
    )
    for _ in range(early.AT_ONCE - 1):
        sql(database, started)
    assert len(due(database)) == 1
    sql(database, started)
    assert due(database) == []
    sql(database, "UPDATE sfsync.renewals SET started_at = clock_timestamp() - interval '1 minute'")  # those have died
    assert len(due(database)) == early.AT_ONCE


def test_an_endpoint_that_fails_is_asked_again_later(tokens: StoredTokens, database: Database, issuer: Issuer) -> None:
    issuer.reply = lambda: answer(503, b"")
    make_due(database)
    assert renew_early(tokens) == Done()
    assert due(database) == []
    soon = "SELECT renew_at BETWEEN clock_timestamp() + interval '80 s' AND clock_timestamp() + interval '200 s', state FROM salesforce_oauth_tokens"
    assert sql(database, soon) == [(True, "active")]


def test_a_revoked_connection_is_announced_once_in_the_transaction_that_marks_it(
    database: Database, settings: Settings, issuer: Issuer
) -> None:
    sql(database, "CREATE TABLE told (connection bigint, reason text)")

    def announce(session: Any, connection_id: int, reason: str) -> None:
        session.execute(text("INSERT INTO told VALUES (:id, :reason)"), {"id": connection_id, "reason": reason})

    connection_id = connected(database, settings)
    tokens = StoredTokens(database, Vault(settings.keys), settings, connection_id, announce)
    issuer.revoked = True
    stale = tokens.current()
    for _ in range(2):
        with pytest.raises(DisconnectedError):
            tokens.renew(stale)
    told = sql(database, "SELECT * FROM told")
    assert [row[0] for row in told] == [connection_id]
    assert "expired access/refresh token" in told[0][1]
    assert sql(database, "SELECT state, renew_at FROM salesforce_oauth_tokens") == [("revoked", None)]


def test_old_attempts_are_forgotten(tokens: StoredTokens, database: Database) -> None:
    tokens.renew(tokens.current())
    tokens.renew(tokens.current())
    sql(database, "UPDATE sfsync.renewals SET started_at = clock_timestamp() - interval '31 days' WHERE id = 1")
    with database.transaction() as session:
        forget_attempts(session, early.timedelta(days=30))
    assert sql(database, "SELECT id FROM sfsync.renewals") == [(2,)]


def test_an_inactive_org_is_looked_at_again_a_day_later_and_its_work_resumes(
    tokens: StoredTokens, database: Database, issuer: Issuer
) -> None:
    stale = tokens.current()
    issuer.reply = lambda: answer(400, {"error": "invalid_grant", "error_description": "inactive organization"})
    with pytest.raises(DisconnectedError):
        tokens.renew(stale)
    day = "SELECT state, extract(epoch FROM renew_at - clock_timestamp())::float / 3600 BETWEEN 21 AND 27 FROM salesforce_oauth_tokens"
    assert sql(database, day) == [("revoked", True)]
    assert renew_early(tokens) == Busy()
    make_due(database)
    assert due(database) == [tokens.connection_id]
    renew_early(tokens)
    assert sql(database, day) == [("revoked", True)]
    issuer.reply = lambda: None
    make_due(database)
    renew_early(tokens)
    assert sql(database, "SELECT state, state_reason FROM salesforce_oauth_tokens") == [("active", None)]
    assert tokens.current().value == "access-2"
