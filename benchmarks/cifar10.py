"""ResNet-56 on CIFAR-10 at 2.1 and 2.55 times fewer MACs: accuracy over seeds, and the time.

    python benchmarks/cifar10.py [METHOD …] [--init WEIGHTS] [--data DIR] [--seeds 3] [--record]
    python benchmarks/cifar10.py --show

Each method's recipe for this network, with the budget of the table; --init gives the published
weights to those that start from trained ones, which else pretrain. For a GPU: hours on a CPU. Rows
are added to what is recorded. Published figures stand beside, as their authors printed them.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from environment import environment
from methods import run, table

from mipprune.config.overrides import configure
from mipprune.config.recipes import read_recipe
from mipprune.config.train import Config
from mipprune.runs.files import write_json

FILE = Path("benchmarks/results/cifar10-resnet56.json")
SPEEDS = (2.1, 2.55)
METHODS = ("spr", "greg1", "greg2", "complexity")
# speed-up: (method, accuracy %): Wang et al. 2021 (arXiv 2012.09243), Fang et al. 2023
# (arXiv 2301.12900), from dense networks of 93.39 to 93.53 %
PUBLISHED = {
    2.1: [("group L1", 92.93), ("growing regularization", 93.55), ("DepGraph", 93.77)],
    2.55: [("GReg-1", 93.18), ("GReg-2", 93.36), ("DepGraph", 93.64)],
}


def main() -> None:
    """Run what was asked for, print the tables."""
    parser = argparse.ArgumentParser()
    parser.add_argument("methods", nargs="*", help=f"of {', '.join(METHODS)}; all")
    parser.add_argument("--init", help="published weights of ResNet-56")
    parser.add_argument("--data", help="folder of CIFAR-10's parquet files, instead of the Hub")
    parser.add_argument("--seeds", type=int, default=3, help="how many, from 0")
    parser.add_argument("--precision", default="bfloat16")
    parser.add_argument("--record", action="store_true", help="add the rows to the results")
    parser.add_argument("--show", action="store_true", help="print what is recorded")
    given = parser.parse_args()
    rows = json.loads(FILE.read_text())["rows"] if FILE.exists() else []
    if not given.show:
        settings = [
            (speed, name, seed)
            for seed in range(given.seeds)
            for speed in SPEEDS
            for name in given.methods or METHODS
        ]
        for speed, name, seed in settings:
            words = _words(given, name, speed, seed)
            configure(Config, read_recipe(f"cifar10-resnet56-{name}"), words)  # before any run
        for key in settings:
            speed, name, seed = key
            row = run((f"cifar10-resnet56-{name}", _words(given, name, speed, seed)))
            row = {"name": name, "seed": seed, "speed": speed, **row}
            row["environment"] = environment()
            print(table([row]), file=sys.stderr, flush=True)
            rows = [r for r in rows if (r["speed"], r["name"], r["seed"]) != key] + [row]
            if given.record:
                write_json(FILE, {"rows": rows})
    for speed in SPEEDS:
        print(f"\n{speed} times fewer MACs\n")
        print(table([row for row in rows if row["speed"] == speed]))
        for name, accuracy in PUBLISHED[speed]:
            print(f"| {name}, published | – | – | – | {accuracy:.2f} | | | | |")


def _words(given: argparse.Namespace, name: str, speed: float, seed: int) -> list[str]:
    words = [f"seed={seed}", f"precision={given.precision}"]
    published = name.startswith("greg") and speed == 2.55  # the recipe has its ratios by layer
    if not published:
        words.append(f"budget.macs={1 / speed:.4f}")
        words += ["method.ratios={}"] if name.startswith("greg") else []
    words += [f"data.path={given.data}"] if given.data else []
    if given.init and name != "complexity":
        words += [f"init={given.init}", "pretrain.epochs=0"]
    return words


if __name__ == "__main__":
    main()
