"""Selecting from toy networks: every choice tried, against the MILP in HiGHS.

python benchmarks/toy_networks.py [--record]

Networks 2-10-10-1 trained on 40 points of two moons, one price. Times are processor time, so that
what else the machine does is left out. With ``--record`` the rows are written to
benchmarks/results/toy-networks.json.
"""

from __future__ import annotations

import argparse
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from environment import environment
from sklearn.datasets import make_moons
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import MLPRegressor

from formulations import Network, Selection, solve
from mipprune.runs.files import write_json

RECORD = Path("benchmarks/results/toy-networks.json")
SAMPLES, HIDDEN, PRICE, GAP = 40, (10, 10), 0.1, 1e-4
LOSSES, SEEDS = ("hinge", "l1", "squared"), range(3)


def problem_of(loss: str, seed: int) -> Selection:
    """A network trained on ±1 from a seed, and the points that it was trained on."""
    points, moon = make_moons(SAMPLES, noise=0.1, random_state=seed)
    points = (points - points.mean(axis=0)) / points.std(axis=0)
    labels = np.where(moon, 1.0, -1.0)
    trained = MLPRegressor(
        hidden_layer_sizes=HIDDEN, solver="lbfgs", alpha=0.05, max_iter=300, random_state=seed
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        trained.fit(points, labels)
    network = Network([w.T for w in trained.coefs_], trained.intercepts_)
    return Selection(network, points, labels, loss, PRICE)


def measured(problem: Selection, solver: str) -> dict[str, Any]:
    """One solve and its processor time."""
    start = time.process_time()
    found = solve(problem, solver=solver, gap=GAP)
    return {
        "seconds": time.process_time() - start,
        "objective": found.objective,
        "bound": found.bound,
        "status": str(found.status),
        "kept": found.kept,
    }


def main() -> None:
    """Measure all networks, by both solvers."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--record", action="store_true", help=f"write {RECORD}")
    words, rows = parser.parse_args(), []
    measured(problem_of("hinge", 0), "enumeration")  # the first one loads its modules, too
    for loss in LOSSES:
        for seed in SEEDS:
            problem = problem_of(loss, seed)
            row = {name: measured(problem, name) for name in ("enumeration", "highs")}
            rows.append({"loss": loss, "seed": seed, **row})
            ratio = row["highs"]["seconds"] / row["enumeration"]["seconds"]
            print(f"{loss}, seed {seed}: {ratio:.0f} times faster", row, flush=True)
    if words.record:
        write_json(RECORD, {"environment": environment(), "gap": GAP, "rows": rows})


if __name__ == "__main__":
    main()
