"""Pruning without training: accuracy at several budgets, exact against scores, one table.

    python benchmarks/one_shot.py resnet56 --init WEIGHTS [--data DIR] [--record]
    python benchmarks/one_shot.py resnet56 --show
    python benchmarks/one_shot.py memory [--record]

For every method and budget four accuracies on the first 4,000 test images: channels removed;
BatchNorm statistics estimated anew; refitted; refitted and statistics estimated anew (the plain
way, in training mode). Of the refitted network also, on all test images, the accuracy and on how
many it says what the dense network says: where little is pruned accuracies are all alike. Every
method gets the same calibration images and the same refit. The exact method chooses among the
channels that are its default, the others among the inner ones, which one layer alone reads (their
better case), unless ``--candidates`` says otherwise. Rows are added to what is recorded. ``memory``
calibrates a ResNet-50 with random weights on 512 generated images of 224 pixels, finds the error
curves of all its channels and prints the peak memory of the process.
"""

from __future__ import annotations

import argparse
import copy
import json
import resource
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from environment import environment

from mipprune.config.evaluate import EvalConfig
from mipprune.config.overrides import configure
from mipprune.config.prune import PruneConfig
from mipprune.config.schema import BudgetConfig
from mipprune.data.registry import Data
from mipprune.measures.network import predict
from mipprune.models.registry import build
from mipprune.oneshot.choose import ChoiceSettings, Chooser
from mipprune.oneshot.refit import refit
from mipprune.oneshot.scores import choose_by_scores
from mipprune.oneshot.sites import find_candidates
from mipprune.runs.files import write_json
from mipprune.runs.networks import open_weights
from mipprune.structure.removal import prune_groups, recalibrate

FILE = Path("benchmarks/results/one-shot.json")
METHODS = [
    "exact", "spr-score", "magnitude-l1", "magnitude-l2", "taylor", "group-norm", "random",
]  # fmt: skip
BUDGETS = [0.9, 0.8, 0.7, 0.6, 0.5]
COLUMNS = [
    "removed", "recalibrated", "refitted", "refitted_recalibrated", "dense",
    "refitted_all", "dense_all", "agreement",
]  # fmt: skip
FIRST = 4_000
_BATCH = 50
_POSITIONS = 64  # of the memory benchmark


def main() -> None:
    """Run what was asked for, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["resnet20", "resnet56", "memory"])
    parser.add_argument("--init", help="published weights (shortcut A)")
    parser.add_argument("--data", help="folder of CIFAR-10's parquet files, instead of the Hub")
    parser.add_argument("--methods", nargs="*", default=METHODS, choices=METHODS)
    parser.add_argument("--budgets", nargs="*", type=float, default=BUDGETS)
    parser.add_argument("--candidates", choices=["all", "inner"], help="for every method")
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--record", action="store_true", help="add the rows to the results")
    parser.add_argument("--show", action="store_true", help="print what is recorded")
    given = parser.parse_args()
    record = json.loads(FILE.read_text()) if FILE.exists() else {"rows": [], "memory": None}
    if given.what == "memory":
        found = measure_memory()
        print(f"peak memory {found['peak_gib']:.2f} GiB, {found['seconds']:.0f} s")
        record["memory"] = {**found, "environment": environment()}
    elif not given.show:
        if not given.init:
            parser.error("name the trained weights: --init WEIGHTS")
        about = environment() | {"threads": torch.get_num_threads()}
        about["command"] = f"python benchmarks/one_shot.py {given.what} --init WEIGHTS"
        for row in run(given):
            print(table([row]).splitlines()[-1], file=sys.stderr, flush=True)
            others = [other for other in record["rows"] if _key(other) != _key(row)]
            record["rows"] = [*others, {**row, "environment": about}]
            if given.record:
                write_json(FILE, record)
    if given.record:
        write_json(FILE, record)
    if given.what != "memory":
        print(table([row for row in record["rows"] if row["network"] == given.what]))


def _key(row: dict[str, Any]) -> tuple:
    return tuple(row[name] for name in ("network", "method", "budget", "candidates"))


def run(given: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """A row for every method and budget."""
    words = [f"model={given.what}", "model.shortcut=A", "data=cifar10", f"init={given.init}"]
    words += [f"data.path={given.data}"] if given.data else []
    network, data = open_weights(configure(EvalConfig, {}, words))
    network.eval()
    labels, says = data.test.labels, said_of(network, data, data.test_size)
    dense = _share(says[:FIRST] == labels[:FIRST]), _share(says == labels)
    batches = list(data.sample(given.images).cpu().split(_BATCH))
    settings = PruneConfig()
    default = {"exact": settings.candidates}
    which = {name: given.candidates or default.get(name, "inner") for name in given.methods}
    structure = {name: find_candidates(network, data.shape, [], name) for name in {*which.values()}}
    with tempfile.TemporaryDirectory() as folder:
        if "exact" in given.methods:
            _, cost, order = structure[which["exact"]]
            unproved = _settings(nodes=0)
            chooser = Chooser(network, order, cost, batches, unproved, Path(folder))
            paths = chooser.paths()
        for budget in given.budgets:
            for method in given.methods:
                start = time.perf_counter()
                groups, cost, _ = structure[which[method]]
                limit = BudgetConfig(macs=budget)
                if method == "exact":
                    widths = chooser.widths(paths, "macs", budget, limit)
                    kept = chooser.kept(chooser.choices(paths, widths))
                else:
                    kept = choose_by_scores(method, network, cost, data, limit, 0)
                smaller = prune_groups(network, groups, kept).eval()
                found = {
                    "removed": _accuracy(smaller, data),
                    "recalibrated": _accuracy(_recalibrated(smaller, batches), data),
                }
                refit(network, smaller, groups, kept, batches, positions=settings.positions)
                own = said_of(smaller, data, data.test_size)
                found |= {
                    "refitted": _share(own[:FIRST] == labels[:FIRST]),
                    "refitted_recalibrated": _accuracy(_recalibrated(smaller, batches), data),
                    "refitted_all": _share(own == labels),
                    "agreement": _share(own == says),
                }
                yield {
                    "network": given.what,
                    "method": method,
                    "candidates": which[method],
                    "budget": budget,
                    "macs": cost.value(kept, "macs") / cost.dense["macs"],
                    "dense": dense[0],
                    "dense_all": dense[1],
                    "images": given.images,
                    "seconds": time.perf_counter() - start,
                    **found,
                }


@torch.inference_mode()
def said_of(network: torch.nn.Module, data: Data, count: int) -> torch.Tensor:
    """(count,) int: the classes that a network says of the first test images."""
    said: list[torch.Tensor] = []
    for images, _ in data.test_batches():
        if sum(map(len, said)) >= count:
            break
        said.append(predict(network, images))
    return torch.cat(said)[:count]


def _share(hits: torch.Tensor) -> float:
    return 100 * float(hits.double().mean())


def _accuracy(network: torch.nn.Module, data: Data) -> float:
    return _share(said_of(network, data, FIRST) == data.test.labels[:FIRST])


def _recalibrated(network: torch.nn.Module, batches: Sequence[torch.Tensor]) -> torch.nn.Module:
    other = copy.deepcopy(network)
    device = next(network.parameters()).device
    recalibrate(other, (images.to(device) for images in batches))
    return other


def measure_memory() -> dict[str, Any]:
    """Error curves of a ResNet-50 on generated images; peak resident memory of this process.

    Calibration, layer problems and elimination of all channels, one layer at a time, in it alone.
    """
    torch.manual_seed(0)
    shape = (3, 224, 224)
    network = build({"name": "resnet50", "shape": shape, "classes": 1000}).eval()
    generator = torch.Generator().manual_seed(0)
    images = list(torch.randn(512, *shape, generator=generator).split(_BATCH))
    start = time.perf_counter()
    _, cost, order = find_candidates(network, shape, [], PruneConfig().candidates)
    settings = _settings(positions=_POSITIONS, parallel="threads", jobs=1)
    with tempfile.TemporaryDirectory() as folder:
        chooser = Chooser(network, order, cost, images, settings, Path(folder), _say)
        chooser.paths()
    readers = {reader.layer.name for site in chooser.sites for reader in site.readers}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return {
        "peak_gib": peak,
        "images": 512,
        "pixels": 224,
        "layers": len(readers),
        "largest_gram": max(network.get_submodule(name).weight[0].numel() for name in readers),
        "positions": _POSITIONS,
        "seconds": time.perf_counter() - start,
    }


def _settings(**changes: Any) -> ChoiceSettings:
    """Those of ``mipprune prune``, but for some."""
    given = PruneConfig()
    return ChoiceSettings(
        **{name: getattr(given, name) for name in ChoiceSettings.__annotations__} | changes
    )


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _place(row: dict[str, Any]) -> tuple:
    return -row["budget"], METHODS.index(row["method"]), row["candidates"]


def table(rows: list[dict[str, Any]]) -> str:
    """A Markdown table, by budget and method."""
    lines = [
        "| network | MACs budget % | method | channels | MACs kept % | removed % "
        "| + recalibration % | refitted % | + recalibration % | dense % "
        "| refitted, all % | dense, all % | as the dense one, all % |",
        f"|{' --- |' * 13}",
    ]
    for row in sorted(rows, key=_place):
        cells = ["–" if row[key] is None else f"{row[key]:.2f}" for key in COLUMNS]
        lines.append(
            f"| {row['network']} | {100 * row['budget']:.0f} | {row['method']} "
            f"| {row['candidates']} | {100 * row['macs']:.1f} | {' | '.join(cells)} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
