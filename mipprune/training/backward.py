"""Forward and backward pass of a batch: the gradients of the loss, in ``parameter.grad``.

On a GPU a small network is bound by the launching of its kernels, some thousand a step: there the
two passes are captured once as a CUDA graph, which is launched as a whole. What a method and the
optimizer do to the weights stays outside: a few kernels over all parameters together.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import cast

import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from mipprune.distributed.ranks import Ranks
from mipprune.models.references.outputs import auxiliary_of, logits_of

# Passes before a capture, in which libraries choose their algorithms.
_WARM_UP = 3


@dataclass(frozen=True)
class Passes:
    """How the passes are made.

    Attributes
    ----------
    ranks : Ranks
    accumulate : int
        Parts, one after the other, in which a rank works through its share of a batch.
    label_smoothing : float
    precision : {"float32", "bfloat16"}
    compile : bool
        By torch.compile.
    graph : bool
        As a CUDA graph, where there is CUDA and one process.
    """

    ranks: Ranks
    accumulate: int = 1
    label_smoothing: float = 0.0
    precision: str = "float32"
    compile: bool = False
    graph: bool = True

    def of(self, network: nn.Module, before: Callable[[slice], None] | None = None) -> Backward:
        """The passes of a network.

        Parameters
        ----------
        before : callable, optional
            Called before every forward pass with the slice of the whole batch that it sees. It may
            change what the pass computes, which is then neither compiled nor captured.
        """
        if before is None and self._captured(network):
            return Captured(self, network)
        return Backward(self, network, before)

    def _captured(self, network: nn.Module) -> bool:
        on_gpu = next(network.parameters()).device.type == "cuda"
        return self.graph and on_gpu and self.ranks.world == 1


class Backward:
    """Fills the gradients from images and labels, pass by pass.

    Parameters
    ----------
    passes : Passes
    network : nn.Module
        In training mode when it is called.
    before : callable, optional
        As for :meth:`Passes.of`.
    """

    def __init__(
        self, passes: Passes, network: nn.Module, before: Callable[[slice], None] | None = None
    ) -> None:
        self.passes, self._before = passes, before
        self._parameters = list(network.parameters())
        if passes.compile and before is None:
            network = cast(nn.Module, torch.compile(network))
        self._together: DistributedDataParallel | None = None
        if passes.ranks.world > 1:
            device = self._parameters[0].device
            self._together = DistributedDataParallel(
                network, device_ids=[device] if device.type == "cuda" else None
            )
        self._forward = self._together or network

    def __call__(self, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """The gradients of the batch's mean loss; that loss, a scalar tensor, of this rank's part.

        Auxiliary classifiers, where a network puts them out in training, count in it.

        Parameters
        ----------
        images : (N, C, H, W) Tensor
            This rank's part of the batch.
        labels : (N,) int64 Tensor, or (N, classes) of probabilities
        """
        self._clear()
        parts = self.passes.accumulate
        size = len(labels) // parts
        first = self.passes.ranks.rank * len(labels)
        total = torch.zeros((), device=images.device)
        for start in range(0, parts * size, size):
            part = slice(start, start + size)
            if self._before:
                self._before(slice(first + start, first + start + size))
            with self._communicating(start + size == parts * size):
                loss = self._loss(images[part], labels[part]) / parts
                loss.backward()
            total += loss.detach()
        return total

    def _clear(self) -> None:
        for parameter in self._parameters:
            parameter.grad = None

    def _communicating(self, last: bool) -> AbstractContextManager[None]:
        """Gradients go round once, with the last part."""
        return nullcontext() if last or self._together is None else self._together.no_sync()

    def _loss(self, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        half = self.passes.precision == "bfloat16"
        with torch.autocast(images.device.type, torch.bfloat16, enabled=half):
            output = self._forward(images)
        loss = self._cross_entropy(logits_of(output), labels)
        for weight, logits in auxiliary_of(output):
            loss = loss + weight * self._cross_entropy(logits, labels)
        return loss

    def _cross_entropy(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(
            logits.to(self._parameters[0].dtype),
            labels,
            label_smoothing=self.passes.label_smoothing,
        )


class Captured(Backward):
    """The same as one CUDA graph, captured at the first batch of a size."""

    def __init__(self, passes: Passes, network: nn.Module) -> None:
        super().__init__(passes, network)
        self._network = network
        self._graph: torch.cuda.CUDAGraph | None = None

    def __call__(self, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """As :meth:`Backward.__call__`; the loss is overwritten by the next call."""
        graph = self._graph
        if graph is None or labels.shape != self._labels.shape:
            graph = self._capture(images, labels)
        self._images.copy_(images)
        self._labels.copy_(labels)
        graph.replay()
        for parameter, gradient in zip(self._parameters, self._gradients, strict=True):
            parameter.grad = gradient  # what the graph writes to, whoever took it away
        return self._loss_out

    def _clear(self) -> None:
        """The graph's gradients stay where they are, and are set to zero in it."""
        grads = [p.grad for p in self._parameters if p.grad is not None]
        if grads:
            torch._foreach_zero_(grads)

    def _capture(self, images: torch.Tensor, labels: torch.Tensor) -> torch.cuda.CUDAGraph:
        self._images, self._labels = images.clone(), labels.clone()
        # passes in training mode move the BatchNorm statistics, and draw what is dropped out
        buffers = {name: b.clone() for name, b in self._network.named_buffers()}
        random = torch.cuda.get_rng_state(images.device)
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(_WARM_UP):
                super().__call__(self._images, self._labels)
        torch.cuda.current_stream().wait_stream(stream)
        self._graph = graph = torch.cuda.CUDAGraph()
        # other threads go on meanwhile: a DataLoader's pins memory
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            self._loss_out = super().__call__(self._images, self._labels)
        self._gradients = [parameter.grad for parameter in self._parameters]
        with torch.no_grad():
            for name, buffer in self._network.named_buffers():
                buffer.copy_(buffers[name])
        torch.cuda.set_rng_state(random, images.device)
        return graph
