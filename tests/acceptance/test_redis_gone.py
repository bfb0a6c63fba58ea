"""Redis ends and comes back while the product works: nothing is refused, nothing is lost."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.acceptance.stack import Stack, start_stack
from tests.acceptance.test_writes import USER, Caller, contacts
from tests.waiting import until
from worker.local_servers import EmbeddedValkey, free_port

pytestmark = pytest.mark.acceptance


@pytest.fixture
def valkey_of_its_own(tmp_path: Path) -> Iterator[EmbeddedValkey]:
    with EmbeddedValkey(tmp_path / "valkey") as server:
        yield server


@pytest.fixture
def stack(tmp_path: Path, database_url: str, valkey_of_its_own: EmbeddedValkey) -> Iterator[Stack]:
    with start_stack(tmp_path, database_url, valkey_of_its_own.url, seed="Account=5,Contact=20") as stack:
        stack.env["SFSYNC_SHIM_PORT"] = str(free_port())
        stack.connect(USER)
        yield stack


def broker(caller: Caller) -> tuple[str, str]:
    """The whole's health and the broker's."""
    _, answer = caller.call("GET", "health")
    return answer["data"]["status"], answer["data"]["checks"]["broker"]["status"]


def test_without_redis_writes_are_accepted_reads_answer_and_afterwards_all_is_delivered(
    stack: Stack, valkey_of_its_own: EmbeddedValkey
) -> None:
    caller = Caller(stack, int(stack.env["SFSYNC_SHIM_PORT"]))
    stack.start("shim")
    for lane in ("refresh", "backfill"):
        stack.start("worker", lane)
    until(caller.is_up)
    stack.sfsync("mirror", "--user-id", USER, "--object", "Contact", "--wait")
    assert broker(caller)[1] == "healthy"

    valkey_of_its_own.stop()
    body = {"user_id": USER, "LastName": "Without"}
    for _ in range(5):
        status, answer = caller.call("POST", "contacts", json=body, headers={"Prefer": "wait=0"})
        assert (status, answer["data"]["state"]) == (202, "ready")
    status, answer = caller.call("GET", "contacts", params={"user_id": USER})
    assert (status, len(answer["data"]["contacts"])) == (200, 20)
    whole, part = broker(caller)
    assert (whole in ("degraded", "unhealthy"), part) == (True, "degraded")

    valkey_of_its_own.start()
    until(lambda: broker(caller)[1] == "healthy")
    stack.start("worker", "actions")
    stack.wait_for("SELECT count(*) = 5 FROM sfsync.actions WHERE state = 'delivered'")
    assert len(contacts(stack, "Without")) == 5
    stack.wait_for("SELECT count(*) = 5 FROM salesforce.contact WHERE lastname = 'Without'")
