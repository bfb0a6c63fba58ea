"""API keys: shown once, stored as a hash, refused when revoked or expired."""

from datetime import timedelta

import pytest

from worker import access
from worker.db import Database
from worker.errors import SettingsError


def make(
    database: Database, *, scopes: list[str], users: list[str] | None = None, expires_in: timedelta | None = None
) -> str:
    now = database.now()
    with database.transaction() as session:
        return access.create_key(session, "test", scopes, users, now + expires_in if expires_in else None)[1]


def who(database: Database, key: str) -> access.Caller | None:
    with database.transaction() as session:
        return access.authenticate(session, key)


def test_a_key_acts_within_its_scopes_and_for_its_users(database: Database) -> None:
    caller = who(database, make(database, scopes=["read"], users=["ada"]))
    assert caller is not None
    assert caller.may("read")
    assert not caller.may("write")
    assert caller.may_act_for("ada")
    assert not caller.may_act_for("bob")


def test_admin_may_everything_and_no_users_means_all(database: Database) -> None:
    caller = who(database, make(database, scopes=["admin"]))
    assert caller is not None
    assert all(caller.may(scope) for scope in ("read", "write", "trigger", "admin"))
    assert caller.may_act_for("anyone")


@pytest.mark.parametrize("wrong", ["", "sfsk_", "sfsk_12345678_x", "nonsense", "sfsk_12345678"])
def test_what_is_no_key_is_nobody(database: Database, wrong: str) -> None:
    assert who(database, wrong) is None


def test_a_key_with_one_letter_changed_is_nobody(database: Database) -> None:
    key = make(database, scopes=["read"])
    assert who(database, key[:-1] + ("a" if key[-1] != "a" else "b")) is None


def test_a_revoked_key_is_nobody_at_once(database: Database) -> None:
    key = make(database, scopes=["read"])
    prefix = key.split("_")[1]
    with database.transaction() as session:
        assert access.revoke_key(session, prefix)
        assert not access.revoke_key(session, prefix)
    assert who(database, key) is None


@pytest.mark.parametrize(("seconds", "valid"), [(-1, False), (3600, True)])
def test_a_key_ends_when_it_expires(database: Database, seconds: int, valid: bool) -> None:
    key = make(database, scopes=["read"], expires_in=timedelta(seconds=seconds))
    assert (who(database, key) is not None) is valid


def test_only_a_hash_is_stored(database: Database) -> None:
    key = make(database, scopes=["read"])
    with database.transaction() as session:
        row = access.list_keys(session)[0]
    assert key not in str(vars(row))
    assert key.split("_", 2)[2] not in str(vars(row))


@pytest.mark.parametrize("scopes", [[], ["reed"], ["read", "root"]])
def test_a_wrong_scope_is_refused_with_the_right_ones_named(database: Database, scopes: list[str]) -> None:
    with database.transaction() as session, pytest.raises(SettingsError, match="read, write, trigger, admin"):
        access.create_key(session, "test", scopes, None)


def test_a_key_that_was_let_in_is_remembered_for_a_second_at_most(database: Database) -> None:
    now = 100.0
    known = access.KnownCallers(clock=lambda: now)
    with database.transaction() as session:
        row, key = access.create_key(session, "app", ["read"], None)
        prefix = row.prefix
    assert known.find(key) is None
    with database.transaction() as session:
        caller = known.authenticate(session, key)
    assert caller is not None
    with database.transaction() as session:
        assert access.revoke_key(session, prefix)
    now += 0.99
    assert known.find(key) == caller
    assert known.find(key[:-1] + "!") is None
    now += 0.02
    assert known.find(key) is None
    with database.transaction() as session:
        assert known.authenticate(session, key) is None
    assert known.find(key) is None
