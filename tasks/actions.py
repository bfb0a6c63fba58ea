"""Doors of the actions for Celery: wake-ups with a queue's id, which may be lost, late or doubled; and enqueueing."""

import time
from typing import Any

from celery import shared_task
from celery.exceptions import Reject

from worker.actions import deliver as delivery
from worker.actions import enqueueing
from worker.actions.deps import DELIVER
from worker.actions.enqueueing import ENQUEUE, RefusedDocumentError
from worker.app import DocumentTask
from worker.log import get_logger
from worker.runtime import runtime
from worker.steps import Step

log = get_logger(__name__)

PAUSE_SECONDS = 1.0  # before a message goes back: Postgres is away, and the broker hands it out again at once


@shared_task(name=DELIVER)
def deliver(queue_id: int) -> Step:
    """Serve one queue for a few seconds: each step claims what it sends."""
    return delivery.serve(runtime().actions, queue_id)


@shared_task(name=ENQUEUE, base=DocumentTask)
def enqueue(**document: Any) -> str:
    """Accept one action, for engines that speak only Celery; the action's id. Done is done: a second message finds the key.

    Acknowledged when the row is there. What can never be accepted fails; while Postgres is away the message goes back.
    """
    try:
        return str(enqueueing.enqueue(runtime().actions, document))
    except RefusedDocumentError:
        raise
    except Exception as error:
        log.warning("enqueue.put_back", error=type(error).__name__)  # not its words: they may hold what was asked
        time.sleep(PAUSE_SECONDS)
        raise Reject(type(error).__name__, requeue=True) from None
