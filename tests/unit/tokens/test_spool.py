"""The spool: a pair on disk, encrypted, until Postgres has it."""

import os
import stat
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from worker.salesforce.oauth import Grant
from worker.tokens.spool import Pair, Spool, fingerprint
from worker.tokens.vault import Vault

GRANT = Grant(
    "access-secret",
    "refresh-secret",
    "https://x.my.salesforce.com",
    "api",
    "https://login.salesforce.com/id/x/y",
    datetime(2026, 11, 23, tzinfo=UTC),
    None,
)
PAIR = Pair(7, fingerprint("old"), 3, 11, GRANT)


def test_a_kept_pair_is_found_whole(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "tokens", Vault([b"k" * 32]))
    spool.keep(PAIR)
    assert spool.find(7) == [PAIR]
    assert spool.waiting() == [7]
    spool.drop(PAIR)
    assert spool.find(7) == []
    spool.drop(PAIR)


def test_dropping_an_old_pair_leaves_a_new_one(tmp_path: Path) -> None:
    spool = Spool(tmp_path, Vault([b"k" * 32]))
    newer, other = replace(PAIR, attempt_id=12), replace(PAIR, connection_id=70)
    for pair in (PAIR, newer, other):
        spool.keep(pair)
    assert spool.find(7) == [newer, PAIR]
    spool.drop(PAIR)
    assert spool.find(7) == [newer]
    assert spool.waiting() == [7, 70]


def test_a_death_during_the_flush_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Killed(BaseException):
        pass

    def die(_descriptor: int) -> None:
        raise Killed

    spool = Spool(tmp_path, Vault([b"k" * 32]))
    monkeypatch.setattr(os, "fsync", die)
    with pytest.raises(Killed):
        spool.keep(PAIR)
    assert spool.find(7) == [PAIR]
    assert spool.waiting() == [7]
    (file,) = tmp_path.iterdir()
    file.write_bytes(file.read_bytes()[:-7])  # half written
    assert spool.find(7) == []
    spool.drop(PAIR)
    assert list(tmp_path.iterdir()) == []


def test_a_pair_on_disk_is_ciphertext_for_us_alone(tmp_path: Path) -> None:
    spool = Spool(tmp_path, Vault([b"k" * 32]))
    spool.keep(PAIR)
    (file,) = tmp_path.iterdir()
    assert "secret" not in file.read_text()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_a_pair_that_cannot_be_read_is_as_good_as_none(tmp_path: Path) -> None:
    Spool(tmp_path, Vault([os.urandom(32)])).keep(PAIR)
    spool = Spool(tmp_path, Vault([os.urandom(32)]))
    assert spool.find(7) == []
    (tmp_path / "7.11.pair").write_text("garbage")
    assert spool.find(7) == []
    (tmp_path / "7.11.pair").rename(tmp_path / "8.11.pair")
    assert spool.waiting() == [8]


def test_a_pair_shows_no_token() -> None:
    assert "secret" not in repr(PAIR)


def test_a_fingerprint_tells_nothing_of_its_token() -> None:
    assert fingerprint("token") == fingerprint("token") != fingerprint("other")
    assert fingerprint(None) == "none"
