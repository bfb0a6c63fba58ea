"""When a token is renewed before anyone misses it. Pure."""

from datetime import timedelta

EARLIEST, LATEST = (
    0.70,
    0.85,
)  # share of a session's length after which it is renewed; spread, so that many do not come at once
KEEP_ALIVE = timedelta(days=6)  # a refresh token that is not used for 30 days may end
LEAST = timedelta(seconds=60)

# What an org can be set to (profile and org session settings), and so what a session that has ended can have been.
# Source: Metadata API, ProfileSessionSetting.
SESSIONS = tuple(timedelta(minutes=minutes) for minutes in (15, 30, 60, 120, 240, 480, 720, 1440))


def renew_after(
    *, lifetime: timedelta | None, session: timedelta | None, refreshable: bool, chance: float
) -> timedelta | None:
    """How long after it was stored a token is renewed by itself; None: not before the org refuses it.

    `lifetime` is what the org told, `session` what was learnt. `refreshable`: there is a refresh token to keep alive.
    `chance`, from 0 to 1, says where in the spread.
    """
    known = lifetime if lifetime is not None else session
    if known is not None:
        return max(LEAST, min(known, KEEP_ALIVE) * (EARLIEST + (LATEST - EARLIEST) * chance))
    return KEEP_ALIVE * (0.8 + 0.2 * chance) if refreshable else None


def learnt(age: timedelta, before: timedelta | None) -> timedelta | None:
    """What a session's length can be, once the org refused a token of this age; never longer than was learnt before.

    Sessions end by idleness, so an age is an upper bound: the longest setting that is not above it. One that ended sooner than any
    setting was ended by somebody, and tells nothing.
    """
    possible = [length for length in SESSIONS if length <= age]
    if not possible:
        return before
    return possible[-1] if before is None else min(before, possible[-1])
