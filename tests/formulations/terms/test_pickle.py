"""Terms pass through pickle, as they do between processes, without sympy on the other side."""

import pickle
import subprocess
import sys
from functools import cache

import numpy as np
import pytest

from formulations import CATALOGUE, derive
from formulations.symbolic.catalogue import entry
from formulations.terms.generated import compiled

BLOCKS = np.array([0, 0, 1, 1, 1, 2])
# beside the catalogue: another norm, a ball, formulas that are missing
OTHERS = {
    "ℓ1 in a box": lambda: derive("a*r**2", norm=1, bound=0.6),
    "ball": lambda: derive("a*r**3", ball=True, bound=0.7),
    "cosh": lambda: derive("cosh(r) - 1"),
}


@cache
def term_of(name):
    derivation = OTHERS[name]() if name in OTHERS else entry(name)
    price = np.linspace(0.2, 0.4, len(BLOCKS))
    if derivation.block_price is not None:
        return derivation.nested(BLOCKS, price=price)
    return derivation.term(price)


def weights(term):
    w = np.random.default_rng(0).normal(size=(len(BLOCKS), 3)) * np.geomspace(0.01, 3, 6)[:, None]
    return np.clip(w, -term.bound, term.bound) if np.ndim(term.bound) == 0 else w


def assert_same(left, right, w):
    for method in ("value", "keep", "gradient", "conjugate"):
        assert np.array_equal(getattr(left, method)(w), getattr(right, method)(w)), method
    assert np.array_equal(left.prox(w, 0.1), right.prox(w, 0.1))


@pytest.mark.parametrize("name", [*CATALOGUE, *OTHERS])
def test_a_term_and_its_pickled_copy_have_the_same_values(name):
    term = term_of(name)
    copy = pickle.loads(pickle.dumps(term))
    assert type(copy) is type(term)
    assert copy.profile.definition == term.profile.definition
    assert_same(term, copy, weights(term))


@pytest.mark.parametrize("name", [name for name in [*CATALOGUE, *OTHERS] if name != "nested"])
def test_some_groups_of_a_term_pass_through_pickle(name):
    chosen = np.array([True, False, True, True, False, False])
    term = term_of(name).take(chosen)
    assert_same(term, pickle.loads(pickle.dumps(term)), weights(term_of(name))[chosen])


@pytest.mark.parametrize("name", [*CATALOGUE, *OTHERS])
def test_a_term_of_tensors_passes_through_pickle(name):
    torch = pytest.importorskip("torch")
    term = term_of(name).to(torch.zeros(0, dtype=torch.float32))
    copy = pickle.loads(pickle.dumps(term))
    norm, peak = (torch.tensor(x, dtype=torch.float32) for x in term_of(name).measure(
        weights(term_of(name))
    ))  # fmt: skip
    assert copy.price.dtype == torch.float32
    for method in ("projected", "indicator", "uncapped_indicator"):
        assert torch.equal(getattr(copy, method)(norm, peak), getattr(term, method)(norm, peak))


def test_a_term_with_a_square_added_passes_through_pickle():
    term = term_of("elastic-net").with_square(np.linspace(0, 1, len(BLOCKS)))
    assert_same(term, pickle.loads(pickle.dumps(term)), weights(term))


def test_a_pickled_term_is_loaded_without_sympy(tmp_path):
    file = tmp_path / "term.pickle"
    file.write_bytes(pickle.dumps(term_of("power")))
    code = (
        "import pickle, sys; term = pickle.load(open(sys.argv[1], 'rb')); "
        "print(term.value([[1.0, 2.0]] * 6).tolist(), 'sympy' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(file)], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == f"{term_of('power').value([[1.0, 2.0]] * 6).tolist()} False"


@pytest.mark.parametrize(
    "source",
    [
        "import os",
        "print('here')",
        "def value(xp, r):\n    return xp.load('file')",
        "def value(xp, r):\n    return r.__class__",
        "def value(xp, r):\n    return [x for x in r]",
        "def value(xp, r):\n    return (lambda: r)()",
        "@print\ndef value(xp, r):\n    return r",
        "def value(xp, r):\n    import os\n    return r",
        "def value(xp, r):\n    return __import__('os')",
    ],
)
def test_nothing_but_generated_formulas_is_compiled(source):
    with pytest.raises(ValueError, match="generated source"):
        compiled(source)
