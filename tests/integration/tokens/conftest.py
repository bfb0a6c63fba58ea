"""A token endpoint, the settings of a worker that knows it, and one connection with the pair access-1, refresh-1."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.tokens.issuer import Issuer, connected, issuing, settings_for
from worker.db import Database
from worker.settings import Settings
from worker.tokens.renew import StoredTokens
from worker.tokens.vault import Vault


@pytest.fixture
def issuer() -> Iterator[Issuer]:
    with issuing() as issuer:
        yield issuer


@pytest.fixture
def settings(database: Database, issuer: Issuer, tmp_path: Path) -> Settings:
    return settings_for(database, issuer, tmp_path)


@pytest.fixture
def vault(settings: Settings) -> Vault:
    return Vault(settings.keys)


@pytest.fixture
def tokens(database: Database, vault: Vault, settings: Settings) -> StoredTokens:
    return StoredTokens(database, vault, settings, connected(database, settings))
