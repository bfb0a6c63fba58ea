"""Upkeep, as beat asks for it. The workers also do it by themselves: beat's message shows that beat and the broker are alive."""

from celery import shared_task

from worker import lanes, pulse
from worker.runtime import runtime
from worker.steps import Step


@shared_task(name=lanes.UPKEEP)
def upkeep() -> Step:
    """Leave beat's tick, then do the upkeep."""
    rt = runtime()
    with rt.database.transaction() as session:
        pulse.tick(session)
    return lanes.upkeep(rt)
