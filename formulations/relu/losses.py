"""Losses of the exact network problems, each the supremum of lines in the network's output.

For an output f and its target T,

    l1       |f − T|            = max(f − T, T − f)
    hinge    max(0, 1 − T f)    = max(0, 1 − T f),               T ∈ {−1, 1}
    squared  (f − T)²           = sup_r  2 r (f − T) − r²,

so that a variable e above the lines is the loss at an optimum. The first two are whole with two
lines; of the square's tangents only those at the points met are stated (outer approximation, Duran
& Grossmann 1986). Losses add up over samples and outputs.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from formulations.arrays import FloatArray
from formulations.errors import InputError

# Tangents of the square that a model starts with.
_TANGENTS = 9


class L1:
    """Σ |f − T|; the other losses differ from it in their lines."""

    name = "l1"

    def targets(self, raw: ArrayLike, samples: int, outputs: int) -> FloatArray:
        """Targets as an (n, outputs) array; a vector fits a single output."""
        targets = np.asarray(raw, float)
        if outputs == 1 and targets.ndim == 1:
            targets = targets[:, None]
        if targets.shape != (samples, outputs):
            raise InputError(
                f"targets have shape {np.shape(raw)}: {(samples, outputs)} fits "
                f"{samples} samples and {outputs} outputs"
            )
        if not np.isfinite(targets).all():
            raise InputError("targets hold a number that is not finite")
        return targets

    def value(self, outputs: FloatArray, targets: FloatArray) -> float:
        """The loss of outputs (n, O)."""
        return float(self.losses(outputs, targets).sum())

    def losses(self, outputs: FloatArray, targets: FloatArray) -> FloatArray:
        """The loss of every output, of arrays that broadcast."""
        return np.abs(outputs - targets)

    def error(self, reach: FloatArray, error: FloatArray) -> FloatArray:
        """How far off a loss is at most, of |f| + |T| + 1 ≤ reach off by so much."""
        return error

    def lines(self, target: float, lower: float, upper: float) -> list[tuple[float, float]]:
        """(slope, intercept) of the lines that a model starts with, for f in [lower, upper]."""
        return [(1.0, -target), (-1.0, target)]

    def tangent(self, output: float, target: float) -> tuple[float, float] | None:
        """The line that is tight at an output; None where the first lines are all there are."""
        return None


class Hinge(L1):
    """Σ max(0, 1 − T f), with labels T = ±1; several outputs are classified one against all."""

    name = "hinge"

    def targets(self, raw: ArrayLike, samples: int, outputs: int) -> FloatArray:
        """±1 as an (n, outputs) array; for several outputs also class numbers (n,)."""
        labels = np.asarray(raw)
        if labels.shape == (samples,) and outputs > 1:
            if not np.isin(labels, np.arange(outputs)).all():
                raise InputError(f"class labels must be whole numbers from 0 to {outputs - 1}")
            return np.where(labels[:, None] == np.arange(outputs), 1.0, -1.0)
        targets = super().targets(raw, samples, outputs)
        if not np.isin(targets, (-1, 1)).all():
            raise InputError("labels of the hinge loss must be -1 or 1 (or class numbers)")
        return targets

    def losses(self, outputs: FloatArray, targets: FloatArray) -> FloatArray:
        """See :class:`L1`."""
        return np.maximum(0, 1 - targets * outputs)

    def lines(self, target: float, lower: float, upper: float) -> list[tuple[float, float]]:
        """See :class:`L1`."""
        return [(0.0, 0.0), (-target, 1.0)]


class Squared(L1):
    """Σ (f − T)²."""

    name = "squared"

    def losses(self, outputs: FloatArray, targets: FloatArray) -> FloatArray:
        """See :class:`L1`."""
        return (outputs - targets) ** 2

    def error(self, reach: FloatArray, error: FloatArray) -> FloatArray:
        """See :class:`L1`."""
        return 2 * reach * error + error**2

    def lines(self, target: float, lower: float, upper: float) -> list[tuple[float, float]]:
        """See :class:`L1`."""
        return [self.tangent(f, target) for f in np.linspace(lower, upper, _TANGENTS)]

    def tangent(self, output: float, target: float) -> tuple[float, float]:
        """See :class:`L1`."""
        residual = float(output - target)
        return 2 * residual, -2 * residual * target - residual**2


LOSSES = {loss.name: loss for loss in (L1(), Hinge(), Squared())}


def find_loss(name: str) -> L1:
    """A loss by name.

    Raises
    ------
    InputError
        If there is none of that name.
    """
    if name not in LOSSES:
        raise InputError(f"unknown loss {name!r}: one of {', '.join(LOSSES)}")
    return LOSSES[name]
