"""Deadlines by a clock that tests turn: what is left, what is held, how work ends."""

import pytest

from formulations.errors import InputError
from formulations.solving.deadline import Deadline, Stopped, attempt
from formulations.solving.result import Status, judge


class Clock:
    """Shows what it is told to."""

    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


def test_time_passes_by_its_clock():
    clock = Clock()
    deadline = Deadline(10.0, clock)
    clock.now += 4.0
    assert (deadline.elapsed, deadline.left, deadline.over) == (4.0, 6.0, False)
    deadline.check()
    clock.now += 6.0
    assert deadline.over
    with pytest.raises(Stopped) as stop:
        deadline.check()
    assert stop.value.status == Status.TIME_LIMIT


def test_a_part_counts_from_the_same_start():
    clock = Clock()
    deadline = Deadline(10.0, clock)
    clock.now += 1.5
    part = deadline.part(0.2)
    assert part.left == pytest.approx(0.5)
    clock.now += 1.0
    assert part.over
    assert not deadline.over


def test_held_work_is_not_broken_off():
    clock = Clock()
    deadline = Deadline(1.0, clock)
    clock.now += 2.0
    with deadline.held():
        deadline.check()
    with pytest.raises(Stopped):
        deadline.check()


def test_a_deadline_is_made_of_seconds_or_is_one_already():
    deadline = Deadline()
    assert Deadline.of(deadline) is deadline
    assert Deadline.of(3.0).seconds == 3.0
    for bad in (0.0, -1.0, float("nan")):
        with pytest.raises(InputError, match="time limit must be positive"):
            Deadline.of(bad)


def test_work_ends_in_the_words_of_a_status():
    def stop():
        raise Stopped(Status.NODE_LIMIT)

    def interrupt():
        raise KeyboardInterrupt

    assert attempt(lambda: None) == Status.OPTIMAL
    assert attempt(stop) == Status.NODE_LIMIT
    assert attempt(interrupt) == Status.INTERRUPTED
    with pytest.raises(ZeroDivisionError):
        attempt(lambda: 1 / 0)


def test_optimal_is_only_what_is_proved():
    assert judge(Status.TIME_LIMIT, closed=True) == Status.OPTIMAL
    assert judge(Status.OPTIMAL, closed=False) == Status.NUMERICAL
    assert judge(Status.NODE_LIMIT, closed=False) == Status.NODE_LIMIT
