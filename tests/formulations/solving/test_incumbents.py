"""The store of incumbents: what it takes, what it skips, what it improves."""

import numpy as np

from formulations.solving.incumbents import Incumbents


class Counted(Incumbents):
    """The value of a support is the number of groups that it is off from the first two."""

    def __init__(self, most):
        super().__init__(4, most, 2.0)
        self.asked, self.improved = [], 0

    def value(self, support):
        self.asked.append(support.tolist())
        return float((support != np.array([True, True, False, False])).sum())

    def lower_bound(self, support):
        return 0.0

    def improve(self):
        self.improved += 1


def support(*groups):
    return np.isin(np.arange(4), groups)


def test_a_better_support_is_taken_and_improved_and_a_worse_one_is_not():
    incumbents = Counted(most=4)
    incumbents.offer(support(0, 2))
    assert incumbents.improved == 0
    incumbents.offer(support(0))
    assert (incumbents.objective, incumbents.improved) == (1.0, 1)
    incumbents.offer(support(0, 1, 2, 3))
    assert incumbents.support.tolist() == support(0).tolist()


def test_none_is_refitted_twice_and_none_beyond_the_limit_at_all():
    incumbents = Counted(most=1)
    for _ in range(2):
        incumbents.offer(support(3))
        incumbents.offer(support())
    incumbents.offer(support(0, 1))
    assert incumbents.asked == [support(3).tolist()]
