"""Many processes that find the same connections stale, rotation on and reuse ending the grant; and deaths at every step.

`SFSYNC_TEST_FLEET=16x50` (processes x connections) runs the full size.
"""

import multiprocessing
import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.integration.tokens.fleet import Grants, granted, granting
from tests.integration.tokens.issuer import Issuer, settings_for
from worker.db import Database
from worker.errors import DisconnectedError, TransientError
from worker.salesforce.exchange import AccessToken
from worker.settings import Settings
from worker.tokens import renew, spool
from worker.tokens.renew import StoredTokens, _Attempt
from worker.tokens.vault import Vault

PROCESSES, CONNECTIONS = (int(part) for part in os.environ.get("SFSYNC_TEST_FLEET", "6x7").split("x"))
fork = multiprocessing.get_context("fork")
Stale = dict[int, AccessToken]


@pytest.fixture
def grants() -> Iterator[Grants]:
    with granting() as grants:
        yield grants


@pytest.fixture
def settings(database: Database, grants: Grants, tmp_path: Path) -> Settings:
    return settings_for(database, Issuer(grants.server), tmp_path)


def tokens_of(settings: Settings, connection_id: int) -> StoredTokens:
    """As a process of its own has them."""
    database = Database(settings.database_url.get_secret_value(), pool_size=2)
    return StoredTokens(database, Vault(settings.keys), settings, connection_id)


def names(count: int) -> list[str]:
    return [f"g{number:02}" for number in range(count)]


def connect_all(database: Database, settings: Settings, grants: Grants, count: int) -> Stale:
    ids = [granted(database, settings, grants, name) for name in names(count)]
    return {one: tokens_of(settings, one).current() for one in ids}


def renew_all(settings: Settings, stale: Stale, seed: int, answers: Any) -> None:
    """One process: renew everything that it found stale, in an order of its own, as often as it takes."""
    order = list(stale)
    random.Random(seed).shuffle(order)
    found = {}
    for connection_id in order:
        tokens = tokens_of(settings, connection_id)
        while connection_id not in found:
            try:
                found[connection_id] = tokens.renew(stale[connection_id]).value
            except TransientError:
                time.sleep(0.2)
            except DisconnectedError:
                found[connection_id] = "disconnected"
        tokens.database.close()
    answers.put(found)


def fleet(settings: Settings, stale: Stale) -> list[dict[int, str]]:
    """What all processes have in the end."""
    answers = fork.Queue()
    children = [fork.Process(target=renew_all, args=(settings, stale, seed, answers)) for seed in range(PROCESSES)]
    for child in children:
        child.start()
    found = [answers.get(timeout=280) for _ in children]
    for child in children:
        child.join()
    return found


def states(database: Database) -> dict[str, int]:
    with psycopg.connect(database.url) as connection:
        rows = connection.execute("SELECT state, count(*) FROM salesforce_oauth_tokens GROUP BY state").fetchall()
    return {row[0]: row[1] for row in rows}


def test_each_stale_connection_is_renewed_once_and_none_is_lost(
    database: Database, settings: Settings, grants: Grants
) -> None:
    stale = connect_all(database, settings, grants, CONNECTIONS)
    grants.seconds = 0.02
    found = fleet(settings, stale)
    assert grants.renewals == dict.fromkeys(names(CONNECTIONS), 1)
    assert grants.revoked == set()
    assert all(one == found[0] for one in found)
    assert set(found[0].values()) == {f"access-{name}-2" for name in names(CONNECTIONS)}
    assert states(database) == {"active": CONNECTIONS}


def die(*_: Any, **__: Any) -> Any:
    os.kill(os.getpid(), signal.SIGKILL)


def dying_after(function: Callable[..., Any]) -> Callable[..., Any]:
    def call(*given: Any, **named: Any) -> Any:
        function(*given, **named)
        die()

    return call


def _die_with_lock() -> None:
    _Attempt._open_attempt = die  # type: ignore[method-assign]


def _die_with_open_attempt() -> None:
    _Attempt._ask = die  # type: ignore[method-assign]


def _die_with_the_answer() -> None:
    _Attempt._keep = die  # type: ignore[method-assign]


def _die_while_flushing() -> None:
    os.fsync = die


def _die_before_renaming() -> None:
    Path.replace = die  # type: ignore[method-assign]


def _die_with_a_kept_pair() -> None:
    _Attempt._keep = dying_after(_Attempt._keep)  # type: ignore[method-assign]


def _die_before_the_commit() -> None:
    renew.end_attempt = dying_after(renew.end_attempt)


def _die_after_the_commit() -> None:
    spool.Spool.drop = die  # type: ignore[method-assign]


# At each of these steps a death loses nothing. (One is missing, see the last test: the moment between the org's answer and our write.)
STEPS = (
    _die_with_lock,
    _die_with_open_attempt,
    _die_while_flushing,
    _die_before_renaming,
    _die_with_a_kept_pair,
    _die_before_the_commit,
    _die_after_the_commit,
)


def kill_at(step: Callable[[], None], settings: Settings, connection_id: int, token: AccessToken) -> None:
    """A process that renews one connection and dies at this step."""

    def victim() -> None:
        step()
        tokens_of(settings, connection_id).renew(token)

    child = fork.Process(target=victim)
    child.start()
    child.join(120)
    assert child.exitcode == -signal.SIGKILL, step.__name__


def test_deaths_at_every_step_lose_no_connection(
    database: Database, settings: Settings, grants: Grants, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(renew, "OPEN_ATTEMPT", timedelta(seconds=1))
    monkeypatch.setattr(renew, "BUSY_PAUSES", (0.2, None))
    stale = connect_all(database, settings, grants, max(CONNECTIONS, len(STEPS)))
    for number, (connection_id, token) in enumerate(stale.items()):
        kill_at(STEPS[number % len(STEPS)], settings, connection_id, token)
    found = fleet(settings, stale)
    assert grants.revoked == set()
    assert grants.renewals == dict.fromkeys(names(len(stale)), 1)
    assert set(found[0].values()) == {f"access-{name}-2" for name in names(len(stale))}
    assert all(one == found[0] for one in found)
    assert states(database) == {"active": len(stale)}
    again = fleet(settings, {one: tokens_of(settings, one).current() for one in stale})
    assert set(again[0].values()) == {f"access-{name}-3" for name in names(len(stale))}
    assert grants.revoked == set()


def test_a_death_with_the_answer_in_hand_costs_this_connection_alone(
    database: Database, settings: Settings, grants: Grants, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The org has rotated and nobody has the new token: no client can do better than to find out and say so."""
    monkeypatch.setattr(renew, "OPEN_ATTEMPT", timedelta(seconds=1))
    monkeypatch.setattr(renew, "BUSY_PAUSES", (0.2, None))
    stale = connect_all(database, settings, grants, 3)
    victim, *others = stale
    kill_at(_die_with_the_answer, settings, victim, stale[victim])
    for found in fleet(settings, stale):
        assert found[victim] == "disconnected"
        assert all(found[one].startswith("access-") for one in others)
    assert states(database) == {"active": 2, "revoked": 1}
    with psycopg.connect(database.url) as connection:
        reasons = connection.execute(
            "SELECT state_reason FROM salesforce_oauth_tokens WHERE state = 'revoked'"
        ).fetchall()
        tried = connection.execute("SELECT outcome FROM sfsync.renewals WHERE connection_id = %s ORDER BY id", [victim])
        assert [row[0] for row in tried.fetchall()] == [None, "revoked"]
    assert "expired access/refresh token" in reasons[0][0]
