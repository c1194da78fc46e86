"""Budget problems: exact against brute force over all widths, bounds, wrong input."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from formulations.budget.extremes import smallest
from formulations.budget.lagrangian import Lagrangian
from formulations.budget.milp import BudgetModel
from formulations.budget.problem import BilinearCost, BudgetProblem, Limit, OutOfReach
from formulations.budget.solve import solve
from formulations.errors import InputError
from formulations.solving.deadline import Deadline

EXACT = 1e-9


def random_cost(rng, classes, layers):
    """Layers with any number of classes on either side, the same one on both included."""
    owned = rng.integers(0, 3, (2, classes, layers)) * (rng.random((2, classes, layers)) < 0.4)
    fixed = rng.integers(0, 3, (2, layers))
    return BilinearCost(rng.integers(1, 9, layers), fixed[0], owned[0], fixed[1], owned[1])


def random_problem(seed, classes=4, layers=5, limits=1, floors=False, concave=True):
    """A problem whose limits leave something out; widths in multiples, floors on sums."""
    rng = np.random.default_rng(seed)
    widths, values = [], []
    for _ in range(classes):
        multiple, first = rng.integers(1, 4), rng.integers(0, 3)
        widths.append(multiple * np.arange(first, first + rng.integers(1, 6)))
        gains = rng.random(len(widths[-1]) - 1)
        gains = np.sort(gains)[::-1] if concave else gains - 0.3
        values.append(np.append(0.0, np.cumsum(gains)))
    widest = np.array([w[-1] for w in widths])
    costs = [random_cost(rng, classes, layers) for _ in range(limits)]
    ranges = []
    for cost in costs:
        most = int(rng.uniform(0.2, 1.1) * cost.value(widest))
        ranges.append(Limit(cost, most, int(rng.choice([0, 0.7]) * most)))
    rows = rng.integers(0, 2, (2, classes)) if floors else np.zeros((0, 0), int)
    sizes = (rows @ widest * rng.uniform(0.2, 0.8, 2)).astype(int) if floors else np.zeros(0, int)
    return BudgetProblem(widths, values, ranges, rows, sizes)


def brute_force(problem):
    """Value of the best widths, or None."""
    best = None
    for choice in itertools.product(*(range(len(w)) for w in problem.widths)):
        widths = problem.at(choice)
        costs = [
            sum(
                int(c)
                * (int(fr) + sum(int(o) * int(n) for o, n in zip(rows, widths, strict=True)))
                * (int(fc) + sum(int(o) * int(n) for o, n in zip(columns, widths, strict=True)))
                for c, fr, rows, fc, columns in zip(
                    x.cost.coefficient,
                    x.cost.fixed_rows,
                    x.cost.owned_rows.T,
                    x.cost.fixed_columns,
                    x.cost.owned_columns.T,
                    strict=True,
                )
            )
            for x in problem.limits
        ]
        inside = all(
            x.at_least <= c <= x.at_most for x, c in zip(problem.limits, costs, strict=True)
        )
        if inside and (problem.floors @ widths >= problem.floor_sizes).all():
            value = sum(v[k] for v, k in zip(problem.values, choice, strict=True))
            best = value if best is None else max(best, value)
    return best


def odd_problem(seed):
    """What the other lacks: classes of one width, no cost, equal and negative values, any scale."""
    rng = np.random.default_rng(seed)
    classes, layers, scale = rng.integers(1, 5), rng.integers(1, 5), 10.0 ** rng.integers(-200, 200)
    widths, values = [], []
    for _ in range(classes):
        count = rng.choice([1, 1, 2, 3, 5])
        widths.append(np.sort(rng.choice(12, count, replace=False)))
        tables = (
            np.zeros(count),
            rng.integers(-3, 4, count).astype(float),
            -np.arange(count).astype(float),
            np.cumsum(rng.random(count)),
        )
        values.append(scale * tables[rng.integers(len(tables))])
    widest = np.array([w[-1] for w in widths])
    limits = []
    for _ in range(rng.integers(1, 3)):
        unit = 10 ** rng.integers(0, 11)
        share = rng.choice([0, 0.3, 0.6])
        owned = rng.integers(0, 3, (2, classes, layers)) * (
            rng.random((2, classes, layers)) < share
        )
        fixed = rng.integers(0, 3, (2, layers))
        cost = BilinearCost(
            rng.integers(0, 9, layers) * unit, fixed[0], owned[0], fixed[1], owned[1]
        )
        most = int(rng.uniform(0.1, 1.2) * cost.value(widest))
        limits.append(Limit(cost, most, int(rng.choice([0, 0, 0.5]) * most)))
    rows = rng.integers(0, 3, (rng.integers(0, 3), classes))
    sizes = (rows @ widest * rng.uniform(0, 1, len(rows))).astype(int)
    return BudgetProblem(widths, values, limits, rows, sizes)


SEEDS = st.integers(0, 10**9)
SLOW = settings(
    max_examples=120, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck)
)


def solved(problem):
    """The solution and the optimum by brute force; None where there is none, and it is said."""
    expected = brute_force(problem)
    if expected is None:
        with pytest.raises(InputError, match=r"^no widths"):
            solve(problem)
        return None
    return solve(problem, gap=EXACT), expected


@SLOW
@given(SEEDS, st.integers(1, 2), st.booleans(), st.booleans())
def test_the_optimum_is_that_of_brute_force(seed, limits, floors, concave):
    problem = random_problem(seed, limits=limits, floors=floors, concave=concave)
    found = solved(problem)
    if found is None:
        return
    solution, expected = found
    assert solution.status == "optimal"
    assert solution.value == pytest.approx(expected, abs=1e-7)
    assert solution.bound >= expected - 1e-7
    assert problem.feasible(solution.widths)
    assert solution.costs == tuple(x.cost.value(solution.widths) for x in problem.limits)


@SLOW
@given(SEEDS)
def test_odd_problems_have_the_optimum_of_brute_force(seed):
    problem = odd_problem(seed)
    found = solved(problem)
    if found is None:
        return
    solution, expected = found
    rounding = 1e-8 * sum(np.abs(values).max() for values in problem.values)
    assert solution.status == "optimal"
    assert solution.value == pytest.approx(expected, rel=0, abs=rounding)
    assert solution.bound >= expected - rounding
    assert problem.feasible(solution.widths)


def test_a_floor_lifts_a_class_at_no_cost_whatever_it_loses():
    """Beside a class of one width, which cannot be lifted."""
    problem = BudgetProblem(
        [np.array([2]), np.array([0, 1])],
        [np.array([0.0]), np.array([0.0, -1e9])],
        (Limit(BilinearCost(*(np.array(x) for x in ([1], [0], [[1], [0]], [1], [[0], [0]]))), 9),),
        np.array([[0, 1]]),
        np.array([1]),
    )
    solution = solve(problem)
    assert solution.widths.tolist() == [2, 1]
    assert (solution.value, solution.status) == (-1e9, "optimal")


@pytest.mark.parametrize("kind", [np.int8, np.int32, np.int64])
def test_costs_are_exact_whatever_the_integers_and_refused_beyond_floats(kind):
    whole = np.iinfo(kind).max
    one, none = np.array([1], kind), np.zeros((1, 1), kind)
    cost = BilinearCost(np.array([whole], kind), 0 * one, none + one, one, none)
    for width in (1, 3, 2**40):
        widths = np.array([width])
        assert cost.value(widths) == int(whole) * width
        if cost.value(widths) < 2**53:
            BudgetProblem([widths], [np.ones(1)], (Limit(cost, 1),))
            continue
        with pytest.raises(InputError, match=r"2\*\*53 or more.*: give the costs in a larger unit"):
            BudgetProblem([widths], [np.ones(1)], (Limit(cost, 1),))


@pytest.mark.parametrize(
    ("floats", "named"), [("coefficient", "coefficient of a cost"), ("owned_rows", "owned_rows")]
)
def test_costs_that_are_no_integers_are_refused(floats, named):
    with pytest.raises(InputError, match=f"{named}.* must be whole numbers of 64 bits"):
        replace(ONE, **{floats: getattr(ONE, floats) + 0.5})


def test_an_empty_range_of_costs_is_refused():
    with pytest.raises(InputError, match="at least 3, at most 2"):
        BudgetProblem([np.array([1, 2])], [np.array([1.0, 2])], (Limit(ONE, 2, 3),))


@SLOW
@given(SEEDS, st.booleans(), st.booleans())
def test_highs_alone_finds_the_optimum_of_brute_force(seed, floors, concave):
    """Without the Lagrangian bounds, which leave HiGHS little to do."""
    problem = random_problem(seed, floors=floors, concave=concave)
    expected = brute_force(problem)
    choice, bound, status = BudgetModel(problem).maximise(None, gap=EXACT, deadline=Deadline())
    if expected is None:
        assert (choice, status) == (None, "infeasible")
    else:
        assert problem.value(choice) == pytest.approx(expected, abs=1e-7)
        assert problem.feasible(problem.at(choice))
        assert bound >= expected - 1e-7


@SLOW
@given(SEEDS, st.floats(0, 5))
def test_lagrangian_bounds_of_single_widths_hold_for_all_solutions_with_them(seed, mu):
    problem = random_problem(seed, classes=4)
    function = Lagrangian(problem, problem.limits[0])
    total, choice = function.maximise(mu)
    (limit,) = problem.limits

    def relaxed(c):
        return problem.value(c) + mu * (limit.at_most - limit.cost.value(problem.at(c)))

    choices = list(itertools.product(*(range(len(w)) for w in problem.widths)))
    values = np.array([relaxed(c) for c in choices])
    assert total == pytest.approx(values.max())
    assert relaxed(choice) == pytest.approx(values.max())
    table = values.reshape([len(w) for w in problem.widths])
    for c, bounds in enumerate(function.single_bounds(mu)):
        others = tuple(i for i in range(problem.classes) if i != c)
        np.testing.assert_allclose(bounds, table.max(axis=others), atol=1e-7)


@pytest.mark.parametrize("start", [0.0, 1e-6, 1e-3, 1e3])
def test_the_minimum_of_the_lagrangian_function_does_not_depend_on_the_start(start):
    for seed in range(20):
        problem = random_problem(seed)
        function = Lagrangian(problem, problem.limits[0])
        least, mu = min((bound, mu) for mu, bound, _ in function.points(lambda: None, start))
        if problem.limits[0].cost.value(problem.narrowest) > problem.limits[0].at_most:
            continue
        # convex, so that no smaller value near it means none anywhere
        for other in (mu * 0.999, mu * 1.001, mu + 1e-7):
            assert function.maximise(other)[0] >= least - 1e-9


def test_cells_of_widths_lead_to_the_same_optimum():
    problems = [random_problem(seed, classes=6, layers=8) for seed in range(30)]
    exact = [brute_force(p) for p in problems]
    checked = 0
    for problem, expected in zip(problems, exact, strict=True):
        if expected is not None:
            found = solve(problem, gap=EXACT, tables=(100, 30))
            assert found.value == pytest.approx(expected, abs=1e-7)
            checked += 1
    assert checked > 10


def chain(layers=30, width=40, seed=0):
    """Layers in a chain with a concave value table each; half of the cost may stay."""
    rng = np.random.default_rng(seed)
    owned_rows = np.eye(layers, layers + 1, dtype=int)
    owned_columns = np.eye(layers, layers + 1, k=1, dtype=int)
    ones = np.ones(layers + 1, int)
    cost = BilinearCost(
        rng.integers(1, 50, layers + 1),
        np.append(0 * ones[:-1], 10),
        owned_rows,
        np.append(3, 0 * ones[:-1]),
        owned_columns,
    )
    widths = [np.arange(1, width + 1)] * layers
    values = [np.cumsum(np.sort(rng.random(width))[::-1]) for _ in range(layers)]
    return BudgetProblem(widths, values, (Limit(cost, cost.value(np.full(layers, width)) // 2),))


@pytest.mark.parametrize("seconds", [1e-6, 0.02, 0.3])
def test_a_time_limit_gives_a_feasible_incumbent_and_a_valid_bound(seconds):
    problem = chain()
    optimum = solve(problem, gap=1e-6)
    assert optimum.status == "optimal"
    # small tables leave the work to HiGHS, which would take minutes
    solution = solve(problem, gap=1e-9, seconds=seconds, tables=(10, 10))
    assert solution.status == "time_limit"
    assert problem.feasible(solution.widths)
    assert solution.value <= optimum.bound
    assert solution.bound >= optimum.value
    assert solution.gap > 0


def test_ctrl_c_gives_the_incumbent_and_its_bound():
    problem = chain()
    looks = itertools.count()

    def clock():
        if next(looks) == 3:
            raise KeyboardInterrupt
        return 0.0

    solution = solve(problem, seconds=Deadline(clock=clock))
    assert solution.status == "interrupted"
    assert problem.feasible(solution.widths)
    assert solution.bound >= solution.value


def test_infeasible_budgets_name_the_smallest_feasible_one():
    problem = chain(layers=4, width=6)
    (limit,) = problem.limits
    smallest = limit.cost.value(problem.narrowest)
    for budget, feasible in ((smallest, True), (smallest - 1, False)):
        tight = BudgetProblem(problem.widths, problem.values, (Limit(limit.cost, budget),))
        if feasible:
            assert solve(tight).costs == (smallest,)
            continue
        with pytest.raises(OutOfReach, match=f"at most {budget}.* {smallest}$") as caught:
            solve(tight)
        assert caught.value.nearest == smallest
        assert "\n" not in str(caught.value)


def test_the_smallest_cost_respects_floors_over_several_classes():
    for seed in range(40):
        problem = random_problem(seed, floors=True)
        cost = problem.limits[0].cost
        choices = itertools.product(*(range(len(w)) for w in problem.widths))
        costs = [cost.value(problem.at(c)) for c in choices if problem.above_floors(problem.at(c))]
        assert smallest(problem, problem.limits[0]) == min(costs)


def test_a_range_without_widths_names_the_nearest_cost_below():
    cost = BilinearCost(*(np.array(x) for x in ([1], [0], [[10]], [1], [[0]])))
    problem = BudgetProblem([np.array([1, 2, 3])], [np.array([1.0, 2, 3])], (Limit(cost, 29, 25),))
    with pytest.raises(OutOfReach, match=r"between 25 and 29: the nearest cost below is 20$"):
        solve(problem)


ONE = BilinearCost(*(np.array(x) for x in ([1], [0], [[1]], [1], [[0]])))


@pytest.mark.parametrize(
    ("widths", "values", "cost", "floors", "message"),
    [
        ([2, 1], [0.0, 1], ONE, None, "class 0: the allowed widths must be ≥ 0 and increase"),
        ([], [], ONE, None, "class 0: the allowed widths"),
        ([-1, 1], [0.0, 1], ONE, None, "class 0: the allowed widths"),
        ([1, 2], [0.0, np.nan], ONE, None, "class 0: every allowed width needs a finite value"),
        ([1, 2], [0.0], ONE, None, "class 0: every allowed width needs a finite value"),
        ([1, 2], [0.0, 1], ONE.take(np.array([0, 0])), None, "2 classes, the problem 1"),
        ([1, 2], [0.0, 1], ONE, ([[1]], [3]), "floor is above"),
        ([1, 2], [0.0, 1], ONE, ([[-1]], [-3]), "must not fall"),
    ],
)
def test_wrong_problems_are_refused_in_one_line(widths, values, cost, floors, message):
    more = () if floors is None else (np.array(floors[0]), np.array(floors[1]))
    with pytest.raises(InputError, match=message):
        BudgetProblem([np.array(widths, int)], [np.array(values)], (Limit(cost, 2),), *more)


@pytest.mark.parametrize(("option", "named"), [("seconds", "time limit"), ("gap", "gap")])
@pytest.mark.parametrize("number", [0.0, -1.0, float("nan")])
def test_limits_of_the_solve_must_be_positive(option, named, number):
    with pytest.raises(InputError, match=f"{named} must be positive"):
        solve(chain(layers=2, width=3), **{option: number})


def test_problem_without_limits_takes_the_best_widths_above_the_floors():
    widths = [np.array([0, 2, 4]), np.array([1, 3])]
    values = [np.array([0.0, 2.0, 1.0]), np.array([1.0, 0.5])]
    problem = BudgetProblem(widths, values, [], np.array([[1, 1]]), np.array([4]))
    found = solve(problem)
    assert (found.widths.tolist(), found.value, found.costs) == ([2, 3], 2.5, ())
