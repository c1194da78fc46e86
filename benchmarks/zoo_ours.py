"""A network of the zoo made smaller by this package, through its public functions."""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import torch
from torch import nn
from zoo_measure import Row, about, difference, export_difference, macs, one_line, outputs, to
from zoo_modules import Inputs
from zoo_networks import Entry, inputs, make

from formulations.errors import InputError
from mipprune import find_groups, keep_within, mask_groups, prune_groups
from mipprune.structure.groups import Groups

BUDGET = 0.5
# of the MACs, tried in turn where the budget is out of reach
_MORE = (0.6, 0.7, 0.8, 0.9, 0.95)


def norms(network: nn.Module, groups: Groups) -> np.ndarray:
    """(groups,) L2 norms of the weights that make each group's channels."""
    squares = np.zeros(groups.count)
    tensors = network.state_dict()
    for member in groups.members:
        if member.role != "producer":
            continue
        weights = tensors[member.tensor].double().square()
        each = weights.movedim(member.axis, 0).flatten(1).sum(1) if weights.dim() > 1 else weights
        inside = member.group >= 0
        np.add.at(squares, member.group[inside], each.numpy()[inside])
    return np.sqrt(squares)


def run(entry: Entry, say: Callable[[Row], None], *, export: bool, one_shot: bool) -> None:
    """Find groups, keep half of the MACs, remove, compare, export; say what is known after each.

    What goes wrong is in the row: ``reason``, and ``step``, the function that it came from.
    """
    network, example, fresh = make(entry), inputs(entry, 1), inputs(entry, 2)
    row = about(network, example, fresh)
    say(row)
    step = "find_groups"
    try:
        groups = find_groups(network, example)
        row["groups"] = groups.count
        say(row)
        step = "keep_within"
        kept = _kept(network, groups, row)
        row["groups_kept"] = int(kept.sum())
        step = "prune_groups"
        dense = outputs(network, fresh)
        smaller = prune_groups(network, groups, kept)
        row["unchanged"] = difference(outputs(network, fresh), dense) == 0
        say(row)
        step = "mask_groups"
        row |= _compared(network, smaller, groups, kept, fresh)
        step = "the smaller network"
        row["share"] = macs(smaller, example) / row["macs"]
        say(row)
    except Exception as error:  # whatever the network or the package raises is the row's result
        row |= failure(step, error)
        say(row)
        return
    if export:
        row |= _exported(network, smaller, fresh)
        say(row)
    if one_shot:
        row["one_shot"] = _one_shot(network, example)
        say(row)


def failure(step: str, error: Exception) -> Row:
    """What a row says of an error; those that the package means to raise are refusals."""
    if isinstance(error, InputError):
        return {"step": step, "refused": True, "reason": " ".join(str(error).split())[:300]}
    return {"step": step, "refused": False, "reason": one_line(error)}


def _kept(network: nn.Module, groups: Groups, row: Row) -> np.ndarray:
    """Groups within the budget, or within the least of the others that is in reach."""
    scores = norms(network, groups)
    for budget in (BUDGET, *_MORE):
        try:
            kept = keep_within(network, groups, scores, macs=budget)
        except InputError as error:
            if budget == _MORE[-1]:
                raise
            row.setdefault("budget_reason", " ".join(str(error).split())[:300])
        else:
            row["budget"] = budget
            return kept
    raise AssertionError


def _compared(
    network: nn.Module, smaller: nn.Module, groups: Groups, kept: np.ndarray, fresh: Inputs
) -> Row:
    """Differences of the smaller network from the masked one, and of that from the dense one."""
    masked = copy.deepcopy(network)
    mask_groups(masked, groups, kept)
    expected = outputs(masked, fresh)
    found = {
        "difference": difference(outputs(smaller, fresh), expected),
        # masks that change nothing would prove nothing
        "effect": difference(expected, outputs(network, fresh)),
    }
    double = to(fresh, torch.float64)
    try:
        wide = [copy.deepcopy(each).double() for each in (smaller, masked)]
        found["difference64"] = difference(*(outputs(each, double) for each in wide))
    except Exception as error:  # networks that fix their own precision
        found["difference64"], found["reason64"] = None, one_line(error)
    return found


def _exported(network: nn.Module, smaller: nn.Module, fresh: Inputs) -> Row:
    try:
        return {"export_difference": export_difference(smaller, fresh)}
    except Exception as error:  # of any of three packages
        found = {"export_reason": one_line(error)}
    try:
        found["export_dense"] = export_difference(network, fresh)
    except Exception:
        found["export_dense"] = None
    return found


def _one_shot(network: nn.Module, example: Inputs) -> Row:
    """Whether ``prune`` with its refit runs, on as many images as there are."""
    from mipprune import prune

    if not torch.is_tensor(example):
        return {"ran": False, "reason": "not images alone"}
    given = torch.randn(16, *example.shape[1:], generator=torch.Generator().manual_seed(3))
    try:
        result = prune(network, given, budget={"macs": BUDGET}, trials=4, positions=16, nodes=0,
                       parallel="threads", jobs=1)  # fmt: skip
        outputs(result.network, example)
    except Exception as error:
        return {"ran": False, **failure("prune", error)}
    return {"ran": True}
