"""Incumbents: the best support that a search has met, whatever the problem.

What a support is worth, how a new best one is improved and what is proved of one is the problem's:
:class:`Incumbents` is the store, made for a problem by a class that says so.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np

from formulations.arrays import BoolArray


class Incumbents(ABC):
    """The best support met so far; at first the empty one.

    Parameters
    ----------
    groups : int
        J, of which a support is a choice.
    most : int
        Largest number of groups kept.
    objective : float
        Of keeping none.

    Attributes
    ----------
    support : (J,) bool array
    objective : float
        Of the support.
    """

    def __init__(self, groups: int, most: int, objective: float) -> None:
        self.most = most
        self.support: BoolArray = np.zeros(groups, bool)
        self.objective = objective
        self._seen = {self.support.tobytes()}

    @abstractmethod
    def value(self, support: BoolArray) -> float:
        """The objective of a support (J,), refitted."""

    @abstractmethod
    def lower_bound(self, support: BoolArray) -> float:
        """Lower bound on the objective of a support, whatever the precision of its refit."""

    def improve(self) -> None:  # noqa: B027 — not every search has one
        """Local search from the best support, after a new one was taken."""

    def offer(self, support: BoolArray) -> None:
        """Refit a support; if it is the best yet, take it and improve it."""
        if support.sum() > self.most or support.tobytes() in self._seen:
            return
        self._seen.add(support.tobytes())
        value = self.value(support)
        if value < self.objective:
            self.take(support, value)
            self.improve()

    def take(self, support: BoolArray, value: float) -> None:
        """Make this support, of this objective, the incumbent."""
        self._seen.add(support.tobytes())
        self.support, self.objective = support, value
