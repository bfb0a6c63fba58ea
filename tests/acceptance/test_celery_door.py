"""Enqueueing by an engine that speaks only Celery: accepted when its row is there, once, and shown nowhere."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from celery import Celery

from tests.acceptance.stack import Stack, start_stack
from tests.waiting import until
from worker.local_servers import EmbeddedValkey

pytestmark = pytest.mark.acceptance

USER = "tester"
SECRET = "correct-horse-battery"
DOCUMENT = {
    "user_id": USER,
    "object": "contact",
    "operation": "create",
    "fields": {"LastName": SECRET},
    "idempotency_key": f"key-{SECRET}",
}


@pytest.fixture
def stack(tmp_path: Path, database_url: str, valkey: EmbeddedValkey) -> Iterator[Stack]:
    with start_stack(tmp_path, database_url, valkey.url, seed="Account=2,Contact=2") as stack:
        stack.env["SFSYNC_REDELIVERY_SECONDS"] = "2"
        stack.env["SFSYNC_LOG_LEVEL"] = "DEBUG"
        stack.connect(USER)
        yield stack


@pytest.fixture
def engine(valkey: EmbeddedValkey) -> Iterator[Celery]:
    """Somebody else's Celery: it knows the broker, a name and a queue."""
    app = Celery("engine", broker=valkey.url, set_as_current=False)
    app.conf.broker_transport_options = {"visibility_timeout": 2}
    with app.connection_for_write() as connection:
        connection.default_channel.client.flushall()
    yield app
    app.close()


def send(engine: Celery, **document: Any) -> None:
    engine.send_task("actions.enqueue", kwargs=document, queue="actions")


class Events:
    """Everything that workers tell whoever listens, as Flower does."""

    def __init__(self, engine: Celery) -> None:
        self.engine = engine
        self.seen: list[dict[str, Any]] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def _listen(self) -> None:
        with self.engine.connection() as connection:
            receiver = self.engine.events.Receiver(connection, handlers={"*": self.seen.append})
            while not self._stop.is_set():
                try:
                    receiver.capture(limit=None, timeout=0.5, wakeup=False)
                except TimeoutError:
                    pass

    def close(self) -> None:
        self._stop.set()
        self._thread.join(30)


def test_a_message_becomes_an_action_once_and_its_arguments_are_shown_nowhere(stack: Stack, engine: Celery) -> None:
    events = Events(engine)
    stack.start("worker", "actions")
    stack.wait_for("SELECT count(*) > 0 FROM sfsync.processes WHERE lanes = 'actions'")
    until(lambda: engine.control.ping(timeout=1.0))  # the worker reads messages
    send(engine, **DOCUMENT)
    send(engine, **DOCUMENT)
    stack.wait_for("SELECT state = 'delivered' FROM sfsync.actions")
    send(engine, **DOCUMENT | {"fields": {"LastName": "other"}})  # the key with other content
    send(engine, **{**DOCUMENT, "idempotency_key": None})
    send(engine, **DOCUMENT | {"idempotency_key": f"{SECRET}-2", "operation": f"rename {SECRET}"})
    send(engine, **DOCUMENT | {"idempotency_key": f"{SECRET}-3", "fields": {f"Nickname_{SECRET[:7]}": SECRET}})
    stack.wait_for("SELECT count(*) = 1 FROM sfsync.actions WHERE state = 'rejected'")
    names = ("task-succeeded", "task-failed")
    until(lambda: sum(one["type"] in names and True for one in events.seen) >= 6)
    events.close()
    assert stack.rows("SELECT state, source, count(*) FROM sfsync.actions GROUP BY 1, 2 ORDER BY 1") == [
        ("delivered", "celery", 1),
        ("rejected", "celery", 1),
    ]
    assert SECRET not in repr(events.seen)
    for log in stack.folder.glob("*.log"):
        assert SECRET not in log.read_text(), log


def test_a_worker_killed_over_a_message_neither_loses_nor_doubles_it(stack: Stack, engine: Celery) -> None:
    with psycopg.connect(stack.database_url) as blocker:
        blocker.execute("LOCK TABLE sfsync.actions IN EXCLUSIVE MODE")  # the task stands at its insert
        killed = stack.start("worker", "actions")
        send(engine, **DOCUMENT)
        waiting = "SELECT count(*) > 0 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%%enqueue_actions%%'"
        stack.wait_for(waiting)
        stack.kill(killed)
        time.sleep(0.1)
    stack.rows("DELETE FROM sfsync.actions")  # whether the orphaned backend came to its end or not
    stack.start("worker", "actions")
    stack.wait_for("SELECT count(*) = 1 AND bool_and(state = 'delivered') FROM sfsync.actions")
