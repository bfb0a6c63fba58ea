"""What surrounds every step: slots, counting, and where failures end."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from tests.waiting import until
from worker.errors import FencedError, RejectedError, TransientError
from worker.pulse import LATELY_SECONDS, WAY_SECONDS, WAY_SHARE, YOUNG_SECONDS, Pulse
from worker.steps import Again, Busy, Done, Step


def run(pulse: Pulse, answer: Step | Exception) -> Step | None:
    def body() -> Step:
        if isinstance(answer, Exception):
            raise answer
        return answer

    assert pulse.take_slot()
    return pulse.run("mirror.step", 1, body)


@pytest.mark.parametrize("answer", [Done(), Again()])
def test_a_step_that_did_something_counts(answer: Step) -> None:
    pulse = Pulse()
    assert run(pulse, answer) == answer
    assert pulse.finished == 1


def test_a_step_that_found_nothing_to_do_is_no_sign_of_progress() -> None:
    pulse = Pulse()
    assert run(pulse, Busy()) == Busy()
    assert pulse.finished == 0


@pytest.mark.parametrize("error", [FencedError("taken"), TransientError("later"), RejectedError(400, ())])
def test_what_we_raise_on_purpose_ends_at_the_step(error: Exception) -> None:
    pulse = Pulse()
    assert run(pulse, error) is None
    assert run(pulse, Done()) == Done()  # the slot is free again


def test_a_bug_goes_on_to_the_caller_and_frees_its_slot() -> None:
    pulse = Pulse()
    with pytest.raises(ZeroDivisionError):
        run(pulse, ZeroDivisionError())
    assert pulse.finished == 0
    assert pulse.running() == []
    assert pulse.take_slot()


def test_no_more_steps_run_at_once_than_there_are_slots() -> None:
    pulse = Pulse()
    pulse.allow(2)
    go_on = threading.Event()

    def long_step() -> Step:
        go_on.wait()
        return Done()

    threads = []
    for row_id in (1, 2):
        assert pulse.take_slot()
        threads.append(threading.Thread(target=pulse.run, args=("mirror.step", row_id, long_step)))
        threads[-1].start()
    assert not pulse.take_slot()
    until(lambda: {step.row_id for step in pulse.running()} == {1, 2})
    assert pulse.longest() > 0
    go_on.set()
    for thread in threads:
        thread.join()
    assert pulse.longest() == 0
    assert pulse.take_slot()


def test_one_org_never_has_all_slots() -> None:
    pulse = Pulse()
    pulse.allow(4)
    for row_id in range(10):
        pulse.learn("actions.deliver", row_id, "flood" if row_id else "quiet")
    assert [pulse.take_slot("actions.deliver", row_id) for row_id in range(1, 6)] == [True] * 3 + [False] * 2
    assert pulse.take_slot("actions.deliver", 0)
    assert pulse.free == 0


def test_further_steps_of_a_row_take_few_slots_while_another_org_had_work_lately() -> None:
    now = 0.0
    pulse = Pulse(clock=lambda: now)
    pulse.allow(8)
    pulse.learn("actions.deliver", 1, "flood")
    assert [pulse.take_slot("actions.deliver", 1, further=True) for _ in range(5)] == [True] * 5
    pulse.learn("actions.deliver", 2, "quiet")
    assert not pulse.take_slot("actions.deliver", 1, further=True)
    assert pulse.take_slot("actions.deliver", 1), "another row's first step is no further one"
    now += LATELY_SECONDS + 1
    assert pulse.take_slot("actions.deliver", 1, further=True)
    assert pulse.free == 1


@pytest.mark.parametrize(
    ("steps", "age", "first"), [(2, 0.0, "single"), (1, 0.0, "flood"), (2, 2 * YOUNG_SECONDS, "flood")]
)
def test_one_of_several_steps_gives_way_to_the_young_step_of_an_org_that_has_one(
    steps: int, age: float, first: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.pulse.WAY_SECONDS", 60.0)
    now = 0.0
    pulse = Pulse(clock=lambda: now)
    pulse.allow(4)
    pulse.learn("actions.deliver", 1, "flood")
    pulse.learn("actions.deliver", 2, "quiet")
    for row_id in [1] * steps + [2]:
        assert pulse.take_slot("actions.deliver", row_id)
    going, go_on, ended = threading.Event(), threading.Event(), list[str]()

    def single() -> Step:
        going.set()
        go_on.wait()
        ended.append("single")
        return Done()

    def one_of_the_flood() -> Step:
        pulse.give_way()
        ended.append("flood")
        return Done()

    threads = [threading.Thread(target=pulse.run, args=("actions.deliver", 2, single))]
    threads.append(threading.Thread(target=pulse.run, args=("actions.deliver", 1, one_of_the_flood)))
    threads[0].start()
    assert going.wait(60)
    now += age
    threads[1].start()
    if first == "flood":
        until(lambda: ended == ["flood"])
    go_on.set()
    for thread in threads:
        thread.join()
    assert ended[0] == first


@contextmanager
def step_of_the_quiet_org(pulse: Pulse) -> Iterator[None]:
    """A step of row 2 is in hand."""
    going, go_on = threading.Event(), threading.Event()

    def single() -> Step:
        going.set()
        go_on.wait()
        return Done()

    thread = threading.Thread(target=pulse.run, args=("actions.deliver", 2, single))
    thread.start()
    assert going.wait(60)
    yield
    go_on.set()
    thread.join()


class Clock:
    """A clock that stands still, but for what a step works and waits."""

    def __init__(self, pulse: Pulse, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        self.waited: list[float] = []
        monkeypatch.setattr(pulse, "_clock", lambda: self.now)
        monkeypatch.setattr(pulse._ended, "wait_for", self._wait_for)

    def _wait_for(self, over: Callable[[], bool], seconds: float) -> bool:
        if not over():
            self.waited.append(seconds)
            self.now += seconds
        return over()


@pytest.mark.parametrize(("worked", "gives_way"), [(0.0, False), (2 * YOUNG_SECONDS, True)])
def test_the_only_step_of_an_org_gives_way_when_it_is_no_longer_young(
    worked: float, gives_way: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    pulse = Pulse()
    clock = Clock(pulse, monkeypatch)
    pulse.allow(4)
    for row_id, org in ((1, "flood"), (2, "quiet")):
        pulse.learn("actions.deliver", row_id, org)
        assert pulse.take_slot("actions.deliver", row_id)

    def long_step() -> Step:
        clock.now += worked
        with step_of_the_quiet_org(pulse):
            pulse.give_way()
        return Done()

    pulse.run("actions.deliver", 1, long_step)
    assert bool(clock.waited) == gives_way


def test_of_its_time_a_step_gives_half_away_however_many_come(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.pulse.YOUNG_SECONDS", 1e9)
    pulse = Pulse()
    clock = Clock(pulse, monkeypatch)
    pulse.allow(4)
    for row_id, org in ((1, "flood"), (1, "flood"), (2, "quiet")):
        pulse.learn("actions.deliver", row_id, org)
        assert pulse.take_slot("actions.deliver", row_id)
    shares = []

    def one_of_the_flood() -> Step:
        for _ in range(100):
            clock.now += 0.01  # its own work
            pulse.give_way()
            shares.append(sum(clock.waited) - WAY_SECONDS <= WAY_SHARE * clock.now)
        return Done()

    with step_of_the_quiet_org(pulse):
        pulse.run("actions.deliver", 1, one_of_the_flood)
    assert all(shares)
    assert sum(clock.waited) > 0.9, "it gives way for about as long as it works"


def test_of_two_slots_one_org_may_have_both() -> None:
    pulse = Pulse()
    pulse.allow(2)
    pulse.learn("mirror.step", 1, "only")
    pulse.learn("mirror.step", 2, "only")
    assert pulse.take_slot("mirror.step", 1)
    assert pulse.take_slot("mirror.step", 2)


def test_a_row_in_hand_is_looked_at_again_when_a_message_came_for_it() -> None:
    pulse, looks = Pulse(), []
    pulse.look = lambda: looks.append(1)

    def body() -> Step:
        assert pulse.in_hand("mirror.step", 1, woken=True)
        assert not pulse.in_hand("mirror.step", 2, woken=True)
        return Done()

    assert pulse.take_slot()
    pulse.run("mirror.step", 1, body)
    assert looks == [1]
    assert not pulse.in_hand("mirror.step", 1)
    assert run(pulse, Done()) == Done()
    assert looks == [1]


def test_who_found_no_slot_is_looked_for_when_one_is_free() -> None:
    pulse, looks = Pulse(), []
    pulse.look = lambda: looks.append(1)

    def body() -> Step:
        assert not pulse.take_slot("actions.deliver", 7)
        return Done()

    assert pulse.take_slot()
    pulse.run("mirror.step", 1, body)
    assert looks == [1]
