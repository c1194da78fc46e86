"""What ``result.json`` says of a finished run, and what is measured of a network."""

from __future__ import annotations

from typing import NotRequired, TypedDict

LATENCY_BATCH = 64  # images of the forward pass whose latency is measured


class Measures(TypedDict):
    """What a network is worth and what it costs.

    Attributes
    ----------
    accuracy : float or None
        Of the test images, in percent; None where it would mean nothing: of random weights.
    macs, params : int
        Multiply-accumulates of an image, and parameters; of a network with pruned single weights
        those other than zero.
    bytes : int
        Of the file of its tensors.
    latency_ms : float
        Median of a forward pass of ``LATENCY_BATCH`` images, in milliseconds.
    """

    accuracy: float | None
    macs: int
    params: int
    bytes: int
    latency_ms: float


class RunResult(TypedDict):
    """What every run ends with, whatever pruned the network.

    Attributes
    ----------
    dense, pruned : Measures
        Of the network that is compared with, and of that which the run was for.
    accuracy_removed : float
        Percent, after removal, before anything repaired it.
    method : str
        ``none`` where nothing was pruned.
    granularity : {"link", "neuron", "channel", "block"}
    seed : int
    seconds : float
        Of the whole run.
    budget : dict or None
        The share to keep by unit, None without a budget.
    kept : dict
        The share kept, by unit.
    device : str
        What it ran on.
    folder : str
        Of the run.
    layers : dict
        By layer, the prunable groups that it had and those that it kept.
    """

    dense: Measures
    pruned: Measures
    accuracy_removed: float
    method: str
    granularity: str
    seed: int
    seconds: float
    budget: dict[str, float] | None
    kept: dict[str, float]
    device: str
    folder: str
    layers: dict[str, list[int]]


class TrainResult(RunResult):
    """What a training run ends with; beside it stands what the method says of itself.

    Attributes
    ----------
    accuracy_regularized : float
        Percent, just before removal.
    """

    accuracy_regularized: float


class LayerChoice(TypedDict):
    """What a layer problem chose, and what is proved of it.

    Attributes
    ----------
    layer : str
        What the choice is named by.
    readers : list of str
        The layers that read the channels.
    groups, kept : int
        Channels to choose from, and those that stay.
    objective, bound : float
        Error of the layers' outputs as a share of their variance; no choice of this size is below
        the bound.
    gap : float
        Relative, of the two.
    nodes : int
        Of the branch and bound.
    seconds : float
    status : {"tree", "root", "trivial"}
        What the bound comes from: a branch and bound, relaxations alone, or the error of keeping
        every channel. Older results do not say it.
    """

    layer: str
    readers: list[str]
    groups: int
    kept: int
    objective: float
    bound: float
    gap: float
    nodes: int
    seconds: float
    status: NotRequired[str]


class LayerFit(TypedDict):
    """What rewriting a layer's weights did.

    Attributes
    ----------
    layer : str
    ridge : float
        Of the regression, relative.
    before, after : float
        Error of the output as a share of its variance.
    """

    layer: str
    ridge: float
    before: float
    after: float


class PruneRunResult(RunResult):
    """What a pruning without training ends with.

    Attributes
    ----------
    channels : dict
        By layer, the numbers of the channels that stayed.
    choices : list of LayerChoice
        Of the exact method; else empty.
    fits : list of LayerFit
        Empty without a refit.
    """

    channels: dict[str, list[int]]
    choices: list[LayerChoice]
    fits: list[LayerFit]
