"""How often a key may ask."""

from worker.shim.rate import Rates


def test_a_burst_passes_then_one_at_a_time_and_keys_do_not_disturb_each_other() -> None:
    now = 0.0
    rates = Rates(600, clock=lambda: now)  # ten a second, sixty at once
    assert [rates.take(1) for _ in range(60)] == [None] * 60
    assert rates.take(1) == 0.1
    assert rates.take(2) is None
    now = 0.09
    assert rates.take(1) is not None
    now = 0.2
    assert [rates.take(1) is None for _ in range(3)] == [True, True, False]
    now = 3600.0
    assert sum(rates.take(1) is None for _ in range(100)) == 60
