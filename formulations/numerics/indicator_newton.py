"""Node relaxations by Newton's method in the indicators, many nodes at once.

For φ = ½⟨W_j, Δ_j W_j⟩ without bounds, the inner minimum over the weights is a linear solve,

    f(y) = min_W ½⟨W, K(y) W⟩ − ⟨B, W⟩ + c·y,     K(y) = H + blockdiag(Δ_j·(1/y_j − 1)),

H the whole quadratic. With W = K(y)⁻¹B and t_j = ½⟨W_j, Δ_j W_j⟩ the derivatives are

    ∂f/∂y_j = c_j − t_j/y_j²,
    ∂²f/∂y_i∂y_j = 2t_j/y_j³·[i = j] − ⟨Δ_i W_i, (K⁻¹)_ij Δ_j W_j⟩ / (y_i y_j)²,

so that a projected Newton method in the few indicators replaces a first-order method in the many
weights: it converges in a handful of steps however singular H − Δ is. Written against the array
API standard with a leading axis of nodes: NumPy on a CPU, torch on a GPU.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from array_api_compat import array_namespace

Array = Any  # an array of any library that follows the array API standard

_LEAST = 1e-7  # indicators stop short of 0, where 1/y ends; the dual bound does not care
_ARMIJO = 1e-4
_SHORTEST = 1e-5  # step lengths at which rounding is all that is left
_FACTOR = 10.0  # of an indicator, in a step
_USEFUL = 1e-2  # of the descent that single indicators promise
_STEPS, _ROUNDS = 40, 12


@dataclass(frozen=True, eq=False)
class PerspectiveLayer:
    """A layer's loss and terms in N relaxations of equal size.

    Parameters
    ----------
    hessian : (N, D, D) array
        H. Rows and columns of removed groups are zero.
    cross : (N, D, O) array
        B, zero in the rows of removed groups.
    delta : (N, J, b, b) array
        Δ ⪰ 0 with H − Δ ⪰ 0 on the groups that are there; the identity for removed groups.
    """

    hessian: Array
    cross: Array
    delta: Array

    def derivatives(self, y: Array) -> tuple[Array, Array, Array, Array]:
        """F without the prices, (N,), its gradient and Hessian, and the weights at y (N, J)."""
        xp = array_namespace(y)
        nodes, groups, block = self.delta.shape[:3]
        rows = self.hessian.shape[1]
        system = _add_blocks(self.hessian, self.delta * (1 / y - 1)[:, :, None, None])
        inverse = xp.linalg.inv(_with_unit_rows(system))
        weights = inverse @ self.cross
        value = -0.5 * xp.sum(self.cross * weights, axis=(1, 2))
        parts = xp.reshape(weights, (nodes, groups, block, -1))
        pushed = self.delta @ parts
        energy = 0.5 * xp.sum(parts * pushed, axis=(2, 3))
        flat = xp.reshape(pushed, (nodes, rows, -1))
        product = inverse * (flat @ xp.matrix_transpose(flat))
        product = xp.reshape(product, (nodes, groups, block, groups, block))
        square = y[:, :, None] ** 2 * y[:, None, :] ** 2
        curvature = -xp.sum(product, axis=(2, 4)) / square
        eye = xp.eye(groups, dtype=y.dtype, device=y.device)
        curvature = curvature + (2 * energy / y**3)[:, :, None] * eye
        return value, -energy / y**2, curvature, weights


@dataclass(frozen=True, eq=False)
class PerspectiveRelaxation:
    """N relaxations of equal size.

    Parameters
    ----------
    layers : sequence of PerspectiveLayer
        Layers with the same groups.
    price : (N, J) array
        c, 0 for the groups whose indicator is fixed.
    low, high : (N, J) arrays
        Bounds of y: 1 and 1 for groups that are kept or removed.
    pause : callable
        Called before every step; what it raises ends the work.
    """

    layers: Sequence[PerspectiveLayer]
    price: Array
    low: Array
    high: Array
    pause: Callable[[], None] = lambda: None

    def solve(self, y: Array, tolerance: float) -> tuple[Array, list[Array]]:
        """Minimise over y within its bounds, from y (N, J).

        Parameters
        ----------
        y : (N, J) array
        tolerance : float
            Stops when no node's value falls by more in a step, relative.

        Returns
        -------
        ((N, J) array, list of (N, D, O) arrays)
            The indicators, and the weights of every layer at them.
        """
        xp = array_namespace(y)
        y = self._clip(y)
        value, gradient, curvature, *weights = self._derivatives(y)
        for _ in range(_STEPS):
            self.pause()
            direction = self._direction(y, gradient, curvature)
            fall = xp.sum(gradient * direction, axis=1)
            length, done = xp.ones_like(value), ~(fall < 0)
            ahead = (value, gradient, curvature, *weights)
            after = y
            while not bool(xp.all(done)):
                trial = y + length[:, None] * direction
                new = self._derivatives(trial)
                fresh = (new[0] <= value + _ARMIJO * length * fall) & ~done
                after = xp.where(fresh[:, None], trial, after)
                ahead = _choose(xp, fresh, new, ahead)
                done = done | fresh | (length < _SHORTEST)
                length = xp.where(done, length, length / 4)
            gain = value - ahead[0]
            y = after
            value, gradient, curvature, *weights = ahead
            if bool(xp.all(gain <= tolerance * xp.abs(value))):
                break
        return y, weights

    def _least(self, y: Array) -> Array:
        xp = array_namespace(y)
        return xp.maximum(self.low, _LEAST + 0 * y)

    def _clip(self, y: Array) -> Array:
        xp = array_namespace(y)
        return xp.minimum(xp.maximum(y, self._least(y)), self.high)

    def _direction(self, y: Array, gradient: Array, curvature: Array) -> Array:
        """Newton's step within the bounds.

        What it would carry outside is held there, and the rest is solved again. No indicator
        changes by more than a factor at once, for 1/y bends too much.
        """
        xp = array_namespace(y)
        eye = xp.eye(y.shape[1], dtype=y.dtype, device=y.device)
        lowest = xp.maximum(self._least(y), y / _FACTOR) - y
        highest = xp.minimum(self.high, _FACTOR * y) - y
        move = 0 * y
        held = (self.low >= self.high) | ((highest <= 0) & (gradient < 0))
        held = held | ((y <= self._least(y)) & (gradient > 0))
        scale = xp.max(xp.abs(xp.sum(curvature * eye, axis=2)), axis=1)[:, None]
        scale = xp.where(scale > 0, scale, 1 + 0 * scale)  # nothing to move
        for _ in range(_ROUNDS):
            free = xp.where(held, 0 * y, 0 * y + 1)
            reduced = curvature * free[:, :, None] * free[:, None, :]
            reduced = reduced + ((1e-12 * scale) + (1 - free) * scale)[:, :, None] * eye
            pull = gradient + (curvature @ move[:, :, None])[:, :, 0]
            step = -xp.linalg.solve(reduced, (pull * free)[:, :, None])[:, :, 0]
            ahead = move + step
            beyond = ((ahead < lowest) | (ahead > highest)) & ~held
            if not bool(xp.any(beyond)):
                break
            stopped = xp.minimum(xp.maximum(ahead, lowest), highest)
            move = xp.where(beyond, stopped, move)
            held = held | beyond
        ahead = xp.where(held, move, xp.minimum(xp.maximum(ahead, lowest), highest))
        # holding is a guess: where it leaves no descent, each indicator goes its own way
        diagonal = xp.sum(curvature * eye, axis=2)
        alone = -gradient / xp.where(diagonal > 0, diagonal, diagonal + scale)
        alone = xp.minimum(xp.maximum(alone, lowest), highest)
        own = xp.sum(gradient * alone, axis=1)
        useless = xp.sum(gradient * ahead, axis=1) > _USEFUL * own
        return xp.where(useless[:, None], alone, ahead)

    def _derivatives(self, y: Array) -> tuple[Array, ...]:
        """f, its gradient and Hessian, and the weights of every layer at y."""
        xp = array_namespace(y)
        value, gradient, curvature, weights = xp.sum(self.price * y, axis=1), self.price, 0.0, []
        for layer in self.layers:
            own = layer.derivatives(y)
            value, gradient, curvature = value + own[0], gradient + own[1], curvature + own[2]
            weights.append(own[3])
        return value, gradient, curvature, *weights


def _with_unit_rows(system: Array) -> Array:
    """Removed groups get an identity block, so that the system can be inverted."""
    xp = array_namespace(system)
    eye = xp.eye(system.shape[1], dtype=system.dtype, device=system.device)
    diagonal = xp.sum(system * eye, axis=2)
    return system + xp.where(diagonal == 0, 1.0 + diagonal, 0 * diagonal)[:, :, None] * eye


def _choose(
    xp: Any, chosen: Array, first: tuple[Array, ...], second: tuple[Array, ...]
) -> tuple[Array, ...]:
    return tuple(
        xp.where(xp.reshape(chosen, (-1,) + (1,) * (one.ndim - 1)), one, two)
        for one, two in zip(first, second, strict=True)
    )


def _add_blocks(matrix: Array, blocks: Array) -> Array:
    """(N, D, D) with (N, J, b, b) added on its diagonal blocks."""
    xp = array_namespace(matrix)
    nodes, groups, block = blocks.shape[:3]
    eye = xp.eye(groups, dtype=matrix.dtype, device=matrix.device)
    spread = blocks[:, :, :, None, :] * eye[None, :, None, :, None]
    return matrix + xp.reshape(spread, (nodes, groups * block, groups * block))
