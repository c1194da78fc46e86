"""The checks that a derivation runs on itself: closed forms against independent computations.

Each check draws random groups of weights over all regimes, compares, and reports its largest error
with the point that shows it. A formula is judged by what it was derived from, φ, its slope and the
definition: the projection by scalar minimisation over y and, once more, by HiGHS on perspective
cuts; the keep-score by what it costs; gradients by differences; proximal steps and conjugates by
their definitions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import highspy
import numpy as np
from scipy.optimize import minimize_scalar

from formulations.arrays import FloatArray, IntArray
from formulations.symbolic.derivation import Derivation
from formulations.terms.nested import NestedTerm
from formulations.terms.term import Term

_POINTS, _NESTED_POINTS = 40, 6
_SIZES = (1, 3)
_ROUNDS = 80
# Nested indicators are judged on two blocks, one of them a single group.
_BLOCKS = np.array([0, 0, 0, 1])


@dataclass(frozen=True)
class Check:
    """What one check found.

    Parameters
    ----------
    name : str
        What was compared with what.
    error : float
        Largest error over the points, relative to the size of what is compared.
    tolerance : float
        The largest error with which the check passes.
    point : str
        Where the largest error is.
    """

    name: str
    error: float
    tolerance: float
    point: str

    @property
    def passed(self) -> bool:
        """Whether the error is a number within the tolerance."""
        return self.error <= self.tolerance


def check(derivation: Derivation, seed: int = 0) -> list[Check]:
    """All checks of a derivation at its own parameters, price and bound.

    Parameters
    ----------
    derivation : Derivation
    seed : int
        Of the random points.

    Returns
    -------
    list of Check
    """
    return check_term(
        derivation.term() if derivation.block_price is None else derivation.nested(_BLOCKS), seed
    )


def check_term(term: Term, seed: int = 0) -> list[Check]:
    """The same for a term with one number for each of its parameters."""
    with np.errstate(all="ignore"):  # trial points may overflow
        judge = _Judge(term, np.random.default_rng(seed))
        return [
            judge.shrinkage(),
            judge.brute_force(),
            judge.cuts(),
            judge.gradient(),
            judge.convexity(),
            judge.prox(),
            judge.fenchel_young(),
        ]


class _Judge:
    """Points are (G, d) arrays: a single group, or all groups of nested indicators."""

    def __init__(self, term: Term, rng: np.random.Generator) -> None:
        self.term, self.rng = term, rng
        # h alone: the extraction is a square that is subtracted, known without any derivation
        self.hull = term.without_extraction()
        self.nested = isinstance(term, NestedTerm)
        self.price = float(term.price)
        self.radius, self.bound = float(term.radius), float(term.bound)
        self.scale = self.radius if np.isfinite(self.radius) else 1.0
        self.batches = [self._batch(size) for size in _SIZES]
        self.points = [w for batch in self.batches for w in batch]

    def _batch(self, size: int) -> FloatArray:
        """Points on both sides of r* and of the bound's share, and far from both, (n, G, d)."""
        count, groups = (_NESTED_POINTS, len(_BLOCKS)) if self.nested else (_POINTS, 1)
        direction = self.rng.normal(size=(count * groups, size))
        direction /= np.abs(direction).max(axis=1, keepdims=True)
        lengths = self.scale * 10 ** self.rng.uniform(-2, 0.7, len(direction))
        points = direction * lengths[:, None]
        peak = np.abs(points).max(axis=1)
        if self.term.profile.ball:
            peak = np.linalg.norm(points, axis=1)
        inside = self.bound * self.rng.uniform(0.05, 0.98, len(direction))
        with np.errstate(invalid="ignore"):
            factor = np.where(peak > self.bound, inside / peak, 1.0)
        return (points * factor[:, None]).reshape(count, groups, size)

    def _worst(
        self,
        name: str,
        tolerance: float,
        error: Callable[[FloatArray], float],
        points: Sequence[FloatArray],
    ) -> Check:
        """The largest error over the points; one that is no number counts as infinite."""
        errors = np.array([error(w) for w in points])
        errors[~np.isfinite(errors)] = np.inf
        at = int(errors.argmax())
        shown = ", ".join(f"{x:.6g}" for x in np.ravel(points[at]))
        return Check(name, float(errors[at]), tolerance, f"w = ({shown})")

    def _h(self, w: FloatArray) -> float:
        return float(self.hull.value(w).sum())

    def _value(self, w: FloatArray) -> float:
        return float(self.term.value(w).sum())

    def _phi(self, r: float) -> float:
        return float(self.term.phi(np.asarray(r)))

    # ---- the checks -----------------------------------------------------------------------------

    def shrinkage(self) -> Check:
        """φ(0) = 0, φ nowhere above a chord."""
        pairs = list(self.scale * 10 ** self.rng.uniform(-3, 1, size=(200, 2)))
        start = abs(self._phi(1e-12 * self.scale))

        def error(pair: FloatArray) -> float:
            low, middle, high = map(self._phi, (pair[0], pair.mean(), pair[1]))
            rise = max(0.0, middle - (low + high) / 2)
            return (rise + start) / max(abs(low) + abs(high), 1e-12 * self.price)

        return self._worst("φ(0) = 0 and φ convex", 1e-6, error, pairs)

    def brute_force(self) -> Check:
        """Values of h against scalar minimisation over y, and over z around it where nested."""

        def least(function: Callable[[float], float], low: float, high: float) -> float:
            """Minimum on [low, high]; in the logarithm, so that tiny minimisers are found."""
            if high <= low:
                return function(high)
            ends = np.log(max(low, 1e-9 * high)), np.log(high)
            inside = minimize_scalar(
                lambda x: function(np.exp(x)), bounds=ends, method="bounded",
                options={"xatol": 1e-10},
            ).fun  # fmt: skip
            return min(float(inside), function(high), function(low) if low > 0 else np.inf)

        def group(w: FloatArray, z: float) -> float:
            s, m = (float(x[0]) for x in self.term.measure(w[None]))

            def cost(y: float) -> float:
                return y * self._phi(s / y) + self.price * y

            return least(cost, max(m / self.bound, 1e-9 * min(1.0, s)), z)

        def error(w: FloatArray) -> float:
            brute = 0.0
            for block, price in self._blocks():
                inside = w[block]
                if not price:
                    brute += group(inside[0], 1.0)
                    continue

                def together(z: float, x: FloatArray = inside, C: float = price) -> float:
                    return sum(group(v, z) for v in x) + C * z

                brute += least(together, 0.0, 1.0)
            # the keep-score is the y at which this minimum is
            y = self.term.keep(w)
            kept = self.hull.perspective(w, y).sum() + self.hull.prices(y)
            return max(abs(self._h(w) - brute), abs(kept - brute)) / brute

        return self._worst("h = min over y, by brute force, at y*", 1e-7, error, self.points)

    def _blocks(self) -> list[tuple[IntArray, float]]:
        """Groups and price of every block; one that costs nothing where nothing is nested."""
        if not self.nested:
            return [(np.array([0]), 0.0)]
        prices = self.term.block_price
        return [(np.flatnonzero(self.term.blocks == b), float(C)) for b, C in enumerate(prices)]

    def cuts(self) -> Check:
        """Values of h against HiGHS.

        The cuts are t ≥ ψ'(r)·s − F(r)·y of the perspective, added until none is violated.
        """
        name = "h = linear program of perspective cuts (HiGHS)"
        return self._worst(
            name, 1e-6, lambda w: abs(self._program(w) / self._h(w) - 1), self.points
        )

    def _program(self, w: FloatArray) -> float:
        """The regularizer of one point, as the value of the linear program of its cuts."""
        norms, peaks = self.term.measure(w)
        alive = norms > 0
        norms, peaks = norms[alive], peaks[alive]
        blocks, count, unit = self._blocks(), len(norms), norms.sum()
        # all columns of order 1, whatever the units of price and weights
        free_slope = float(self.term.free_slope) or self.price / self.bound
        highs = highspy.Highs()
        highs.silent()
        # columns r*·y/s and t/(s·free_slope) of every group, z of every block
        scale = self.scale
        for s, m in zip(norms, peaks, strict=True):
            highs.addVar(scale * m / self.bound / s, scale / s)
            highs.addVar(0, highspy.kHighsInf)
        price = self.price / (scale * free_slope)
        costs = np.ravel(np.stack([norms * price, norms], axis=1)) / unit
        for block, block_price in blocks:
            if block_price:
                z = highs.getNumCol()
                highs.addVar(0, 1)
                costs = np.append(costs, block_price / (unit * free_slope))
                for j in map(int, np.flatnonzero(np.isin(np.flatnonzero(alive), block))):
                    columns = np.array([z, 2 * j], np.int32)
                    values = np.array([1.0, -norms[j] / scale])
                    highs.addRow(0, highspy.kHighsInf, 2, columns, values)
        highs.changeColsCost(len(costs), np.arange(len(costs), dtype=np.int32), costs)
        r = np.maximum(norms, 1e-3 * self.scale)
        for _ in range(_ROUNDS):
            for j in range(count):
                slope, legendre = (
                    float(f(np.asarray(r[j]))) for f in (self.term.slope, self.term.legendre)
                )
                columns = np.array([2 * j, 2 * j + 1], np.int32)
                values = np.array([legendre / (scale * free_slope), 1.0])
                highs.addRow(slope / free_slope, highspy.kHighsInf, 2, columns, values)
            highs.run()
            solution = np.array(highs.getSolution().col_value[: 2 * count]).reshape(-1, 2)
            value = highs.getInfo().objective_function_value
            y, t = np.maximum(solution[:, 0] / scale, 1e-12 / scale), solution[:, 1] * free_slope
            # y = 0 is as far as the cuts so far can say: one further out may move it
            r, far = np.minimum(1 / y, 2 * r), 2 * y * r < 1
            true = np.array([a * self._phi(b) for a, b in zip(y, r, strict=True)])
            if not far.any() and (norms * (true - t)).sum() / (unit * free_slope) <= 1e-9 * value:
                break
        return value * unit * free_slope

    def gradient(self) -> Check:
        """∇(h − δ‖w‖²) against central differences, away from the kinks."""
        term = self.term

        def error(w: FloatArray) -> float:
            small = 1e-6 * np.abs(w).max()
            moves = small * np.eye(w.size).reshape(-1, *w.shape)
            pieces = {
                tuple(mask.tobytes() for mask in term.regimes(*term.measure(w + x)))
                for x in (*moves, *-moves)
            }
            if len(pieces) > 1 or len({np.abs(w + x).argmax() for x in moves}) > 1:
                return 0.0
            differences = [(self._value(w + x) - self._value(w - x)) / (2 * small) for x in moves]
            gradient = term.gradient(w).ravel()
            size = float(term.free_slope) + np.abs(gradient).max()
            return float(np.abs(gradient - differences).max() / size)

        return self._worst("gradient = finite differences", 1e-5, error, self.points)

    def convexity(self) -> Check:
        """The regularizer is nowhere above a chord between two points."""
        pairs = [
            batch[self.rng.integers(0, len(batch), size=2)]
            for batch in self.batches
            for _ in range(len(batch))
        ]

        def error(pair: FloatArray) -> float:
            left, right = map(self._h, pair)
            return max(0.0, self._h(pair.mean(axis=0)) - (left + right) / 2) / (left + right)

        return self._worst("h convex along chords", 1e-10, error, pairs)

    def prox(self) -> Check:
        """The proximal step against scalar minimisation.

        Nothing is better on the lines through it along the start, along itself and in random
        directions.
        """
        term, delta = self.term, float(self.term.extract)
        free_slope = float(term.free_slope)
        step = 0.3 * (self.scale / free_slope if free_slope > 0 else 1.0)
        step = min(step, 0.4 / delta) if delta else step

        def error(v: FloatArray) -> float:
            x = term.prox(v, step)

            def cost(point: FloatArray) -> float:
                return 0.5 * float(((point - v) ** 2).sum()) + step * self._value(point)

            best = here = cost(x)
            for line in (v, x if x.any() else v, *self.rng.normal(size=(2, *v.shape))):
                reach = 2 * np.abs(v).max() / np.abs(line).max()
                for width in (reach, 1e-3 * reach):
                    found = minimize_scalar(
                        lambda a, line=line: min(cost(x + a * line), 1e30),
                        bounds=(-width, width), method="bounded", options={"xatol": 1e-12},
                    )  # fmt: skip
                    best = min(best, float(found.fun))
            return (here - best) / (abs(here) + 0.5 * float((v * v).sum()))

        return self._worst(
            "prox = scalar minimisation", 1e-9, error, [1.5 * w for w in self.points]
        )

    def fenchel_young(self) -> Check:
        """h(w) + h*(v) ≥ ⟨w, v⟩, with equality at a subgradient v of h at w."""
        hull = self.hull

        def total(w: FloatArray, v: FloatArray) -> float:
            return self._h(w) + float(hull.conjugate(v).sum()) - float((w * v).sum())

        def error(w: FloatArray) -> float:
            # rounding must not push v beyond a finite ψ'(∞), where h* is infinite
            v = hull.gradient(w) * (1 - 1e-12)
            gap = abs(total(w, v))
            for other in v + self.rng.normal(size=(5, *w.shape)) * np.abs(v).max():
                gap = max(gap, -total(w, other))
            return gap / self._h(w)

        return self._worst("Fenchel–Young with the conjugate", 1e-7, error, self.points)
