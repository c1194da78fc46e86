"""Layer problems that a command line names: from a file, a generator, or a network's layer."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from formulations.arrays import FloatArray
from formulations.errors import InputError
from formulations.layer import files
from formulations.layer.problem import LayerProblem
from formulations.symbolic.catalogue import find, square
from formulations.terms.term import Term
from mipprune.config.compare import CompareConfig
from mipprune.data.registry import load
from mipprune.oneshot.layer_problems import problem_of_layer
from mipprune.runs import checkpoint


def load_problem(source: str, config: CompareConfig) -> LayerProblem:
    """The layer problem that the command line names.

    Parameters
    ----------
    source : str
        ``layer:FILE.npz``, ``layer:generated`` or ``layer:CHECKPOINT:LAYER``.
    config : CompareConfig

    Raises
    ------
    InputError
        Unknown form, file, checkpoint or layer; data that are no layer problem.
    """
    _, _, rest = source.partition(":")
    if rest == "generated":
        return generate(config)
    if rest.endswith(".npz"):
        problem = files.load_problem(rest)
        if (config.price, config.ridge, config.term) == (None, None, None):
            return problem
        return _repriced(problem, config, keep=True)
    folder, colon, layer = rest.rpartition(":")
    if not colon:
        raise InputError(f"name the layer too: layer:{rest}:LAYER")
    return from_checkpoint(Path(folder), layer, config)


def generate(config: CompareConfig) -> LayerProblem:
    """A layer problem on synthetic inputs with AR(1) correlation, half of the groups relevant."""
    generator = np.random.default_rng(config.seed)
    groups, outputs = config.groups, config.outputs
    inputs = generator.standard_normal((20 * groups, groups))
    for k in range(1, groups):
        fresh = np.sqrt(1 - config.correlation**2)
        inputs[:, k] = config.correlation * inputs[:, k - 1] + fresh * inputs[:, k]
    weights = generator.standard_normal((groups, outputs))
    weights[generator.permutation(groups)[: groups // 2]] *= 0.2
    problem = LayerProblem.from_data(inputs, inputs @ weights, square(1.0, 1.0))
    return _repriced(problem, config)


def from_checkpoint(folder: Path, layer: str, config: CompareConfig) -> LayerProblem:
    """The layer problem of a convolution or linear layer, on calibration images.

    X are the layer's inputs (im2col) on ``config.images`` training images, Y = X·W₀ its outputs
    without bias; a group is an input channel.
    """
    network, trained_on = checkpoint.load(folder, config.model)
    source = config.data.source() if config.data else trained_on
    data = load(**source, device=torch.device("cpu"))
    problem = problem_of_layer(network, layer, data.sample(config.images, config.seed))
    return _repriced(problem, config)


def _repriced(problem: LayerProblem, config: CompareConfig, keep: bool = False) -> LayerProblem:
    """Price and ridge by the configuration's shares of c₀ and of G's mean diagonal, and its term.

    With ``keep``, what the configuration does not say stays as the problem has it.
    """
    price: float | FloatArray = config.price or 0.01
    ridge: float | FloatArray = config.ridge or 0.05
    ridge = ridge * float(np.trace(problem.gram)) / len(problem.gram)
    price = price * problem.constant
    own = problem.term
    if keep and config.ridge is None:
        ridge = own.weight
    if keep and config.price is None:
        price = own.price
    if config.term:
        term = _term(config.term, config, problem.groups, price, ridge, own)
    else:
        term = replace(own, price=price, weight=ridge)
    return LayerProblem(problem.gram, problem.cross, problem.constant, term, problem.block)


def _term(
    name: str,
    config: CompareConfig,
    groups: int,
    price: float | FloatArray,
    ridge: float | FloatArray,
    own: Term,
) -> Term:
    """The named term: its φ times the ridge, its c (and C) times the price."""
    derivation = find(name)
    if derivation.block_price is None:
        bound = derivation.bound if derivation.bounded else own.bound
        return derivation.term(derivation.price * price, bound, ridge)
    if groups % config.blocks:
        raise InputError(f"blocks={config.blocks} does not divide the {groups} groups")
    blocks = np.repeat(np.arange(config.blocks), groups // config.blocks)
    unit = float(np.mean(price))
    return derivation.nested(blocks, derivation.block_price * unit, derivation.price * price, ridge)
