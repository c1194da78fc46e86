"""Small data sets and networks by name, on which pruning is solved exactly."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np

from formulations.arrays import FloatArray
from formulations.errors import InputError
from formulations.relu.network import Network

_SAMPLES = 40


@dataclass(frozen=True, eq=False)
class Toy:
    """A named toy problem.

    Attributes
    ----------
    name : str
    inputs : (n, n_in) array
    targets : (n, n_out) array
        ±1 (one against all) where the toy is a classification.
    hidden : tuple of int
        Hidden units that training may use, or that the network has.
    network : Network or None
        A trained network to select from; None for a toy that is only trained.
    """

    name: str
    inputs: FloatArray
    targets: FloatArray
    hidden: tuple[int, ...]
    network: Network | None = None


def xor() -> Toy:
    """The four points of exclusive or, targets 0 and 1, with three hidden units available.

    Two units suffice, max(0, x₁ + x₂) − 2 max(0, x₁ + x₂ − 1), and one does not.
    """
    inputs = np.array([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
    return Toy("xor", inputs, np.array([[0.0], [1.0], [1.0], [0.0]]), (3,))


def toy_mlp() -> Toy:
    """A trained 2-6-6-2 network and 40 irises: two species that overlap, two features.

    The first 20 versicolor and 20 virginica of Fisher's irises, sepal width and petal length,
    standardised; one output a class, trained on ±1 with scikit-learn's L-BFGS from a fixed seed.
    """
    # slow to load, and for this toy alone
    from sklearn.datasets import load_iris  # noqa: PLC0415
    from sklearn.exceptions import ConvergenceWarning  # noqa: PLC0415
    from sklearn.neural_network import MLPRegressor  # noqa: PLC0415

    iris = load_iris()
    rows = np.concatenate([np.flatnonzero(iris.target == c)[: _SAMPLES // 2] for c in (1, 2)])
    inputs = iris.data[rows][:, [1, 2]]
    inputs = (inputs - inputs.mean(axis=0)) / inputs.std(axis=0)
    targets = np.where(iris.target[rows][:, None] == np.array([1, 2]), 1.0, -1.0)
    hidden = (6, 6)
    trained = MLPRegressor(
        hidden_layer_sizes=hidden, solver="lbfgs", alpha=0.05, max_iter=300, random_state=3
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        trained.fit(inputs, targets)
    network = Network([w.T for w in trained.coefs_], trained.intercepts_)
    return Toy("toy-mlp", inputs, targets, hidden, network)


TOYS = {"xor": xor, "toy-mlp": toy_mlp}


def find_toy(name: str) -> Toy:
    """A toy by name.

    Raises
    ------
    InputError
        If there is none of that name.
    """
    if name not in TOYS:
        raise InputError(f"unknown toy problem {name!r}: one of {', '.join(TOYS)}")
    return TOYS[name]()
