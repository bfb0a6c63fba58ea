"""The vault: what it encrypts opens in one place only."""

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.errors import SettingsError
from worker.settings import decode_keys
from worker.tokens.vault import Vault, generate_key, key_id

OLD, NEW = os.urandom(32), os.urandom(32)


@given(st.text())
def test_what_goes_in_comes_out(text: str) -> None:
    vault = Vault([NEW])
    sealed = vault.encrypt(text, table="t", column="c", row=1)
    assert vault.decrypt(sealed, table="t", column="c", row=1) == text
    assert sealed.split("|")[:2] == ["v1", key_id(NEW)]


@pytest.mark.parametrize(("table", "column", "row"), [("u", "c", 1), ("t", "d", 1), ("t", "c", 2), ("t|c", "", 1)])
def test_a_value_copied_elsewhere_does_not_open(table: str, column: str, row: int) -> None:
    vault = Vault([NEW])
    sealed = vault.encrypt("secret", table="t", column="c", row=1)
    with pytest.raises(SettingsError, match="belongs to another row"):
        vault.decrypt(sealed, table=table, column=column, row=row)


def test_the_same_text_never_looks_the_same() -> None:
    vault = Vault([NEW])
    assert vault.encrypt("x", table="t", column="c", row=1) != vault.encrypt("x", table="t", column="c", row=1)


def test_all_keys_decrypt_and_the_first_encrypts() -> None:
    sealed = Vault([OLD]).encrypt("x", table="t", column="c", row=1)
    both = Vault([NEW, OLD])
    assert both.decrypt(sealed, table="t", column="c", row=1) == "x"
    assert not both.is_current(sealed)
    assert both.is_current(both.encrypt("x", table="t", column="c", row=1))


def test_a_missing_key_is_named_by_its_id() -> None:
    sealed = Vault([OLD]).encrypt("x", table="t", column="c", row=1)
    with pytest.raises(SettingsError, match=key_id(OLD)):
        Vault([NEW]).decrypt(sealed, table="t", column="c", row=1)


@pytest.mark.parametrize("value", ["", "token", "v1|00|x", "v2|ab|AAAA|AAAA", "v1|ab|AA=A|AAAA"])
def test_what_is_no_ciphertext_is_refused(value: str) -> None:
    with pytest.raises(SettingsError):
        Vault([NEW]).decrypt(value, table="t", column="c", row=1)


def test_a_changed_value_does_not_open() -> None:
    vault = Vault([NEW])
    sealed = vault.encrypt("secret", table="t", column="c", row=1)
    other = "A" if sealed[-2] != "A" else "B"
    with pytest.raises(SettingsError):
        vault.decrypt(sealed[:-2] + other + sealed[-1], table="t", column="c", row=1)


def test_a_generated_key_is_one_that_settings_take() -> None:
    assert len(decode_keys(generate_key())[0]) == 32
    assert generate_key() != generate_key()


def test_a_vault_shows_no_key() -> None:
    assert repr(Vault([OLD])) == "<Vault of 1 keys>"
