"""Doors of the actions for Celery: a message carries a queue's id, and may be lost, late or doubled."""

from celery import shared_task

from worker.actions import deliver as delivery
from worker.actions.deps import DELIVER
from worker.runtime import runtime
from worker.steps import Step


@shared_task(name=DELIVER)
def deliver(queue_id: int) -> Step:
    """Serve one queue for a few seconds: each step claims what it sends."""
    return delivery.serve(runtime().actions, queue_id)
