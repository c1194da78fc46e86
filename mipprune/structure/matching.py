"""Which channels of a network a pruned one has kept, found in their weights.

Removal keeps the channels' order, and training after it moves weights only so far: layer by layer,
in the order of the network, the pruned layer's filters are matched to an increasing sequence of the
dense layer's with the least squared distance (dynamic programming, as sequences are aligned), over
the inputs that earlier layers have been found to keep.
"""

from __future__ import annotations

import numpy as np
from scipy.spatial.distance import cdist
from torch import nn

from formulations.arrays import BoolArray, FloatArray, IntArray
from formulations.errors import InputError
from mipprune.structure.groups import Groups


def match(dense: nn.Module, pruned: nn.Module, groups: Groups) -> BoolArray:
    """The groups that a pruned network kept, (groups,) bool.

    Parameters
    ----------
    dense, pruned : nn.Module
        The second was made from the first by removal of groups, and perhaps trained on.
    groups : Groups
        Of the first.

    Raises
    ------
    InputError
        If the second cannot have been made from the first.
    """
    known = np.full(groups.count, -1, np.int8)  # 1 kept, 0 removed, −1 not decided
    before, after = (n.state_dict() for n in (dense, pruned))
    axes = {(m.tensor, m.axis): m.group for m in groups.members}
    for name, group in groups.layers.items():
        weight = f"{name}.weight"
        inside = group >= 0
        if weight not in after:  # its branch has gone
            known[group[inside]] = np.maximum(known[group[inside]], 0)
            continue
        old, new = (state[weight].double().cpu().numpy() for state in (before, after))
        inputs = axes.get((weight, 1))
        if inputs is not None:
            old = old[:, np.append(known, 1)[inputs] != 0]
        if old.shape[1:] != new.shape[1:] or len(new) > len(old):
            raise InputError(f"the pruned network's {name} cannot be a part of the dense one's")
        state = np.append(known, 1)[group]
        picked = _align(old.reshape(len(old), -1), new.reshape(len(new), -1), state)
        known[group[inside]] = picked[inside]
    return known != 0


def _align(old: FloatArray, new: FloatArray, state: IntArray) -> BoolArray:
    """Rows of ``old`` that ``new`` is, in order, at the least squared distance; (rows,) bool.

    Parameters
    ----------
    old, new : (C, D), (k, D) arrays
    state : (C,) array
        1: must be among them, 0: must not, −1: may.
    """
    distance = cdist(old, new, "sqeuclidean")
    count, left = distance.shape
    best = np.full((count + 1, left + 1), np.inf)
    best[0, 0] = 0
    take = np.zeros((count + 1, left + 1), bool)
    for i in range(count):
        skipped = best[i] if state[i] != 1 else np.full(left + 1, np.inf)
        taken = np.full(left + 1, np.inf)
        if state[i] != 0:
            taken[1:] = best[i, :-1] + distance[i]
        take[i + 1] = taken < skipped
        best[i + 1] = np.minimum(taken, skipped)
    if not np.isfinite(best[count, left]):
        raise InputError("the pruned network cannot be a part of the dense one")
    picked, k = np.zeros(count, bool), left
    for i in range(count, 0, -1):
        if take[i, k]:
            picked[i - 1] = True
            k -= 1
    return picked
