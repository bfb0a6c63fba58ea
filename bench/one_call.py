"""The usual way, to compare with: one Celery task and one call each. `celery -A bench.one_call worker --pool threads`.

Environment: BENCH_REDIS, BENCH_ORG (the instance's URL), BENCH_TOKEN. Each task that is done adds one to the counter `DONE`.
"""

import os
import threading

import redis
import requests
from celery import Celery

DONE = "bench:done"
app = Celery("bench.one_call", broker=os.environ.get("BENCH_REDIS"))
app.conf.update(task_ignore_result=True, broker_connection_retry_on_startup=True)
_own = threading.local()


@app.task(name="create")  # type: ignore[untyped-decorator]  # Celery is untyped
def create(object_name: str, fields: dict[str, str]) -> None:
    """Make one record, on a connection that its thread keeps open."""
    if not hasattr(_own, "session"):
        _own.session = requests.Session()
        _own.session.headers["Authorization"] = f"Bearer {os.environ['BENCH_TOKEN']}"
        _own.redis = redis.Redis.from_url(os.environ["BENCH_REDIS"])
    url = f"{os.environ['BENCH_ORG']}/services/data/v62.0/sobjects/{object_name}"
    _own.session.post(url, json=fields, timeout=60).raise_for_status()
    _own.redis.incr(DONE)
