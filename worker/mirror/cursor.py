"""Which span a reader reads next, where its cursor may move, when to look again. Pure.

All instants of a mirror are the org's time, aware UTC; a worker's clock measures durations only.
"""

from datetime import datetime, timedelta

SHORTEST_OVERLAP = timedelta(seconds=2)  # stamps have whole seconds: a second is whole only once it is over
LONGEST_TRANSACTION = timedelta(minutes=15)  # how long after its stamp a change may still become visible
DESCRIBE_EVERY = timedelta(minutes=5)  # each describe is a call
DESCRIBE_REFRESHES = 5  # … and where refreshes come closer together, every so many of them
DESCRIBE_AT_LEAST = timedelta(hours=1)  # also where calls are short
FIRST_LOOK_SECONDS = 0.2
LONGEST_PAUSE_SECONDS = 300.0


def window_start(cursor: datetime, overlap: timedelta) -> datetime:
    """Where the fresh reader starts: `overlap` before its cursor. The merge makes reading a row again harmless."""
    return cursor - max(overlap, SHORTEST_OVERLAP)


def describe_every(refresh_seconds: float, stretch: float) -> timedelta:
    """How long a describe is good for, where refreshes are wanted at this interval and come `stretch` times more seldom."""
    wanted = min(DESCRIBE_EVERY, timedelta(seconds=refresh_seconds) * DESCRIBE_REFRESHES)
    return min(wanted * stretch, DESCRIBE_AT_LEAST)


def read_began(answered_at: datetime, took: timedelta) -> datetime:
    """The org's time when a read was sent, at the latest: the answer's `Date` less how long the call took here.

    Whatever is stamped later may be missing from the answer, so this is as far as a cursor may move.
    """
    return (answered_at - took).replace(microsecond=0)


def settled(*, covered: datetime | None, began: datetime, read_to: datetime) -> datetime:
    """How far a mirror is known complete after a settling read that began at `began` and read what is stamped before `read_to`.

    `covered`: what the org itself called final before the read was sent (it stops where the oldest transaction that was
    still open began); None where it does not say.
    """
    return min(began - LONGEST_TRANSACTION if covered is None else covered, read_to)


def young_since(began: datetime) -> datetime:
    """Rows stamped before this can no longer get another value under the same stamp once a read began at `began`."""
    return began - LONGEST_TRANSACTION


def next_look(asked_for: timedelta, longest_seconds: float) -> timedelta:
    """Pause before the next look at a Bulk job that was asked for so long ago: a quarter of its age."""
    return timedelta(seconds=min(max(FIRST_LOOK_SECONDS, asked_for.total_seconds() / 4), longest_seconds))


def restart_pause(restarts: int) -> timedelta:
    """How long to wait before a read is begun anew for the `restarts`-th time: not at all, then 15 s, 1, 4, 16 minutes."""
    return timedelta(0) if restarts < 2 else timedelta(seconds=15 * 4 ** (restarts - 2))


def next_pause(previous_seconds: float) -> float:
    """Seconds to wait after a failure that may pass: 1, 2, 4, … up to five minutes."""
    return min(max(1.0, previous_seconds * 2), LONGEST_PAUSE_SECONDS)
