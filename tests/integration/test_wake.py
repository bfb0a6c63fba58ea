"""Wake-ups: best effort, thinned, and never a reason to wait or to fail."""

import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from pydantic import SecretStr

from worker.app import make_app
from worker.local_servers import EmbeddedValkey, free_port
from worker.runtime import REST_SECONDS, THIN_SECONDS, Waker
from worker.settings import Settings


class Clock:
    """A clock that stands still unless moved."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def waker(redis_url: str, clock: Clock) -> Waker:
    settings = Settings(
        database_url=SecretStr("postgresql://u:p@127.0.0.1/x"),
        redis_url=SecretStr(redis_url),
        encryption_key=SecretStr("A" * 43),
    )
    return Waker(make_app(settings, publish_only=True), clock)


@pytest.fixture
def queue(valkey: EmbeddedValkey) -> Iterator["redis.Redis[bytes]"]:
    client = redis.Redis.from_url(valkey.url)
    client.flushall()
    yield client
    client.close()


@pytest.fixture
def hung() -> Iterator[str]:
    """A broker that accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0), backlog=16) as server:
        yield f"redis://127.0.0.1:{server.getsockname()[1]}/0"


def test_a_wake_up_carries_an_id_and_goes_to_its_lane(valkey: EmbeddedValkey, queue: "redis.Redis[bytes]") -> None:
    waker(valkey.url, Clock()).wake("mirror.step", 42, "refresh")
    waker(valkey.url, Clock()).wake("actions.deliver", 7)
    assert (queue.llen("refresh"), queue.llen("actions"), queue.llen("backfill")) == (1, 1, 0)


def test_one_wake_up_a_second_for_each_row(valkey: EmbeddedValkey, queue: "redis.Redis[bytes]") -> None:
    clock = Clock()
    ours = waker(valkey.url, clock)
    for _ in range(50):
        ours.wake("mirror.step", 1, "refresh")
        ours.wake("mirror.step", 2, "refresh")
    assert queue.llen("refresh") == 2
    clock.now += THIN_SECONDS
    ours.wake("mirror.step", 1, "refresh")
    assert queue.llen("refresh") == 3


def test_redis_down_costs_next_to_nothing_and_raises_nothing() -> None:
    ours = waker(f"redis://127.0.0.1:{free_port()}/0", Clock())
    begin = time.monotonic()
    for row_id in range(1000):
        ours.wake("mirror.step", row_id, "refresh")
    assert time.monotonic() - begin < 5  # one refused connection; generous for a busy machine


def test_a_hung_redis_is_waited_for_once_in_a_while_only(hung: str) -> None:
    clock = Clock()
    ours = waker(hung, clock)
    begin = time.monotonic()
    for row_id in range(1000):
        ours.wake("mirror.step", row_id, "refresh")
    assert time.monotonic() - begin < 15


def test_wake_ups_flow_again_when_redis_is_back(tmp_path: Path) -> None:
    clock = Clock()
    server = EmbeddedValkey(tmp_path / "valkey")
    with server:
        ours = waker(server.url, clock)
    ours.wake("mirror.step", 1, "refresh")  # nobody is there
    with server, redis.Redis.from_url(server.url) as queue:  # the same address again
        ours.wake("mirror.step", 2, "refresh")
        assert queue.llen("refresh") == 0  # resting
        clock.now += REST_SECONDS
        ours.wake("mirror.step", 3, "refresh")
        assert queue.llen("refresh") == 1
