"""Tokens, as beat asks for them."""

from celery import shared_task

from worker import lanes
from worker.runtime import runtime
from worker.steps import Step


@shared_task(name=lanes.KEEP_ALIVE)
def keep_alive() -> Step:
    """Use the refresh tokens that nobody used for long."""
    return lanes.keep_tokens_alive(runtime())
