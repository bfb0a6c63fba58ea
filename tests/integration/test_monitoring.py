"""The numbers that operators see, and what doctor makes of them."""

import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
import typer
from typer.testing import CliRunner

from worker import monitoring
from worker.budget import report
from worker.checks import Check, is_somebodys, look
from worker.cli import status as status_commands
from worker.db import Database
from worker.local_servers import free_port
from worker.settings import Settings, load_settings

ORG = "00D000000000001AAA"

Sql = Callable[..., Any]


@pytest.fixture
def settings(database_url: str) -> Settings:
    redis_url = f"redis://127.0.0.1:{free_port()}/0"
    return load_settings({"DATABASE_URL": database_url, "ENCRYPTION_KEY": "A" * 43, "REDIS_URL": redis_url})


@pytest.fixture
def sql(database_url: str) -> Iterator[Sql]:
    with psycopg.connect(database_url, autocommit=True) as connection:

        def run(statement: str) -> Any:
            cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description else None

        run(
            f"""
            INSERT INTO salesforce_oauth_tokens (user_id, grant_type, login_url, schema_name, access_token, organization_id)
            VALUES ('u', 'refresh_token', 'https://login.salesforce.com', 's', 'x', '{ORG}');
            INSERT INTO sfsync.orgs (organization_id, api_used, api_max, reserve_left) VALUES ('{ORG}', 2000, 5000, 900);
            INSERT INTO sfsync.mirrors (connection_id, object, table_name, state, fresh_cursor, refresh_seconds)
            SELECT id, 'Contact', 'contact', 'live', clock_timestamp() - interval '20 s', 60 FROM salesforce_oauth_tokens
            """
        )
        yield run


def check(database: Database, settings: Settings, name: str) -> Check:
    return next(one for one in look(database, settings) if one.name == name)


def action(sql: Sql, state: str, age: str) -> None:
    finished = "clock_timestamp()" if state == "delivered" else "NULL"
    record = "'003000000000001AAA'" if state == "delivered" else "NULL"
    outcome = "'{}'" if state == "delivered" else "NULL"
    sql(
        f"""
        INSERT INTO sfsync.actions (id, connection_id, object, operation, fields, content_hash, order_key, ticket, state, source,
                                    created_at, finished_at, outcome, record_id)
        SELECT gen_random_uuid(), id, 'Contact', 'create', '{{}}', decode(repeat('00', 32), 'hex'), gen_random_uuid()::text, 1,
               '{state}', 'cli', clock_timestamp() - interval '{age}', {finished}, {outcome}, {record} FROM salesforce_oauth_tokens
        """
    )


def test_ages_and_lags_are_numbers(database: Database, settings: Settings, sql: Sql) -> None:
    action(sql, "ready", "2 hours")
    action(sql, "waiting", "1 hour")
    action(sql, "delivered", "5 hours")
    seen = monitoring.status(database, settings)
    assert {row["state"]: row["count"] for row in seen.actions} == {"ready": 1, "waiting": 1, "delivered": 1}
    assert seen.oldest_undelivered_seconds is not None
    assert 7200 <= seen.oldest_undelivered_seconds < 10_000
    assert seen.worst_lag_seconds is not None
    assert seen.worst_lag_seconds >= 20
    assert monitoring.status(database, settings, "nobody").actions == []


def test_what_finished_long_ago_is_not_counted(database: Database, settings: Settings, sql: Sql) -> None:
    action(sql, "delivered", "5 hours")
    sql("UPDATE sfsync.actions SET finished_at = clock_timestamp() - interval '2 hours'")
    assert monitoring.status(database, settings).actions == []


def test_an_action_that_waits_too_long_is_said(database: Database, settings: Settings, sql: Sql) -> None:
    assert check(database, settings, "actions").status == "healthy"
    action(sql, "ready", "14 min")
    assert check(database, settings, "actions").status == "healthy"
    action(sql, "ready", "16 min")
    found = check(database, settings, "actions")
    assert found.status == "degraded"
    assert "sfsync worker actions" in found.remedy


def test_a_mirror_too_far_behind_is_said_with_its_reason(database: Database, settings: Settings, sql: Sql) -> None:
    assert check(database, settings, "mirror u/Contact").status == "healthy"
    sql("UPDATE sfsync.mirrors SET fresh_cursor = clock_timestamp() - interval '16 min', state_reason = 'no such luck'")
    found = check(database, settings, "mirror u/Contact")
    assert found.status == "degraded"
    assert "no such luck" in found.message


def test_a_mirror_that_is_stretched_is_not_late_by_its_interval(
    database: Database, settings: Settings, sql: Sql
) -> None:
    sql(
        "UPDATE sfsync.mirrors SET fresh_cursor = clock_timestamp() - interval '50 min', effective_seconds = 3000,"
        " effective_reason = 'stretched: few calls'"
    )
    found = check(database, settings, "mirror u/Contact")
    assert found.status == "healthy"
    assert "every 3,000 s instead of 60" in found.message
    assert check(database, settings, f"allowance {ORG}").status == "degraded"


def test_a_run_that_was_given_up_is_said(database: Database, settings: Settings, sql: Sql) -> None:
    sql(
        "INSERT INTO sfsync.runs (mirror_id, kind, lane, cause, state, error)"
        " SELECT id, 'refresh', 'refresh', 'timetable', 'parked', 'INVALID_TYPE' FROM sfsync.mirrors"
    )
    found = check(database, settings, "mirror u/Contact")
    assert found.status == "unhealthy"
    assert "INVALID_TYPE" in found.message


@pytest.mark.parametrize(
    ("change", "expected", "words"),
    [
        ("api_used = 100", "healthy", "100 of 5,000"),
        ("api_used = 4600", "degraded", "4,600 of 5,000"),
        ("blocked_until = clock_timestamp() + interval '5 min'", "unhealthy", "takes no calls now"),
        ("blocked_until = clock_timestamp() - interval '5 min'", "healthy", "2,000"),
    ],
)
def test_an_allowance_that_runs_short_is_said(
    database: Database, settings: Settings, sql: Sql, change: str, expected: str, words: str
) -> None:
    sql(f"UPDATE sfsync.orgs SET {change}")
    found = check(database, settings, f"allowance {ORG}")
    assert found.status == expected
    assert words in found.message


def test_a_rate_that_ends_the_allowance_today_is_said(database: Database, settings: Settings, sql: Sql) -> None:
    sql(
        f"INSERT INTO sfsync.usage (organization_id, hour, object, lane, cause, calls)"
        f" SELECT '{ORG}', date_trunc('hour', clock_timestamp(), 'UTC') - h * interval '1 hour', 'Contact', 'refresh',"
        f" 'refresh/timetable', 1000 FROM generate_series(0, 1) h"
    )
    assert "at this rate the rest ends" in check(database, settings, f"allowance {ORG}").message


def test_usage_is_shown_by_object_lane_and_cause(
    database: Database, settings: Settings, sql: Sql, monkeypatch: pytest.MonkeyPatch, database_url: str
) -> None:
    now = datetime.now(UTC)
    hour = now.replace(minute=0, second=0, microsecond=0)
    sql(
        f"""
        INSERT INTO sfsync.usage (organization_id, hour, object, lane, cause, calls, query_jobs)
        VALUES ('{ORG}', '{hour}', 'Contact', 'backfill', 'load/manual', 7, 2),
               ('{ORG}', '{hour - timedelta(hours=30)}', 'Contact', 'refresh', 'refresh/timetable', 70, 0),
               ('00Dother', '{hour}', 'Account', 'actions', 'deliver', 3, 0)
        """
    )
    with database.transaction() as session:
        assert [row["calls"] for row in report.usage(session, now, user_id="u")] == [7]
        assert [row["calls"] for row in report.usage(session, now)] == [7, 3]
    monkeypatch.setenv("DATABASE_URL", database_url)
    monkeypatch.setenv("ENCRYPTION_KEY", "A" * 43)

    app = typer.Typer()
    status_commands.register(app)
    shown = CliRunner().invoke(app, ["status", "--usage", "--json"])
    assert shown.exit_code == 0, shown.output
    found = json.loads(shown.output)
    assert found["orgs"][0]["bulk"]["query_jobs"] == 2
    assert found["orgs"][0]["left"] == 3000
    assert found["usage"][0]["cause"] == "load/manual"
    text = CliRunner().invoke(app, ["status", "--usage"])
    assert "load/manual" in text.output
    assert CliRunner().invoke(app, ["status"]).exit_code == 0


def test_status_names_what_is_past_a_threshold(
    database: Database, settings: Settings, sql: Sql, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", database.url)
    monkeypatch.setenv("REDIS_URL", settings.redis_url.get_secret_value())
    monkeypatch.setenv("ENCRYPTION_KEY", "A" * 43)
    app = typer.Typer()
    status_commands.register(app)

    def named() -> set[str]:
        found = json.loads(CliRunner().invoke(app, ["status", "--json"]).output)["attention"]
        text = " ".join(CliRunner().invoke(app, ["status"]).output.split())
        assert all(one["name"] in text for one in found), text
        return {one["name"] for one in found} - {
            "beat",
            "broker",
            "worker actions",
            "worker refresh",
            "worker backfill",
        }

    assert named() == set()
    action(sql, "ready", "20 min")
    sql("UPDATE sfsync.mirrors SET fresh_cursor = clock_timestamp() - interval '20 min'")
    assert named() == {"actions", "mirror u/Contact"}
    monkeypatch.setenv("SFSYNC_ALERT_LAG_SECONDS", "3000")
    monkeypatch.setenv("SFSYNC_ALERT_UNDELIVERED_SECONDS", "3000")
    monkeypatch.setenv("SFSYNC_ALERT_ALLOWANCE_SHARE", "0.7")
    assert named() == {f"allowance {ORG}"}


USER = "(SELECT id FROM salesforce_oauth_tokens)"


@pytest.mark.parametrize(
    ("ill", "name", "status", "words", "remedy"),
    [
        ("SELECT 1", "worker actions", "degraded", "no such worker", "sfsync worker actions"),
        ("SELECT 1", "beat", "degraded", "no tick", "sfsync beat"),
        ("SELECT 1", "broker", "degraded", "work goes on", "REDIS_URL"),
        ("DELETE FROM salesforce_oauth_tokens", "connections", "degraded", "none yet", "sfsync connect"),
        (
            "UPDATE salesforce_oauth_tokens SET state = 'revoked', state_reason = 'expired'",
            "connection u",
            "unhealthy",
            "revoked: expired; its work waits",
            "sfsync connect --user-id u",
        ),
        (
            "UPDATE salesforce_oauth_tokens SET access_token = 'v1|deadbeef|x|y'",
            "keys",
            "unhealthy",
            "1 stored secrets",
            "add the former key",
        ),
        (
            "UPDATE sfsync.mirrors SET state = 'paused', state_reason = 'by hand'",
            "mirror u/Contact",
            "unhealthy",
            "by hand",
            "sfsync mirror --user-id u --object Contact",
        ),
        (
            "UPDATE sfsync.mirrors SET lost_since = clock_timestamp()",
            "mirror u/Contact",
            "degraded",
            "no longer shows",
            "sfsync drift",
        ),
        (
            f"INSERT INTO sfsync.callback_endpoints (connection_id, url, disabled_at, disabled_reason)"
            f" VALUES ({USER}, 'https://x.example/hook', clock_timestamp(), 'it answered 410')",
            "callbacks u",
            "degraded",
            "it answered 410",
            "sfsync callbacks enable",
        ),
        (
            f"INSERT INTO sfsync.usage (organization_id, hour, object, lane, cause, calls, query_jobs)"
            f" VALUES ('{ORG}', clock_timestamp(), 'Contact', 'backfill', 'load/manual', 1, 9500)",
            f"allowance {ORG}",
            "degraded",
            "9,500 of 10,000 Bulk query jobs",
            "status --usage",
        ),
        ("DROP TABLE sfsync.firings CASCADE", "database", "unhealthy", "not of this version", "sfsync migrate"),
    ],
)
def test_every_ill_is_told_with_what_to_do(
    database: Database, settings: Settings, sql: Sql, ill: str, name: str, status: str, words: str, remedy: str
) -> None:
    sql(ill)
    found = check(database, settings, name)
    assert found.status == status
    assert words in found.message
    assert remedy in found.remedy


def test_a_postgres_that_is_away_is_told(settings: Settings) -> None:
    nowhere = Database(f"postgresql://u@127.0.0.1:{free_port()}/x")
    (found,) = look(nowhere, settings)
    assert (found.name, found.status) == ("database", "unhealthy")
    assert "DATABASE_URL" in found.remedy


def test_what_is_somebodys_is_not_for_everybody(database: Database, settings: Settings, sql: Sql) -> None:
    sql(
        "INSERT INTO sfsync.triggers (connection_id, name, type, workflow_action, work, anchor, missed, missed_limit, grace_seconds, overlap)"
        f" VALUES ({USER}, 'hush', 'manual_trigger', 'process_data', '{{}}', clock_timestamp(), 'once', 10, 60, 'allow');"
        "INSERT INTO sfsync.firings (trigger_id, cause, work, parameters, state, reason, finished_at)"
        " SELECT id, 'manual', '{}', '{}', 'failed', 'why', clock_timestamp() FROM sfsync.triggers"
    )
    found = look(database, settings)
    assert "trigger u/hush" in [one.name for one in found]
    shown = " ".join(one.name for one in found if not is_somebodys(one))
    assert not any(word in shown for word in ("u/", "hush", ORG, "connection u"))
