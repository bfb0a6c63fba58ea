"""When tokens are renewed by themselves, on both sides of each edge."""

from datetime import timedelta

import pytest

from worker.tokens.timing import KEEP_ALIVE, learnt, renew_after

HOUR = timedelta(hours=1)


@pytest.mark.parametrize(("chance", "share"), [(0.0, 0.70), (0.5, 0.775), (1.0, 0.85)])
def test_a_session_of_known_length_is_renewed_well_before_its_end(chance: float, share: float) -> None:
    found = renew_after(lifetime=2 * HOUR, session=None, refreshable=True, chance=chance)
    assert found is not None
    assert found.total_seconds() == pytest.approx(7200 * share)


def test_what_the_org_told_goes_before_what_was_learnt() -> None:
    assert renew_after(lifetime=2 * HOUR, session=HOUR, refreshable=True, chance=0) == 1.4 * HOUR
    assert renew_after(lifetime=None, session=HOUR, refreshable=False, chance=0) == 0.7 * HOUR


def test_a_very_short_life_is_not_renewed_all_the_time() -> None:
    assert renew_after(lifetime=timedelta(seconds=5), session=None, refreshable=True, chance=0) == timedelta(seconds=60)


def test_an_unknown_length_keeps_a_refresh_token_alive_and_leaves_others_alone() -> None:
    for chance, share in ((0.0, 0.8), (1.0, 1.0)):
        assert renew_after(lifetime=None, session=None, refreshable=True, chance=chance) == KEEP_ALIVE * share
    assert renew_after(lifetime=None, session=None, refreshable=False, chance=0) is None
    assert renew_after(lifetime=timedelta(days=90), session=None, refreshable=True, chance=1) == KEEP_ALIVE * 0.85


@pytest.mark.parametrize(
    ("minutes", "before", "expected"),
    [
        (14, None, None),  # ended by somebody, not by idleness
        (15, None, 15),
        (119, None, 60),
        (120, None, 120),
        (9000, None, 1440),
        (9000, 120, 120),  # never longer than what was learnt before
        (61, 120, 60),
        (14, 120, 120),
    ],
)
def test_what_an_ended_session_teaches(minutes: int, before: int | None, expected: int | None) -> None:
    known = None if before is None else timedelta(minutes=before)
    found = learnt(timedelta(minutes=minutes), known)
    assert found == (None if expected is None else timedelta(minutes=expected))
