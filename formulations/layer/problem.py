"""The layer problem: keep a subset of a layer's input groups, refit, reproduce the layer's output.

With inputs X ∈ R^{n×D} (im2col; D = groups × block, block the kernel area), outputs Y ∈ R^{n×O},
G = XᵀX/n, B = XᵀY/n and c₀ = ‖Y‖²/(2n):

    min  ½⟨W, G W⟩ − ⟨B, W⟩ + c₀ + Σ_j [ φ(W_j) − δ‖W_j‖² + c_j y_j ],   ‖W_j‖ ≤ M_j y_j,

y_j ∈ {0, 1}, W_j ∈ R^{block×O} the rows of group j. The loss is ‖X W − Y‖²/(2n): the mean over
samples of half the squared error. A term's extraction δ, which makes its own part concave, is met
by the loss: the problem is solved as one in the curvature G − 2δI and φ alone.

Here are its data, what they must be, and the values of weights and supports. What is done with it
stands beside: :mod:`~formulations.layer.files`, :mod:`~formulations.layer.refit`,
:mod:`~formulations.layer.big_m`, :mod:`~formulations.layer.pyomo_model`,
:mod:`~formulations.layer.export`, and the solvers behind :func:`formulations.api.solve`.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from formulations.arrays import BoolArray, FloatArray
from formulations.errors import InputError
from formulations.terms.term import Term

# a G this far from definite, relative to a bound on its largest eigenvalue, is looked at closely
_DEFINITE = 1e-9


@dataclass(frozen=True, eq=False)
class LayerProblem:
    """Data of one layer problem.

    Parameters
    ----------
    gram : (D, D) array
        G, symmetric positive semidefinite.
    cross : (D, O) array
        B, in the range of G = XᵀX/n, as XᵀY/n always is.
    constant : float
        c₀ ≥ 0.
    term : Term
        Shrinkage φ, price c and bound M, one for all groups or one a group.
    block : int
        Rows of a group; D must be a multiple.

    Raises
    ------
    InputError
        Naming the number that is wrong: NaN, shapes that do not fit, an asymmetric or indefinite G,
        a B that G cannot produce (the loss would be unbounded below), an extraction beyond the
        curvature of the loss.
    """

    gram: FloatArray
    cross: FloatArray
    constant: float
    term: Term
    block: int = 1

    def __post_init__(self) -> None:
        for name, value in (("G", self.gram), ("B", self.cross)):
            if np.iscomplexobj(value):
                raise InputError(f"{name} must be real: it is complex")
        gram, cross = np.asarray(self.gram, float), np.asarray(self.cross, float)
        object.__setattr__(self, "gram", gram)
        object.__setattr__(self, "cross", cross)
        object.__setattr__(self, "constant", float(self.constant))
        if not float(self.block).is_integer():
            raise InputError(f"block must be a whole number of rows: it is {self.block}")
        object.__setattr__(self, "block", int(self.block))
        self._check_numbers()
        self._check_gram()
        self._check_term()
        if self.constant < 0:
            raise InputError(f"c0 must not be negative: it is {self.constant:g}")

    def __getstate__(self) -> dict[str, Any]:
        # matrices that follow from the data, once they are known, need not travel
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def _check_numbers(self) -> None:
        gram, cross = self.gram, self.cross
        if gram.ndim != 2 or gram.shape[0] != gram.shape[1] or gram.size == 0:
            raise InputError(f"G must be a square matrix: its shape is {gram.shape}")
        if cross.ndim != 2 or cross.shape[0] != gram.shape[0] or cross.shape[1] == 0:
            raise InputError(f"B must have {gram.shape[0]} rows like G: its shape is {cross.shape}")
        if self.block < 1 or gram.shape[0] % self.block:
            raise InputError(f"block {self.block} does not divide the {gram.shape[0]} rows of G")
        for name, value in (("G", gram), ("B", cross), ("c0", np.asarray(self.constant))):
            if not np.isfinite(value).all():
                at = tuple(int(i) for i in np.argwhere(~np.isfinite(value))[0])
                raise InputError(f"{name}{list(at) if at else ''} is not a finite number")

    def _check_gram(self) -> None:
        """G symmetric positive semidefinite, B in its range."""
        gram, cross = self.gram, self.cross
        scale = np.abs(gram).max()
        if scale == 0:
            raise InputError("G is zero: the layer sees no input")
        skew = np.abs(gram - gram.T)
        if skew.max() > 1e-8 * scale:
            i, j = (int(k) for k in np.unravel_index(skew.argmax(), skew.shape))
            raise InputError(
                f"G is not symmetric: G[{i},{j}] = {gram[i, j]:g}, G[{j},{i}] = {gram[j, i]:g}"
            )
        if _definite(gram, _DEFINITE * float(np.abs(gram).sum(axis=1).max())):
            return
        values, vectors = np.linalg.eigh(gram)
        if values[0] < -1e-8 * scale:
            raise InputError(f"G is not positive semidefinite: it has the eigenvalue {values[0]:g}")
        low = 1e-10 * values[-1]
        beyond = np.abs(vectors[:, values <= low].T @ cross).max(initial=0.0)
        # of data (v·Xᵀy/n)² ≤ (vᵀG v)·‖y‖²/n, and ‖Y‖²/n = 2c0
        if beyond > max(1e-6 * np.abs(cross).max(), (2 * low * abs(self.constant)) ** 0.5):
            raise InputError(f"B is not in the range of G: a part of size {beyond:g} lies outside")

    def _check_term(self) -> None:
        """One number of the term for all groups, or one a group; its extraction within G."""
        term = self.term
        numbers = {name: getattr(term, name) for name in ("price", "bound", "weight", "extract")}
        for name, value in {**numbers, **term.parameters}.items():
            shape = np.shape(value)
            if shape not in ((), (self.groups,)):
                raise InputError(f"{name} has shape {shape}: one number, or {self.groups}, fit")
        if term.blocks is not None and len(term.blocks) != self.groups:
            raise InputError(f"{len(term.blocks)} groups are in blocks, of {self.groups}")
        if term.extract.any() and not _definite(self.curvature, 0.0):
            lowest = np.linalg.eigvalsh(self.curvature)[0]
            if lowest < -1e-8 * np.abs(self.gram).max():
                raise InputError(
                    f"the extraction is beyond the loss's curvature: G − 2δI has the eigenvalue "
                    f"{lowest:g}"
                )

    # ---- construction -----------------------------------------------------------------------

    @classmethod
    def from_data(
        cls, inputs: FloatArray, outputs: FloatArray, term: Term, block: int = 1
    ) -> LayerProblem:
        """Build G, B, c₀ from a layer's data.

        Parameters
        ----------
        inputs : (n, D) array
            X, one sample a row.
        outputs : (n, O) array
            Y, what the layer shall reproduce.
        term : Term
        block : int
            Rows of W that make a group.

        Raises
        ------
        InputError
            Numbers of samples that differ or are zero, and as of the class.
        """
        n = len(inputs)
        if n == 0 or len(outputs) != n:
            raise InputError(f"{n} inputs and {len(outputs)} outputs: equal, positive numbers fit")
        return cls(
            inputs.T @ inputs / n,
            inputs.T @ outputs / n,
            float((outputs * outputs).sum() / (2 * n)),
            term,
            block,
        )

    def transformed(self, gram: FloatArray, cross: FloatArray, term: Term) -> LayerProblem:
        """Another form of this problem, whose data are right by construction and not checked."""
        return LayerProblem.unchecked(gram, cross, self.constant, term, self.block)

    @classmethod
    def unchecked(
        cls, gram: FloatArray, cross: FloatArray, constant: float, term: Term, block: int
    ) -> LayerProblem:
        """A problem whose data are right by construction, as they come from other problems'."""
        problem = object.__new__(cls)
        values = {"gram": gram, "cross": cross, "constant": constant, "term": term, "block": block}
        for name, value in values.items():
            object.__setattr__(problem, name, value)
        return problem

    # ---- sizes ------------------------------------------------------------------------------

    @property
    def groups(self) -> int:
        """Number of input groups."""
        return int(self.gram.shape[0]) // self.block

    @property
    def price(self) -> FloatArray:
        """Price c of every group, (groups,)."""
        return np.broadcast_to(self.term.price, (self.groups,)).astype(float)

    @property
    def ridge(self) -> FloatArray:
        """Weight a of every group, (groups,); for φ = a‖w‖² alone."""
        if self.term.ridge is None:
            raise InputError("this φ is not a‖w‖²")
        return np.broadcast_to(self.term.ridge, (self.groups,)).astype(float)

    @property
    def outputs(self) -> int:
        """Number of output columns, O."""
        return int(self.cross.shape[1])

    def by_group(self, weights: FloatArray) -> FloatArray:
        """(D, O) weights to (groups, block·O), one group a row: what a term reads."""
        return weights.reshape(self.groups, -1)

    def rows(self, support: BoolArray) -> BoolArray:
        """(G,) mask of groups to (D,) mask of rows."""
        return np.repeat(np.asarray(support, bool), self.block)

    def per_row(self, value: ArrayLike) -> FloatArray:
        """A term's parameter, one a row of W, (D,)."""
        return np.repeat(np.broadcast_to(value, (self.groups,)), self.block)

    # ---- values -----------------------------------------------------------------------------

    def loss(self, weights: FloatArray) -> float:
        """½⟨W, G W⟩ − ⟨B, W⟩ + c₀."""
        inner = 0.5 * np.vdot(weights, self.gram @ weights) - np.vdot(self.cross, weights)
        return float(inner + self.constant)

    def objective(self, weights: FloatArray, support: BoolArray) -> float:
        """Loss + shrinkage + prices of the support: the MIP's objective. (G,) bool support."""
        shrinkage = self.term.shrinkage(self.by_group(weights)).sum()
        return self.loss(weights) + float(shrinkage) + self.term.prices(support.astype(float))

    def relaxed_objective(self, weights: FloatArray) -> float:
        """Loss + Σ_j h(W_j): the perspective relaxation, its indicators projected away."""
        return self.loss(weights) + float(self.term.value(self.by_group(weights)).sum())

    def dual_bound(self, weights: FloatArray) -> float:
        """Lower bound on the perspective relaxation from any (D, O) weights V, by Fenchel duality.

        D(V) = −½⟨V, G V⟩ + c₀ − Σ_j h*(v_j),  v = B − G V; after an extraction G − 2δI for G.
        """
        image = self.curvature @ weights
        dual = self.term.conjugate(self.by_group(self.cross - image)).sum()
        return float(self.constant - 0.5 * np.vdot(weights, image) - dual)

    @cached_property
    def curvature(self) -> FloatArray:
        """G − 2δI, (D, D): the Hessian of the loss after the term's extraction."""
        if not self.term.extract.any():
            return self.gram
        return self.gram - 2 * np.diag(self.per_row(self.term.extract))

    @cached_property
    def plain(self) -> bool:
        """Whether φ = a‖w‖² for every group, with neither a bound nor nested indicators."""
        term = self.term
        simple = term.ridge is not None and not term.profile.ball and term.blocks is None
        return simple and bool(np.isinf(term.bound).all())

    @cached_property
    def hessian(self) -> FloatArray:
        """G − 2δI + 2aI, (D, D), of the whole objective; for φ = a‖w‖² alone."""
        return self.curvature + 2 * np.diag(self.per_row(self.ridge))


def _definite(matrix: FloatArray, least: float) -> bool:
    """Whether all eigenvalues of a symmetric matrix are above ``least``, by Cholesky's method."""
    try:
        np.linalg.cholesky(matrix - least * np.eye(len(matrix)))
    except np.linalg.LinAlgError:
        return False
    return True
