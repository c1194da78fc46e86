"""Images per second of a whole training step, data included: ours beside two plain loops.

    ours            data on the device, batched augmentation, channels_last, SPR on the weights;
                    on a GPU one CUDA graph for forward and backward, a fused optimizer
    no penalty      the same without SPR: the difference is the penalty's share of our step, in
                    which launches that hide behind the step cost nothing
    plain           a DataLoader with one image at a time through Pillow transforms, the eager step
    torch-pruning   the plain loop with GroupNormPruner.regularize after every backward pass

Same network, batch and precision; they take turns, some steps each, and the table gives
medians over the rounds with their ratios. "data" is the share of our step that making batches
takes, "of peak" the share of the FLOPs that a large matrix product reaches in the same rounds.

    python benchmarks/throughput.py [--model resnet56] [--batch 128] [--precision float32]
        [--data DIR] [--rounds 8] [--steps 4] [--compile] [--record]

ResNet-18/34/50 take generated images of 224 pixels, the others CIFAR-10 (DIR holds its parquet
files, instead of the Hub).
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch
import torch_pruning as tp
from environment import environment
from PIL import Image
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from mipprune.config.overrides import configure
from mipprune.config.recipes import read_recipe
from mipprune.config.train import Config
from mipprune.data.registry import Memory
from mipprune.data.sources import IMAGENET_MEAN, IMAGENET_STD, Source
from mipprune.distributed.device import pick_device
from mipprune.distributed.ranks import Ranks
from mipprune.measures.network import count
from mipprune.runs.files import write_json
from mipprune.training.loop import Place, train_epoch
from mipprune.training.setup import Setup

LARGE = ("resnet18", "resnet34", "resnet50")
GENERATED = 2048  # images, at least
MATRIX = 4096


class Paused(Exception):
    """Enough steps for this turn."""


class Ours:
    """Our loop, step by step: images and labels that it is given, a method, a network."""

    def __init__(self, setup: Setup, penalty: bool):
        self.setup, self.batch, self.epoch = setup, setup.config.data.batch, 0
        network = setup.network()
        if penalty:
            self.subject = setup.regularized(network, *setup.structure(network), _nothing_to_remove)
        else:
            self.subject = setup.plain(network)

    def seconds(self, steps: int) -> float:
        """Of ``steps`` steps, after two that warm up."""
        moments = []

        def watch(place, subject):
            if len(moments) == 0 and place.step == 2:
                moments.append(_now(self.setup.device))
            if place.step == steps + 2:
                moments.append(_now(self.setup.device))
                raise Paused

        with suppress(Paused):
            train_epoch(
                self.subject,
                self.setup.data,
                self.setup.config.regularize,
                Place("regularize", self.epoch),
                batch=self.batch,
                mixup=0.0,
                seed=0,
                ranks=self.setup.ranks,
                watch=watch,
            )
        self.epoch += 1
        return moments[1] - moments[0]

    def data_seconds(self, steps: int) -> float:
        """Of making as many batches alone."""
        batches = self.setup.data.train_batches(self.batch, 0, self.epoch)
        next(batches)
        start = _now(self.setup.device)
        for _, _ in zip(range(steps), batches, strict=False):
            pass
        return _now(self.setup.device) - start


class Plain:
    """The loop of a tutorial: DataLoader, eager step; perhaps a pruner's regularizer."""

    def __init__(self, setup: Setup, workers: int, regularize: bool):
        self._device, self._half = setup.device, setup.config.precision == "bfloat16"
        self.network = setup.network().to(memory_format=torch.contiguous_format)
        self._optimizer = torch.optim.SGD(self.network.parameters(), 0.01, 0.9, weight_decay=5e-4)
        self._loader = DataLoader(
            Images(setup.data),
            setup.config.data.batch,
            shuffle=True,
            drop_last=True,
            num_workers=workers,
            persistent_workers=workers > 0,
            pin_memory=setup.device.type == "cuda",
        )
        self._batches = self._endless()
        self._pruner = None
        if regularize:
            example = torch.zeros(2, *setup.data.shape, device=setup.device)
            importance = tp.importance.GroupMagnitudeImportance(p=2)
            self._pruner = tp.pruner.GroupNormPruner(
                self.network, example, importance, reg=1e-4, pruning_ratio=0.5
            )
            self._pruner.update_regularizer()
            self.network.train()

    def _endless(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        while True:
            yield from self._loader

    def seconds(self, steps: int) -> float:
        """Of ``steps`` steps, after two that warm up."""
        device = self._device
        for step in range(steps + 2):
            if step == 2:
                start = _now(device)
            images, labels = next(self._batches)
            images = images.to(device, non_blocking=True)
            labels = labels.to(device, non_blocking=True)
            with torch.autocast(device.type, torch.bfloat16, enabled=self._half):
                output = self.network(images)
            loss = F.cross_entropy(output.float(), labels)
            self._optimizer.zero_grad()
            loss.backward()
            if self._pruner:
                self._pruner.regularize(self.network)
            self._optimizer.step()
        return _now(device) - start


class Images(Dataset):
    """One image at a time: padded, cropped, flipped, scaled, normalised."""

    def __init__(self, data: Memory):
        self._images = data.train.images.cpu().permute(0, 2, 3, 1).numpy()
        self._labels = data.train.labels.cpu()
        self._mean, self._std = (torch.tensor(v).view(-1, 1, 1) for v in (data.mean, data.std))
        self._pad = 4

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        image = Image.fromarray(self._images[index])
        width, height = image.size
        x, y = (random.randint(-self._pad, self._pad) for _ in range(2))
        image = image.crop((x, y, x + width, y + height))
        if random.random() < 0.5:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        pixels = torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1).float() / 255
        return (pixels - self._mean) / self._std, self._labels[index]


def main() -> None:
    """Measure and print; with --record also store."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", default="resnet56")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--compile", action="store_true", help="torch.compile of our network")
    parser.add_argument("--data", help="folder of CIFAR-10's parquet files")
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--steps", type=int, default=4, help="steps of a turn, within an epoch")
    parser.add_argument("--workers", type=int, default=2, help="of the plain loop's DataLoader")
    parser.add_argument("--record", action="store_true", help="add to the results of the device")
    given = parser.parse_args()
    result = measure(given)
    _print(result)
    if given.record:
        kind = "gpu" if pick_device(given.device).type == "cuda" else "cpu"
        file = Path(f"benchmarks/results/throughput-{kind}.json")
        record = json.loads(file.read_text()) if file.exists() else {}
        key = f"{given.model}, batch {given.batch}, {given.precision}"
        record[key] = {"environment": environment(), **result}
        write_json(file, record)


def measure(given: argparse.Namespace) -> dict:
    """Medians of all ways and their ratios."""
    setup = _setup(given)
    if given.steps + 2 > setup.steps:
        raise SystemExit(f"--steps {given.steps}: an epoch has {setup.steps} steps, 2 warm up")
    contestants = {
        "ours": Ours(setup, penalty=True),
        "no penalty": Ours(setup, penalty=False),
        "plain": Plain(setup, given.workers, regularize=False),
        "torch-pruning": Plain(setup, given.workers, regularize=True),
    }
    times: dict[str, list[float]] = {name: [] for name in [*contestants, "data", "matrix"]}
    matrix = torch.randn(MATRIX, MATRIX, device=setup.device)
    matrix = matrix.bfloat16() if given.precision == "bfloat16" else matrix
    for number in range(given.rounds + 1):
        for name, contestant in contestants.items():
            seconds = contestant.seconds(given.steps) / given.steps
            if number:  # warm
                times[name].append(seconds)
        times["data"].append(contestants["ours"].data_seconds(given.steps) / given.steps)
        start = _now(setup.device)
        matrix @ matrix
        times["matrix"].append(_now(setup.device) - start)
    peak = 2 * MATRIX**3 / min(times["matrix"])
    # a multiply-accumulate is two operations; the backward pass takes twice the forward pass's
    work = 3 * 2 * count(contestants["plain"].network, setup.data.shape)["macs"] * given.batch
    medians = {name: statistics.median(seconds) for name, seconds in times.items()}
    ratios = {
        name: statistics.median(a / b for a, b in zip(times[name], times["ours"], strict=True))
        for name in contestants
    }
    return {
        "setting": {k: v for k, v in vars(given).items() if k not in ("data", "record")},
        "threads": torch.get_num_threads(),
        "images_per_second": {name: given.batch / medians[name] for name in contestants},
        "times_ours": ratios,
        "penalty_share": 1 - ratios["no penalty"],
        "data_share": medians["data"] / medians["ours"],
        "of_peak": work / medians["ours"] / peak,
        "peak_flops": peak,
    }


def _setup(given: argparse.Namespace) -> Setup:
    words = [f"model.name={given.model}", f"data.batch={given.batch}", f"device={given.device}"]
    words += [f"precision={given.precision}", f"compile={given.compile}"]
    words += ["regularize.epochs=1000", "init="]
    if given.model in LARGE:
        words += ["model.shortcut="]
    words += [f"data.path={given.data}"] if given.data else []
    config = configure(Config, read_recipe("cifar10-resnet56-spr"), words)
    enough = max(GENERATED, (given.steps + 2) * given.batch)
    return Setup(config, Ranks(), generated(config, enough) if given.model in LARGE else None)


def generated(config: Config, count: int) -> Memory:
    """Random images of ImageNet's size, which lie on the device."""
    images = torch.randint(256, (count, 3, 224, 224), dtype=torch.uint8)
    labels = torch.randint(1000, (count,))
    train, test = (images, labels), (images[:8], labels[:8])
    source = Source("generated", train, test, 1000, IMAGENET_MEAN, IMAGENET_STD, 4, True)
    return Memory(source, pick_device(config.device))


def _nothing_to_remove(kept: np.ndarray) -> None:
    raise RuntimeError("SPR gives nothing up on the way")


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def _print(result: dict) -> None:
    setting = result["setting"]
    print(
        f"{setting['model']}, batch {setting['batch']}, {setting['precision']}, "
        f"{result['threads']} threads"
    )
    for name, speed in result["images_per_second"].items():
        print(f"{name:14} {speed:10.1f} images/s   ours is × {result['times_ours'][name]:.2f}")
    print(
        f"of our step: penalty {result['penalty_share']:.2%}, data {result['data_share']:.2%}; "
        f"{result['of_peak']:.1%} of peak"
    )


if __name__ == "__main__":
    main()
