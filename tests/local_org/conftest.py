"""A real org in a process of its own, over plain HTTP, and a caller with a token of its administrator."""

from collections.abc import Iterator

import pytest

from tests.local_org.calling import Api
from tests.org import Org, start_org

SEED = "Account=20,Contact=60,Opportunity=40,Lead=10"


@pytest.fixture(scope="module")
def org(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Org]:
    """One org for the tests of a module."""
    with start_org(tmp_path_factory.mktemp("org") / "data", seed=SEED) as running:
        yield running


@pytest.fixture
def api(org: Org) -> Api:
    return Api(org)
