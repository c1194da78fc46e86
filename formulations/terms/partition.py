"""How a flat array of weights falls into groups: sums, maxima and norms of every group."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from formulations.arrays import ArrayT, FloatArray
from formulations.errors import InputError


@dataclass(frozen=True, eq=False)
class Layout:
    """Groups of a flat array of D weights, in the operations of any array library.

    Parameters
    ----------
    sum, max : callables
        (D,) entries to (G,) sums and maxima.
    expand : callable
        (G,) numbers to the (D,) entries of the groups.
    """

    sum: Callable[[Any], Any]
    max: Callable[[Any], Any]
    expand: Callable[[Any], Any]

    def norm(self, size: ArrayT, order: float) -> ArrayT:
        """‖·‖_p of every group, (G,), from its weights' magnitudes.

        Parameters
        ----------
        size : (D,) array
            Magnitudes, not negative.
        order : float
            p, from 1 to infinity.
        """
        if order == 1:
            return self.sum(size)
        if order == 2:
            return self.sum(size * size) ** 0.5
        if order == float("inf"):
            return self.max(size)
        # a high power of a small number underflows
        peak = self.max(size)
        scale = peak + (peak == 0)
        return peak * self.sum((size / self.expand(scale)) ** order) ** (1 / order)


class Partition:
    """Ragged groups of a flat array: group j owns the contiguous entries starts[j] … starts[j+1].

    Parameters
    ----------
    sizes : (G,) integers, each at least 1
        Number of weights of each group.

    Attributes
    ----------
    starts : (G,) integers
        First entry of each group.
    layout : Layout
        The same groups, for NumPy arrays.

    Raises
    ------
    InputError
        If a group is empty.
    """

    def __init__(self, sizes: ArrayLike) -> None:
        self.sizes = np.asarray(sizes, dtype=np.intp)
        if self.sizes.ndim != 1 or self.sizes.size == 0 or self.sizes.min() < 1:
            raise InputError("a partition needs at least one group, and no group may be empty")
        self.starts = np.concatenate([[0], np.cumsum(self.sizes)[:-1]])
        self.layout = Layout(self.sum, self.max, self.expand)

    def sum(self, x: NDArray[Any]) -> NDArray[Any]:
        """(D,) entries to (G,) sums."""
        return np.add.reduceat(x, self.starts)

    def max(self, x: NDArray[Any]) -> NDArray[Any]:
        """(D,) entries to (G,) maxima."""
        return np.maximum.reduceat(x, self.starts)

    def expand(self, x: ArrayLike) -> NDArray[Any]:
        """(G,) numbers, or one, to the (D,) entries of the groups."""
        numbers, shape = np.asarray(x), self.sizes.shape
        # a search asks thousands of times, mostly for what has the shape: broadcasting costs more
        return np.repeat(
            numbers if numbers.shape == shape else np.broadcast_to(numbers, shape), self.sizes
        )


def flatten(w: ArrayLike, groups: Partition | None) -> tuple[FloatArray, Partition]:
    """Weights as one flat array and the groups that they fall into.

    Parameters
    ----------
    w : (G, d) or (D,) array
        Equal groups, one a row, or ragged ones.
    groups : Partition, optional
        Needed for ragged groups.

    Returns
    -------
    ((D,) array, Partition)

    Raises
    ------
    InputError
        If the weights do not fill the groups, or there is no partition and no row a group.
    """
    array = np.asarray(w, dtype=np.float64)
    if groups is None:
        if array.ndim != 2:
            raise InputError("weights without a partition must be a (groups, size) array")
        groups = Partition(np.full(array.shape[0], array.shape[1]))
    if array.size != groups.sizes.sum():
        raise InputError(f"{array.size} weights do not fill groups of {groups.sizes.sum()}")
    return array.reshape(-1), groups
