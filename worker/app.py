"""The Celery app: broker, queues, routes, and what surrounds every task.

The row in Postgres is the work; a message is a wake-up with an id that may be lost, late or doubled. So acknowledgement is
early, nothing is kept in Redis, and publishing is best effort.
"""

import logging
from typing import Any

from celery import Celery, Task, signals
from celery.loaders.app import AppLoader
from celery.worker.request import Request
from kombu.entity import Queue

from beat_schedule import BEAT_SCHEDULE
from worker.log import bound
from worker.pulse import PULSE
from worker.settings import Settings
from worker.steps import Busy

LANES = ("actions", "refresh", "upkeep", "backfill")  # a lane is a queue
TASKS = ("tasks.mirror", "tasks.actions", "tasks.upkeep", "tasks.tokens", "tasks.triggers")

# Names of tasks are fixed: a message in flight must find its task after an upgrade.
ROUTES = {
    "actions.deliver": {"queue": "actions"},
    "actions.enqueue": {"queue": "actions"},
    "upkeep.tick": {"queue": "upkeep"},
    "tokens.keep_alive": {"queue": "upkeep"},
    "tokens.renew": {"queue": "upkeep"},
    "triggers.fire_due": {"queue": "upkeep"},
    "triggers.fire": {"queue": "upkeep"},
    "mirror.step": {"queue": "backfill"},  # wake-ups name the run's lane themselves
    "mirror.page": {"queue": "backfill"},
}

# A hung or half-open Redis must be noticed: kombu's default is to wait for ever, which left a worker deaf.
TRANSPORT: dict[str, Any] = {
    "socket_timeout": 10,
    "socket_connect_timeout": 3,
    "socket_keepalive": True,
    "health_check_interval": 10,  # longer than one BRPOP (1 s), short enough to find a dead link within half a minute
    "retry_on_timeout": False,
    "unacked_restore_interval": 10,
    "unacked_restore_throttle": 1,
}

# Who publishes waits for nobody: a wake-up only shortens a poll.
PUBLISHING: dict[str, Any] = {
    **TRANSPORT,
    "socket_timeout": 1,
    "socket_connect_timeout": 0.5,
    "max_retries": 1,
    "interval_start": 0,
    "interval_step": 0.2,
    "interval_max": 0.2,
}

CONFIG: dict[str, Any] = {
    "task_ignore_result": True,  # outcomes are rows
    "result_backend": None,
    "task_serializer": "json",
    "accept_content": ["json"],  # never pickle: a broker is not trusted with code
    "task_acks_late": False,  # Postgres recovers; late acknowledgement only doubles and endlessly repeats
    "task_reject_on_worker_lost": False,
    "task_publish_retry": False,  # a retry can store the message twice; the poller is the retry
    "task_create_missing_queues": False,
    "worker_prefetch_multiplier": 1,  # a message must not wait behind a long step while another worker is idle
    "worker_disable_rate_limits": True,
    "broker_connection_retry": True,
    "broker_connection_retry_on_startup": True,
    "broker_connection_max_retries": None,  # a worker without Redis polls Postgres: it must not exit
    "broker_pool_acquire_timeout": 2.0,
    "broker_transport_options": TRANSPORT,
    "worker_soft_shutdown_timeout": 20,  # prefork only
    "worker_max_tasks_per_child": 500,  # prefork only: memory that a library keeps is given back
    "worker_max_memory_per_child": 600_000,  # KB, prefork only
    "task_time_limit": 1800,  # prefork only; above the longest page (20 minutes)
    "task_soft_time_limit": 1700,
    "worker_send_task_events": True,  # for Flower; they carry ids only, and figures come from Postgres
    "task_send_sent_event": False,
    "worker_hijack_root_logger": False,  # worker/log.py has set it up
    "worker_redirect_stdouts": False,
    "worker_cancel_long_running_tasks_on_connection_loss": False,
    "task_queues": [Queue(lane, routing_key=lane) for lane in LANES],  # type: ignore[no-untyped-call]
    "task_default_queue": "upkeep",
    "task_routes": ROUTES,
    "beat_enable_remote_control": False,
    "timezone": "UTC",
    "enable_utc": True,
}


class StepTask(Task):  # type: ignore[misc]  # Celery is untyped
    """A task that moves one row one step: it takes one of the process's slots and runs as the poller's steps do.

    Its answer is not stored; Flower shows it.
    """

    abstract = True

    def __call__(self, *args: Any, **kwargs: Any) -> str:
        """Run the task's body as a step, unless one of this row runs here or no slot is free: then the poller looks soon."""
        row_id = int(args[0]) if args else 0
        if PULSE.in_hand(self.name, row_id, woken=True) or not PULSE.take_slot(self.name, row_id):
            return repr(Busy())
        return repr(PULSE.run(self.name, row_id, lambda: self.run(*args, **kwargs)))


HIDDEN = "…"


class HiddenRequest(Request):  # type: ignore[misc]  # Celery is untyped
    """A message whose arguments are shown nowhere: not in events (Flower), not in logs, not by `celery inspect`."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._argsrepr = self._kwargsrepr = HIDDEN
        self._request_dict.update(argsrepr=HIDDEN, kwargsrepr=HIDDEN)

    def info(self, safe: bool = False) -> dict[str, Any]:
        """What `inspect` tells."""
        del safe
        told: dict[str, Any] = super().info(safe=True)
        return told


class DocumentTask(Task):  # type: ignore[misc]  # Celery is untyped
    """A task that carries a document, not an id: acknowledged when it is over, its arguments shown nowhere.

    It moves no row, so it takes no slot: a message that is turned away would be lost.
    """

    abstract = True
    acks_late = True
    reject_on_worker_lost = True
    Request = HiddenRequest

    def __call__(self, *args: Any, **kwargs: Any) -> str:
        """Run the task's body."""
        with bound(task=self.name):
            return str(self.run(*args, **kwargs))


class OwnLoader(AppLoader):  # type: ignore[misc]  # Celery is untyped
    """Imports our tasks from where we are installed. Celery looks into the current folder first, and there may be an
    application of the caller's with a package `tasks` of its own."""

    def import_from_cwd(self, module: str, imp: Any = None, package: str | None = None) -> Any:
        """Import a module as anybody does."""
        return (imp or self.import_module)(module, package=package)


def make_app(settings: Settings, *, client_name: str = "sfsync", publish_only: bool = False) -> Celery:
    """The Celery app for one role; `client_name` is what Redis shows for its connections. Opens no connection."""
    include = () if publish_only else TASKS
    app = Celery("sfsync", loader=OwnLoader, task_cls=StepTask, include=include, set_as_current=not publish_only)
    app.conf.update(CONFIG)
    app.conf.broker_url = settings.redis_url.get_secret_value()
    app.conf.broker_transport_options = {
        **(PUBLISHING if publish_only else TRANSPORT),
        "visibility_timeout": settings.redelivery_seconds,
        "client_name": client_name,
    }
    return app


def leave_logging_alone() -> None:
    """Keep Celery's hands off our logging: it sets up its own unless somebody listens to this signal.

    Its two lines for every message are left out: steps say themselves what they did, and Flower shows the messages.
    """
    signals.setup_logging.connect(_nothing, weak=False)
    for name in ("celery.worker.strategy", "celery.app.trace", "celery.beat"):
        logging.getLogger(name).setLevel(logging.WARNING)


def _nothing(**_: Any) -> None:
    pass


def run_beat(settings: Settings) -> None:
    """Be beat until SIGTERM. Its state is in memory: an entry that runs twice, or late, does no harm."""
    leave_logging_alone()
    app = make_app(settings, client_name="sfsync-beat")
    app.conf.beat_schedule = BEAT_SCHEDULE
    app.Beat(scheduler_cls="celery.beat:Scheduler", quiet=True).run()
