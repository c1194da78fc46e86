"""Select the hidden units of a small network by trying every choice, many at once.

The choices of a layer are the rows of a binary matrix, so that the activations of all of them are
one matrix product with what enters the layer. Twenty units are a million choices and a fifth of a
second; the MILP of :mod:`formulations.relu.milp` needs seconds, and takes over where choices are
too many.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from formulations.arrays import FloatArray, IntArray
from formulations.errors import InputError
from formulations.relu.network import NetworkSolution, Support
from formulations.relu.problems import Selection
from formulations.solving.deadline import Deadline, attempt
from formulations.solving.result import Progress, check_positive, judge
from formulations.solving.safe_bound import unit

# numbers computed at once: they stay in a processor's cache
_AT_ONCE = 2**18


def solve(
    problem: Selection,
    *,
    gap: float = 1e-4,
    seconds: float | Deadline = math.inf,
    on_progress: Callable[[Progress], None] | None = None,
) -> NetworkSolution:
    """Try every choice.

    Parameters
    ----------
    problem : Selection
    gap : float
        Relative gap that counts as optimal: rounding is all that is left of it at the end.
    seconds : float or Deadline
        Time limit, positive. When it is over, or on Ctrl-C, the best choice so far is returned; its
        bound is 0 then.
    on_progress : callable, optional
        Called with the state of the solve.

    Returns
    -------
    NetworkSolution
        Its bound is below the optimum in exact arithmetic, see :func:`rounding`.

    Raises
    ------
    InputError
        Too many choices; gap or time limit not positive.
    """
    check_positive("gap", gap)
    deadline = Deadline.of(seconds)
    if not problem.countable:
        raise InputError(
            f"{sum(problem.hidden)} hidden units are too many to try every choice: "
            'solver="highs" fits'
        )
    work = _Enumeration(problem, deadline, on_progress or (lambda _: None))
    ended = attempt(work.run)
    network, support = problem.network, work.support
    best = problem.objective(network, support)
    bound = max(0.0, min(best, work.best) - rounding(problem)) if work.whole else 0.0
    closed = best - bound <= gap * abs(best) or best <= 0
    return NetworkSolution(
        objective=best,
        bound=bound,
        status=judge(ended, closed=closed),
        support=support,
        network=network.prune(support),
        activations=tuple(network.prune(support).activations(problem.inputs)),
        loss=best - problem.price_of(support),
        nodes=0,
        seconds=work.deadline.elapsed,
        solver="enumeration",
    )


def rounding(problem: Selection) -> float:
    """Bound how far the computed objective of any choice is from its exact value.

    With u of :func:`formulations.solving.safe_bound.unit`, h ≤ a by interval arithmetic, and an
    error e of the activations that enter a layer,

        error of z ≤ u (|W| (a + e) + |b|) + |W| e,

    and at the end the residual, |f| + |T| + 1 at most, is off by the error of f and by u of itself.
    """
    network, count = problem.network, sum(problem.hidden) + problem.targets.size
    bounds = problem.interval_bounds()
    reach, error = np.abs(problem.inputs), np.zeros_like(problem.inputs)
    for layer, (weight, bias) in enumerate(zip(network.weights, network.biases, strict=True)):
        size = (reach + error) @ np.abs(weight).T + np.abs(bias)
        error = unit(weight.shape[1] + 1) * size + error @ np.abs(weight).T
        reach = np.maximum(np.abs(bounds.lower[layer]), np.abs(bounds.upper[layer]))
    residual = reach + error + np.abs(problem.targets) + 1
    lost = problem.criterion.error(residual, error + unit(count) * residual)
    return float(lost.sum()) + unit(count) * problem.price_of(network.everything)


class _Enumeration:
    """The best of the choices tried so far."""

    def __init__(
        self, problem: Selection, deadline: Deadline, on_progress: Callable[[Progress], None]
    ) -> None:
        self.problem, self.deadline, self.on_progress = problem, deadline, on_progress
        self.support = problem.nothing()[1]
        self.best = problem.objective(problem.network, self.support)
        self.whole = False

    def run(self) -> None:
        """Try all choices.

        Raises
        ------
        Stopped
            At the end of the time.
        """
        network = self.problem.network
        if network.hidden:
            first = self.problem.inputs @ network.weights[0].T + network.biases[0]
            self._descend(0, first[None], np.zeros(1), np.zeros((1, 0), int))
        self.whole = True

    def _descend(self, layer: int, before: FloatArray, paid: FloatArray, rows: IntArray) -> None:
        """Try all choices of a layer and those behind it.

        Parameters
        ----------
        layer : int
        before : (P, n, n_l) array
            Its pre-activations under P choices of the layers before it.
        paid : (P,) array
            The prices of these choices.
        rows : (P, layer) array
            Which choice it is of every layer before, its units the bits of a number.
        """
        problem, useful = self.problem, self.problem.useful[layer]
        choices = 2 ** int(useful.sum())
        weight = problem.network.weights[layer + 1][:, useful]
        bias = problem.network.biases[layer + 1]
        samples, width = before.shape[1], len(bias)
        some = min(choices, max(1, _AT_ONCE // (samples * width)))
        group = max(1, _AT_ONCE // (samples * width * some))
        for i in range(0, len(before), group):
            h = np.maximum(0, before[i : i + group, :, useful])
            for j in range(0, choices, some):
                self.deadline.check()
                at = np.arange(j, min(j + some, choices))
                kept = _bits(at, weight.shape[1])
                matrix = (kept[:, None, :] * weight).reshape(len(kept) * width, weight.shape[1])
                shape = len(h), samples, len(kept), width
                z = (h.reshape(len(h) * samples, h.shape[2]) @ matrix.T).reshape(shape) + bias
                price = paid[i : i + group, None] + kept @ problem.prices[layer][useful]
                if layer + 2 == len(problem.network.weights):
                    self._look(z, price, rows[i : i + group], j)
                    continue
                deeper = np.repeat(rows[i : i + group], len(kept), axis=0)
                deeper = np.column_stack([deeper, np.tile(at, len(h))])
                z = z.transpose(0, 2, 1, 3).reshape(-1, samples, width)
                self._descend(layer + 1, z, price.ravel(), deeper)

    def _look(self, outputs: FloatArray, price: FloatArray, rows: IntArray, first: int) -> None:
        """Take the best of the choices that lead to outputs (P, n, C, O)."""
        problem = self.problem
        loss = problem.criterion.losses(outputs, problem.targets[:, None, :])
        value = loss.sum(axis=(1, 3)) + price
        at, choice = np.unravel_index(int(value.argmin()), value.shape)
        if value[at, choice] < self.best:
            self.best = float(value[at, choice])
            self.support = self._support((*rows[at], first + int(choice)))
        self.on_progress(Progress(self.best, 0.0, 0, self.deadline.elapsed))

    def _support(self, rows: Sequence[int]) -> Support:
        support = self.problem.nothing()[1]
        for keep, useful, row in zip(support, self.problem.useful, rows, strict=True):
            keep[useful] = _bits(np.array([row]), int(useful.sum()))[0] > 0
        return support


def _bits(numbers: IntArray, count: int) -> FloatArray:
    """The lowest bits of numbers, (numbers, count), 0 or 1."""
    return (numbers[:, None] >> np.arange(count) & 1).astype(float)
