"""Block coordinate descent on a node, φ = a‖w‖², in NumPy: where ``_descent`` is not compiled.

Each step minimises over one group with all others held: with the residual R = B − M·W and the
Lipschitz constant L_j of block j (M_jj itself where a group is one row),
W_j ← prox_{h_j/L_j}(W_j + R_j/L_j), the closed form of :mod:`formulations.terms.term`. The bound is
Fenchel's, D(V) of :meth:`LayerProblem.dual_bound`, at the point reached: it is valid whatever the
point, and what rounding can have added is taken off as in :mod:`formulations.solving.safe_bound`.
"""

from __future__ import annotations

import math

import numpy as np

from formulations.arrays import BoolArray, FloatArray


class Descent:
    """A node without its removed groups, and the weights reached: O columns, J groups of b rows.

    Matrices of weights lie the other way round, (O, J·b), so that a step runs along whole rows.

    Parameters
    ----------
    gram : (J·b, J·b) array
        M, symmetric; this and all other arrays contiguous.
    cross : (O, J·b) array
        Bᵀ.
    constant : float
        c₀.
    ridge, price, bound, lipschitz : (J,) arrays
        a, c, M_j and L_j.
    free : (J,) bool array
        Free groups; the others are kept.
    weights : (O, J·b) array
        Where to start; overwritten.
    rounding : float
        ``safe_bound.unit`` of all entries of the weights.

    Attributes
    ----------
    weights : (O, J·b) array
    surplus : (J,) array
        φ_B*(v_j) − c_j, from above, of the last look; overwritten by the next.
    """

    def __init__(
        self,
        gram: FloatArray,
        cross: FloatArray,
        constant: float,
        ridge: FloatArray,
        price: FloatArray,
        bound: FloatArray,
        lipschitz: FloatArray,
        free: BoolArray,
        weights: FloatArray,
        rounding: float,
    ) -> None:
        self.gram, self.cross, self.constant = gram, cross, constant
        self.ridge, self.price, self.bound = ridge, price, bound
        self.lipschitz, self.free = lipschitz, free
        self.weights, self.rounding = weights, rounding
        self.residual = np.empty_like(weights)
        self.surplus = np.empty(len(ridge))
        self._block = len(gram) // len(ridge)
        self._lengths = float(np.linalg.norm(gram)), float(np.linalg.norm(cross))
        self._next = 0

    def look(self) -> tuple[float, float]:
        """(relaxed objective, dual bound) at the weights; the residual is computed anew."""
        w, image = self.weights, self.weights @ self.gram
        self.residual = self.cross - image
        quadratic = float((w * image).sum())
        # as safe_bound.dual_point: of v, of the quadratic form and of the sums
        length, (gram, cross) = float(np.linalg.norm(w)), self._lengths
        reach = self.rounding * (cross + gram * length)
        magnitude = abs(self.constant) + length * float(np.linalg.norm(image))
        conjugate = self._conjugate(reach)
        magnitude += float((conjugate + self.price).sum())
        self.surplus = conjugate - self.price
        gained = np.where(self.free, np.maximum(self.surplus, 0.0), self.surplus)
        dual = self.constant - 0.5 * quadratic - 0.5 * reach * length - float(gained.sum())
        loss = 0.5 * quadratic - float((w * self.cross).sum()) + self.constant
        return loss + self._paid(), dual - self.rounding * magnitude

    def advance(self, steps: int) -> None:
        """Take so many steps, group after group, on from the last one; after a first look."""
        for _ in range(steps):
            self._step(self._next)
            self._next = (self._next + 1) % len(self.ridge)

    def _by_group(self, matrix: FloatArray) -> FloatArray:
        """Magnitudes (O, J, b)."""
        return np.abs(matrix.reshape(len(matrix), -1, self._block))

    def _conjugate(self, reach: float) -> FloatArray:
        """φ_B* of every group, (J,), from above: v may be off by ``reach``."""
        v, ridge = self._by_group(self.residual), self.ridge
        within = v <= (2.0 * ridge * self.bound)[:, None]
        norm = np.sqrt(np.where(within, v * v, 0.0).sum(axis=(0, 2))) + reach
        conjugate = norm * norm / (4.0 * ridge)
        if not within.all():
            limit = np.where(np.isfinite(self.bound), self.bound, 0.0)[:, None]
            beyond = (v + reach) * limit - ridge[:, None] * limit * limit
            conjugate += np.where(within, 0.0, beyond).sum(axis=(0, 2))
        return conjugate

    def _paid(self) -> float:
        """Σ h of the free and Σ φ + c of the kept groups."""
        size = self._by_group(self.weights)
        shrinkage = self.ridge * (size * size).sum(axis=(0, 2))
        y = np.maximum(np.sqrt(shrinkage / self.price), size.max(axis=(0, 2)) / self.bound)
        y = np.where(self.free, np.minimum(y, 1.0), 1.0)
        there = y > 0
        return float((shrinkage[there] / y[there] + self.price[there] * y[there]).sum())

    def _step(self, j: int) -> None:
        rows = slice(j * self._block, (j + 1) * self._block)
        step = 1.0 / self.lipschitz[j]
        old = self.weights[:, rows]
        moved = old + step * self.residual[:, rows]
        size = np.abs(moved)
        numbers = float(self.ridge[j]), float(self.price[j]), float(self.bound[j])
        new = np.copysign(_shrunk(size, step, *numbers, free=bool(self.free[j])), moved)
        delta = new - old
        if delta.any():
            self.weights[:, rows] = new
            self.residual -= delta @ self.gram[rows]


def _shrunk(
    size: FloatArray, step: float, ridge: float, price: float, bound: float, *, free: bool
) -> FloatArray:
    """The proximal step of one group's magnitudes."""
    shrink = 1.0 / (1.0 + 2.0 * step * ridge)
    if not free:
        return np.minimum(size * shrink, bound)
    norm, radius = float(np.linalg.norm(size)), math.sqrt(price / ridge)
    slack = norm - 2.0 * step * math.sqrt(ridge * price)
    if slack <= 0.0:
        return np.zeros_like(size)
    factor = shrink if slack > radius else slack / norm
    peak = float(size.max())
    if peak * factor <= bound * min(1.0, factor * norm / radius):
        return size * factor
    # the slope in z is a price less what the weights save; it increases
    low, high = 0.0, peak / bound
    for _ in range(60):
        z = 0.5 * (low + high)
        part = np.minimum(size, bound * z)
        beyond = float((size - part).sum())
        if price - ridge * float(np.vdot(part, part)) / (z * z) - bound * beyond / step < 0.0:
            low = z
        else:
            high = z
    z = 0.5 * (low + high)
    y = min(1.0, max(0.0, z - 2.0 * step * ridge))
    if y >= 1.0:
        return np.minimum(size * shrink, bound)
    return y * np.minimum(size / z, bound)
