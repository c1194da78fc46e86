"""What the layers of a network see: second moments of their inputs, calibrated once, in files.

A layer may read several classes of groups, and a class may have readers all over the network,
while a walk goes through it once, forward. So every layer's moments are written as they are found,
and layer problems are made of them when they are asked for: memory holds those of one site's
readers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn

from formulations.layer.stack import Stack
from mipprune.oneshot.calibration import Layer, Moments, Order, Walk, pick_positions, rows_of
from mipprune.oneshot.layer_problems import Site, layer_problem, reader_weights, whole_weights
from mipprune.oneshot.refit import has_intercept


@torch.no_grad()
def calibrate(walk: Walk, layer: Layer, positions: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """G (D, D), central where the layer has an intercept, and the mean (D,) of its inputs."""
    walk.enter(layer.unit)
    network = walk.networks[0]
    module = network.get_submodule(layer.name)
    generator = torch.Generator().manual_seed(seed)
    moments = None
    for inputs, outputs, _ in walk.observe(layer):
        index = pick_positions(module, outputs, positions, generator)
        for x, y in rows_of(module, inputs[0], outputs, index):
            moments = moments or Moments(x.shape[1], 0, x.device)
            moments.add(x, y[:, :0])
    gram, _, _, mean, _ = moments.means(has_intercept(network, layer))
    return gram, mean


class InputMoments:
    """Moments of the inputs of a network's layers, and the layer problems that they make.

    Parameters
    ----------
    network : nn.Module
        In evaluation mode.
    order : Order
    images : sequence of tensors
        Batches, on the CPU.
    folder : Path
        For the moments, of which those of earlier calls are taken, and for activations.
    positions : int
        Most positions of an output map that count, drawn anew for every batch.
    seed : int
        Of the positions.
    report : callable
        Told what is being done.
    """

    def __init__(
        self,
        network: nn.Module,
        order: Order,
        images: Sequence[torch.Tensor],
        folder: Path,
        *,
        positions: int,
        seed: int,
        report: Callable[[str], None] = lambda line: None,
    ):
        self.network, self.order, self.images, self.folder = network, order, images, folder
        self.positions, self.seed, self.report = positions, seed, report

    def stacks(self, sites: Sequence[Site]) -> Iterator[Stack]:
        """The layer problems of sites that are in order (``in_order``), one by one."""
        wanted = {reader.layer for site in sites for reader in site.readers}
        scratch = self.folder / "activations"
        scratch.mkdir(parents=True, exist_ok=True)
        walk = Walk((self.network,), self.order, self.images, scratch)
        waiting = list(sites)
        for layer in self.order.layers:
            if layer in wanted and not self._file(layer).exists():
                self.report(f"{layer.name}: calibration")
                self._write(layer, *calibrate(walk, layer, self.positions, self.seed))
            while waiting and waiting[0].readers[-1].layer == layer:
                yield self.stack(waiting.pop(0))

    def stack(self, site: Site) -> Stack:
        """The layer problems of a site whose readers have been calibrated."""
        return Stack(
            tuple(
                layer_problem(self._read(r.layer)[0], reader_weights(self.network, r.layer), r)
                for r in site.readers
            )
        )

    def refitted(
        self, site: Site, stack: Stack, support: np.ndarray
    ) -> dict[Layer, tuple[np.ndarray, np.ndarray]]:
        """A site's readers refitted to a support: what :func:`reading_less` takes."""
        found = {}
        for reader, problem in zip(site.readers, stack.problems, strict=True):
            gram, mean = self._read(reader.layer)
            dense = reader_weights(self.network, reader.layer)
            found[reader.layer] = whole_weights(gram, dense, reader, problem.refit(support)), mean
        return found

    def _read(self, layer: Layer) -> tuple[np.ndarray, np.ndarray]:
        with np.load(self._file(layer)) as data:
            return data["gram"], data["mean"]

    def _write(self, layer: Layer, gram: np.ndarray, mean: np.ndarray) -> None:
        temporary = self.folder / "moments.tmp"
        with open(temporary, "wb") as file:
            np.savez(file, gram=gram, mean=mean)
        temporary.replace(self._file(layer))

    def _file(self, layer: Layer) -> Path:
        return self.folder / f"{layer.name}.npz"
