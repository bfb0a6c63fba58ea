"""What accepting uses; the connection keeps its describes, so no org is asked."""

from typing import Any

import pytest

from worker.actions.deps import ActionDeps
from worker.db import Database
from worker.settings import Settings, load_settings


@pytest.fixture
def settings(database_url: str) -> Settings:
    return load_settings({"DATABASE_URL": database_url, "ENCRYPTION_KEY": "A" * 43})


@pytest.fixture
def woken() -> list[int]:
    return []


@pytest.fixture
def deps(database: Database, settings: Settings, woken: list[int]) -> ActionDeps:
    def nobody(_connection_id: int) -> Any:
        raise AssertionError("the org must not be asked")

    return ActionDeps(
        database, settings, nobody, lambda *_: None, lambda _name, row_id, _lane=None, **_: woken.append(row_id)
    )
