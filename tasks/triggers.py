"""Doors of the triggers for Celery: a message carries a firing's id, or nothing, and may be lost, late or doubled."""

from celery import shared_task

from worker import lanes
from worker.runtime import runtime
from worker.steps import Step
from worker.triggers import fire as firing
from worker.triggers.deps import FIRE, FIRE_DUE


@shared_task(name=FIRE)
def fire(firing_id: int) -> Step:
    """Start the work of one firing: the step claims it first."""
    return firing.step(runtime().triggers, firing_id)


@shared_task(name=FIRE_DUE)
def fire_due() -> Step:
    """Fire what is due by the clock. The workers also do it by themselves, each second."""
    return lanes.fire_due(runtime())
