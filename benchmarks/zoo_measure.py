"""What is said of a network of the zoo, whoever made it smaller: MACs, differences, exports."""

from __future__ import annotations

import warnings
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree
from torch.utils.flop_counter import FlopCounterMode
from zoo_modules import Inputs
from zoo_networks import call

Row = dict[str, Any]
_COUNTED = (torch.ops.aten.mm, torch.ops.aten.addmm, torch.ops.aten.convolution)


def about(network: nn.Module, example: Inputs, fresh: Inputs) -> Row:
    """What every row says of its network: how large it is, and what other inputs do to it."""
    return {
        "params": sum(parameter.numel() for parameter in network.parameters()),
        "macs": macs(network, example),
        # near zero, differences inside of the network would not be seen
        "signal": difference(outputs(network, fresh), outputs(network, example)),
    }


def outputs(network: nn.Module, given: Inputs) -> list[torch.Tensor]:
    """All tensors that a network says of inputs, without gradients."""
    with torch.no_grad():
        return tensors(call(network, given))


def tensors(said: Any) -> list[torch.Tensor]:
    """All tensors of a nest of tuples, dictionaries and outputs of transformers."""
    return [leaf for leaf in _pytree.tree_leaves(said) if torch.is_tensor(leaf)]


def to(given: Inputs, dtype: torch.dtype) -> Inputs:
    """Inputs with their real numbers in another precision."""
    return _pytree.tree_map(lambda x: x.to(dtype) if x.is_floating_point() else x, given)


def difference(found: list[torch.Tensor], expected: list[torch.Tensor]) -> float:
    """The largest difference of an output, as a share of its largest value."""
    if [x.shape for x in found] != [x.shape for x in expected]:
        return float("inf")
    shares = [0.0]
    for one, other in zip(found, expected, strict=True):
        if other.numel():
            largest = float(other.double().abs().max())
            shares.append(float((one.double() - other.double()).abs().max()) / (largest or 1.0))
    return max(shares, key=lambda share: float("inf") if share != share else share)


def macs(network: nn.Module, given: Inputs) -> int:
    """Multiply-accumulates of convolutions and matrix products with weights, whoever calls them.

    Counted from the operators that run: convolutions, ``mm`` and ``addmm``. Products of two
    activations, as in attention, are batched (``bmm``) and not counted.
    """
    counter = FlopCounterMode(display=False)
    # kernels for whole layers, which are not counted, run without gradients only
    with torch.enable_grad(), torch.backends.mkldnn.flags(enabled=False), counter:
        call(network, given)
    counts = counter.get_flop_counts()["Global"]
    return sum(int(counts.get(operator, 0)) for operator in _COUNTED) // 2


def export_difference(network: nn.Module, given: Inputs) -> float:
    """How far ONNX Runtime's outputs of an exported network are from the network's."""
    import onnxruntime

    expected = outputs(network, given)
    keywords = given if isinstance(given, dict) else None
    positional = () if keywords else given if isinstance(given, tuple) else (given,)
    with TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        file = Path(folder) / "network.onnx"
        torch.onnx.export(network, positional, file, kwargs=keywords, dynamo=True, verbose=False)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 3
        session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
        names = [each.name for each in session.get_inputs()]
        # those that nothing depends on are left out
        if keywords:
            feed = {name: keywords[name].numpy() for name in names}
        else:
            feed = {name: x.numpy() for name, x in zip(names, positional, strict=True)}
        found = [torch.from_numpy(x) for x in session.run(None, feed)]
    return difference(found, expected)


def one_line(error: BaseException) -> str:
    """What an error says first."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
    return text if len(text) <= 200 else f"{text[:197]}…"
