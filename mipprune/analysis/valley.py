"""Whether two networks lie in the same valley of the training loss.

The geometric claim of directional pruning (Chao et al., NeurIPS 2020; Li et al. 2021, arXiv
2107.05328) is that the pruned network lies in the flat valley of the one that SGD finds. Evidence
for two networks A and B of the same shape: the loss along the straight line between them, along a
trained quadratic Bézier curve, and how little of A − B the top eigenvectors of the Hessian at B
hold. The mathematics is in :mod:`mipprune.analysis.landscape`.

Every loss here is the mean cross-entropy of one sample of training images without augmentation.
BatchNorm's running statistics do not belong to the parameters, and between A and B there are none:
they are estimated anew on the sample for every t, for A and B too. With its own statistics an end
would be measured in another way than its neighbours, and the difference would look like a step in
the path; what A and B do with their own is given beside. The curve is trained as A and B were, on
augmented batches with their own statistics. The Hessian is that of B as it was saved.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.func import functional_call
from torch.nn import functional as F
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from formulations.arrays import FloatArray
from formulations.errors import InputError
from mipprune.analysis.landscape import (
    BARRIER,
    Loss,
    barrier,
    bezier,
    hessian_product,
    line,
    shares,
    top_eigenpairs,
    train_curve,
)
from mipprune.config.overrides import as_config
from mipprune.config.valley import ValleyConfig
from mipprune.data.registry import Data, Split, load
from mipprune.distributed.device import pick_device
from mipprune.measures.network import accuracy
from mipprune.models.references.outputs import logits_of
from mipprune.models.registry import describe
from mipprune.runs import checkpoint
from mipprune.runs.layout import DENSE, REGULARIZED
from mipprune.runs.networks import check_fits
from mipprune.structure.removal import recalibrate

Report = Callable[[str], None]


def valley(
    a: str | Path,
    b: str | Path,
    config: ValleyConfig | Mapping[str, Any] | None = None,
    report: Report = lambda text: None,
    **settings: Any,
) -> dict[str, Any]:
    """Line, curve and Hessian between two checkpoints.

    Parameters
    ----------
    a, b : Path
        Checkpoints, or runs: then ``regularized`` (the network before physical removal) where the
        run has one, else ``dense``. The Hessian is taken at b.
    config : ValleyConfig or mapping, optional
    report : callable, optional
        Told in a few words what is being worked on.
    **settings
        In place of those of ``config``: ``valley(a, b, images=256)``.

    Returns
    -------
    dict
        ``line`` and ``curve``: t, loss, accuracy and test_accuracy (%) at each t, and the barrier
        (see :class:`mipprune.analysis.landscape.Barrier`); ``own``: the same measures of A and B
        with their own BatchNorm statistics; ``hessian``: eigenvalues, shares of A − B and of a
        random direction; distance ‖A − B‖, and what was measured on. Plain values, ready for JSON.

    Raises
    ------
    InputError
        If a folder holds no checkpoint, the two are not of the same shape or are equal, the data
        do not fit, or the curve diverges.
    """
    began = time.perf_counter()
    config = as_config(ValleyConfig, config, settings)
    device = pick_device(config.device)
    a, b = (checkpoint.find(Path(folder), REGULARIZED, DENSE) for folder in (a, b))
    (first, network), data = _load(a, b, config, device)
    sample = Split(*data.examples(config.images, config.seed))
    landscape = _Landscape(network, data, sample, config.batch)
    start, end = (parameters_to_vector(n.parameters()).detach() for n in (first, network))
    delta = (start - end).double().cpu().numpy()
    if not delta.any():
        raise InputError(f"{a} and {b} hold the same weights: there is no path between them")
    if config.eigenvectors >= len(delta):
        raise InputError(f"eigenvectors={config.eigenvectors}: there are {len(delta)} parameters")
    own = {name: _measures(n, data, sample) for name, n in (("a", first), ("b", network))}
    # before the scratch network's running statistics are overwritten
    hessian = _curvature(landscape, end, delta, config, report)
    control = _train(landscape, start, end, config, report)
    courses: dict[str, Callable[[float], torch.Tensor]] = {
        "line": partial(line, start, end),
        "curve": partial(bezier, start, end, control),
    }
    paths = {}
    for name, course in courses.items():
        t = [number / (config.points - 1) for number in range(config.points)]
        rows = []
        for number, value in enumerate(t):
            report(f"{name}: point {number + 1} of {config.points}")
            rows.append(landscape.measures(course(value)))
        columns = {key: [row[key] for row in rows] for key in rows[0]}
        found = barrier(t, columns["loss"], data.classes)
        paths[name] = {"t": t, **columns, "barrier": found.asdict()}
    return {
        "a": str(a),
        "b": str(b),
        "data": data.name,
        "images": len(sample),
        "parameters": len(delta),
        "distance": float(np.linalg.norm(delta)),
        **paths,
        "barrier_definition": BARRIER,
        "own": own,
        "hessian": hessian,
        "seconds": time.perf_counter() - began,
    }


class _Landscape:
    """One network's loss as a function of its parameters as one flat vector.

    The network is scratch: its weights and running statistics are overwritten.
    """

    def __init__(self, network: nn.Module, data: Data, sample: Split, batch: int) -> None:
        self.network, self.data, self.sample, self.batch = network, data, sample, batch
        self._shapes = {name: p.shape for name, p in network.named_parameters()}

    def loss(self, images: torch.Tensor, labels: torch.Tensor, share: float = 1.0) -> Loss:
        """``share`` of the mean cross-entropy of a batch, of a vector, in the network's mode."""

        def of(theta: torch.Tensor) -> torch.Tensor:
            parts = theta.split([shape.numel() for shape in self._shapes.values()])
            named = {
                name: part.view(shape)
                for (name, shape), part in zip(self._shapes.items(), parts, strict=True)
            }
            logits = logits_of(functional_call(self.network, named, (images,)))
            return share * F.cross_entropy(logits, labels)

        return of

    def parts(self, dtype: torch.dtype) -> list[Loss]:
        """The sample's loss as summands, one for every batch."""
        images, labels = self.sample.images.to(dtype), self.sample.labels
        return [
            self.loss(x, y, len(y) / len(labels))
            for x, y in zip(images.split(self.batch), labels.split(self.batch), strict=True)
        ]

    def measures(self, theta: torch.Tensor) -> dict[str, float]:
        """Loss and accuracies at a vector, running statistics estimated anew on the sample."""
        vector_to_parameters(theta, self.network.parameters())
        count = max(1, len(self.sample) // self.batch)  # batches of equal size, up to one image
        recalibrate(self.network, self.sample.images.tensor_split(count))
        return _measures(self.network, self.data, self.sample)


@torch.inference_mode()
def _measures(network: nn.Module, data: Data, sample: Split) -> dict[str, float]:
    """Loss and accuracy (%) on the sample, accuracy on all test images; as the network stands."""
    network.eval()
    logits = torch.cat([logits_of(network(images)) for images in sample.images.split(1000)])
    return {
        "loss": float(F.cross_entropy(logits.double(), sample.labels)),
        "accuracy": 100 * float((logits.argmax(1) == sample.labels).double().mean()),
        "test_accuracy": accuracy(network, data),
    }


def _train(
    landscape: _Landscape, a: torch.Tensor, b: torch.Tensor, config: ValleyConfig, report: Report
) -> torch.Tensor:
    """Control point of the curve, trained on augmented batches in training mode."""
    steps = config.epochs * landscape.data.steps(config.batch)
    generator = torch.Generator().manual_seed(config.seed)
    batches = _batches(landscape.data, config)
    landscape.network.train()
    control = train_curve(
        lambda theta: landscape.loss(*next(batches))(theta),
        a,
        b,
        steps=steps,
        lr=config.lr,
        generator=generator,
        report=lambda step: report(f"curve: step {step} of {steps}"),
    )
    if not control.isfinite().all():
        raise InputError(f"the curve diverged: lower its learning rate, lr={config.lr:g}")
    return control


def _batches(data: Data, config: ValleyConfig) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    for epoch in itertools.count():
        yield from data.train_batches(config.batch, config.seed, epoch)


def _curvature(
    landscape: _Landscape, at: torch.Tensor, delta: FloatArray, config: ValleyConfig, report: Report
) -> dict[str, Any]:
    """Top eigenpairs of the sample's loss in eval mode, and what they hold of a displacement."""
    dtype = getattr(torch, config.precision)
    landscape.network.eval().to(dtype)
    product = hessian_product(landscape.parts(dtype), at.to(dtype))
    calls = 0

    def counted(vector: FloatArray) -> FloatArray:
        nonlocal calls
        calls += 1
        report(f"Hessian: product {calls}")
        return product(vector)

    rng = np.random.default_rng(config.seed)
    pairs = top_eigenpairs(counted, len(delta), config.eigenvectors, rng)
    landscape.network.float()
    own = shares(pairs.vectors, delta)
    # a share does not depend on the length, so this is also one of the norm of A − B
    other = shares(pairs.vectors, rng.standard_normal(len(delta)))
    return {
        "eigenvalues": pairs.values.tolist(),
        "shares": own.tolist(),
        "share": float(own.sum()),
        "random_shares": other.tolist(),
        "random_share": float(other.sum()),
        "expected_share": config.eigenvectors / len(delta),
        "residual": pairs.residual,
        "products": calls,
        "precision": config.precision,
    }


def _load(
    a: Path, b: Path, config: ValleyConfig, device: torch.device
) -> tuple[list[nn.Module], Data]:
    """Both networks, found to be of the same shape, and the data that they fit."""
    (first, data_a), (second, data_b) = (checkpoint.load(f, config.model) for f in (a, b))
    _check_same_shape(a, first, b, second)
    if config.data:
        source = config.data.source()
    else:
        if data_a.get("name") != data_b.get("name") or not data_b.get("name"):
            names = [d.get("name") or "none" for d in (data_a, data_b)]
            raise InputError(f"A and B name no common data set ({', '.join(names)}): give data=")
        source = data_b
    data = load(**source, device=device)
    for folder, network in ((a, first), (b, second)):
        check_fits(folder, network, data)
    if config.batch > data.train_size:
        raise InputError(f"batch={config.batch} is more than the {data.train_size} images")
    return [first.to(device), second.to(device)], data


def _check_same_shape(a: Path, first: nn.Module, b: Path, second: nn.Module) -> None:
    one, two = describe(first), describe(second)
    if one["name"] != two["name"]:
        raise InputError(f"{a} is a {one['name']} and {b} a {two['name']}: compare the same model")
    shapes = [{k: tuple(t.shape) for k, t in n.state_dict().items()} for n in (first, second)]
    facts = [{**s, **d.get("widths", {})} for s, d in zip(shapes, (one, two), strict=True)]
    differing = [k for k in facts[0] | facts[1] if facts[0].get(k) != facts[1].get(k)]
    if differing:
        name = differing[0]
        raise InputError(
            f"{a} and {b} differ in {len(differing)} tensors or widths, first {name}: "
            f"{facts[0].get(name, 'none')} and {facts[1].get(name, 'none')}; a pruned network is "
            "compared before physical removal (a run's regularized/)"
        )
