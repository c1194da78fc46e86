"""Derivations: the known answers of the theory, symbolically; wrong input in one line."""

import contextlib
import math
from functools import cache

import numpy as np
import pytest
import sympy as sp
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq

from formulations import CATALOGUE, Parameter, derive, find
from formulations.errors import InputError
from formulations.symbolic.algebra import UNKNOWN_RADIUS
from formulations.symbolic.catalogue import entry
from formulations.symbolic.description import latex, statements
from formulations.symbolic.equations import C, M, c, m, r, s, t, v, y
from formulations.symbolic.parsing import parse

quick = settings(max_examples=40, deadline=None)
a, b, p = sp.symbols("a b p", positive=True)
positive = st.floats(-1.5, 1.5).map(lambda e: 10.0**e)


derivation = cache(find)


def equal(left, right) -> bool:
    return sp.simplify(left - right) == 0


def pieces(piecewise):
    return [value for value, _ in piecewise.args]


# ---- the table of known answers ------------------------------------------------------------------


def test_square_is_structured_perspective_regularization():
    d = derive("a*r**2", bound=3.0)
    assert equal(d.radius, sp.sqrt(c / a))
    free, bound, kept = pieces(d.regimes)
    assert equal(free, 2 * sp.sqrt(a * c) * s)
    assert equal(bound, a * M * s**2 / m + c * m / M)
    assert equal(kept, a * s**2 + c)
    along, across = d.gradient
    assert [equal(x, e) for x, e in zip(
        pieces(along), (2 * sp.sqrt(a * c), 2 * a * M * s / m, 2 * a * s), strict=True
    )] == [True] * 3  # fmt: skip
    assert [equal(x, e) for x, e in zip(
        pieces(across), (0, -a * M * s**2 / m**2 + c / M, 0), strict=True
    )] == [True] * 3  # fmt: skip
    assert equal(d.perspective, a * s**2 / y + c * y)


def test_square_has_its_prox_and_conjugate():
    d = derive("a*r**2")
    threshold = 2 * t * sp.sqrt(a * c)
    nothing, shrunk, ridge = pieces(d.prox)
    assert nothing == 0
    assert equal(shrunk, s - threshold)
    assert equal(ridge, s / (1 + 2 * t * a))
    assert equal(d.shrinkage_conjugate, v**2 / (4 * a))
    assert d.conjugate == sp.Max(0, v**2 / (4 * a) - c)


def test_power_has_its_root_for_every_exponent():
    d = derive("a*r**p")
    assert equal(d.radius, (c / (a * (p - 1))) ** (1 / p))
    assert d.legendre_limit == sp.oo
    for exponent in (3, sp.Rational(3, 2)):
        root = derive(a * r**exponent).radius
        assert equal(root, (c / (a * (exponent - 1))) ** (1 / sp.S(exponent)))


def test_elastic_net_has_the_root_of_the_square_and_a_lasso_beside():
    d = derive("a*r**2 + b*r")
    assert equal(d.radius, sp.sqrt(c / a))
    assert equal(pieces(d.regimes)[0], 2 * sp.sqrt(a * c) * s + b * s)


def test_pseudo_huber_has_a_root_below_its_growth_and_recedes_above():
    d = derive("a*(sqrt(1 + r**2) - 1)", price=0.5)
    assert equal(d.legendre, a * (1 - 1 / sp.sqrt(1 + r**2)))
    assert d.legendre_limit == a
    rest = sp.Symbol("rest", positive=True)  # c below a is said by a = c + rest
    expected = sp.sqrt(1 / (1 - c / a) ** 2 - 1)
    assert equal(d.radius.subs(a, c + rest), expected.subs(a, c + rest))
    assert equal(d.recession, a * s)
    below, above = d.term(), d.term(price=1.5)
    assert math.isfinite(float(below.radius))
    assert float(above.radius) == math.inf
    w = np.array([[3.0, 4.0], [0.0, 0.0]])
    assert above.value(w) == pytest.approx([5.0, 0.0])
    assert (above.keep(w) == 0).all()


def test_the_bound_alone_is_the_peak_norm():
    d = derive("0", bound=2.0)
    assert equal(d.regimes, c * m / M)
    assert d.term(price=3.0, bound=1.4).value(np.array([[0.3, -0.7]])) == pytest.approx(1.5)


def test_square_extracted_again_is_the_minimax_concave_penalty():
    d = derive("a*r**2", extract="a")
    lam, gamma = 2 * sp.sqrt(a * c), 1 / (2 * a)
    inside, outside = pieces(d.regimes)
    assert equal(inside, lam * s - s**2 / (2 * gamma))
    assert equal(outside, gamma * lam**2 / 2)
    assert equal(d.radius, gamma * lam)


def test_nested_square_has_the_block_indicator_of_the_theory():
    d = derive("a*r**2", block_price=2.0)
    total, count = sp.symbols("S k", positive=True)
    assert equal(d.block_indicator.args[1], sp.sqrt(a * total / (c * count + C)))


@pytest.mark.parametrize(
    ("phi", "slope"),
    [("cosh(r) - 1", np.sinh), ("exp(r) - 1 - r", np.expm1), ("r**2/(1 + r) + r**2", None)],
)
@given(price=positive)
@settings(max_examples=15, deadline=None)
def test_implicit_root_agrees_with_brent_to_ten_digits(phi, slope, price):
    d = derivation(phi)
    psi = sp.lambdify(r, d.phi)
    derivative = slope or sp.lambdify(r, sp.diff(d.phi, r))

    def excess(x):
        return x * derivative(x) - psi(x) - price

    expected = brentq(excess, 1e-3, 100, xtol=1e-14, rtol=1e-14)
    assert float(d.term(price=price).radius) == pytest.approx(expected, rel=1e-10)


def test_root_that_sympy_does_not_find_is_named_and_found_by_newton():
    d = derive("cosh(r) - 1")
    assert d.radius is None
    assert d.root == UNKNOWN_RADIUS
    assert UNKNOWN_RADIUS in d.regimes.free_symbols


def test_the_same_phi_at_another_price_or_bound_asks_sympy_nothing_anew(monkeypatch):
    phi = "a*(sqrt(1 + r**2) - 1)"
    one = derive(phi)

    def asked(*_):
        raise AssertionError("asked again")

    monkeypatch.setattr(sp, "solve", asked)
    monkeypatch.setattr(sp, "simplify", asked)
    other = derive(phi, price=0.5, bound=2.0)
    assert (other.radius, other.price) == (one.radius, 0.5)


@given(st.floats(0.02, 20), st.floats(1.05, 8))
@quick
def test_radius_is_found_over_many_magnitudes(scale, exponent):
    d = entry("power")
    for price in (1e-8, 1.0, 1e8):
        expected = (price / (scale * (exponent - 1))) ** (1 / exponent)
        got = float(d.term(price=price, a=scale, p=exponent).radius)
        assert got == pytest.approx(expected, rel=1e-10)


# ---- input ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("phi", "options", "message"),
    [
        ("sqrt(r)", {}, r"not convex.* at r = "),
        ("min(r, 1)", {}, r"not convex: .* r = 1$"),
        ("sin(r)", {}, r"not convex"),
        ("r**2 + 1", {}, r"φ\(0\) must be 0: .* is 1 at r = 0"),
        ("1/r", {}, r"φ\(0\) must be 0"),
        ("r**2 - r", {}, "decreases"),
        ("a*x**2", {}, "unknown symbol 'x'"),
        ("f(r)", {}, "unknown function 'f'"),
        ("a*r**2", {"price": -1.0}, "price must be positive: it is -1"),
        ("a*r**2", {"price": math.nan}, "price"),
        ("a*r**2", {"bound": 0.0}, "bound"),
        ("a*r**2", {"a": -2.0}, "a must be above 0: it is -2"),
        ("a*r**p", {"p": 1.0}, "p must be above 1: it is 1"),
        ("a*r**2", {"q": 1.0}, "'q' does not occur"),
        ("a*r**2", {"s": 1.0}, "'s' cannot name a parameter"),
        ("a*r**2", {"norm": 0.5}, "norm"),
        ("a*r**2", {"norm": 1, "ball": True, "bound": 1.0}, "goes with the norm"),
        ("a*r**2", {"norm": 1, "extract": "a"}, "extraction"),
        ("a*r**2", {"extract": "-a"}, "extraction must not be negative"),
        ("a*r**2", {"extract": "r"}, "unknown symbol 'r'"),
        ("a*r**2", {"block_price": 1.0, "bound": 1.0}, "nested"),
        ("0", {}, "needs a bound"),
        ("", {}, "characters"),
        ("a*", {}, "not an expression"),
        ("a^2", {}, r"\*\*"),
        ("[1, 2]", {}, "not an expression"),
        ("'r'", {}, "not a number"),
        ("r.real", {}, "cannot stand"),
        ("lambda r: r", {}, "not an expression|cannot stand"),
        ("r**999", {}, "exponent"),
        ("9**9**9**9", {}, "exponent"),
        (None, {}, "not an expression"),
        (sp.Symbol("z") * r**2, {}, "unknown symbol 'z'"),
    ],
)
def test_wrong_input_is_refused_in_one_line(phi, options, message):
    with pytest.raises(ValueError, match=message) as caught:
        derive(phi, **options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os').system('touch pwned')",
        'exec(\'open("pwned", "w")\')',
        "(lambda: open('pwned', 'w'))()",
        "[x for x in open('pwned', 'w')]",
        'f\'{open("pwned", "w")}\'',
        "r if open('pwned', 'w') else r",
    ],
)
def test_expression_is_never_evaluated_as_python(text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"expression|unknown"):
        find(text)
    assert list(tmp_path.iterdir()) == []


@given(st.text(alphabet="ar0129.+-*/() ,^'[]", max_size=20))
@settings(max_examples=300, deadline=None)
def test_any_text_is_an_expression_or_refused(text):
    with contextlib.suppress(InputError):
        parse(text, {"r": r, "a": a})


def test_sympy_expressions_and_parameters_with_limits_are_taken():
    q = sp.Symbol("q")
    d = derive(q * sp.Symbol("r") ** 2, q=Parameter(2.0, above=0.5))
    assert float(d.term().radius) == pytest.approx(math.sqrt(0.5))
    with pytest.raises(ValueError, match=r"q must be above 0\.5"):
        d.term(q=0.4)
    with pytest.raises(ValueError, match="unknown parameter"):
        d.term(z=1.0)


def test_derive_of_the_package_is_the_function():
    import formulations
    from formulations.symbolic import definition

    assert formulations.derive is definition.derive


def test_terms_are_found_by_name_file_and_expression(tmp_path):
    assert find("mcp") is entry("mcp")
    assert find("mcp", price=2.0).price == 2.0
    file = tmp_path / "mine.py"
    file.write_text("from formulations import derive\nterm = derive('a*r**3', a=0.5)\nother = 3\n")
    assert find(f"{file}").phi == a * r**3
    assert find(f"{file}:term").defaults == {"a": 0.5}
    for source, message in (
        (f"{file}:other", "has term"),
        (f"{tmp_path}/absent.py", "no file"),
        ("cube", "unknown symbol"),
    ):
        with pytest.raises(ValueError, match=message):
            find(source)
    file.write_text("1/0")
    with pytest.raises(ValueError, match=r"mine\.py does not run: ZeroDivisionError"):
        find(str(file))


# ---- reading -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CATALOGUE)
def test_every_entry_can_be_read_and_set_in_latex(name):
    d = entry(name)
    text = "\n".join(statement.text() for statement in statements(d))
    assert "h(w)" in text
    assert "keep-score" in text
    set_ = latex(d)
    assert set_.count("{") == set_.count("}")
    assert set_.startswith("\\begin{align*}")
    assert all(ord(letter) < 128 for letter in set_), "LaTeX of plain letters"


@given(st.floats(0.1, 5), st.floats(0.1, 5), st.floats(0.05, 8))
@quick
def test_symbolic_regimes_have_the_numbers_of_the_term(scale, price, norm):
    for name in ("square", "elastic-net", "power", "mcp"):
        d = entry(name)
        values = {**d.defaults, "a": scale}
        numbers = {sp.Symbol(k, positive=True): x for k, x in values.items()}
        h = d.regimes.subs(numbers).subs({c: price, s: norm})
        term = d.term(price=price, a=scale)
        assume(abs(float(term.radius) / norm - 1) > 1e-6)
        assert float(h) == pytest.approx(float(term.value(np.array([[norm]]))[0]), rel=1e-9)


@pytest.mark.parametrize(
    ("phi", "options", "message"),
    [
        ("max(r, 2*r - 1)", {}, "kink: the slope .* jumps from 1 to 2 at r = 1"),
        ("r**2 + abs(r - 1) + r - 1", {}, "kink|no function"),
        ("r**2 - 1e-9*r**4", {}, "not convex|decreases"),
        ("r**2 + 1e-6*sqrt(r)", {}, "not convex"),
        ("((((r**64)**64)**64)**64)**64", {}, "exponent .* too large"),
        ("((((9**64)**64)**64)**64)**64*r", {}, "too large"),
        ("r**2 + sqrt(-1)*r", {}, "not real"),
        ("sqrt(-r)", {"bound": 1.0}, "not real"),
        ("1 - sqrt(1 - r)", {}, "no real number at r = 1"),
        ("a*r**2", {"price": "much"}, "price must be a number"),
        ("a*r**2", {"price": float("inf")}, "finite"),
        ("a*r**2", {"block_price": float("inf")}, "finite"),
        ("a*r**2", {"norm": "two"}, "norm must be a number"),
        ("a*r**2", {"a": "x"}, "a must be a number"),
        ("a*r**2", {"extract": float("nan")}, "not a finite number"),
        ("a*r**2", {"extract": "1/0"}, "not real and finite"),
        ("float*r**2", {"float": 2.0}, "meaning of its own"),
        ("r**2", {"lambda": 2.0}, "meaning of its own"),
    ],
)
def test_what_cannot_be_a_shrinkage_is_refused_in_one_line(phi, options, message):
    with pytest.raises(ValueError, match=message) as caught:
        derive(phi, **options)
    assert "\n" not in str(caught.value)


def test_parameters_of_a_term_are_judged_like_those_of_the_derivation():
    derivation = derive("r**2 + (1 - b)*r", b=0.5)
    with pytest.raises(ValueError, match=r"decreases.*b = 1\.5"):
        derivation.term(b=1.5)
    with pytest.raises(ValueError, match="decreases"):
        derivation.term(b=np.array([0.5, 1.5]))


def test_conjugate_is_zero_below_the_slope_at_zero():
    derivation = derive("a*r**2 + b*r", a=1.0, b=5.0)
    values = {sp.Symbol(name, positive=True): x for name, x in {"a": 1, "b": 5, "c": 1}.items()}
    conjugate = derivation.conjugate.subs(values)
    for dual in (0.01, 4.0, 6.0, 9.0):
        expected = float(derivation.term(price=1.0).conjugate(np.array([[dual]]))[0])
        assert float(conjugate.subs(v, dual)) == pytest.approx(expected)


def test_module_s_proximal_step_survives_an_overflow():
    derivation = derive("log(cosh(r))", price=0.3)
    module = {}
    exec(derivation.module(), module)
    v = np.array([[2.0, 0.0], [30.0, 1.0], [0.1, 0.0]])
    np.testing.assert_allclose(module["prox"](v, 0.5), derivation.term().prox(v, 0.5), atol=1e-9)
