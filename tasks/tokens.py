"""Tokens, as beat asks for them."""

from celery import shared_task

from worker import lanes
from worker.runtime import runtime
from worker.steps import Step
from worker.tokens.early import renew_early


@shared_task(name=lanes.KEEP_ALIVE)
def keep_alive() -> Step:
    """Renew the tokens whose time has come."""
    return lanes.keep_tokens_alive(runtime())


@shared_task(name=lanes.RENEW)
def renew(connection_id: int) -> Step:
    """Renew one connection's token, if its time has come."""
    return renew_early(runtime().tokens(connection_id))
