"""How far the org itself calls the past final.

A transaction stamps what it saves and shows it when it commits. getUpdated's latestDateCovered stops where the oldest
transaction that is still open began. Asked before a read is sent, it says up to which stamp that read misses nothing.
"""

from datetime import datetime, timedelta

from worker.errors import RejectedError
from worker.log import get_logger
from worker.mirror.work import Work
from worker.salesforce import rest
from worker.salesforce.rest import Part

log = get_logger(__name__)

MINUTE = timedelta(minutes=1)  # getUpdated takes whole minutes; the narrowest window names the fewest ids


def part(work: Work, now: datetime) -> Part:
    """The question, as part of a Composite call; `now`: about the org's time."""
    return rest.updated_part(work.spec.object, *_window(now))


def covered(work: Work, body: object, now: datetime) -> datetime | None:
    """What the part brought; None where the org does not say (e.g. more ids in a minute than it counts)."""
    try:
        return rest.part_updated(body, now).latest_date_covered
    except RejectedError as error:
        log.info("mirror.not_covered", object=work.mirror.object, error=str(error))
        return None


def ask(work: Work) -> datetime | None:
    """The question, as a call of its own."""
    if not work.spec.replicateable:
        return None
    start, end = _window(work.org_now())
    try:
        return rest.get_updated(work.client, work.spec.object, start, end).latest_date_covered
    except RejectedError as error:
        log.info("mirror.not_covered", object=work.mirror.object, error=str(error))
        return None


def _window(now: datetime) -> tuple[datetime, datetime]:
    end = now.replace(second=0, microsecond=0)
    return end - MINUTE, end
