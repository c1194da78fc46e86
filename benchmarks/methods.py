"""All methods on the same network and data: one table.

    python benchmarks/methods.py digits [METHOD …] [--seeds 3] [--record]
    python benchmarks/methods.py cifar10 [METHOD …] --init WEIGHTS [--data DIR] [--record]
    python benchmarks/methods.py digits|cifar10 --show

``digits``: each method's own recipe, from scratch, on two CPU cores; the dense network beside it is
trained for as many epochs. ``cifar10``: ResNet-20 from the published weights (a .safetensors file),
60 % of the MACs kept and five epochs in all for every method. Rows are
added to what is recorded, so that a table can be made in parts; each keeps the revision and
settings that it was made with.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import torch
from environment import environment

from mipprune.config.overrides import configure
from mipprune.config.recipes import read_recipe
from mipprune.config.train import Config
from mipprune.runs.files import write_json
from mipprune.runs.layout import RunLayout

_STEPS = 40
RESULTS = Path("benchmarks/results")
DIGITS = [
    "spr", "greg1", "greg2", "directional", "complexity",
    "lasso", "slimming", "magnitude", "taylor", "uniform", "random",
]  # fmt: skip

_ONE_SHOT = ["regularize.epochs=0", "finetune.epochs=5"]
_TWO_STAGES = ["regularize.epochs=1", "finetune.epochs=4"]
# What a method does with five epochs from trained weights; a name before the colon is a method's.
CIFAR10 = {
    "spr": [*_TWO_STAGES],
    "greg1": [
        "method=greg", "method.growth=3e-3", "method.every=2", "method.stabilise=100",
        "regularize.epochs=2", "finetune.epochs=3",
    ],
    "greg2": [
        "method=greg", "method.version=2", "method.growth=3e-3", "method.pick_growth=3e-4",
        "method.every=2", "method.stabilise=30", "regularize.epochs=2", "finetune.epochs=3",
    ],
    "directional": [
        "method=directional", "method.c=0.05", "method.growth=1.01", "optimizer.momentum=0",
        "regularize.lr=0.05", "regularize.schedule=step", "regularize.milestones=[0.6,0.85]",
        "regularize.epochs=5", "finetune.epochs=0",
    ],
    "complexity": [
        "method=complexity", "method.sigma=0.2", "method.theta=1", "method.begin=0",
        "method.rate=0.003", "regularize.epochs=3", "finetune.epochs=2",
    ],
    "lasso": ["method=lasso", "method.lam=1e-3", *_TWO_STAGES],
    "slimming": ["method=slimming", "method.lam=1e-4", *_TWO_STAGES],
    "magnitude": ["method=magnitude", *_ONE_SHOT],
    "taylor": ["method=taylor", *_ONE_SHOT],
    "uniform": ["method=uniform", *_ONE_SHOT],
    "random": ["method=random", *_ONE_SHOT],
}  # fmt: skip


def main() -> None:
    """Run what was asked for, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("table", choices=["digits", "cifar10"])
    parser.add_argument("methods", nargs="*")
    parser.add_argument("--init", help="published weights of ResNet-20")
    parser.add_argument("--data", help="folder of CIFAR-10's parquet files, instead of the Hub")
    parser.add_argument("--seeds", type=int, help="how many, from 0")
    parser.add_argument("--jobs", type=int, default=2, help="runs side by side, on a thread each")
    parser.add_argument("--precision", default="float32", help="bfloat16 is faster on some CPUs")
    parser.add_argument("--record", action="store_true", help="add the rows to the results")
    parser.add_argument("--show", action="store_true", help="print what is recorded")
    given = parser.parse_args()
    file = RESULTS / f"methods-{given.table}.json"
    record = json.loads(file.read_text()) if file.exists() else {"rows": []}
    if not given.show:
        if given.table == "cifar10" and not given.init:
            parser.error("cifar10 starts from trained weights: --init WEIGHTS")
        done = _run_all(given, file if given.record else None, record)
        record = record if given.record else {"rows": done}
    print(table(record["rows"]))


def _run_all(given: argparse.Namespace, file: Path | None, record: dict) -> list[dict[str, Any]]:
    names = given.methods or (DIGITS if given.table == "digits" else list(CIFAR10))
    seeds = range(given.seeds or (3 if given.table == "digits" else 1))
    tasks = [(seed, name, _settings(given, name, seed)) for seed in seeds for name in names]
    about = environment()
    about["command"] = f"python benchmarks/methods.py {given.table}"
    about |= {"threads": 1, "jobs": given.jobs, "precision": given.precision}
    done = []
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(given.jobs, context, initializer=_one_thread) as pool:
        running = {pool.submit(run, words): (seed, name) for seed, name, words in tasks}
        for future in as_completed(running):
            seed, name = running[future]
            row = {"name": name, "seed": seed, **future.result(), "environment": about}
            done.append(row)
            print(table([row]), file=sys.stderr, flush=True)
            if file:
                others = [r for r in record["rows"] if (r["name"], r["seed"]) != (name, seed)]
                record["rows"] = sorted([*others, row], key=lambda r: (r["name"], r["seed"]))
                write_json(file, record)
    return done


def _settings(given: argparse.Namespace, name: str, seed: int) -> tuple[str, list[str]]:
    """Recipe and overrides of a run."""
    words = [f"seed={seed}", f"precision={given.precision}"]
    if given.table == "digits":
        return f"digits-{name}", words
    words += [f"init={given.init}", "budget.macs=0.6", *CIFAR10[name]]
    return "cifar10-resnet20-spr", words + ([f"data.path={given.data}"] if given.data else [])


def _one_thread() -> None:
    torch.set_num_threads(1)


def run(settings: tuple[str, list[str]]) -> dict[str, Any]:
    """Train as configured in a folder that goes afterwards; what the table needs of the result."""
    from mipprune.training.run import train

    recipe, words = settings
    with tempfile.TemporaryDirectory() as runs:
        config = configure(Config, read_recipe(recipe), [*words, f"runs={runs}", "name=run"])
        result = train(config)
        layout = RunLayout(Path(runs, "run"))
        metrics = layout.metrics.read_text(encoding="utf-8")
        step = step_ratio(layout.dense, layout.pruned, config.data.batch)
    lines = [json.loads(line) for line in metrics.splitlines()]
    return {
        "dense": result["dense"]["accuracy"],
        "removed": result["accuracy_removed"],
        "pruned": result["pruned"]["accuracy"],
        "macs": result["kept"]["macs"],
        "params": result["kept"]["params"],
        "budget": result["budget"],
        "seconds": lines[-1]["time"] - next(n["time"] for n in lines if n["phase"] == "dense"),
        "phases": {
            p: sum(line["phase"] == p for line in lines) for p in ("regularize", "finetune")
        },
        "step": step,
        "facts": {k: result[k] for k in ("open_gates", "blocks_left", "lam", "c") if k in result},
        "settings": [w for w in words if not w.startswith(("init=", "data.path="))],
    }


def step_ratio(before: Path, after: Path, batch: int) -> float:
    """Time of a training step of the pruned network to the dense one's: alternating, medians."""
    from mipprune.runs import checkpoint

    networks = [checkpoint.load(folder)[0].train() for folder in (before, after)]
    optimizers = [torch.optim.SGD(n.parameters(), lr=0.0, momentum=0.9) for n in networks]
    images = torch.rand(batch, *networks[0].architecture["shape"])
    seconds = ([], [])
    for _ in range(_STEPS):
        for network, optimizer, times in zip(networks, optimizers, seconds, strict=True):
            start = time.perf_counter()
            network(images).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
            times.append(time.perf_counter() - start)
    return statistics.median(seconds[1]) / statistics.median(seconds[0])


def table(rows: Sequence[dict[str, Any]]) -> str:
    """A Markdown table: mean ± standard deviation over the seeds."""

    def cell(values, scale=1.0, digits=2):
        values = [scale * v for v in values if v is not None]
        if not values:
            return "–"
        spread = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
        return f"{statistics.mean(values):.{digits}f}{spread}"

    names = list(dict.fromkeys(row["name"] for row in rows))
    names.sort(key=lambda n: DIGITS.index(n) if n in DIGITS else len(DIGITS))
    lines = [
        "| method | seeds | dense % | after removal % | pruned % | MACs kept % | parameters kept % "
        "| training step | s |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    shown = [
        ("dense", 1, 2), ("removed", 1, 2), ("pruned", 1, 2), ("macs", 100, 1), ("params", 100, 1),
        ("step", 1, 2), ("seconds", 1, 0),
    ]  # fmt: skip
    for name in names:
        own = [row for row in rows if row["name"] == name]
        cells = [cell([row[key] for row in own], scale, digits) for key, scale, digits in shown]
        lines.append(f"| {name} | {len(own)} | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
