"""What a penalty costs a training step: ours, and torch-pruning's sparse training.

Every way runs on one network, batch and precision: a training step (forward, backward, SGD), then
what the way adds to it, timed apart, all ways one after the other in every round. The table gives
medians over the rounds: the time added, its share of the step beside it, images/s of both
together, and the share of the ceiling that is reached: bytes that have to be moved (the weights
read for norms, then read and written; or the weights read again and gradients read and written)
over the bandwidth of a copy that is measured in the same rounds. Small networks stay in the cache
and can be above it. Images are random. On a GPU every time is from one synchronisation to the next,
so that launches which would hide behind the step count in full. The step is the eager one:
benchmarks/throughput.py has the share of SPR in our own.

    python benchmarks/regularizer.py [--model resnet56] [--batch 128] [--device auto]
        [--precision float32 bfloat16] [--threads 1 2] [--rounds 30] [--record]
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
import torch_pruning as tp
from environment import environment
from torch import nn
from torch.nn import functional as F

from mipprune.config.schema import BudgetConfig, OptimizerConfig
from mipprune.distributed.device import pick_device
from mipprune.methods.base import Method, Task
from mipprune.methods.registry import create, settings_of
from mipprune.models.registry import build
from mipprune.runs.files import write_json
from mipprune.structure.scope import find_structure

SHAPES = {"resnet50": (3, 224, 224)}  # of an image; else CIFAR's
RATE = 1e-3
COPIED = 64 << 20  # numbers in the array whose copy measures the bandwidth
OURS = {
    "SPR, scales, proximal": ("spr", {}),
    "SPR, scales, gradient": ("spr", {"step": "gradient"}),
    "SPR, scales, proximal, all at the bound": ("spr", {"bound": 1.02}),
    "SPR, all weights, proximal": ("spr", {"weights": "all"}),
    "SPR, all weights, gradient": ("spr", {"weights": "all", "step": "gradient"}),
    "group lasso, proximal": ("lasso", {"lam": 1e-6}),
    "network slimming": ("slimming", {"lam": 1e-6}),
    "growing regularization": ("greg", {"stabilise": 10}),
}


@dataclass
class Way:
    """What is added to a step, how many bytes that has to move, and its times in seconds."""

    act: Callable[[], None]
    bytes: int = 0
    times: list[float] = field(default_factory=list)
    steps: list[float] = field(default_factory=list)


def main() -> None:
    """Measure and print; with --record also store."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", default="resnet56")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--device", default="auto")
    parser.add_argument(
        "--precision", choices=["float32", "bfloat16"], nargs="+", default=["float32"]
    )
    parser.add_argument("--threads", type=int, nargs="+", default=[torch.get_num_threads()])
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--record", action="store_true", help="add to the results of the device")
    arguments = parser.parse_args()
    device = pick_device(arguments.device)
    results = []
    for precision, threads in itertools.product(arguments.precision, arguments.threads):
        torch.set_num_threads(threads)
        measured = measure(arguments, device, precision)
        results.append({"precision": precision, "threads": threads, **measured})
        _print(results[-1], arguments)
    if arguments.record:
        kind = "gpu" if device.type == "cuda" else "cpu"
        setting = {k: getattr(arguments, k) for k in ("model", "batch", "rounds")}
        file = Path(f"benchmarks/results/regularizer-{kind}.json")
        record = json.loads(file.read_text()) if file.exists() else {}
        record[f"{arguments.model}, batch {arguments.batch}"] = {
            "environment": environment(),
            "setting": setting,
            "result": results,
        }
        write_json(file, record)


def measure(
    arguments: argparse.Namespace, device: torch.device, precision: str
) -> dict[str, object]:
    """Medians of all ways on one network: seconds, shares of a step, images/s."""
    torch.manual_seed(0)
    shape = SHAPES.get(arguments.model, (3, 32, 32))
    network = build({"name": arguments.model, "shape": shape, "classes": 10})
    network = network.to(device, memory_format=torch.channels_last)
    images = torch.randn(arguments.batch, *shape, device=device)
    images = images.contiguous(memory_format=torch.channels_last)
    labels = torch.randint(10, (arguments.batch,), device=device)
    optimizer = torch.optim.SGD(network.parameters(), RATE, 0.9)
    half = precision == "bfloat16"

    def step():
        with torch.autocast(device.type, torch.bfloat16, enabled=half):
            output = network(images)
        F.cross_entropy(output.float(), labels).backward()
        optimizer.step()

    ways = {"none": Way(lambda: None)}
    for name, (method, settings) in OURS.items():
        ways[name] = _ours(network, shape, method, settings)
    pruner = tp.pruner.GroupNormPruner(
        network,
        images[:2],
        tp.importance.GroupMagnitudeImportance(p=2),
        reg=1e-6,
        pruning_ratio=0.5,
    )
    pruner.update_regularizer()
    network.train()  # its tracing leaves the network in evaluation mode
    ways["torch-pruning GroupNormPruner.regularize"] = Way(lambda: pruner.regularize(network))
    source = torch.randn(COPIED, device=device)
    target, copies = torch.empty_like(source), []
    for number in range(arguments.rounds + 2):
        for way in ways.values():
            optimizer.zero_grad(set_to_none=True)
            seconds, added = _timed(step, device), _timed(way.act, device)
            if number >= 2:  # warm
                way.steps.append(seconds)
                way.times.append(added)
        copies.append(_timed(lambda: target.copy_(source), device))
    bandwidth = 2 * source.nbytes / statistics.median(copies[2:])
    rows = [_row(name, way, arguments.batch, bandwidth) for name, way in ways.items()]
    return {"bandwidth": bandwidth, "weights": _size(network.parameters()), "rows": rows}


def _ours(network: nn.Module, shape, name: str, settings: dict) -> Way:
    groups, cost = find_structure(network, shape, "channel", ())
    task = Task(
        network,
        groups,
        cost,
        data=None,
        budget=BudgetConfig(macs=0.5),
        optimizer=OptimizerConfig(),
        granularity="channel",
        steps=10**6,
        batch=1,
        trained=True,
        seed=0,
    )
    method: Method = create(settings_of(name)(**settings), task)

    def act():
        method.before_step()
        method.after_backward()
        method.after_step(RATE)

    members = groups.producers()
    if settings.get("weights") != "all" and name == "spr":
        members = groups.scales()
    if name == "slimming":
        members = [m for m in groups.scales() if m.tensor.endswith("weight")]
    if name == "greg":
        members = [m for m in members if task.parameters[m.tensor].dim() > 1]
    moved = sum(task.parameters[m.tensor].nbytes for m in members)
    # norms, a read, then a change in place, two; or of gradients, three, and a read for the bound
    passes = {"slimming": 3, "greg": 3}.get(name, 5 if settings.get("step") == "gradient" else 3)
    return Way(act, passes * moved)


def _size(tensors) -> int:
    return sum(tensor.numel() for tensor in tensors)


def _row(name: str, way: Way, batch: int, bandwidth: float) -> dict[str, float | str]:
    pairs = list(zip(way.times, way.steps, strict=True))
    added = statistics.median(way.times)
    return {
        "way": name,
        "ms": 1e3 * added,
        "step_ms": 1e3 * statistics.median(way.steps),
        "share": statistics.median(t / s for t, s in pairs),
        "images_per_second": batch / statistics.median(t + s for t, s in pairs),
        "bytes": way.bytes,
        "of_ceiling": way.bytes / bandwidth / added,
    }


def _timed(work: Callable[[], None], device: torch.device) -> float:
    _wait(device)
    start = time.perf_counter()
    work()
    _wait(device)
    return time.perf_counter() - start


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _print(result: dict, arguments: argparse.Namespace) -> None:
    print(
        f"{arguments.model}, batch {arguments.batch}, {result['precision']}, "
        f"{result['threads']} threads, {result['bandwidth'] / 1e9:.1f} GB/s"
    )
    for row in result["rows"]:
        print(
            f"{row['way']:42} {row['ms']:8.3f} ms {100 * row['share']:7.3f} % of a step "
            f"{row['images_per_second']:9.1f} images/s {100 * row['of_ceiling']:6.1f} % of ceiling"
        )


if __name__ == "__main__":
    main()
