"""Directional pruning and its SGD twin on digits: whether they lie in one valley.

    python benchmarks/valley.py             prints the table
    python benchmarks/valley.py --record    also benchmarks/results/valley.json, docs/valley.png

The twin starts from the same weights and sees the same images in the same order with the same
learning rates; it is not thresholded. Beside it, two dense networks from different seeds.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from environment import environment

from mipprune.analysis.valley import valley
from mipprune.config.overrides import configure
from mipprune.config.recipes import read_recipe
from mipprune.config.train import Config
from mipprune.config.valley import ValleyConfig
from mipprune.report.pictures import draw_valley
from mipprune.report.tables import print_result, print_valley, status
from mipprune.runs.files import write_json
from mipprune.training.run import train

FOLDER = Path("runs/valley")
# What is kept of a path: the picture shows the rest.
_SUMMARY = ("a", "b", "distance", "barrier_definition", "hessian", "parameters", "images", "own")


def main() -> None:
    """Train, compare, print."""
    shutil.rmtree(FOLDER, ignore_errors=True)
    results = {}
    for seed in (0, 1):
        words = [f"runs={FOLDER}", f"name=seed{seed}", f"seed={seed}"]
        config = configure(Config, read_recipe("digits-directional"), words)
        results[seed] = train(config)
        print_result(results[seed])
    pairs = {
        "directional and its SGD twin": ("seed0/regularized", "seed0/dense"),
        "two SGD solutions": ("seed1/dense", "seed0/dense"),
    }
    record = {"environment": environment(), "pairs": {}}
    for title, (a, b) in pairs.items():
        with status() as show:
            found = valley(FOLDER / a, FOLDER / b, ValleyConfig(), show)
        print(title)
        print_valley(found)
        barriers = {path: found[path]["barrier"] for path in ("line", "curve")}
        record["pairs"][title] = {**{k: found[k] for k in _SUMMARY}, "barriers": barriers}
        picture = FOLDER / f"{a.replace('/', '-')}.png"
        draw_valley(picture, found)
        if "--record" in sys.argv[1:] and a.startswith("seed0"):
            shutil.copy(picture, "docs/valley.png")
    record["kept"] = {seed: result["kept"] for seed, result in results.items()}
    record["accuracy"] = {
        seed: {name: result[name]["accuracy"] for name in ("dense", "pruned")}
        for seed, result in results.items()
    }
    if "--record" in sys.argv[1:]:
        write_json(Path("benchmarks/results/valley.json"), record)


if __name__ == "__main__":
    main()
