"""The Celery app's settings are part of the design: each was chosen against a way of losing or doubling work."""

import pytest
from pydantic import SecretStr

from beat_schedule import BEAT_SCHEDULE
from worker.app import LANES, ROUTES, make_app
from worker.settings import Settings

SETTINGS = Settings(
    database_url=SecretStr("postgresql://u:p@127.0.0.1/x"),
    redis_url=SecretStr("redis://127.0.0.1:1/0"),
    encryption_key=SecretStr("A" * 43),
)

CHOSEN = {
    "task_ignore_result": True,
    "result_backend": None,
    "task_serializer": "json",
    "accept_content": ["json"],
    "task_acks_late": False,
    "task_reject_on_worker_lost": False,
    "task_publish_retry": False,
    "worker_prefetch_multiplier": 1,
    "broker_connection_retry_on_startup": True,
    "broker_connection_max_retries": None,
    "broker_pool_acquire_timeout": 2.0,
    "worker_max_tasks_per_child": 500,
    "worker_max_memory_per_child": 600_000,
    "task_time_limit": 1800,
    "task_soft_time_limit": 1700,
    "task_send_sent_event": False,
    "worker_hijack_root_logger": False,
}

TRANSPORT = {
    "socket_timeout": 10,
    "socket_connect_timeout": 3,
    "socket_keepalive": True,
    "health_check_interval": 10,
    "retry_on_timeout": False,
}


@pytest.mark.parametrize("name", sorted(CHOSEN))
def test_a_setting_that_was_chosen_does_not_drift(name: str) -> None:
    assert make_app(SETTINGS).conf[name] == CHOSEN[name]


def test_a_worker_notices_a_hung_broker_and_a_publisher_does_not_wait_for_it() -> None:
    worker = make_app(SETTINGS).conf.broker_transport_options
    publisher = make_app(SETTINGS, publish_only=True).conf.broker_transport_options
    assert {name: worker[name] for name in TRANSPORT} == TRANSPORT
    assert publisher["socket_timeout"] <= 1
    assert publisher["socket_connect_timeout"] <= 0.5
    assert publisher["max_retries"] == 1
    assert publisher["visibility_timeout"] == worker["visibility_timeout"]  # the shortest wins on a shared broker


def test_the_tasks_have_their_fixed_names_and_lanes() -> None:
    app = make_app(SETTINGS)
    app.loader.import_default_modules()
    app.finalize()
    ours = {name for name in app.tasks if not name.startswith("celery.")}
    assert ours == {
        "mirror.step",
        "mirror.page",
        "actions.deliver",
        "actions.enqueue",
        "upkeep.tick",
        "tokens.keep_alive",
        "tokens.renew",
        "triggers.fire",
        "triggers.fire_due",
    }
    assert set(ROUTES) == ours
    assert {queue.name for queue in app.conf.task_queues} == set(LANES)


def test_the_timetable_names_tasks_and_lanes_that_exist() -> None:
    assert {entry["task"] for entry in BEAT_SCHEDULE.values()} <= set(ROUTES)
    assert {entry["options"]["queue"] for entry in BEAT_SCHEDULE.values()} <= set(LANES)
