"""The best groups of a given number: backward elimination, local search, and a proof.

For φ = a‖w‖² the objective of a support S is a Schur complement of the Hessian H = G + 2a. Without
group j it rises by exactly ½⟨W_j, ((H_SS⁻¹)_jj)⁻¹ W_j⟩, W the best weights on S (the formula of
Optimal Brain Surgeon, Hassibi & Stork 1993, for a group): eliminating one group after another, with
a rank-b update of inverse and weights each time, traces the error over all numbers of groups.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from formulations import branch_and_bound
from formulations.blockwise import diagonal_blocks
from formulations.catalogue import square
from formulations.errors import InputError
from formulations.incumbents import Incumbents
from formulations.layer import LayerProblem

# rows up to which the best Δ is worth its time, and from which no tree is grown
_SMALL, _LARGE = 300, 1500
# a price that is none, as a share of c₀: a term's must be positive
_FREE = 1e-12
# prices, of the least at which fewer groups would do: the limit on their number shall bind
_SHARES_OF_SLOPE = (0.5, 0.1, 0.01)


@dataclass(frozen=True, eq=False)
class Path:
    """Backward elimination: groups in the order of their removal, and what it costs.

    Attributes
    ----------
    order : (J,) int array
        First removed first.
    errors : (J + 1, O) array
        By the number of groups kept, how far loss and shrinkage of every output have risen above
        those of keeping all.
    """

    order: np.ndarray
    errors: np.ndarray

    def support(self, kept: int) -> np.ndarray:
        """The last groups left, (J,) bool."""
        mask = np.zeros(len(self.order), bool)
        mask[self.order[len(self.order) - kept :]] = True
        return mask


def eliminate(problem: LayerProblem) -> Path:
    """Remove the group that costs least, until none is left.

    Raises
    ------
    InputError
        If φ is not a‖w‖², or the problem has bounds or nested indicators.
    """
    if not problem.plain:
        raise InputError("elimination is for φ = a‖w‖² without bounds or nested indicators")
    block, groups = problem.block, problem.groups
    inverse = np.linalg.inv(problem.hessian)
    weights = inverse @ problem.cross
    left, order = np.arange(groups), []
    errors = np.zeros((groups + 1, problem.outputs))
    for kept in range(groups, 0, -1):
        blocks = np.linalg.inv(diagonal_blocks(inverse, block))
        parts = weights.reshape(kept, block, -1)
        rises = 0.5 * ((blocks @ parts) * parts).sum(axis=1)
        worst = int(rises.sum(axis=1).argmin())
        errors[kept - 1] = errors[kept] + rises[worst]
        own = slice(worst * block, (worst + 1) * block)
        rest = np.r_[0 : own.start, own.stop : kept * block]
        pivot = inverse[rest, own] @ blocks[worst]
        weights = weights[rest] - pivot @ weights[own]
        inverse = inverse[np.ix_(rest, rest)] - pivot @ inverse[own][:, rest]
        order.append(int(left[worst]))
        left = np.delete(left, worst)
    return Path(np.array(order), errors)


@dataclass(frozen=True, eq=False)
class Choice:
    """A choice of so many groups, what it reaches, and what no choice of as many can beat.

    Attributes
    ----------
    support : (J,) bool array
    objective, bound : float
        Without prices: loss and shrinkage.
    nodes : int
        Of the branch and bound.
    seconds : float
    """

    support: np.ndarray
    objective: float
    bound: float
    nodes: int = 0
    seconds: float = 0.0

    @property
    def gap(self) -> float:
        """(objective − bound) / objective, never negative."""
        return max(0.0, self.objective - self.bound) / max(self.objective, 1e-300)


def objective(problem: LayerProblem, support: np.ndarray) -> float:
    """Loss and shrinkage of a (J,) support, refitted, without prices."""
    weights = problem.refit(support)
    return problem.loss(weights) + float(problem.term.shrinkage(problem.by_group(weights)).sum())


def replace_price(problem: LayerProblem, price: float) -> LayerProblem:
    """The same problem with another price, of φ = a‖w‖²; its data are not checked again."""
    term = square(problem.term.ridge, price)
    return problem.transformed(problem.gram, problem.cross, term)


def improve(problem: LayerProblem, support: np.ndarray) -> np.ndarray:
    """Swap groups until no swap of those tried lowers the objective; (J,) bool."""
    free = replace_price(problem, _FREE * problem.constant)
    incumbents = Incumbents(free, int(support.sum()), lambda: None)
    incumbents.begin(support)
    incumbents.search()
    return incumbents.support.copy()


def choose(
    problem: LayerProblem,
    kept: int,
    path: Path | None = None,
    start: np.ndarray | None = None,
    *,
    tolerance: float = 0.01,
    nodes: int = 16,
    time_limit: float = float("inf"),
) -> Choice:
    """The best ``kept`` groups, and a proof of how good they are.

    Parameters
    ----------
    problem : LayerProblem
        With φ = a‖w‖². Its prices are left aside.
    kept : int
        Number of groups; having fewer never pays.
    path : Path, optional
        Of :func:`eliminate`, if it has been called before.
    start : (J,) bool array, optional
        Another choice to start from, if it is better than the path's.
    tolerance : float
        Relative gap at which to stop.
    nodes : int
        Most open nodes of the branch and bound; 0 for none. Without a time limit the result
        depends on nothing else.
    time_limit : float
        Seconds of the branch and bound.

    Notes
    -----
    The tree is that of min loss + c·(number kept), up to ``kept`` groups: a bound on it, less
    c·``kept``, bounds every choice of that size, whatever c is. With half the price at which fewer
    groups would do, by the path, the limit binds and its multiplier is quickly found; where it does
    not, a lower price is tried.
    """
    path = path or eliminate(problem)
    if not 0 <= kept <= problem.groups:
        raise InputError(f"{kept} groups cannot be kept of {problem.groups}")
    support = path.support(kept)
    if start is not None and objective(problem, start) < objective(problem, support):
        support = start.copy()
    if kept in (0, problem.groups):
        value = objective(problem, support)
        return Choice(support, value, value)
    everything = objective(problem, np.ones(problem.groups, bool))
    large = len(problem.gram) > _LARGE
    support = support if large else improve(problem, support)
    if large or nodes == 0:
        # more groups are never worse: all that is proved without a tree
        return Choice(support, objective(problem, support), everything)
    return _search(problem, support, path, everything, tolerance, nodes, time_limit)


def _search(problem, support, path, everything, tolerance, nodes, time_limit) -> Choice:
    kept = int(support.sum())
    totals = path.errors.sum(axis=1)
    slope = float(((totals[:kept] - totals[kept]) / np.arange(kept, 0, -1)).min())
    value, bound, spent, seconds = objective(problem, support), everything, 0, 0.0
    for share in _SHARES_OF_SLOPE:
        price = max(share * slope, _FREE * problem.constant)
        priced = replace_price(problem, price)
        solution = branch_and_bound.solve(
            priced,
            extraction="ascent" if len(problem.gram) <= _SMALL else "schur",
            cardinality=kept,
            tolerance=max(1e-6, tolerance * value / (value + price * kept)),
            node_limit=nodes,
            time_limit=time_limit,
            start=priced.refit(support),
        )
        bound = max(bound, solution.bound - price * kept)
        spent, seconds = spent + solution.nodes, seconds + solution.seconds
        best, enough = _filled(solution.support, kept, path), solution.kept == kept
        if (found := objective(problem, best)) < value:
            value, support = found, best
        if enough or value - bound <= tolerance * value:
            break
    return Choice(support, value, min(bound, value), spent, seconds)


def _filled(support: np.ndarray, kept: int, path: Path) -> np.ndarray:
    """A support with further groups, the last ones left on the path, until it has ``kept``."""
    spare = [group for group in path.order[::-1] if not support[group]]
    support = support.copy()
    support[spare[: kept - int(support.sum())]] = True
    return support
