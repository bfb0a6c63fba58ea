"""Doors of the mirror for Celery: a message carries a row's id, and may be lost, late or doubled."""

from celery import shared_task

from worker.mirror import steps
from worker.runtime import runtime
from worker.steps import Step


@shared_task(name="mirror.step")
def step(run_id: int) -> Step:
    """Move one run one step forward: the step claims its run first, its row holds what comes next."""
    return steps.step(runtime().mirrors, run_id)


@shared_task(name="mirror.page")
def page(page_id: int) -> Step:
    """Load one page of a Bulk result."""
    return steps.load_page(runtime().mirrors, page_id)
