"""Budget allocation: the best width of every class of channels under a limit on the cost.

A class c is a set of channels that cost the same, because they live at the same places. One of its
allowed widths n_c ∈ {w_c0 < w_c1 < …} is chosen, worth v_c(n_c): the sum of the n_c best
keep-scores, or any other table. Layers have rows (outputs) and columns (inputs), and widths of
consecutive layers multiply:

    max Σ_c v_c(n_c)   s.t.   at_least ≤ Σ_l coefficient_l · rows_l(n) · columns_l(n) ≤ at_most
                              rows_l(n) = fixed_l + Σ_c owned_cl · n_c,   columns_l(n) likewise
                              Σ_c floors_fc · n_c ≥ floor_sizes_f

for any number of costs (multiply-accumulates, parameters, …), which is a quadratic knapsack. It is
solved exactly: Lagrangian bounds remove the widths that no better solution can have, and HiGHS
solves the mixed-integer linear program over the rest (:mod:`formulations.budget.solve`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from formulations.arrays import BoolArray, FloatArray, IntArray
from formulations.errors import InputError
from formulations.solving.result import Status, relative_gap

# From here on the floats in which HiGHS reckons leave out whole numbers.
EXACT = 2**53


class OutOfReach(InputError):
    """No widths meet a limit.

    Parameters
    ----------
    message : str
    nearest : int
        The smallest cost there is, or the largest below the range.
    """

    def __init__(self, message: str, nearest: int) -> None:
        super().__init__(message)
        self.nearest = nearest


def _whole(name: str, array: IntArray) -> IntArray:
    """Integers in 64 bits: narrow types would wrap where their products do not fit."""
    if array.size and not np.issubdtype(array.dtype, np.integer):
        raise InputError(f"{name} must be whole numbers of 64 bits: they are {array.dtype}")
    if array.size and array.max() > np.iinfo(np.int64).max:
        raise InputError(f"{name} must be whole numbers of 64 bits: one is {array.max()}")
    return array.astype(np.int64)


@dataclass(frozen=True, eq=False)
class BilinearCost:
    """Σ_l coefficient_l · rows_l · columns_l over L layers, exact in integers.

    Attributes
    ----------
    coefficient : (L,) int array
        What one entry of the layer's weight matrix costs. None of the numbers is negative.
    fixed_rows, fixed_columns : (L,) int arrays
        Sizes that do not depend on the widths.
    owned_rows, owned_columns : (C, L) int arrays
        Rows and columns that one channel of a class adds.
    """

    coefficient: IntArray
    fixed_rows: IntArray
    owned_rows: IntArray
    fixed_columns: IntArray
    owned_columns: IntArray

    def __post_init__(self) -> None:
        for name, array in vars(self).items():
            object.__setattr__(self, name, _whole(f"{name} of a cost", array))

    def sizes(self, widths: IntArray) -> tuple[IntArray, IntArray]:
        """Rows and columns of every layer, each (L,), for (C,) widths."""
        return (
            self.fixed_rows + widths @ self.owned_rows,
            self.fixed_columns + widths @ self.owned_columns,
        )

    def value(self, widths: IntArray) -> int:
        """The cost of (C,) widths, however large."""
        # sums and products of floats that are not negative are whole as long as they stay below
        value = float(self._value(widths, np.float64))
        return int(value) if value < EXACT else int(self._value(widths, np.object_))

    def _value(self, widths: IntArray, kind: type) -> Any:
        """The cost in numbers of a NumPy type; of objects, Python's own integers."""

        def typed(array: IntArray) -> Any:
            return array.astype(kind)

        rows = typed(self.fixed_rows) + typed(widths) @ typed(self.owned_rows)
        columns = typed(self.fixed_columns) + typed(widths) @ typed(self.owned_columns)
        return typed(self.coefficient) @ (rows * columns)

    def take(self, index: IntArray) -> BilinearCost:
        """The cost of some of the classes, the others having width 0."""
        return BilinearCost(
            self.coefficient,
            self.fixed_rows,
            self.owned_rows[index],
            self.fixed_columns,
            self.owned_columns[index],
        )

    def layers(self, mask: BoolArray) -> BilinearCost:
        """The cost of some of the layers, given by an (L,) mask."""
        return BilinearCost(
            self.coefficient[mask],
            self.fixed_rows[mask],
            self.owned_rows[:, mask],
            self.fixed_columns[mask],
            self.owned_columns[:, mask],
        )

    def polynomial(self) -> tuple[int, IntArray, IntArray]:
        """(constant, linear (C,), quadratic (C, C) upper triangular) of the same cost.

        In 64 bits: right where :class:`BudgetProblem` takes the cost.
        """
        rows, columns = self.owned_rows * self.coefficient, self.owned_columns * self.coefficient
        constant = int(self.coefficient @ (self.fixed_rows * self.fixed_columns))
        product = rows @ self.owned_columns.T
        quadratic = np.triu(product) + np.tril(product, -1).T
        return constant, rows @ self.fixed_columns + columns @ self.fixed_rows, quadratic


@dataclass(frozen=True, eq=False)
class Limit:
    """A cost and the range in which it must lie.

    Attributes
    ----------
    cost : BilinearCost
    at_most, at_least : int
        In the cost's own unit.
    """

    cost: BilinearCost
    at_most: int
    at_least: int = 0

    def allows(self, widths: IntArray) -> bool:
        """Whether the widths' cost, in exact integers, is in the range."""
        return self.at_least <= self.cost.value(widths) <= self.at_most


@dataclass(frozen=True, eq=False)
class BudgetProblem:
    """Which width every class of channels gets. See the module for the mathematics.

    Attributes
    ----------
    widths : sequence of C int arrays
        Allowed widths of every class, increasing.
    values : sequence of C float arrays
        Worth of each allowed width; any numbers.
    limits : sequence of Limit
    floors : (F, C) int array
        Left sides of Σ_c floors_fc · n_c ≥ floor_sizes_f, not negative: for layers whose channels
        come from several classes. A floor of one class is a matter of its allowed widths.
    floor_sizes : (F,) int array

    Raises
    ------
    InputError
        If the shapes do not fit, widths do not increase, a value is not finite, an owned size or a
        coefficient is negative, a floor is out of reach, a limit's range is empty, or the largest
        widths cost 2⁵³ or more, which the floats of HiGHS do not hold exactly.
    """

    widths: Sequence[IntArray]
    values: Sequence[FloatArray]
    limits: Sequence[Limit]
    floors: IntArray = field(default_factory=lambda: np.zeros((0, 0), int))
    floor_sizes: IntArray = field(default_factory=lambda: np.zeros(0, int))

    def __post_init__(self) -> None:
        if self.floors.size == 0:
            object.__setattr__(self, "floors", np.zeros((0, self.classes), int))
        whole = [_whole(f"class {c}: widths", widths) for c, widths in enumerate(self.widths)]
        object.__setattr__(self, "widths", whole)
        for name in ("floors", "floor_sizes"):
            object.__setattr__(self, name, _whole(name, getattr(self, name)))
        self._check_tables()
        for limit in self.limits:
            self._check_limit(limit)
        self._check_floors()

    def _check_tables(self) -> None:
        for number, (widths, values) in enumerate(zip(self.widths, self.values, strict=True)):
            if len(widths) == 0 or widths[0] < 0 or (np.diff(widths) <= 0).any():
                raise InputError(f"class {number}: the allowed widths must be ≥ 0 and increase")
            if values.shape != widths.shape or not np.isfinite(values).all():
                raise InputError(f"class {number}: every allowed width needs a finite value")

    def _check_limit(self, limit: Limit) -> None:
        cost = limit.cost
        if len(cost.owned_rows) != self.classes:
            raise InputError(
                f"a cost has {len(cost.owned_rows)} classes, the problem {self.classes}"
            )
        if min(array.min(initial=0) for array in vars(cost).values()) < 0:
            raise InputError("a cost must not fall as widths grow: a size in it is negative")
        if limit.at_least > limit.at_most:
            raise InputError(
                f"a limit leaves no cost: at least {limit.at_least}, at most {limit.at_most}"
            )
        if cost.value(self.widest) >= EXACT:
            raise InputError(
                "the largest widths cost 2**53 or more, which floats do not hold exactly: "
                "give the costs in a larger unit"
            )

    def _check_floors(self) -> None:
        if self.floors.min(initial=0) < 0:
            raise InputError("a floor must not fall as widths grow: a factor in it is negative")
        exact = self.floors.astype(object) @ self.widest.astype(object)
        if self.floors.size and max(exact) >= EXACT:
            raise InputError("a floor on the largest widths is 2**53 or more: give smaller factors")
        if not self.above_floors(self.widest):
            raise InputError("a floor is above what the largest widths give")

    @property
    def classes(self) -> int:
        """C, the number of classes."""
        return len(self.widths)

    @property
    def narrowest(self) -> IntArray:
        """The smallest allowed width of every class, (C,)."""
        return np.array([widths[0] for widths in self.widths])

    @property
    def widest(self) -> IntArray:
        """The largest allowed width of every class, (C,)."""
        return np.array([widths[-1] for widths in self.widths])

    def at(self, choice: Sequence[int] | IntArray) -> IntArray:
        """Widths of the choices, given by their positions in the tables, (C,)."""
        return np.array([widths[k] for widths, k in zip(self.widths, choice, strict=True)])

    def value(self, choice: Sequence[int]) -> float:
        """Worth of the choices, given by their positions in the tables."""
        return float(sum(values[k] for values, k in zip(self.values, choice, strict=True)))

    def above_floors(self, widths: IntArray) -> bool:
        """Whether (C,) widths meet every floor."""
        return bool((self.floors @ widths >= self.floor_sizes).all())

    def feasible(self, widths: IntArray) -> bool:
        """Whether (C,) widths meet every floor and limit, in exact integers."""
        return self.above_floors(widths) and all(limit.allows(widths) for limit in self.limits)

    def restricted(self, keep: Sequence[BoolArray]) -> BudgetProblem:
        """The same problem with the allowed widths where the masks are True."""
        return BudgetProblem(
            [widths[mask] for widths, mask in zip(self.widths, keep, strict=True)],
            [values[mask] for values, mask in zip(self.values, keep, strict=True)],
            self.limits,
            self.floors,
            self.floor_sizes,
        )


@dataclass(frozen=True, eq=False)
class Allocation:
    """Widths with a proved bound on what any others are worth.

    Attributes
    ----------
    widths : (C,) int array
    costs : tuple of int
        Of every limit, exact.
    value : float
        Worth of the widths.
    bound : float
        Proved upper bound on the optimal value.
    status : Status
        How the solve ended.
    nodes : int
        Branch-and-bound nodes of HiGHS; 0 where the Lagrangian bound was enough.
    seconds : float
        Wall time.
    """

    widths: IntArray
    costs: tuple[int, ...]
    value: float
    bound: float
    status: Status
    nodes: int
    seconds: float

    @property
    def gap(self) -> float:
        """(bound − value) / |value|, never negative."""
        return relative_gap(-self.value, -self.bound)
