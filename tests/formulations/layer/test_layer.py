"""The layer problem's data, values, refit, bounds and files, against direct computation."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from layer_instances import (
    all_supports,
    brute_force,
    direct_objective,
    direct_refit,
    layer_data,
    layer_problem,
    layer_problems,
)

from formulations import LayerProblem, load_problem, refit, save_problem, square
from formulations.errors import InputError
from formulations.layer.big_m import big_m, valid_bounds

quick = settings(max_examples=40, deadline=None)
few = settings(max_examples=12, deadline=None)

seeds = st.integers(0, 10_000)


# ---- values --------------------------------------------------------------------------------------


@given(seeds, st.integers(1, 6), st.integers(1, 3))
@quick
def test_loss_is_the_mean_over_samples_of_half_the_squared_error(seed, inputs, outputs):
    x, y = layer_data(seed, inputs, outputs)
    problem = LayerProblem.from_data(x, y, square(0.1, 0.2))
    w = np.random.default_rng(seed + 1).normal(size=(inputs, outputs))
    direct = np.mean(
        [0.5 * np.sum((row @ w - target) ** 2) for row, target in zip(x, y, strict=True)]
    )
    assert problem.loss(w) == pytest.approx(direct, rel=1e-10)
    assert problem.loss(np.zeros_like(w)) == pytest.approx(problem.constant)


@given(layer_problems(), seeds)
@quick
def test_objective_adds_ridge_and_the_prices_of_the_support(problem, seed):
    rng = np.random.default_rng(seed)
    support = rng.random(problem.groups) < 0.5
    w = rng.normal(size=problem.cross.shape) * np.repeat(support, problem.block)[:, None]
    direct = direct_objective(problem, w, support)
    assert problem.objective(w, support) == pytest.approx(direct, rel=1e-10, abs=1e-10)


@given(layer_problems(), seeds)
@quick
def test_relaxed_objective_is_the_best_mix_of_indicators(problem, seed):
    """With y free in [‖w‖∞/M, 1], a dense grid over y comes close from above and never below."""
    groups, rng = problem.groups, np.random.default_rng(seed)
    a, c, m = (
        np.broadcast_to(p, (groups,))
        for p in (problem.term.ridge, problem.term.price, problem.term.bound)
    )
    reach = np.repeat(np.minimum(m, 1.0), problem.block)[:, None]
    w = rng.uniform(-1, 1, size=problem.cross.shape) * reach
    best = problem.loss(w)
    for j in range(groups):
        part = w[j * problem.block : (j + 1) * problem.block]
        y = np.linspace(max(np.abs(part).max() / m[j], 1e-6), 1, 200_001)
        best += (a[j] * (part**2).sum() / y + c[j] * y).min()
    relaxed = problem.relaxed_objective(w)
    assert relaxed <= best + 1e-9 * (1 + abs(best))
    assert relaxed == pytest.approx(best, rel=1e-5)


def test_relaxed_objective_is_infinite_outside_the_box():
    problem = layer_problem(0, bound=0.5)
    assert problem.relaxed_objective(np.full_like(problem.cross, 0.6)) == np.inf


# ---- refit ---------------------------------------------------------------------------------------


@given(seeds, st.integers(1, 4), st.integers(1, 3), st.integers(1, 3), st.data())
@quick
def test_refit_without_bounds_is_ridge_regression_on_the_support(
    seed, groups, block, outputs, data
):
    x, y = layer_data(seed, groups * block, outputs)
    a = data.draw(st.lists(st.floats(0.01, 2), min_size=groups, max_size=groups).map(np.array))
    problem = LayerProblem.from_data(x, y, square(a, 0.2), block)
    support = np.array(data.draw(st.lists(st.booleans(), min_size=groups, max_size=groups)))
    rows = np.repeat(support, block)
    stacked = np.vstack([x / np.sqrt(len(x)), np.diag(np.sqrt(2 * np.repeat(a, block)))])[:, rows]
    target = np.vstack([y / np.sqrt(len(x)), np.zeros((groups * block, outputs))])
    weights = refit(problem, support)
    assert (weights[~rows] == 0).all()
    expected = np.linalg.lstsq(stacked, target, rcond=None)[0]
    assert weights[rows] == pytest.approx(expected, rel=1e-7, abs=1e-9)


@given(layer_problems(bounds=(0.5, 0.1, 0.02)), st.data())
@quick
def test_refit_within_bounds_is_the_optimum_of_the_box(problem, data):
    groups = problem.groups
    support = np.array(data.draw(st.lists(st.booleans(), min_size=groups, max_size=groups)))
    weights = refit(problem, support)
    assert np.abs(weights).max() <= float(problem.term.bound)
    expected = direct_objective(problem, direct_refit(problem, support), support)
    assert problem.objective(weights, support) == pytest.approx(expected, rel=1e-8)


@pytest.mark.parametrize("bound", [0.02, 0.1, 0.3])
def test_refit_within_bounds_holds_for_many_inputs(bound):
    problem = layer_problem(3, groups=50, shrinkage=0.01, bound=bound)
    everything = np.ones(50, bool)
    weights = refit(problem, everything)
    assert (np.abs(weights) == bound).any()
    expected = direct_objective(problem, direct_refit(problem, everything), everything)
    assert problem.objective(weights, everything) == pytest.approx(expected, rel=1e-8)


def test_refit_of_the_empty_support_is_zero():
    problem = layer_problem(1)
    assert (refit(problem, np.zeros(problem.groups, bool)) == 0).all()


# ---- valid bounds --------------------------------------------------------------------------------


@given(layer_problems(max_groups=4, max_size=8))
@few
def test_valid_bounds_contain_the_optimum(problem):
    best, _, weights = brute_force(problem)
    for upper in (best, best * 1.01, 2 * best):
        bounds = valid_bounds(problem, upper)
        assert bounds.shape == problem.cross.shape
        assert (np.abs(weights) <= bounds * (1 + 1e-6) + 1e-7).all()
    assert (np.abs(weights) <= big_m(problem) * (1 + 1e-6) + 1e-7).all()


@given(layer_problems(max_groups=4, max_size=8), st.floats(1, 2))
@few
def test_valid_bounds_contain_every_solution_at_most_the_upper_bound(problem, factor):
    values = {
        support.tobytes(): (problem.objective(w := refit(problem, support), support), w)
        for support in all_supports(problem.groups)
    }
    upper = factor * min(value for value, _ in values.values())
    bounds = valid_bounds(problem, upper)
    for value, w in values.values():
        if value <= upper:
            assert (np.abs(w) <= bounds * (1 + 1e-9) + 1e-9).all()


def test_valid_bounds_never_exceed_the_bound_of_the_term():
    problem = layer_problem(2, bound=0.3)
    assert (valid_bounds(problem, 1e6) == 0.3).all()
    assert (big_m(problem) <= 0.3).all()


# ---- files ---------------------------------------------------------------------------------------


@given(problem=layer_problems())
@few
def test_saved_problem_loads_as_the_same(tmp_path_factory, problem):
    path = tmp_path_factory.mktemp("layer") / "problem.npz"
    save_problem(problem, path)
    loaded = load_problem(path)
    assert (loaded.gram == problem.gram).all()
    assert (loaded.cross == problem.cross).all()
    assert (loaded.constant, loaded.block) == (problem.constant, problem.block)
    for name in ("ridge", "price", "bound"):
        assert np.array_equal(getattr(loaded.term, name), getattr(problem.term, name))


def test_problem_saved_under_any_name_loads_from_that_name(tmp_path):
    save_problem(layer_problem(0), tmp_path / "problem")
    assert load_problem(tmp_path / "problem").groups == 5


GOOD = {
    "G": np.diag([1.0, 2.0, 3.0, 4.0]),
    "B": np.ones((4, 2)),
    "c0": 3.0,
    "block": 2,
    "ridge": 0.1,
    "cost": 0.2,
}


def with_entry(value, at, to):
    changed = np.array(value, float)
    changed[at] = to
    return changed


BAD = {
    "NaN in G": ("G", with_entry(GOOD["G"], (1, 2), np.nan), r"G\[1, 2\]"),
    "infinity in G": ("G", with_entry(GOOD["G"], (0, 0), np.inf), r"G\[0, 0\]"),
    "NaN in B": ("B", with_entry(GOOD["B"], (3, 1), np.nan), r"B\[3, 1\]"),
    "NaN in c0": ("c0", np.nan, "c0"),
    "negative c0": ("c0", -1.0, "c0"),
    "G not square": ("G", np.ones((4, 3)), r"G .*\(4, 3\)"),
    "G a vector": ("G", np.ones(4), r"G .*\(4,\)"),
    "G empty": ("G", np.ones((0, 0)), "G"),
    "G zero": ("G", np.zeros((4, 4)), "G"),
    "G asymmetric": ("G", with_entry(GOOD["G"], (0, 1), 0.5), "G is not symmetric"),
    "G indefinite": ("G", np.diag([1.0, 2.0, 3.0, -0.5]), "G .*eigenvalue -0.5"),
    "B with other rows": ("B", np.ones((3, 2)), "B .*4 rows"),
    "B a vector": ("B", np.ones(4), "B"),
    "B without columns": ("B", np.ones((4, 0)), "B"),
    "block not dividing": ("block", 3, "block 3"),
    "block zero": ("block", 0, "block 0"),
    "block negative": ("block", -2, "block -2"),
    "block not whole": ("block", 2.5, "block"),
    "block a word": ("block", "two", "block"),
    "c0 a word": ("c0", "three", "c0"),
    "c0 several": ("c0", np.ones(2), "c0"),
    "G words": ("G", np.full((4, 4), "x"), "G"),
    "negative ridge": ("ridge", -0.1, "ridge|weight"),
    "NaN ridge": ("ridge", np.nan, "ridge|weight"),
    "ridge a word": ("ridge", "some", "ridge|weight"),
    "ridge for other groups": ("ridge", np.ones(3), "ridge|weight"),
    "negative price": ("cost", -0.2, "cost|price"),
    "zero price": ("cost", 0.0, "cost|price"),
    "NaN price": ("cost", np.nan, "cost|price"),
    "price for other groups": ("cost", np.ones(4), "cost|price"),
    "negative bound": ("bound", -1.0, "bound"),
    "bound for other groups": ("bound", np.ones(3), "bound"),
}


def build(arrays):
    term = square(arrays["ridge"], arrays["cost"], arrays.get("bound", np.inf))
    return LayerProblem(arrays["G"], arrays["B"], arrays["c0"], term, arrays["block"])


def test_the_good_arrays_make_a_problem(tmp_path):
    assert build(GOOD).groups == 2
    np.savez(tmp_path / "good.npz", **GOOD)
    assert load_problem(tmp_path / "good.npz").outputs == 2


NUMBERS = {
    key: case
    for key, case in BAD.items()
    if np.asarray(case[1]).dtype.kind in "fi" and key != "c0 several"
}


@pytest.mark.parametrize("case", NUMBERS)
def test_bad_number_is_refused_by_name(case):
    name, value, message = NUMBERS[case]
    with pytest.raises(ValueError, match=message):
        build(GOOD | {name: value})


@pytest.mark.parametrize("case", BAD)
def test_bad_array_in_a_file_is_refused_in_one_line_that_names_file_and_array(case, tmp_path):
    name, value, message = BAD[case]
    path = tmp_path / "bad.npz"
    np.savez(path, **(GOOD | {name: value}))
    with pytest.raises(ValueError, match=message) as caught:
        load_problem(path)
    assert "bad.npz" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", GOOD)
def test_file_without_an_array_is_refused_by_that_name(name, tmp_path):
    path = tmp_path / "incomplete.npz"
    np.savez(path, **{key: value for key, value in GOOD.items() if key != name})
    with pytest.raises(ValueError, match=rf"incomplete\.npz .*\b{name}$"):
        load_problem(path)


@pytest.mark.parametrize("content", [b"", b"not a zip", b"PK\x03\x04 truncated"])
def test_unreadable_file_is_refused_in_one_line(content, tmp_path):
    path = tmp_path / "garbage.npz"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"garbage\.npz") as caught:
        load_problem(path)
    assert "\n" not in str(caught.value)


def test_single_array_file_is_refused(tmp_path):
    path = tmp_path / "single.npz"
    with path.open("wb") as file:
        np.save(file, np.ones(3))
    with pytest.raises(ValueError, match=r"single\.npz"):
        load_problem(path)


def test_missing_file_and_folder_are_refused(tmp_path):
    for path in (tmp_path / "absent.npz", tmp_path):
        with pytest.raises(ValueError, match=path.name):
            load_problem(path)


def test_inputs_and_outputs_of_different_length_are_refused():
    x, y = layer_data(0, 3, 1)
    term = square(0.1, 0.2)
    with pytest.raises(ValueError, match=r"inputs .*outputs"):
        LayerProblem.from_data(x[1:], y, term)
    with pytest.raises(ValueError, match="inputs"):
        LayerProblem.from_data(x[:0], y[:0], term)


def test_cross_outside_the_range_of_the_gram_matrix_is_refused():
    """No data have such G and B: the loss would be unbounded below."""
    with pytest.raises(ValueError, match="B"):
        LayerProblem(np.diag([1.0, 0.0]), np.array([[1.0], [5.0]]), 1.0, square(0.1, 0.2))


def test_singular_gram_matrix_of_real_data_is_accepted():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 2)) @ rng.normal(size=(2, 5))
    problem = LayerProblem.from_data(x, x @ rng.normal(size=(5, 2)), square(0.1, 0.2))
    assert problem.objective(refit(problem, np.ones(5, bool)), np.ones(5, bool)) > 0


@pytest.mark.parametrize("seed", range(3))
def test_data_of_nearly_parallel_columns_are_accepted(seed):
    """√λ of a direction that hardly is in the data is still in B."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(30, 1)) + 3e-6 * rng.normal(size=(30, 4))
    LayerProblem.from_data(x, rng.normal(size=(30, 2)), square(1e-3, 0.01))


def test_cross_moments_that_no_data_have_are_refused():
    gram = np.diag([1.0, 0.0])
    with pytest.raises(InputError, match="B is not in the range of G"):
        LayerProblem(gram, np.ones((2, 1)), 1.0, square(0.1, 0.1))
