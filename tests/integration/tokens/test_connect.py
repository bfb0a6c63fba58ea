"""Connecting, disconnecting and rotating keys, on a real Postgres."""

import os
import re
from urllib.parse import parse_qs, urlsplit

import psycopg
import pytest
from sqlalchemy import text

from models.connection import Connection
from tests.edge.scripted import answer
from tests.integration.tokens.issuer import ORG, USER, Issuer, connected, silence
from worker.db import Database
from worker.errors import DisconnectedError, SettingsError, TransientError
from worker.salesforce import oauth, rest
from worker.salesforce.oauth import challenge
from worker.settings import Settings
from worker.tokens.authorize import begin_authorization, finish_authorization, state_user
from worker.tokens.connect import Target, connect_with_client_credentials, connect_with_refresh_token, login_url_of
from worker.tokens.disconnect import end_connection
from worker.tokens.grants import check_schema_name, reduced
from worker.tokens.renew import StoredTokens
from worker.tokens.vault import Vault, outdated, rotate

REDIRECT = "http://localhost:1717/callback"
ME = Target("me@acme.example")


def row_of(database: Database, user_id: str) -> Connection:
    with database.transaction() as session:
        return session.query(Connection).where(Connection.user_id == user_id).one()


def sql(database: Database, statement: str) -> list[tuple[object, ...]]:
    with psycopg.connect(database.url, autocommit=True) as connection:
        cursor = connection.execute(statement.encode())
        return cursor.fetchall() if cursor.description else []


def test_an_authorization_ends_in_a_stored_connection(
    database: Database, vault: Vault, settings: Settings, issuer: Issuer
) -> None:
    begun = begin_authorization(database, vault, settings, ME, REDIRECT)
    assert state_user(database, begun.state) == ME.user_id
    done = finish_authorization(database, vault, settings, begun.state, "the-code")
    assert (done.user_id, done.organization_id, done.schema_name) == (ME.user_id, ORG, "salesforce")
    form = issuer.requests[0]
    asked = parse_qs(urlsplit(begun.url).query)
    assert (form["grant_type"], form["code"], form["redirect_uri"]) == ("authorization_code", "the-code", REDIRECT)
    assert [challenge(form["code_verifier"])] == asked["code_challenge"]
    assert StoredTokens(database, vault, settings, done.connection_id).current().value == "access-2"


def test_a_state_is_good_once(database: Database, vault: Vault, settings: Settings, issuer: Issuer) -> None:
    begun = begin_authorization(database, vault, settings, ME, REDIRECT)
    finish_authorization(database, vault, settings, begun.state, "code")
    with pytest.raises(SettingsError, match="already used"):
        finish_authorization(database, vault, settings, begun.state, "code")
    assert len(issuer.requests) == 1


@pytest.mark.parametrize(("age", "good"), [("9 minutes 50 seconds", True), ("10 minutes 1 second", False)])
def test_a_state_is_good_for_ten_minutes(
    database: Database, vault: Vault, settings: Settings, age: str, good: bool
) -> None:
    begun = begin_authorization(database, vault, settings, ME, REDIRECT)
    sql(database, f"UPDATE sfsync.oauth_states SET created_at = clock_timestamp() - interval '{age}'")
    if good:
        finish_authorization(database, vault, settings, begun.state, "code")
    else:
        assert state_user(database, begun.state) is None
        with pytest.raises(SettingsError):
            finish_authorization(database, vault, settings, begun.state, "code")


def test_a_foreign_state_opens_nothing(database: Database, vault: Vault, settings: Settings, issuer: Issuer) -> None:
    begin_authorization(database, vault, settings, ME, REDIRECT)
    with pytest.raises(SettingsError):
        finish_authorization(database, vault, settings, "guessed", "code")
    assert issuer.requests == []


def test_an_imported_refresh_token_is_used_once_and_its_successor_kept(
    database: Database, vault: Vault, settings: Settings, issuer: Issuer
) -> None:
    done = connect_with_refresh_token(database, vault, settings, ME, "refresh-1")
    tokens = StoredTokens(database, vault, settings, done.connection_id)
    assert tokens.renew(tokens.current()).value == "access-3"
    assert not issuer.revoked


def test_a_rotated_token_is_stored_before_anything_is_asked_with_it(
    database: Database, vault: Vault, settings: Settings, issuer: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored: list[object] = []

    def look(*_: object, **__: object) -> None:
        stored.append(row_of(database, ME.user_id).refresh_token)
        raise TransientError("the worker is killed here, or the org is away")

    with monkeypatch.context() as patch:
        for module, function in ((oauth, "identity"), (oauth, "introspect"), (rest, "query")):
            patch.setattr(module, function, look)
        with pytest.raises(TransientError):
            connect_with_refresh_token(database, vault, settings, ME, "refresh-1")
    assert len(stored) == 2  # the user's own record, then userinfo
    assert all(stored)
    token = StoredTokens(database, vault, settings, row_of(database, ME.user_id).id).current()
    assert token.value == "access-2"


def test_an_imported_refresh_token_without_rotation_stays(
    database: Database, vault: Vault, settings: Settings, issuer: Issuer
) -> None:
    issuer.rotate = False
    done = connect_with_refresh_token(database, vault, settings, ME, "refresh-1")
    tokens = StoredTokens(database, vault, settings, done.connection_id)
    tokens.renew(tokens.current())
    assert [form["refresh_token"] for form in issuer.requests] == ["refresh-1", "refresh-1"]


def test_what_would_be_refused_is_refused_before_a_token_is_spent(
    database: Database, vault: Vault, settings: Settings, issuer: Issuer
) -> None:
    sql(database, "CREATE SCHEMA taken")
    for target in (
        Target("u", schema_name="taken"),
        Target("u", schema_name="sfsync"),
        Target("u", environment="moon"),
    ):
        with pytest.raises(SettingsError):
            connect_with_refresh_token(database, vault, settings, target, "refresh-1")
    bare = settings.model_copy(update={"salesforce_client_id": ""})
    with pytest.raises(SettingsError, match="SALESFORCE_CLIENT_ID"):
        connect_with_refresh_token(database, vault, bare, ME, "refresh-1")
    assert issuer.requests == []


def test_client_credentials_need_the_orgs_own_host(database: Database, vault: Vault, settings: Settings) -> None:
    elsewhere = settings.model_copy(update={"salesforce_login_url": "https://login.salesforce.com"})
    with pytest.raises(SettingsError, match="own host"):
        connect_with_client_credentials(database, vault, elsewhere, ME)
    assert connect_with_client_credentials(database, vault, settings, ME).organization_id == ORG


def test_a_sandbox_logs_in_at_the_sandbox_host(settings: Settings) -> None:
    public = settings.model_copy(update={"salesforce_login_url": "https://login.salesforce.com"})
    assert login_url_of(public, Target("u", environment="sandbox")) == "https://test.salesforce.com"
    assert login_url_of(public, Target("u")) == "https://login.salesforce.com"
    assert login_url_of(settings, Target("u", environment="sandbox")) == settings.salesforce_login_url
    with pytest.raises(SettingsError, match="--login-url"):
        login_url_of(settings, Target("u", login_url="https://evil.example"))


def test_the_first_connection_gets_the_plain_schema_and_others_their_own(
    database: Database, settings: Settings
) -> None:
    names = []
    for user in ("a@x.example", "B@x.example", "b-x.example", "ä"):
        connected(database, settings, user=user)
        names.append(row_of(database, user).schema_name)
    assert names == ["salesforce", "salesforce_b_x_example", "salesforce_b_x_example_2", "salesforce_user"]


def test_a_schema_that_exists_is_not_taken_for_mirrors(database: Database, settings: Settings) -> None:
    sql(database, "CREATE SCHEMA salesforce")
    connected(database, settings, user="u")
    assert row_of(database, "u").schema_name == "salesforce_u"


@pytest.mark.parametrize("name", ["", "Big", "a-b", 'a"b', "1a", "pg_x", "public", "x" * 64, "a;drop"])
def test_not_every_name_is_a_schema(name: str) -> None:
    with pytest.raises(SettingsError):
        check_schema_name(name)


def test_a_long_user_id_still_gives_a_schema_name() -> None:
    assert check_schema_name(reduced("Ünï-" * 40))


def test_connecting_again_resumes_the_connection(
    database: Database, vault: Vault, settings: Settings, issuer: Issuer
) -> None:
    first = connect_with_refresh_token(database, vault, settings, ME, "refresh-1")
    tokens = StoredTokens(database, vault, settings, first.connection_id)
    stale = tokens.current()
    issuer.revoked = True
    with pytest.raises(DisconnectedError):
        tokens.renew(stale)
    issuer.revoked = False
    again = connect_with_refresh_token(database, vault, settings, ME, f"refresh-{issuer.number}")
    assert again.connection_id == first.connection_id
    row = row_of(database, ME.user_id)
    assert (row.state, row.state_reason, row.schema_name) == ("active", None, "salesforce")
    assert tokens.current().version > stale.version


def test_whose_the_grant_was_is_kept_when_another_user_of_the_org_connects(
    database: Database, vault: Vault, settings: Settings, issuer: Issuer
) -> None:
    connect_with_client_credentials(database, vault, settings, ME)
    row = row_of(database, ME.user_id)
    assert (row.former_salesforce_user_id, row.user_changed_at) == (None, None)
    sql(database, "UPDATE salesforce_oauth_tokens SET salesforce_user_id = '005000000000009AAA'")
    connect_with_client_credentials(database, vault, settings, ME)
    row = row_of(database, ME.user_id)
    assert (row.salesforce_user_id, row.former_salesforce_user_id) == (USER, "005000000000009AAA")
    assert row.user_changed_at is not None


def test_a_second_org_under_the_same_user_is_refused_while_the_first_has_mirrors(
    database: Database, vault: Vault, settings: Settings, issuer: Issuer
) -> None:
    done = connect_with_client_credentials(database, vault, settings, ME)
    sql(database, "UPDATE salesforce_oauth_tokens SET organization_id = '00D000000000009EAA'")
    sql(
        database,
        f"INSERT INTO sfsync.mirrors (connection_id, object, table_name) VALUES ({done.connection_id}, 'Contact', 'contact')",
    )
    with pytest.raises(SettingsError, match="another user id"):
        connect_with_client_credentials(database, vault, settings, ME)
    end_connection(database, vault, settings, ME.user_id)
    assert connect_with_client_credentials(database, vault, settings, ME).organization_id == ORG


def test_disconnecting_revokes_forgets_and_drops(
    database: Database, vault: Vault, settings: Settings, issuer: Issuer
) -> None:
    done = connect_with_refresh_token(database, vault, settings, ME, "refresh-1")
    sql(database, "CREATE SCHEMA salesforce; CREATE TABLE salesforce.contact (id text)")
    ended = end_connection(database, vault, settings, ME.user_id)
    assert (ended.revoked, ended.problem, ended.dropped_schema) == (True, None, "salesforce")
    assert issuer.server.seen[-1].body == b"token=refresh-2"
    row = row_of(database, ME.user_id)
    assert (row.state, row.access_token, row.refresh_token) == ("disconnected", None, None)
    assert sql(database, "SELECT 1 FROM pg_namespace WHERE nspname = 'salesforce'") == []
    with pytest.raises(DisconnectedError):
        StoredTokens(database, vault, settings, done.connection_id).current()


def test_disconnecting_may_keep_the_data(database: Database, vault: Vault, settings: Settings, issuer: Issuer) -> None:
    connect_with_refresh_token(database, vault, settings, ME, "refresh-1")
    sql(database, "CREATE SCHEMA salesforce; CREATE TABLE salesforce.contact (id text)")
    assert end_connection(database, vault, settings, ME.user_id, keep_data=True).dropped_schema is None
    assert sql(database, "SELECT count(*) FROM salesforce.contact") == [(0,)]


def test_an_org_that_is_away_does_not_hinder_forgetting(
    database: Database, vault: Vault, settings: Settings, issuer: Issuer
) -> None:
    connect_with_refresh_token(database, vault, settings, ME, "refresh-1")
    away = settings.model_copy(update={"salesforce_allowed_hosts": ()})
    ended = end_connection(database, vault, away, ME.user_id)
    assert not ended.revoked
    assert ended.problem is not None
    assert row_of(database, ME.user_id).refresh_token is None
    with pytest.raises(DisconnectedError):
        end_connection(database, vault, settings, "nobody")


def test_a_token_endpoint_that_names_a_foreign_instance_is_not_believed(
    database: Database, vault: Vault, settings: Settings, issuer: Issuer
) -> None:
    issuer.reply = lambda: answer(200, {"access_token": "x", "instance_url": "https://evil.example"})
    with pytest.raises(DisconnectedError, match="SALESFORCE_ALLOWED_HOSTS"):
        connect_with_refresh_token(database, vault, settings, ME, "refresh-1")


def test_an_answer_that_never_comes_is_of_unknown_outcome(
    database: Database, vault: Vault, settings: Settings, issuer: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(oauth, "TOKEN_SECONDS", 0.2)
    issuer.hook = silence
    with pytest.raises(TransientError):
        connect_with_refresh_token(database, vault, settings, ME, "refresh-1")


# -- keys


def test_rotation_encrypts_everything_with_the_first_key_and_can_be_resumed(
    database: Database, settings: Settings, issuer: Issuer
) -> None:
    for number in range(120):
        connected(database, settings, user=f"user{number}")
    begin_authorization(database, Vault(settings.keys), settings, Target("u"), REDIRECT)
    both = Vault([os.urandom(32), *settings.keys])
    assert outdated(database, both) == 241

    def stop(_count: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        rotate(database, both, stop)
    assert outdated(database, both) == 141
    assert rotate(database, both) == 141
    assert (outdated(database, both), rotate(database, both)) == (0, 0)
    for value, kind in sql(
        database,
        "SELECT access_token, 'a' FROM salesforce_oauth_tokens UNION ALL SELECT code_verifier, 'v' FROM sfsync.oauth_states",
    ):
        assert both.is_current(str(value)), kind
    assert not re.search("access-1|refresh-1", str(sql(database, "SELECT * FROM salesforce_oauth_tokens")))


def test_rotation_without_the_old_key_says_which_is_missing(database: Database, settings: Settings) -> None:
    connected(database, settings)
    with pytest.raises(SettingsError, match=Vault(settings.keys).key_id):
        rotate(database, Vault([os.urandom(32)]))


def test_a_token_copied_into_another_row_does_not_open(database: Database, settings: Settings) -> None:
    connected(database, settings, user="a")
    victim = connected(database, settings, user="b")
    with database.transaction() as session:
        session.execute(
            text(
                "UPDATE salesforce_oauth_tokens b SET access_token = a.access_token"
                " FROM salesforce_oauth_tokens a WHERE a.user_id = 'a' AND b.user_id = 'b'"
            )
        )
    with pytest.raises(SettingsError, match="another row"):
        StoredTokens(database, Vault(settings.keys), settings, victim).current()
