"""The term φ(w) = a‖w‖² + c·y and its projection, against brute force and independent formulas."""

import math

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar

from formulations import Partition, spr, square
from formulations.terms.partition import Layout


def norm_and_peak(w):
    """‖w_j‖₂ and ‖w_j‖∞ of every row."""
    return np.sqrt((w * w).sum(axis=1)), np.abs(w).max(axis=1)


quick = settings(max_examples=60, deadline=None)

REGIMES = ("free", "bound", "kept")
coefficients = st.floats(-2, 2).map(lambda e: 10.0**e)
steps = st.floats(-2, 1).map(lambda e: 10.0**e)
weights = st.lists(st.floats(-3, 3), min_size=1, max_size=5).map(np.array)


# ---- independent ground truth --------------------------------------------------------------------


def brute_value(w, a, c, m):
    """min over y of a‖w‖²/y + c·y on [‖w‖∞/M, 1], by bounded scalar minimisation. w ≠ 0."""
    low = np.abs(w).max() / m
    energy = a * float(w @ w)

    def cost(y):
        return energy / y + c * y

    inside = minimize_scalar(
        cost, bounds=(max(low, 1e-12), 1.0), method="bounded", options={"xatol": 1e-13}
    )
    ends = [1.0] + ([low] if low > 0 else [])
    return min([float(inside.fun), *map(cost, ends)])


def formula(regime, w, a, c, m):
    """The three closed forms of docs/theory.md, "Projection"."""
    s, peak = float(np.linalg.norm(w)), float(np.abs(w).max())
    return {
        "free": 2 * math.sqrt(a * c) * s,
        "bound": a * m * s**2 / peak + c * peak / m,
        "kept": a * s**2 + c,
    }[regime]


def box_conjugate(v, a, m):
    """sup of ⟨v, w⟩ − a‖w‖² over |w| ≤ M, entry by entry at the clipped maximiser."""
    best = np.clip(v / (2 * a), -m, m)
    return float(v @ best - a * best @ best)


@st.composite
def groups_in(draw, regime):
    """A group (w, a, c, M) well inside a regime, with one entry that alone has the peak."""
    a, c = draw(coefficients), draw(coefficients)
    rest = draw(st.lists(st.floats(-0.9, 0.9), max_size=4))
    direction = np.array([draw(st.sampled_from([-1.0, 1.0])), *rest])
    direction /= np.linalg.norm(direction)
    peak, radius = float(np.abs(direction).max()), math.sqrt(c / a)
    share = draw(st.floats(0.05, 0.95))
    if regime == "free":
        s = share * radius
        m = draw(st.sampled_from([np.inf, 1.05 * peak * radius, 3 * peak * radius]))
    elif regime == "bound":
        m = draw(st.floats(0.05, 0.95)) * peak * radius
        s = share * m / peak
    else:
        s = (1 + draw(st.floats(0.05, 5))) * radius
        m = draw(st.sampled_from([np.inf, 1.05 * s * peak, 3 * s * peak]))
    return s * direction, a, c, m


# ---- value, keep-score, gradient -----------------------------------------------------------------


@given(weights, coefficients, coefficients, st.floats(1.0, 20.0) | st.just(np.inf))
@quick
def test_value_is_the_minimum_over_the_indicator(w, a, c, slack):
    peak = np.abs(w).max()
    assume(peak > 1e-6)
    m = peak * slack
    assert square(a, c, m).value(w[None])[0] == pytest.approx(brute_value(w, a, c, m), rel=1e-9)


@pytest.mark.parametrize("regime", REGIMES)
@given(st.data())
@quick
def test_each_regime_has_its_closed_form_and_the_minimum_agrees(regime, data):
    w, a, c, m = data.draw(groups_in(regime))
    term = square(a, c, m)
    masks = dict(zip(REGIMES, term.regimes(*norm_and_peak(w[None])), strict=True))
    assert {name for name, mask in masks.items() if mask[0]} == {regime}
    value = term.value(w[None])[0]
    assert value == pytest.approx(formula(regime, w, a, c, m), rel=1e-12)
    assert value == pytest.approx(brute_value(w, a, c, m), rel=1e-9)


@pytest.mark.parametrize("regime", REGIMES)
@given(st.data())
@quick
def test_gradient_agrees_with_central_differences_in_each_regime(regime, data):
    w, a, c, m = data.draw(groups_in(regime))
    term = square(a, c, m)
    small = 1e-6 * np.linalg.norm(w)
    differences = [
        (term.value((w + small * e)[None])[0] - term.value((w - small * e)[None])[0]) / (2 * small)
        for e in np.eye(len(w))
    ]
    gradient = term.gradient(w[None])[0]
    assert gradient == pytest.approx(
        np.array(differences), rel=1e-5, abs=1e-5 * abs(gradient).max()
    )


@given(coefficients, coefficients, st.sampled_from([np.inf, 0.3]))
@quick
def test_value_score_and_gradient_vanish_at_zero(a, c, m):
    term, w = square(a, c, m), np.zeros((2, 3))
    assert (term.value(w) == 0).all()
    assert (term.keep(w) == 0).all()
    assert (term.gradient(w) == 0).all()


@given(st.data(), st.sampled_from(REGIMES), st.sampled_from(REGIMES))
@quick
def test_gradient_supports_the_convex_value_from_below(data, here, there):
    w, a, c, m = data.draw(groups_in(here))
    other, *_ = data.draw(groups_in(there))
    other = np.resize(other, w.shape)
    if np.isfinite(m):
        other = np.clip(other, -m, m)
    term = square(a, c, m)
    below = term.value(w[None])[0] + term.gradient(w[None])[0] @ (other - w)
    value = term.value(other[None])[0]
    assert value >= below - 1e-9 * (1 + abs(below) + value)


def test_gradient_shares_a_tied_peak_and_stays_a_subgradient():
    term, w = square(1.0, 4.0, 0.8), np.array([0.5, -0.5, 0.1])
    assert term.regimes(*norm_and_peak(w[None]))[1].all()
    gradient = term.gradient(w[None])[0]
    assert gradient[0] == -gradient[1]
    for other in np.random.default_rng(0).uniform(-0.8, 0.8, size=(300, 3)):
        below = term.value(w[None])[0] + gradient @ (other - w)
        assert term.value(other[None])[0] >= below - 1e-12


@given(weights, coefficients, coefficients, st.floats(0.01, 0.999))
@quick
def test_value_is_infinite_beyond_the_box_and_finite_on_its_edge(w, a, c, inside):
    peak = float(np.abs(w).max())
    assume(peak > 1e-6)
    assert square(a, c, peak * inside).value(w[None])[0] == np.inf
    assert np.isfinite(square(a, c, peak).value(w[None])[0])
    assert np.isfinite(square(a, c, peak * inside).gradient(w[None])).all()


@given(st.data(), coefficients, coefficients, st.sampled_from([np.inf, 3.0, 10.0]))
@quick
def test_value_is_convex_along_segments(data, a, c, m):
    size = data.draw(st.integers(1, 4))
    point = st.lists(st.floats(-3, 3), min_size=size, max_size=size).map(np.array)
    u, v, t = data.draw(point), data.draw(point), data.draw(st.floats(0, 1))
    h = square(a, c, m).value(np.stack([u, v, t * u + (1 - t) * v]))
    chord = t * h[0] + (1 - t) * h[1]
    assert h[2] <= chord + 1e-9 * (1 + chord)


@given(weights, coefficients, coefficients, st.floats(0.3, 20.0) | st.just(np.inf))
@quick
def test_keep_score_lies_in_the_unit_interval_and_attains_the_value(w, a, c, slack):
    peak = np.abs(w).max()
    assume(peak > 1e-6)
    m = peak * slack
    term = square(a, c, m)
    y = term.keep(w[None])[0]
    assert 0 < y <= 1
    uncapped = term.uncapped_indicator(*norm_and_peak(w[None]))[0]
    assert min(uncapped, 1.0) == pytest.approx(y, rel=1e-14)
    if slack >= 1:
        assert y >= peak / m * (1 - 1e-15)
        assert a * (w @ w) / y + c * y == pytest.approx(brute_value(w, a, c, m), rel=1e-9)


def test_uncapped_score_ranks_groups_that_are_all_kept():
    w = np.array([[5.0, 0.0], [3.0, 4.5], [9.0, 0.0]])
    term = square(1.0, 1.0)
    assert (term.keep(w) == 1).all()
    assert np.argsort(term.uncapped_indicator(*norm_and_peak(w))).tolist() == [0, 1, 2]


@given(coefficients, coefficients)
@quick
def test_radius_solves_the_equation_of_the_free_optimum(a, c):
    r = float(square(a, c).radius)
    assert r * (2 * a * r) - a * r**2 == pytest.approx(c, rel=1e-12)


# ---- known answers and parametrisation -----------------------------------------------------------


@given(st.floats(-5, 5), coefficients, coefficients)
@quick
def test_subtracting_the_shrinkage_leaves_the_minimax_concave_penalty(w, a, c):
    assume(w == 0 or abs(w) > 1e-100)  # below, squares underflow
    lam, gamma = 2 * math.sqrt(a * c), 1 / (2 * a)
    x = abs(w)
    mcp = lam * x - x**2 / (2 * gamma) if x <= gamma * lam else gamma * lam**2 / 2
    value = square(a, c).value(np.array([[w]]))[0]
    assert value - a * w**2 == pytest.approx(mcp, rel=1e-9, abs=1e-10 * value)


def test_vanishing_shrinkage_leaves_the_peak_norm():
    w = np.array([[0.3, -0.7, 0.2]])
    assert square(1e-12, 2.0, 1.4).value(w)[0] == pytest.approx(2.0 * 0.7 / 1.4, rel=1e-9)


@given(coefficients, st.floats(0.01, 0.99), st.lists(coefficients, min_size=2, max_size=4))
@quick
def test_spr_splits_its_weight_between_shrinkage_and_price(lam, alpha, sizes):
    size = np.array(sizes)
    term = spr(lam, alpha, size, 5.0)
    assert np.broadcast_to(term.ridge, size.shape) == pytest.approx(lam * alpha)
    assert term.price == pytest.approx(lam * (1 - alpha) * size)
    assert float(term.bound) == 5.0
    assert float(spr(lam, alpha).price) == pytest.approx(lam * (1 - alpha))


@given(weights, coefficients, coefficients, coefficients, st.sampled_from([np.inf, 4.0]))
@quick
def test_scaled_term_scales_the_value_and_keeps_scores_and_bound(w, a, c, factor, m):
    term = square(a, c, m)
    scaled = term.scaled(factor)
    assert scaled.value(w[None]) == pytest.approx(factor * term.value(w[None]), rel=1e-12)
    assert scaled.keep(w[None]) == pytest.approx(term.keep(w[None]), rel=1e-12)
    assert float(scaled.bound) == m


@pytest.mark.parametrize("name", ["shrinkage", "price", "bound"])
@pytest.mark.parametrize("bad", [0.0, -0.5, math.nan, -math.inf, np.array([1.0, -2.0])])
def test_bad_parameter_is_refused_by_name(name, bad):
    good = {"shrinkage": 1.0, "price": 1.0, "bound": 1.0}
    with pytest.raises(ValueError, match="weight" if name == "shrinkage" else name):
        square(**(good | {name: bad}))


@pytest.mark.parametrize("name", ["shrinkage", "price"])
def test_infinite_shrinkage_or_price_is_refused_by_name(name):
    with pytest.raises(ValueError, match="weight" if name == "shrinkage" else name):
        square(**({"shrinkage": 1.0, "price": 1.0} | {name: math.inf}))


@pytest.mark.parametrize("alpha", [0.0, 1.0, -0.1, 1.5, math.nan])
def test_share_of_shrinkage_outside_the_open_unit_interval_is_refused(alpha):
    with pytest.raises(ValueError, match="alpha"):
        spr(1.0, alpha)


# ---- groups: equal, ragged, parameters one a group -----------------------------------------------


@st.composite
def ragged(draw):
    """(flat weights, sizes, term with one parameter a group, some M infinite)."""
    sizes = draw(st.lists(st.integers(1, 4), min_size=1, max_size=5))
    flat = draw(st.lists(st.floats(-3, 3), min_size=sum(sizes), max_size=sum(sizes)).map(np.array))

    def one_a_group(values):
        return draw(st.lists(values, min_size=len(sizes), max_size=len(sizes)).map(np.array))

    bound = one_a_group(st.sampled_from([3.0, 4.0, 50.0, np.inf]))
    return flat, sizes, square(one_a_group(coefficients), one_a_group(coefficients), bound)


@given(ragged(), steps)
@example((np.array([0.01, 0.5]), [1, 1], square([1.0, 1.0], [1.0, 1.0], [np.inf, 3.0])), 0.5)
@quick
def test_ragged_groups_are_treated_one_by_one(case, step):
    flat, sizes, term = case
    groups = Partition(sizes)
    ends = np.cumsum(sizes)
    pieces = [flat[end - size : end][None] for size, end in zip(sizes, ends, strict=True)]
    single = [square(a, c, m) for a, c, m in zip(term.ridge, term.price, term.bound, strict=True)]

    def alone(method, *more):
        results = [getattr(t, method)(w, *more) for t, w in zip(single, pieces, strict=True)]
        return np.concatenate([np.ravel(r) for r in results])

    for method in ("value", "keep", "gradient", "conjugate", "shrinkage_conjugate"):
        together = getattr(term, method)(flat, groups)
        assert together == pytest.approx(alone(method), rel=1e-9, abs=1e-12), method
    together = term.prox(flat, step, groups)
    assert together == pytest.approx(alone("prox", step), rel=1e-9, abs=1e-12)


@given(st.integers(1, 4), st.integers(1, 4), st.integers(0, 1000))
@quick
def test_equal_groups_and_their_partition_agree(count, size, seed):
    w = np.random.default_rng(seed).normal(size=(count, size))
    term, groups = square(0.5, 0.7, 3.9), Partition([size] * count)
    for method in ("value", "keep", "conjugate"):
        assert (getattr(term, method)(w) == getattr(term, method)(w.ravel(), groups)).all()
    assert (term.gradient(w) == term.gradient(w.ravel(), groups).reshape(w.shape)).all()
    assert (term.prox(w, 0.2) == term.prox(w.ravel(), 0.2, groups).reshape(w.shape)).all()


@pytest.mark.parametrize("sizes", [[], [2, 0, 1], [-1]])
def test_partition_refuses_empty_groups(sizes):
    with pytest.raises(ValueError, match="group"):
        Partition(sizes)


def test_weights_that_do_not_fill_their_groups_are_refused():
    term = square(1.0, 1.0)
    with pytest.raises(ValueError, match=r"5 weights .* groups of 4"):
        term.value(np.ones(5), Partition([1, 3]))
    with pytest.raises(ValueError, match="partition"):
        term.value(np.ones(5))


# ---- prox ----------------------------------------------------------------------------------------


def prox_objective(x, v, step, term):
    return 0.5 * float((x - v) @ (x - v)) + step * float(term.value(x[None])[0])


def brute_prox_objective(v, a, c, m, step):
    """min over y of the inner minimum over x: a convex function of y, minimised on [0, 1]."""

    def inner(y):
        if y <= 0:
            return 0.5 * float(v @ v)
        x = np.clip(v / (1 + 2 * step * a / y), -m * y, m * y)
        return 0.5 * float((x - v) @ (x - v)) + step * (a * float(x @ x) / y + c * y)

    inside = minimize_scalar(inner, bounds=(0, 1), method="bounded", options={"xatol": 1e-12})
    return min(float(inside.fun), inner(0.0), inner(1.0))


@given(weights, coefficients, coefficients, st.sampled_from([np.inf, 0.1, 0.7, 2.0]), steps)
@quick
def test_prox_attains_the_numerical_minimum(v, a, c, m, step):
    x = square(a, c, m).prox(v[None], step)[0]
    value = prox_objective(x, v, step, square(a, c, m))
    best = brute_prox_objective(v, a, c, m, step)
    assert value == pytest.approx(best, rel=1e-8, abs=1e-10)


@given(weights, coefficients, coefficients, st.sampled_from([np.inf, 0.1, 0.7, 2.0]), steps)
@quick
def test_prox_residual_is_a_subgradient_at_the_prox(v, a, c, m, step):
    """x = prox(v) if and only if (v − x)/t ∈ ∂h(x): equality in Fenchel–Young."""
    term = square(a, c, m)
    x = term.prox(v[None], step)[0]
    u = (v - x) / step
    h = float(term.value(x[None])[0])
    conjugate = max(0.0, box_conjugate(u, a, m) - c)
    assert h + conjugate == pytest.approx(float(u @ x), rel=1e-8, abs=1e-8 * (1 + c + float(v @ v)))


@given(
    weights, coefficients, coefficients, st.sampled_from([np.inf, 0.5]), steps, st.integers(0, 99)
)
@quick
def test_no_perturbation_improves_the_prox(v, a, c, m, step, seed):
    term = square(a, c, m)
    x = term.prox(v[None], step)[0]
    value = prox_objective(x, v, step, term)
    noise = np.random.default_rng(seed).normal(size=(20, len(v)))
    for size in (1e-4, 1e-2, 1.0):
        for direction in noise:
            assert prox_objective(x + size * direction, v, step, term) >= value - 1e-10 * (
                1 + value
            )


@given(weights, coefficients, coefficients, steps)
@quick
def test_prox_without_bound_follows_its_closed_form_with_exact_zeros(v, a, c, step):
    s, threshold, radius = np.linalg.norm(v), 2 * step * math.sqrt(a * c), math.sqrt(c / a)
    assume(abs(s - threshold) > 1e-9 * (1 + s))
    x = square(a, c).prox(v[None], step)[0]
    if s < threshold:
        assert (x == 0).all()
    elif s - threshold <= radius:
        assert np.linalg.norm(x) > 0
        assert x == pytest.approx((1 - threshold / s) * v, rel=1e-6, abs=1e-12)
    else:
        assert x == pytest.approx(v / (1 + 2 * step * a), rel=1e-12)


@given(weights, coefficients, coefficients, st.floats(0.05, 2), steps)
@quick
def test_prox_with_a_bound_stays_in_the_box(v, a, c, m, step):
    assert np.abs(square(a, c, m).prox(v[None], step)).max() <= m


def test_prox_with_a_bound_gives_exact_zeros():
    v = np.array([[0.3, -0.2], [0.1, 0.0], [4.0, 3.0]])
    x = square(1.0, 1.0, 0.5).prox(v, 0.5)
    assert (x[:2] == 0).all()
    assert (x[2] != 0).all()


def test_prox_with_finite_and_infinite_bounds_side_by_side_is_finite():
    v = np.array([[0.01, 0.01], [0.5, 0.2]])
    x = square(1.0, 1.0, np.array([np.inf, 1.0])).prox(v, 0.5)
    assert (x == 0).all()


def test_prox_is_right_with_a_slack_bound_an_active_bound_and_on_the_edge_of_the_box():
    a, c, m, step = 0.5, 0.5, 0.8, 0.1
    term, v = square(a, c, m), np.array([[0.4, 0.4, 0.4], [0.6, 0.05, 0.05], [9.0, 0.1, 0.1]])
    x = term.prox(v, step)
    norm, peak = norm_and_peak(x)
    assert [bool(mask[0]) for mask in term.regimes(norm, peak)] == [True, False, False]
    assert term.regimes(norm, peak)[1].tolist() == [False, True, True]
    assert peak[1] < m
    assert peak[2] == m
    for row, w in zip(x, v, strict=True):
        best = brute_prox_objective(w, a, c, m, step)
        assert prox_objective(row, w, step, term) == pytest.approx(best, rel=1e-9)


# ---- conjugate -----------------------------------------------------------------------------------


@given(st.data(), coefficients, coefficients, st.sampled_from([np.inf, 0.5, 3.0]))
@quick
def test_conjugate_satisfies_fenchel_young(data, a, c, m):
    size = data.draw(st.integers(1, 4))
    point = st.lists(st.floats(-3, 3), min_size=size, max_size=size).map(np.array)
    w, v = np.clip(data.draw(point), -m, m), 10 * data.draw(point)
    term = square(a, c, m)
    total = float(term.value(w[None])[0] + term.conjugate(v[None])[0])
    assert total >= float(v @ w) - 1e-9 * (1 + abs(float(v @ w)))


@pytest.mark.parametrize("regime", REGIMES)
@given(st.data())
@quick
def test_conjugate_meets_the_value_at_the_gradient(regime, data):
    w, a, c, m = data.draw(groups_in(regime))
    term = square(a, c, m)
    v = term.gradient(w[None])[0]
    total = float(term.value(w[None])[0] + term.conjugate(v[None])[0])
    assert total == pytest.approx(float(v @ w), rel=1e-9)


@given(st.floats(-8, 8), coefficients, coefficients, st.sampled_from([np.inf, 0.5, 3.0]))
@quick
def test_conjugate_of_a_single_weight_is_the_maximum_of_its_definition(v, a, c, m):
    term = square(a, c, m)
    reach = min(m, abs(v) / (2 * a) + 1)

    def loss(w):
        return float(term.value(np.array([[w]]))[0]) - v * w

    found = [
        -minimize_scalar(loss, bounds=side, method="bounded", options={"xatol": 1e-12}).fun
        for side in ((-reach, 0.0), (0.0, reach))
    ]
    best = max(0.0, *found, -loss(-reach), -loss(reach))
    conjugate = term.conjugate(np.array([[v]]))[0]
    assert conjugate == pytest.approx(best, rel=1e-7, abs=1e-7)


@given(st.floats(-4, 4), st.floats(-4, 4), st.floats(0.3, 3), st.floats(0.1, 3))
@settings(max_examples=15, deadline=None)
def test_conjugate_of_a_pair_is_the_maximum_over_a_grid(v1, v2, a, c):
    v = np.array([v1, v2])
    for m in (0.6, np.inf):
        reach = m if np.isfinite(m) else np.abs(v).max() / (2 * a) + 0.1
        axis = np.linspace(-reach, reach, 301)
        grid = np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 2)
        term = square(a, c, m)
        best = float((grid @ v - term.value(grid)).max())
        conjugate = float(term.conjugate(v[None])[0])
        spacing = axis[1] - axis[0]
        slack = 2 * a * spacing**2 + 1e-12
        assert best - 1e-12 <= conjugate <= best + slack


# ---- any array library ---------------------------------------------------------------------------


@pytest.mark.parametrize(("dtype", "rel"), [("float32", 2e-5), ("float64", 1e-12)])
@pytest.mark.parametrize("bound", [math.inf, 0.6])
def test_torch_tensors_give_the_numbers_of_numpy(dtype, rel, bound):
    torch = pytest.importorskip("torch")
    kind = getattr(torch, dtype)
    rng = np.random.default_rng(1)
    w = rng.normal(size=(40, 3)) * rng.choice([0.0, 0.05, 0.3, 1.0], size=(40, 1))
    a, c = rng.uniform(0.5, 2, size=40), rng.uniform(0.1, 0.5, size=40)
    m = np.full(40, bound)
    reference, arrays = square(a, c, m), norm_and_peak(w)
    term = reference.to(torch.zeros(1, dtype=kind))
    tensors = [torch.tensor(x, dtype=kind) for x in arrays]
    for method in ("uncapped_indicator", "indicator", "projected", "gradient_factors"):
        expected, got = getattr(reference, method)(*arrays), getattr(term, method)(*tensors)
        if method != "gradient_factors":
            expected, got = (expected,), (got,)
        for number, tensor in zip(expected, got, strict=True):
            assert tensor.dtype == kind, method
            assert tensor.numpy() == pytest.approx(number, rel=rel, abs=rel), method
    for mask, tensor in zip(reference.regimes(*arrays), term.regimes(*tensors), strict=True):
        assert np.array_equal(mask, tensor.numpy())
    assert np.array_equal(reference.outside(arrays[1]), term.outside(tensors[1]).numpy())
    expected, got = reference.prox_factor(*arrays, 0.1), term.prox_factor(*tensors, 0.1)
    assert got.dtype == kind
    assert got.numpy() == pytest.approx(expected, rel=rel, abs=rel, nan_ok=True)


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 2e-5), ("float64", 1e-12)])
def test_bounded_prox_on_torch_tensors_gives_the_numbers_of_numpy(dtype, tolerance):
    torch = pytest.importorskip("torch")
    kind = getattr(torch, dtype)
    rng = np.random.default_rng(2)
    v, step = np.abs(rng.normal(size=(30, 4))) + 0.4, 0.1
    a, c, m = rng.uniform(0.5, 2, 30), rng.uniform(1, 9, 30), rng.uniform(0.1, 0.3, 30)
    term = square(a, c, m)
    groups = Partition([4] * 30)
    expected = term.prox_by_search(v.ravel(), step, groups.layout)
    layout = Layout(
        lambda x: x.reshape(30, 4).sum(dim=1),
        lambda x: x.reshape(30, 4).amax(dim=1),
        lambda x: x.repeat_interleave(4),
    )
    flat = torch.tensor(v.ravel(), dtype=kind)
    got = term.to(flat).prox_by_search(flat, step, layout)
    assert got.dtype == kind
    assert got.numpy() == pytest.approx(expected, abs=tolerance)
    reached = expected.reshape(30, 4).max(axis=1)
    assert ((reached > 0) & (reached < 0.999 * m)).any()  # 0 < y < 1
