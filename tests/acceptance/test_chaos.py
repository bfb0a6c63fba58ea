"""Every accepted action ends, and its effect is in the org exactly once, whatever dies on the way."""

import random
from pathlib import Path

import pytest

from tests.acceptance.chaos import ENV, USER, Chaos, Report, Size
from tests.acceptance.stack import start_stack
from worker.local_servers import EmbeddedValkey, free_port

pytestmark = [pytest.mark.acceptance, pytest.mark.timeout(900)]


def run(folder: Path, database_url: str, redis_url: str, size: Size, *, with_redis: bool) -> Report:
    with start_stack(folder, database_url, redis_url, seed="Account=3,Contact=3,Opportunity=3") as stack:
        stack.env.update(ENV)
        stack.connect(USER)
        return Chaos(stack, size, random.randrange(10**9)).run(with_redis=with_redis)


def assert_right(report: Report, size: Size) -> None:
    assert report.states == {"delivered": size.creates + size.updates}, report
    assert (report.missing, report.doubled, report.wrong, report.disordered) == ([], [], [], []), report
    assert report.kills, report
    assert report.faults, report


def test_with_keys_and_a_redis_that_forgets(tmp_path: Path, database_url: str, valkey: EmbeddedValkey) -> None:
    size = Size(creates=250, updates=100, records=12, seconds=8)
    report = run(tmp_path, database_url, valkey.url, size, with_redis=True)
    assert_right(report, size)
    assert report.flushes == 2


def test_without_any_external_id_and_without_redis(tmp_path: Path, database_url: str) -> None:
    size = Size(creates=700, updates=100, records=12, seconds=8, keyed=False)
    url = f"redis://127.0.0.1:{free_port()}/0"
    report = run(tmp_path, database_url, url, size, with_redis=False)
    assert_right(report, size)
    # Bulk, too, where so many wait at once: that is chance here, and certain in `python -m bench.chaos`.
    assert {"collection", "idempotency_key"} <= set(report.ways) <= {"bulk", "collection", "idempotency_key"}
