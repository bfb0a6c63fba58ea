"""What every test of the mirror's use cases shares."""

import pytest

from worker.salesforce import retrying


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """A read that met a passing fault is repeated at once: these tests make many faults, and none is about time."""
    monkeypatch.setattr(retrying, "FIRST_PAUSE_SECONDS", 0.005)
