"""Exported networks: whether they compute the same, and what removal is worth in time.

    python benchmarks/export.py parity [--record]
    python benchmarks/export.py latency [DATA] [--record]

parity: every kind of network, half its MACs removed at random, exported and compared with itself on
the digits. latency: ResNet-56 at half the MACs, with any widths and with multiples of 8 channels;
DATA is a folder of CIFAR-10's parquet files instead of the Hub. Weights are random: neither
rounding nor time asks for trained ones. With --record the result goes to
benchmarks/results/export-parity.json or export-latency.json. Times need a machine without other
work.
"""

from __future__ import annotations

import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from environment import environment

from mipprune.analysis.export import export
from mipprune.config.export import ExportConfig
from mipprune.config.schema import BudgetConfig, DataConfig
from mipprune.data.registry import load
from mipprune.models.registry import build
from mipprune.report.tables import print_export
from mipprune.runs import checkpoint
from mipprune.runs.files import write_json
from mipprune.structure.allocation import allocate
from mipprune.structure.removal import prune_groups, recalibrate
from mipprune.structure.scope import find_structure

MODELS = (
    {"name": "resnet8", "shortcut": "A"},
    {"name": "resnet8", "shortcut": "B"},
    {"name": "resnet18", "width": 8},
    {"name": "resnet50", "width": 8},
    {"name": "wrn-16-2", "width": 8},
    {"name": "vgg16", "width": 8},
    {"name": "densenet40", "growth": 4},
    {"name": "densenet40-bc", "growth": 4},
    {"name": "mobilenet-v2", "multiplier": 0.5},
    {"name": "lenet-5"},
    {"name": "mlp", "hidden": [64, 32]},
)


def exported(model: dict[str, Any], source: DataConfig, budget: BudgetConfig) -> dict[str, Any]:
    """The result of exporting a network with random weights, pruned to a budget of MACs."""
    torch.manual_seed(0)
    data = load(**source.source(), device=torch.device("cpu"))
    network = build({"shape": data.shape, "classes": data.classes, **model})
    images = data.sample(256)
    recalibrate(network, images.split(64))
    groups, cost = find_structure(network, data.shape, "channel")
    worth = np.random.default_rng(0).random(groups.count) * cost.marginal("macs")
    kept = allocate(cost, worth, "macs", budget.macs, multiple=budget.multiple, floor=budget.floor)
    smaller = prune_groups(network, groups, groups.settle(kept))
    recalibrate(smaller, images.split(64))
    with TemporaryDirectory() as name:
        folder = Path(name)
        for part, one in (("dense", network), ("pruned", smaller)):
            checkpoint.save(folder / part, one, data=source.model_dump(include={"name", "path"}))
        targets = {"onnx": folder / "model.onnx", "program": folder / "model.pt2"}
        found = export(folder, ExportConfig(), targets)
    del found["checkpoint"]
    for row in found["parity"]:
        row["file"] = Path(row["file"]).name
    macs = cost.value(groups.settle(kept), "macs") / cost.dense["macs"]
    return {"model": model, "macs": macs, "multiple": budget.multiple, **found}


def parity() -> list[dict[str, Any]]:
    """Rows of all kinds of networks."""
    rows = []
    for model in MODELS:
        found = exported(model, DataConfig(), BudgetConfig(macs=0.5))
        del found["latency"]
        rows.append(found)
        onnx, program = found["parity"]
        print(
            f"{model}: ONNX {onnx['difference']:.1e}, torch.export {program['difference']:.1e}, "
            f"rounding {onnx['rounding']:.1e}, largest output {onnx['largest']:.2g}"
        )
    return rows


def latency(path: str | None) -> list[dict[str, Any]]:
    """ResNet-56 pruned to half its MACs, without and with a multiple of channels."""
    rows = []
    for multiple in (1, 8):
        budget = BudgetConfig(macs=0.5, multiple=multiple)
        data = DataConfig(name="cifar10", path=path)
        rows.append(exported({"name": "resnet56", "shortcut": "A"}, data, budget))
        print(f"ResNet-56, {rows[-1]['macs']:.1%} of the MACs, multiples of {multiple}")
        print_export(rows[-1])
    return rows


def main() -> None:
    """Print the tables."""
    match [word for word in sys.argv[1:] if word != "--record"]:
        case ["parity"]:
            name, rows = "parity", parity()
        case ["latency", *path] if len(path) <= 1:
            name, rows = "latency", latency(*path or [None])
        case _:
            sys.exit(__doc__)
    if "--record" in sys.argv:
        record = {"environment": environment(), "rows": rows}
        record["environment"]["command"] = f"python benchmarks/export.py {name}"
        write_json(Path(f"benchmarks/results/export-{name}.json"), record)


if __name__ == "__main__":
    main()
