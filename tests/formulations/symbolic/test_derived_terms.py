"""Terms of every derivation, with random parameters, against brute force and convex duality."""

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar

from formulations import CATALOGUE, Partition, check, derive
from formulations.symbolic import checks as judge
from formulations.symbolic.catalogue import entry
from formulations.terms.prox_search import resolvent

few = settings(max_examples=10, deadline=None)
scales = st.floats(-1.3, 1.3).map(lambda e: 10.0**e)
seeds = st.integers(0, 10_000)
PLAIN = [name for name in CATALOGUE if name != "nested"]
# beside the catalogue: other norms and bounds
OTHERS = {
    "ℓ20": derive("a*r**2", norm=20),
    "ℓ1": derive("a*r**2", norm=1),
    "ℓ1 in a box": derive("a*r**2", norm=1, bound=0.6),
    "ℓ1 pseudo-Huber": derive("a*(sqrt(1 + r**2) - 1)", norm=1, price=0.4),
    "ℓ1.5": derive("a*r**2", norm=1.5, bound=0.8),
    "ℓ3": derive("a*r**2", norm=3, bound=0.8),
    "ball": derive("a*r**3", ball=True, bound=0.7),
    "box": derive("a*r**3", bound=0.4),
    "extracted in a box": derive("a*r**2", extract="a/2", bound=0.9),
    "flat bottom": derive("max(0, r - 1)**2"),
}


def term_of(name, price, a, bound=None):
    derivation = OTHERS.get(name) or entry(name)
    options = {"a": a} if "a" in derivation.parameters else {}
    if bound is not None and derivation.bounded:
        options["bound"] = bound
    return derivation.term(price=price, **options)


def points(term, seed, size=3, count=6):
    """Groups of all magnitudes around r* and within the bound; the first is zero."""
    rng = np.random.default_rng(seed)
    scale = float(term.radius) if np.isfinite(term.radius) else 1.0
    w = rng.normal(size=(count, size)) * scale * 10 ** rng.uniform(-1.5, 0.6, size=(count, 1))
    w[0] = 0
    if np.isfinite(term.bound):
        _, peak = term.measure(w)
        w *= np.minimum(1, 0.99 * float(term.bound) / np.maximum(peak, 1e-300))[:, None]
    return w


@pytest.mark.parametrize("name", [*PLAIN, *OTHERS])
@given(price=scales, a=scales, bound=scales, seed=seeds)
@few
def test_value_is_the_least_over_the_indicator(name, price, a, bound, seed):
    term = term_of(name, price, a, bound)
    w = points(term, seed)
    hull = term.without_extraction()
    for group, value in zip(w, hull.value(w), strict=True):
        norm, peak = (float(x[0]) for x in term.measure(group[None]))
        if norm == 0:
            assert value == 0
            continue
        low = max(peak / float(term.bound), 1e-9 * min(1, norm))

        def cost(log_y, norm=norm):
            y = np.exp(log_y)
            return y * float(term.phi(np.asarray(norm / y))) + price * y

        inside = minimize_scalar(cost, bounds=(np.log(low), 0), method="bounded")
        assert value == pytest.approx(min(inside.fun, cost(np.log(low)), cost(0)), rel=1e-6)


@pytest.mark.parametrize("name", [*PLAIN, *OTHERS])
@given(price=scales, a=scales, bound=scales, seed=seeds)
@few
def test_gradient_supports_the_convex_part_from_below(name, price, a, bound, seed):
    term = term_of(name, price, a, bound).without_extraction()
    w, other = points(term, seed), points(term, seed + 1)
    slope = term.gradient(w)
    below = term.value(w) + (slope * (other - w)).sum(axis=1)
    size = np.abs(below) + term.value(other) + np.abs(slope * w).sum(axis=1)
    assert (term.value(other) >= below - 1e-9 * size).all()
    assert (slope[0] == 0).all()


@pytest.mark.parametrize("name", [*PLAIN, *OTHERS])
@given(price=scales, a=scales, bound=scales, seed=seeds, length=st.floats(0.02, 1))
@few
def test_prox_residual_is_a_subgradient(name, price, a, bound, seed, length):
    """x = prox(v) iff h(x) + h*(u) = ⟨u, x⟩ with u = (v − x)/t."""
    term = term_of(name, price, a, bound).without_extraction()
    # a price next to F(∞) puts r* where no digits are left
    assume(term.radius < 1e4 or np.isinf(term.radius))
    v = 2 * points(term, seed)
    reference = float(np.abs(v).max() / max(float(term.slope(np.asarray(1.0))), 1e-3))
    step = length * min(reference, 10.0)
    assume(step > 1e-6)
    x = term.prox(v, step)
    u = (v - x) / step * (1 - 1e-13)  # not beyond a finite growth by rounding
    gap = term.value(x) + term.conjugate(u) - (u * x).sum(axis=1)
    size = term.value(x) + np.abs(u * x).sum(axis=1) + (u * v).sum(axis=1)
    assert (np.abs(gap) <= 2e-7 * (size + 1e-9 * price)).all()
    assert (x[0] == 0).all()


@given(a=scales, delta=st.floats(0.05, 1), price=scales, seed=seeds)
@few
def test_prox_with_extraction_has_no_better_point(a, delta, price, seed):
    term = derive("a*r**2", extract=f"{delta}*a").term(price=price, a=a)
    v = 2 * points(term, seed)
    step = 0.4 / (2 * a * delta)
    x = term.prox(v, step)

    def cost(point):
        return 0.5 * ((point - v) ** 2).sum(axis=1) + step * term.value(point)

    rng = np.random.default_rng(seed)
    for size in (1e-3, 0.1, 1.0):
        other = x + size * float(term.radius) * rng.normal(size=x.shape)
        assert (cost(other) >= cost(x) * (1 - 1e-12) - 1e-12).all()
    with pytest.raises(ValueError, match="too long"):
        term.prox(v, 0.51 / (a * delta))


@pytest.mark.parametrize("name", ["power", "pseudo-huber", "ℓ1 in a box", "ball"])
@given(seed=seeds)
@few
def test_ragged_groups_with_parameters_of_their_own_are_treated_one_by_one(name, seed):
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, 5, size=5)
    derivation = OTHERS.get(name) or entry(name)
    price, a, weight = 10 ** rng.uniform(-1, 1, size=(3, 5))
    together = derivation.term(price, weight=weight, a=a)
    w = 0.3 * rng.normal(size=sizes.sum())
    groups, ends = Partition(sizes), np.cumsum(sizes)
    for method, extra in (("value", ()), ("keep", ()), ("gradient", ()), ("prox", (0.3,)),
                          ("conjugate", ())):  # fmt: skip
        got = getattr(together, method)(w, *extra, groups)
        alone = [
            np.ravel(getattr(together.single(j, 5), method)(w[end - size : end][None], *extra))
            for j, (size, end) in enumerate(zip(sizes, ends, strict=True))
        ]
        assert got == pytest.approx(np.concatenate(alone), rel=1e-9, abs=1e-12), method


@given(st.just(1.0) | st.floats(1.05, 6.0), st.floats(-6, 6).map(lambda e: 10.0**e), seeds)
@few
def test_resolvent_solves_its_equation(order, level, seed):
    size = np.random.default_rng(seed).exponential(size=20)
    x = resolvent(size, np.full(20, level), order)
    if order == 1:
        assert x == pytest.approx(np.maximum(size - level, 0))
    else:
        assert x + level * x ** (order - 1) == pytest.approx(size, rel=1e-9)


# ---- the derivation's own checks -----------------------------------------------------------------


@pytest.fixture
def few_points(monkeypatch):
    """A quarter of the points that a user's derivation is checked at."""
    monkeypatch.setattr(judge, "_POINTS", 10)
    monkeypatch.setattr(judge, "_NESTED_POINTS", 2)


@pytest.mark.usefixtures("few_points")
@pytest.mark.parametrize("name", CATALOGUE)
def test_every_entry_of_the_catalogue_passes_its_checks(name):
    checks = check(entry(name))
    assert len(checks) == 7
    assert [c.name for c in checks if not c.passed] == []


@pytest.mark.usefixtures("few_points")
@pytest.mark.parametrize("name", ["ℓ1 in a box", "ball"])
def test_other_norms_and_bounds_pass_their_checks(name):
    assert [c.name for c in check(OTHERS[name]) if not c.passed] == []


def broken(term, **changes):
    import copy

    other = copy.copy(term)
    for name, value in changes.items():
        object.__setattr__(other, name, value)
    return other


@pytest.mark.usefixtures("few_points")
@pytest.mark.parametrize(
    ("wrong", "caught"),
    [
        ({"radius": np.asarray(1.3)}, "brute force"),
        ({"radius": np.asarray(1.3)}, "HiGHS"),
        ({"free_slope": np.asarray(1.9)}, "brute force"),
        ({"free_slope": np.asarray(1.9)}, "Fenchel"),
        ({"prox_factor": lambda norm, peak, step: 0.9 + 0 * norm}, "prox"),
        ({"gradient_factors": lambda norm, peak: (2.1 + 0 * norm, 0 * norm)}, "gradient"),
        ({"phi": lambda r: np.minimum(r, 1) ** 2 + 0 * r}, "φ convex"),
        ({"projected": lambda norm, peak: norm**0.9}, "convex along chords"),
    ],
)
def test_a_wrong_formula_fails_its_check_and_the_point_is_named(wrong, caught):
    checks = judge.check_term(broken(derive("r**2").term(), **wrong))
    failed = [c for c in checks if not c.passed]
    assert any(caught in c.name for c in failed)
    assert all(c.point.startswith("w = (") for c in failed)


# ---- modules that stand alone --------------------------------------------------------------------


@pytest.mark.parametrize("name", [*PLAIN, "ℓ1", "ball", "box", "extracted in a box"])
def test_module_that_stands_alone_has_the_numbers_of_the_term(name):
    torch = pytest.importorskip("torch")
    derivation = OTHERS.get(name) or entry(name)
    source = derivation.module()
    assert "formulations" not in source
    assert "mipprune " not in source.replace("`mipprune derive", "")
    module = {}
    exec(source, module)
    term = derivation.term()
    w = points(term, 3, count=40)
    for convert in (np.asarray, torch.tensor):
        for function in ("value", "keep", "gradient"):
            got = np.asarray(module[function](convert(w)))
            assert got == pytest.approx(getattr(term, function)(w), rel=1e-9, abs=1e-12), function
        # a search in one source for both, which takes torch seconds
        if derivation.norm == 2 and (convert is np.asarray or name in ("power", "ball")):
            got = np.asarray(module["prox"](convert(2 * w), 0.2))
            assert got == pytest.approx(term.prox(2 * w, 0.2), rel=1e-6, abs=1e-7)


def test_nested_indicators_have_no_module_of_their_own():
    with pytest.raises(ValueError, match="nested"):
        entry("nested").module()
