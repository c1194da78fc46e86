"""Selection by trying every choice: many at once, against one at a time."""

from itertools import count, product

import numpy as np
import pytest

import formulations
from formulations.errors import InputError
from formulations.relu import enumeration
from formulations.relu.network import Network
from formulations.relu.problems import Selection
from formulations.solving.deadline import Deadline


def random_problem(seed, sizes, loss="l1", price=0.2, samples=5, bias=True):
    rng = np.random.default_rng(seed)
    shapes = list(zip(sizes[1:], sizes[:-1], strict=True))
    biases = [rng.normal(size=n) * bias for n, _ in shapes]
    network = Network([rng.normal(size=shape) for shape in shapes], biases)
    targets = rng.choice([-1.0, 1.0], size=(samples, sizes[-1]))
    return Selection(network, rng.normal(size=(samples, sizes[0])), targets, loss, price)


def cheapest(problem):
    """The least objective, one choice at a time."""
    ends = np.cumsum(problem.hidden)[:-1]
    choices = product((False, True), repeat=sum(problem.hidden))
    return min(
        problem.objective(
            problem.network, tuple(np.split(np.array(keep, bool), ends)[: len(problem.hidden)])
        )
        for keep in choices
    )


@pytest.mark.parametrize("at_once", [1, 37, 2**18])
@pytest.mark.parametrize("loss", ["l1", "hinge", "squared"])
@pytest.mark.parametrize(
    "sizes", [(2, 1), (2, 5, 1), (3, 4, 3, 2), (1, 2, 3, 2, 2), (2, 1, 1, 4, 1)]
)
def test_choice_is_the_cheapest_whatever_is_tried_at_once(monkeypatch, sizes, loss, at_once):
    monkeypatch.setattr(enumeration, "_AT_ONCE", at_once)
    for seed, bias in ((0, True), (1, False)):
        problem = random_problem(seed, sizes, loss, bias=bias)
        found = enumeration.solve(problem, gap=1e-9)
        best = cheapest(problem)
        assert found.status == "optimal"
        assert found.objective == pytest.approx(best, rel=1e-13)
        assert best * (1 - 1e-9) <= found.bound <= best
        assert found.kept == sum(found.network.hidden)


def test_units_that_no_sample_activates_are_not_tried():
    rng = np.random.default_rng(0)
    x = rng.uniform(0, 1, size=(5, 2))
    first = np.concatenate([np.full((40, 2), -1.0), rng.normal(size=(3, 2))])
    network = Network([first, rng.normal(size=(1, 43))], [np.zeros(43), np.zeros(1)])
    found = formulations.solve(Selection(network, x, np.ones((5, 1)), price=0.01))
    assert found.solver == "enumeration"
    assert not found.support[0][:40].any()


def test_twenty_units_are_tried_and_forty_are_not():
    assert random_problem(0, (2, 10, 10, 1)).countable
    large = random_problem(0, (2, 20, 20, 1), samples=2)
    assert not large.countable
    with pytest.raises(InputError, match=r'40 hidden units .* solver="highs" fits'):
        enumeration.solve(large)
    answer = formulations.solve(large, seconds=Deadline(1, clock=lambda: 2.0, start=0.0))
    assert answer.solver == "highs/big-m"


def test_engines_are_chosen_by_name():
    problem = random_problem(0, (2, 3, 3, 1))
    usual, milp = formulations.solve(problem), formulations.solve(problem, solver="highs")
    assert (usual.solver, milp.solver) == ("enumeration", "highs/big-m")
    assert milp.objective == pytest.approx(usual.objective)


def test_relaxations_of_networks_are_had_by_the_name_of_those_of_layers():
    problem = random_problem(0, (2, 3, 3, 1))
    relaxed = formulations.relax(problem, tightened=False)
    assert relaxed.bound <= relaxed.objective <= formulations.solve(problem).objective
    assert (relaxed.gap <= 1e-5, relaxed.status) == (True, "optimal")
    with pytest.raises(InputError, match="no option 'form': it has tightened, seconds"):
        formulations.relax(problem, "big-m")
    stopped = formulations.relax(problem, seconds=Deadline(1, clock=lambda: 2.0, start=0.0))
    assert (stopped.status, stopped.bound) == ("time_limit", 0)


@pytest.mark.parametrize("looks", [1, 2, 5])
def test_time_limit_leaves_the_best_choice_so_far_and_a_bound_of_zero(monkeypatch, looks):
    monkeypatch.setattr(enumeration, "_AT_ONCE", 1)
    problem = random_problem(0, (2, 4, 4, 1))
    ticks = count()
    found = enumeration.solve(problem, seconds=Deadline(looks, clock=lambda: float(next(ticks))))
    assert (found.status, found.bound) == ("time_limit", 0)
    assert found.objective <= problem.objective(*problem.nothing())


def test_interrupt_leaves_the_best_choice_so_far(monkeypatch):
    monkeypatch.setattr(enumeration, "_AT_ONCE", 1)
    heard = []

    def hear(now):
        heard.append(now)
        if len(heard) == 30:
            raise KeyboardInterrupt

    found = enumeration.solve(random_problem(0, (2, 4, 4, 1)), on_progress=hear)
    assert (found.status, found.bound, found.objective) == ("interrupted", 0, heard[-1].objective)
