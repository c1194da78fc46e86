"""Exact pruning of small ReLU networks, against enumeration written out by itself."""

import subprocess
import sys
from itertools import count, pairwise, product

import numpy as np
import pyomo.environ as pyo
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from formulations.errors import InputError
from formulations.relu import enumeration
from formulations.relu.bounds import relu_block
from formulations.relu.network import Network
from formulations.relu.problems import Selection, Training
from formulations.relu.solve import relax, select, solve, train
from formulations.relu.toys import find_toy
from formulations.solving.deadline import Deadline
from formulations.solving.milp import Milp

few = settings(
    max_examples=10,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)
LOSSES = ("l1", "hinge", "squared")


# ---- by hand: nothing here is the library's ------------------------------------------------------


def forward(weights, biases, x, support):
    """Outputs, one sample and one unit at a time."""
    rows = []
    for sample in x:
        h = list(sample)
        for layer, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
            z = [sum(w * a for w, a in zip(row, h, strict=True)) for row in weight]
            z = [a + b for a, b in zip(z, bias, strict=True)]
            if layer < len(support):
                h = [
                    max(0.0, a) if keep else 0.0 for a, keep in zip(z, support[layer], strict=True)
                ]
            else:
                h = z
        rows.append(h)
    return np.array(rows)


def loss_of(name, outputs, targets):
    if name == "l1":
        return np.abs(outputs - targets).sum()
    if name == "squared":
        return np.square(outputs - targets).sum()
    return np.maximum(0, 1 - outputs * targets).sum()


def supports(hidden):
    for keep in product((False, True), repeat=sum(hidden)):
        yield tuple(np.split(np.array(keep, bool), np.cumsum(hidden)[:-1]))


def cheapest_selection(network, x, targets, loss, prices):
    """Least objective over all subsets of the hidden units."""
    return min(
        loss_of(loss, forward(network.weights, network.biases, x, support), targets)
        + sum(float(c[keep].sum()) for c, keep in zip(prices, support, strict=True))
        for support in supports(network.hidden)
    )


def cheapest_training(x, targets, hidden, loss, prices, grid):
    """Least objective over all weights on a grid and all subsets of the hidden units."""
    sizes = [x.shape[1], *hidden, targets.shape[1]]
    shapes = [(n, m + 1) for m, n in pairwise(sizes)]
    count = sum(n * m for n, m in shapes)
    points = np.array(list(product(grid, repeat=count)))
    best = np.inf
    for support in supports(hidden):
        at, h = 0, np.broadcast_to(x, (len(points), *x.shape))
        for layer, (n, m) in enumerate(shapes):
            w = points[:, at : at + n * m].reshape(-1, n, m)
            at += n * m
            h = np.einsum("pij,pkj->pik", h, w[:, :, :-1]) + w[:, None, :, -1]
            if layer < len(hidden):
                h = np.maximum(0, h) * support[layer]
        price = sum(float(c[keep].sum()) for c, keep in zip(prices, support, strict=True))
        best = min(best, min(loss_of(loss, outputs, targets) for outputs in h) + price)
    return best


def random_network(rng, sizes):
    shapes = list(zip(sizes[1:], sizes[:-1], strict=True))
    return Network([rng.normal(size=s) for s in shapes], [rng.normal(size=n) for n, _ in shapes])


def targets_for(rng, loss, shape):
    return rng.choice([-1.0, 1.0], size=shape) if loss == "hinge" else rng.normal(size=shape)


def assert_consistent(problem, solution, x, targets):
    """The solution's own numbers fit together, by the forward pass written out above."""
    network = solution.network
    everything = tuple(np.ones(n, bool) for n in network.hidden)
    outputs = forward(network.weights, network.biases, x, everything)
    assert solution.loss == pytest.approx(loss_of(problem.loss, outputs, targets), abs=1e-9)
    price = sum(float(c[k].sum()) for c, k in zip(problem.prices, solution.support, strict=True))
    assert solution.objective == pytest.approx(solution.loss + price, abs=1e-9)
    assert network.hidden == tuple(int(keep.sum()) for keep in solution.support)
    assert solution.kept == sum(network.hidden)
    assert solution.bound <= solution.objective
    for own, told in zip(network.activations(x), solution.activations, strict=True):
        np.testing.assert_array_equal(told, own)


# ---- select --------------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", LOSSES)
@given(
    seed=st.integers(0, 2**32 - 1),
    hidden=st.one_of(st.tuples(st.integers(1, 5)), st.tuples(st.integers(1, 3), st.integers(1, 3))),
    inputs=st.integers(1, 3),
    outputs=st.integers(1, 2),
    samples=st.integers(1, 5),
    price=st.sampled_from([0.0, 0.05, 0.5]),
)
@few
def test_selection_is_the_cheapest_of_all_subsets(
    loss, seed, hidden, inputs, outputs, samples, price
):
    rng = np.random.default_rng(seed)
    network = random_network(rng, (inputs, *hidden, outputs))
    x = rng.normal(size=(samples, inputs))
    targets = targets_for(rng, loss, (samples, outputs))
    prices = [price * rng.uniform(0.5, 1.5, size=n) for n in hidden]
    problem = Selection(network, x, targets, loss, prices)
    solution = solve(problem, gap=1e-5)
    best = cheapest_selection(network, x, targets, loss, prices)
    assert solution.status == "optimal"
    assert solution.objective == pytest.approx(best, rel=2e-5, abs=2e-6)
    assert solution.bound <= best + 1e-6 * (1 + best)
    assert_consistent(problem, solution, x, targets)


def test_selection_of_three_hidden_layers_is_the_cheapest_of_all_subsets():
    rng = np.random.default_rng(3)
    network = random_network(rng, (2, 3, 3, 3, 1))
    x = rng.normal(size=(4, 2))
    targets = network.forward(x)
    prices = [np.full(3, 0.3)] * 3
    problem = Selection(network, x, targets, "l1", 0.3)
    solution = solve(problem)
    best = cheapest_selection(network, x, targets, "l1", prices)
    assert solution.status == "optimal"
    assert solution.objective == pytest.approx(best, rel=1e-4)
    assert_consistent(problem, solution, x, targets)


@pytest.mark.parametrize("loss", LOSSES)
def test_milp_finds_the_optimum_from_a_poor_start(loss):
    """The heuristic is left out, so that the optimum is HiGHS's own."""
    rng = np.random.default_rng(5)
    network = random_network(rng, (2, 4, 4, 2))
    x = rng.normal(size=(6, 2))
    targets = network.forward(x)
    if loss == "hinge":
        targets = np.where(targets > np.median(targets, axis=0), 1.0, -1.0)
    solution = solve(Selection(network, x, targets, loss, 0.01), heuristic=False)
    best = cheapest_selection(network, x, targets, loss, [np.full(4, 0.01)] * 2)
    assert solution.status == "optimal"
    assert solution.objective == pytest.approx(best, rel=1e-4)
    assert solution.kept > 0


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("price", [0.1, 1.0])
def test_selection_on_toy_mlp_is_proved_optimal_and_the_cheapest_of_all_4096_subsets(loss, price):
    toy = find_toy("toy-mlp")
    assert toy.network.hidden == (6, 6)
    assert toy.inputs.shape == (40, 2)
    solution = select(toy.network, toy.inputs, toy.targets, loss=loss, price=price)
    best = np.inf
    for first, second in ((s[0], s[1]) for s in supports((6, 6))):
        (w0, w1, w2), (b0, b1, b2) = toy.network.weights, toy.network.biases
        h = np.maximum(0, toy.inputs @ w0.T + b0) * first
        h = np.maximum(0, h @ w1.T + b1) * second
        count = first.sum() + second.sum()
        best = min(best, loss_of(loss, h @ w2.T + b2, toy.targets) + price * count)
    assert solution.status == "optimal"
    assert solution.gap <= 1e-4
    assert solution.objective == pytest.approx(best, rel=1e-4)
    assert 0 < solution.kept < 12


def test_toy_mlp_is_trained_the_same_every_time_and_classifies():
    one, two = find_toy("toy-mlp"), find_toy("toy-mlp")
    for a, b in zip(one.network.weights, two.network.weights, strict=True):
        np.testing.assert_array_equal(a, b)
    right = one.network.forward(one.inputs).argmax(axis=1) == one.targets.argmax(axis=1)
    assert right.mean() >= 0.9


def mip_activations(problem, solution):
    """Activations of the kept units that the model's rows leave, their σ free."""
    model = problem.layers(problem.inputs, problem.interval_bounds())
    own = {id(b.on) for b in model.relu.values() if b.component("on") is not None}
    for variable, value in problem.assign(model, problem.network, solution.support):
        if id(variable) not in own:
            variable.fix(value)
    milp = Milp(model)
    milp.load(milp.run(np.inf).point)
    return [
        [
            [pyo.value(model.relu[layer, i, unit].h) for unit in np.flatnonzero(keep)]
            for i in range(len(problem.inputs))
        ]
        for layer, keep in enumerate(solution.support)
    ]


def test_model_leaves_the_activations_of_the_forward_pass_alone():
    toy = find_toy("toy-mlp")
    problem = Selection(toy.network, toy.inputs, toy.targets, "l1", 0.5)
    solution = enumeration.solve(problem)
    for own, mip in zip(solution.activations, mip_activations(problem, solution), strict=True):
        np.testing.assert_allclose(mip, own, atol=1e-6)


# ---- train ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("hidden", [(2,), (1, 1)])
@pytest.mark.parametrize("loss", LOSSES)
@given(seed=st.integers(0, 2**32 - 1), same=st.booleans())
@settings(few, max_examples=5)
def test_training_is_the_cheapest_of_all_grid_points_and_subsets(hidden, loss, seed, same):
    rng = np.random.default_rng(seed)
    x, targets = rng.normal(size=(3, 1)), targets_for(rng, loss, (3, 1))
    prices = [np.full(n, 0.2) if same else rng.uniform(0, 0.5, size=n) for n in hidden]
    problem = Training(x, targets, hidden, loss, prices, step=1.0, limit=1.0)
    solution = solve(problem, gap=1e-5)
    best = cheapest_training(x, targets, hidden, loss, prices, (-1.0, 0.0, 1.0))
    assert solution.status == "optimal"
    assert solution.objective == pytest.approx(best, rel=2e-5, abs=2e-6)
    assert solution.bound <= best + 1e-6 * (1 + best)
    for array in (*solution.network.weights, *solution.network.biases):
        assert np.isin(array, (-1.0, 0.0, 1.0)).all()
    assert_consistent(problem, solution, x, targets)


@pytest.mark.parametrize("seed", range(3))
def test_training_optimum_of_the_milp_alone_does_not_change_with_the_order_of_units(seed):
    rng = np.random.default_rng(seed)
    x, targets = rng.normal(size=(4, 1)), rng.normal(size=(4, 1))
    problem = Training(x, targets, (2,), "l1", 0.05, step=1.0, limit=1.0)
    best = cheapest_training(x, targets, (2,), "l1", [np.full(2, 0.05)], (-1.0, 0.0, 1.0))
    for ordered in (True, False):
        model = problem.model()
        assert len(model.order) > 0
        if not ordered:
            model.order.deactivate()
        outcome = Milp(model).run(np.inf)
        assert outcome.bound == pytest.approx(best, abs=1e-6)


@pytest.mark.parametrize(("loss", "price"), [("l1", 0.1), ("l1", 0.001), ("hinge", 0.1)])
def test_xor_needs_two_hidden_units_of_the_three_and_this_is_proved(loss, price):
    toy = find_toy("xor")
    targets = 2 * toy.targets - 1 if loss == "hinge" else toy.targets
    solution = train(toy.inputs, targets, toy.hidden, loss=loss, price=price)
    assert toy.hidden == (3,)
    assert solution.status == "optimal"
    assert solution.kept == 2
    assert solution.loss == 0
    assert solution.bound >= 2 * price * (1 - 1e-4)
    outputs = forward(solution.network.weights, solution.network.biases, toy.inputs, [[True] * 2])
    assert loss_of(loss, outputs, targets) == 0


def test_xor_is_found_by_the_milp_without_the_heuristic():
    toy = find_toy("xor")
    solution = solve(Training(toy.inputs, toy.targets, toy.hidden, "l1", 0.1), heuristic=False)
    assert (solution.status, solution.kept) == ("optimal", 2)


# ---- bounds and the ReLU block -------------------------------------------------------------------


@given(seed=st.integers(0, 2**32 - 1))
@few
def test_bounds_of_selection_hold_for_every_subset_and_tightening_never_loosens(seed):
    rng = np.random.default_rng(seed)
    network = random_network(rng, (2, 3, 3, 2, 1))
    x = rng.normal(size=(2, 2))
    problem = Selection(network, x, np.zeros((2, 1)))
    wide = problem.interval_bounds()
    tight = problem.lp_bounds(wide)
    for bounds in (wide, tight):
        for support in supports(network.hidden):
            for z, low, high in zip(
                network.pre_activations(x, support), bounds.lower, bounds.upper, strict=True
            ):
                assert (low <= z + 1e-9).all()
                assert (z <= high + 1e-9).all()
    for a, b in zip(wide.lower, tight.lower, strict=True):
        assert (a <= b).all()
    for a, b in zip(wide.upper, tight.upper, strict=True):
        assert (b <= a).all()


def test_tightening_helps_from_the_third_layer_on():
    rng = np.random.default_rng(0)
    network = random_network(rng, (2, 4, 4, 4, 1))
    problem = Selection(network, rng.normal(size=(3, 2)), np.zeros((3, 1)))
    wide = problem.interval_bounds()
    tight = problem.lp_bounds(wide)
    assert tight.upper[-1].sum() < wide.upper[-1].sum()
    assert relax(problem).bound >= relax(problem, tightened=False).bound - 1e-6


@given(seed=st.integers(0, 2**32 - 1))
@few
def test_bounds_of_training_hold_for_every_network_on_the_grid(seed):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(2, 2))
    problem = Training(x, np.zeros((2, 1)), (2, 2), step=0.5, limit=1.0)
    wide = problem.interval_bounds()
    tight = problem.lp_bounds(wide)
    for _ in range(200):
        shapes = ((2, 2), (2, 2), (1, 2))
        ends = rng.random() < 0.5  # extreme weights meet the bounds
        grid = (-1.0, 1.0) if ends else problem.grid
        network = Network(
            [rng.choice(grid, size=s) for s in shapes],
            [rng.choice(grid, size=s[0]) for s in shapes],
        )
        support = tuple(rng.random(2) < 0.7 for _ in range(2))
        for layer, z in enumerate(network.pre_activations(x, support)):
            for bounds in (wide, tight):
                assert (bounds.lower[layer] <= z + 1e-9).all()
                assert (z <= bounds.upper[layer] + 1e-9).all()
            assert (wide.lower[layer] <= tight.lower[layer]).all()
            assert (tight.upper[layer] <= wide.upper[layer]).all()


def test_relu_block_of_a_unit_that_is_never_active_is_zero():
    for lower, upper in ((-2.0, -0.5), (-1.0, 0.0)):
        assert pyo.value(relu_model(lower, upper).unit.h) == 0


def relu_model(lower, upper):
    model = pyo.ConcreteModel()
    model.y = pyo.Var(domain=pyo.Binary)
    model.input = pyo.Var(bounds=(lower, upper))
    model.unit = pyo.Block()
    relu_block(model.unit, model.input, model.y, lower, upper)
    return model


@pytest.mark.parametrize(("lower", "upper"), [(-2.0, 3.0), (0.5, 2.0), (-1.0, 2.0)])
@pytest.mark.parametrize("y", [0, 1])
def test_relu_block_allows_the_activation_of_a_kept_unit_and_zero_of_a_removed_one(lower, upper, y):
    for z in np.linspace(lower, upper, 7):
        for sign in (1, -1):
            model = relu_model(lower, upper)
            model.objective = pyo.Objective(expr=sign * model.unit.h + 0 * model.input)
            model.input.fix(z)
            model.y.fix(y)
            outcome = Milp(model).run(np.inf)
            assert sign * outcome.bound == pytest.approx(y * max(0.0, z), abs=1e-7)


@given(costs=st.lists(st.floats(-1, 1), min_size=4, max_size=4))
@few
def test_relaxed_relu_block_has_binary_vertices_only(costs):
    for lower, upper in ((-2.0, 3.0), (0.5, 2.0)):
        values = []
        for relaxed in (True, False):
            model = relu_model(lower, upper)
            on = model.unit.on if lower < 0 else model.y
            terms = zip(costs, (model.input, model.unit.h, model.y, on), strict=True)
            model.objective = pyo.Objective(expr=sum(c * v for c, v in terms))
            values.append(Milp(model, relaxed=relaxed).run(np.inf).bound)
        assert values[0] == pytest.approx(values[1], abs=1e-6)


# ---- relaxation, limits, progress ----------------------------------------------------------------


def counted(looks):
    """A deadline that is over when its clock was asked so many times."""
    ticks = count()
    return Deadline(looks, clock=lambda: float(next(ticks)))


def hard_problem():
    """Takes HiGHS much longer than a test may."""
    rng = np.random.default_rng(0)
    return Training(rng.normal(size=(12, 2)), rng.normal(size=(12, 1)), (5,), "l1", 0.01)


@pytest.mark.parametrize("loss", LOSSES)
def test_relaxation_is_below_the_optimum_and_its_rounding_above(loss):
    toy = find_toy("toy-mlp")
    x, targets = toy.inputs[:16], toy.targets[:16]
    problem = Selection(toy.network, x, targets, loss, 0.5)
    relaxed, solution = relax(problem), solve(problem)
    assert relaxed.status == "optimal"
    assert 0 < relaxed.bound <= relaxed.objective <= solution.objective * (1 + 1e-6)
    assert relaxed.rounded >= solution.bound
    assert all(((y > -1e-9) & (y < 1 + 1e-9)).all() for y in relaxed.indicator)
    kept = sum(int(keep.sum()) for keep in relaxed.support)
    outputs = relaxed.network.forward(x)
    assert relaxed.kept == kept
    assert relaxed.rounded == pytest.approx(loss_of(loss, outputs, targets) + 0.5 * kept)


def test_relaxation_of_training_is_below_its_optimum_and_rounds_to_the_grid():
    toy = find_toy("xor")
    relaxed = relax(Training(toy.inputs, toy.targets, toy.hidden, "l1", 0.1))
    assert 0 <= relaxed.bound <= relaxed.objective <= 0.2 <= relaxed.rounded
    for array in (*relaxed.network.weights, *relaxed.network.biases):
        np.testing.assert_array_equal(array * 2, np.round(array * 2))


@pytest.mark.parametrize("looks", [1, 3, 30, 100])
def test_time_limit_returns_the_incumbent_with_its_bound(looks):
    """The clock counts how often it is asked: every loop of the solve asks."""
    problem = hard_problem()
    solution = solve(problem, seconds=counted(looks))
    assert solution.status == "time_limit"
    assert 0 <= solution.bound <= solution.objective < np.inf
    assert solution.gap > 1e-4
    assert_consistent(problem, solution, problem.inputs, problem.targets)


def test_bound_at_a_time_limit_is_below_the_true_optimum():
    toy = find_toy("toy-mlp")
    problem = Selection(toy.network, toy.inputs, toy.targets, "squared", 0.5)
    best = enumeration.solve(problem).objective
    for looks in (1, 30, 60):
        solution = solve(problem, seconds=counted(looks))
        assert solution.bound <= best * (1 + 1e-6)
        assert solution.objective >= best * (1 - 1e-4)


def interrupting(heard, reports):
    """A callback that keeps what it hears, and is a Ctrl-C after so many reports."""

    def hear(now):
        heard.append(now)
        if len(heard) >= reports:
            raise KeyboardInterrupt

    return hear


def test_interrupt_returns_the_incumbent_with_its_bound():
    problem = hard_problem()
    solution = solve(problem, on_progress=interrupting([], 2))
    assert solution.status == "interrupted"
    assert 0 <= solution.bound <= solution.objective
    assert_consistent(problem, solution, problem.inputs, problem.targets)


def test_progress_shows_incumbents_that_fall_and_bounds_that_rise():
    heard = []
    solution = solve(hard_problem(), on_progress=interrupting(heard, 5))
    assert len(heard) >= 5
    incumbents, bounds, nodes, seconds = (
        np.array([getattr(now, name) for now in heard])
        for name in ("objective", "bound", "nodes", "seconds")
    )
    assert (np.diff(incumbents) <= 0).all()
    assert (np.diff(bounds) >= 0).all()
    assert (np.diff(nodes) >= 0).all()
    assert (np.diff(seconds) >= 0).all()
    assert (bounds <= incumbents).all()
    assert solution.objective <= incumbents[-1]
    assert solution.bound >= bounds[-1]


def test_error_in_the_progress_callback_is_raised():
    def stop(*_):
        raise RuntimeError("enough")

    with pytest.raises(RuntimeError, match="enough"):
        solve(hard_problem(), on_progress=stop)


# ---- wrong input ---------------------------------------------------------------------------------


def good(**changes):
    rng = np.random.default_rng(0)
    data = {
        "network": random_network(rng, (2, 3, 1)),
        "inputs": rng.normal(size=(4, 2)),
        "targets": rng.normal(size=(4, 1)),
    }
    return Selection(**(data | changes))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Network([[[np.nan]]], [[0.0]]), r"weights\[0\].*not finite"),
        (lambda: Network([[[1.0]]], [[np.inf]]), r"biases\[0\].*not finite"),
        (lambda: Network([np.ones((3, 2)), np.ones((1, 4))], [np.ones(3), [0]]), "takes 4 inputs"),
        (lambda: Network([np.ones((3, 2))], [np.ones(2)]), r"\(3,\) fits"),
        (lambda: Network([np.ones(3)], [np.ones(3)]), "must be a matrix"),
        (lambda: Network([], []), "equal, positive numbers"),
        (lambda: good(price=-0.1), "not negative"),
        (lambda: good(price=np.nan), "not negative"),
        (lambda: good(price=[0.1, 0.2]), "2 prices for 1 hidden layers"),
        (lambda: good(price=[[0.1, 0.2]]), "one number, or 3, fit"),
        (lambda: good(loss="cross-entropy"), "unknown loss 'cross-entropy'.*l1, hinge, squared"),
        (lambda: good(targets=np.zeros((3, 1))), r"\(4, 1\) fits"),
        (lambda: good(targets=np.full((4, 1), np.nan)), "targets.*not finite"),
        (lambda: good(loss="hinge"), "-1 or 1"),
        (lambda: good(inputs=np.zeros((4, 3))), "3 features: the network takes 2"),
        (lambda: good(inputs=np.zeros(4)), "must be a matrix"),
        (lambda: good(inputs=np.full((4, 2), np.nan)), "inputs.*not finite"),
        (lambda: solve(good(), seconds=0), "time limit must be positive"),
        (lambda: solve(good(), gap=np.nan), "gap must be positive"),
        (lambda: Training([[0.0]], [[0.0]], (0,)), "hidden must be positive"),
        (lambda: Training([[0.0]], [[0.0]], (1,), step=0.3), "not a multiple"),
        (lambda: Training([[0.0]], [[0.0]], (1,), step=0.0), "0 < step"),
        (lambda: Training([[0.0]], [3], (1,), "hinge", outputs=2), "from 0 to 1"),
        (lambda: find_toy("mnist"), "xor, toy-mlp"),
    ],
)
def test_wrong_input_is_refused_in_one_line(make, message):
    with pytest.raises(InputError, match=message) as error:
        make()
    assert "\n" not in str(error.value)


def test_class_numbers_mean_one_against_all():
    rng = np.random.default_rng(1)
    network, x = random_network(rng, (2, 3, 3)), rng.normal(size=(4, 2))
    numbers = np.array([0, 2, 1, 2])
    signs = np.where(np.eye(3)[numbers] == 1, 1.0, -1.0)
    one = select(network, x, numbers, loss="hinge", price=0.1)
    two = select(network, x, signs, loss="hinge", price=0.1)
    assert one.objective == two.objective


def test_module_needs_no_torch():
    code = "import sys, formulations.relu.solve; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
