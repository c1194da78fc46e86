"""Terms whose φ grows like an exponential, or is made of one, against 400 digits of mpmath."""

import warnings

import mpmath
import numpy as np
import pytest
import sympy as sp
from hypothesis import given, settings
from hypothesis import strategies as st

from formulations import derive
from formulations.errors import InputError
from formulations.symbolic.scaling import tamed

PRICE, STEP, DIGITS = 0.2, 0.5, 400
few = settings(max_examples=20, deadline=None, derandomize=True)
PHIS = {
    "log cosh": "log(cosh(r))",
    "softplus": "log(1 + exp(r)) - log(2)",
    "two scales": "log(exp(2*r) + exp(r)) - log(2)",
    "cosh": "cosh(r) - 1",
    "exp": "exp(r) - 1 - r",
    "exp of the square": "exp(r**2) - 1",
    "entropy": "r*log(1 + r)",
    "asinh": "r*asinh(r) - sqrt(1 + r**2) + 1",
    "pseudo-Huber": "a*(sqrt(1 + r**2) - 1)",
    "power": "r**4",
    "cube": "r**3",
}


class Exact:
    """The same term of one weight in 400 digits, from φ alone."""

    def __init__(self, derivation):
        r = sp.Symbol("r", positive=True)
        phi = derivation.phi.subs({sp.Symbol(n, positive=True): 2 for n in derivation.parameters})
        self.psi = sp.lambdify(r, phi, "mpmath")
        self.slope = sp.lambdify(r, sp.diff(phi, r), "mpmath")
        self.radius = root(lambda x: x * self.slope(x) - self.psi(x) - PRICE)

    def numbers(self, size):
        s = mpmath.mpf(float(size))
        free, kept = s <= self.radius, self.psi(s) + PRICE
        along = (self.psi(self.radius) + PRICE) / self.radius
        rest = s - STEP * along
        beyond = root(lambda x: x + STEP * self.slope(x) - s) if rest > self.radius else rest
        return {
            "keep": min(1, s / self.radius),
            "value": along * s if free else kept,
            "gradient": along if free else self.slope(s),
            "prox": max(0, beyond),
        }

    def conjugate(self, v):
        v = mpmath.mpf(float(v))
        if v <= self.slope(mpmath.mpf("1e-200")):
            return mpmath.mpf(0)
        rho = root(lambda x: self.slope(x) - v)
        # beyond, a root is taken for infinite
        return mpmath.inf if 1e150 < rho < 1e200 else max(0, v * rho - self.psi(rho) - PRICE)


def root(increasing):
    """The root from 1e-200 to 1e200, by halving logarithms."""
    low, high = mpmath.mpf(-460), mpmath.mpf(460)
    for _ in range(70):
        middle = (low + high) / 2
        low, high = (middle, high) if increasing(mpmath.exp(middle)) < 0 else (low, middle)
    return mpmath.exp((low + high) / 2)


def close(found, exact, scale):
    """Within rounding of the number and of its cancelled parts; infinite where floats end."""
    largest = mpmath.mpf(np.finfo(float).max)
    if abs(exact) > largest * mpmath.mpf("1e-13"):
        return bool(found > 1e290)
    return abs(mpmath.mpf(float(found)) - exact) <= 1e-9 * abs(exact) + 1e-14 * scale


@pytest.fixture(scope="module", params=PHIS.values(), ids=PHIS)
def pair(request):
    with mpmath.workdps(DIGITS):
        derivation = derive(request.param, price=PRICE)
        more = {name: 2.0 for name in derivation.parameters}
        return derivation.term(**more), Exact(derivation)


@few
@given(st.one_of(st.floats(-150, 150), st.floats(-3, 4)))
def test_all_numbers_are_right_wherever_floats_hold_them(pair, exponent):
    term, exact = pair
    size = 10.0**exponent
    w = np.array([[size]])
    with warnings.catch_warnings(), mpmath.workdps(DIGITS):
        warnings.simplefilter("error")
        found = {
            "keep": term.keep(w),
            "value": term.value(w),
            "gradient": term.gradient(w),
            "prox": term.prox(w, STEP),
        }
        for name, number in exact.numbers(size).items():
            scale = size if name in ("value", "prox") else 1
            assert close(found[name].item(), number, scale), name
        star = exact.conjugate(size)
        assert close(term.conjugate(w).item(), star, 1), "conjugate"


def test_a_limit_that_does_not_hold_for_the_parameters_at_hand_is_refused():
    derivation = derive("log(cosh(a*r) + exp(r)) - log(2)")
    derivation.term(a=0.5)
    with pytest.raises(InputError, match=r"above the limit 1 .*: write the numbers into φ"):
        derivation.term(a=2.0)


@pytest.mark.parametrize("text", ["log(cosh(r))", "r*sinh(r)", "exp(r)/(1 + exp(r))", "cosh(r)**2"])
def test_another_form_is_taken_only_where_an_exponential_is_large(text):
    r = sp.Symbol("r", positive=True)
    expression = sp.sympify(text, locals={"r": r})
    other = tamed(expression)
    for at in (0.1, 29, 31, 100):
        with mpmath.workdps(DIGITS):
            values = [sp.N(form.subs(r, sp.Rational(str(at))), 50) for form in (expression, other)]
        assert abs(values[0] - values[1]) <= abs(values[0]) * sp.Float("1e-40")
    assert tamed(r**2 + 1) == r**2 + 1
