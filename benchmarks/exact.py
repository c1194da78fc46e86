"""Exact pruning of a layer: our branch and bound against HiGHS, SCIP and l0bnb, in one run.

python benchmarks/exact.py [FOLDER]            instances of FOLDER (ar-*.npz, resnet56-*.npz)
python benchmarks/exact.py [FOLDER] --record   also benchmarks/results/exact.json

FOLDER holds layer problems as LayerProblem.save writes them, with their known ``optimum``; without
it only the generated problems are solved. HiGHS is the outer approximation with perspective or
big-M cuts; SCIP and l0bnb (Hazimeh, Mazumder & Saab 2021; single output) come with
``pip install pyscipopt l0bnb`` and are left out where they are not installed.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from environment import environment

from formulations import LayerProblem, load_problem, refit, solve
from formulations.errors import InputError
from mipprune.analysis.compare.problems import generate
from mipprune.config.compare import CompareConfig
from mipprune.config.overrides import configure
from mipprune.report.tables import console
from mipprune.runs.files import write_json

_LIMIT = 30.0  # seconds of a rival's solve
_OWN = {"resnet56-layer2.4-c0.01": (1e-3, 60.0), "resnet56-layer3.4-c0.01": (1e-4, 120.0)}
_REPEATS, _ENOUGH = 11, 3.0  # solves for a median, until they have taken so many seconds
_SCALING = {
    "groups": [16, 32, 64, 128, 256, 512],
    "outputs": [1, 4, 16, 64, 256],
    "correlation": [0.5, 0.7, 0.8, 0.9, 0.95],
    "price": [0.001, 0.003, 0.01, 0.03, 0.1],
}
_BASE = {"groups": 32, "outputs": 4, "correlation": 0.5, "price": 0.01}


def branch_and_bound(problem: LayerProblem, tolerance=1e-4, limit=_LIMIT, rule="schur"):
    """Ours."""
    return solve(problem, gap=tolerance, seconds=limit, extraction=rule)


RIVALS: dict[str, Callable[[LayerProblem], Any]] = {
    "HiGHS, perspective cuts": lambda p: solve(p, solver="highs", seconds=_LIMIT),
    "HiGHS, perspective cuts, extraction": lambda p: solve(
        p, solver="highs", extraction="schur", seconds=_LIMIT
    ),
    "HiGHS, big-M cuts": lambda p: solve(p, solver="highs", form="big-m", seconds=_LIMIT),
    "SCIP": lambda p: solve(p, solver="scip", seconds=_LIMIT),
}


def measure(solve: Callable[[], Any]) -> dict[str, Any]:
    """Median wall time of fresh solves: up to eleven, fewer where they are long."""
    seconds: list[float] = []
    while not seconds or (sum(seconds) < _ENOUGH and len(seconds) < _REPEATS):
        start = time.perf_counter()
        solution = solve()
        seconds.append(time.perf_counter() - start)
    return {
        "seconds": statistics.median(seconds),
        "objective": solution.objective,
        "bound": solution.bound,
        "gap": solution.gap,
        "nodes": solution.nodes,
        "status": solution.status,
    }


def l0bnb_row(problem: LayerProblem) -> dict[str, Any] | None:
    """The same problem by l0bnb, which takes ½‖y − Xβ‖² + l0·‖β‖₀ + l2·‖β‖² within |β| ≤ M."""
    for gone, name in (("Inf", "inf"), ("float_", "float64")):  # l0bnb 1.0 is for NumPy 1
        setattr(np, gone, getattr(np, name))
    try:
        from l0bnb import BNBTree
    except ImportError:
        return None
    if problem.outputs > 1 or problem.block > 1:
        return None
    values, vectors = np.linalg.eigh(problem.gram)
    root = np.sqrt(np.maximum(values, 0))
    x = root[:, None] * vectors.T
    y = (vectors.T @ problem.cross[:, 0]) / np.where(root > 0, root, 1)
    rest = problem.constant - 0.5 * float(y @ y)
    dense = np.abs(refit(problem, np.ones(problem.groups, bool))).max()
    start = time.perf_counter()
    tree = BNBTree(x, y)
    found = tree.solve(
        float(np.mean(problem.term.price)), float(np.mean(problem.term.ridge)), 2.0 * dense,
        gap_tol=1e-4, time_limit=_LIMIT,
    )  # fmt: skip
    seconds = time.perf_counter() - start
    return {
        "seconds": seconds,
        "objective": found.cost + rest,
        "bound": found.cost * (1 - found.gap) + rest,
        "gap": float(found.gap),
        "nodes": int(tree.number_of_nodes),
        "status": "optimal" if seconds < _LIMIT else "time_limit",
    }


def rows_of(problem: LayerProblem, own: dict[str, Any], rivals) -> list[dict[str, Any]]:
    """Our row and those of the rivals, with their ratios to ours."""
    rows = [{"solver": "branch and bound", **own}]
    for name, rival in rivals.items():
        try:
            rows.append({"solver": name, **measure(lambda rival=rival: rival(problem))})
        except InputError as error:
            print(f"  {name}: {error}")
    if (row := l0bnb_row(problem)) is not None:
        rows.append({"solver": "l0bnb", **row})
    for row in rows:
        row["ratio"] = row["seconds"] / own["seconds"]
    return rows


def show(title: str, rows: list[dict[str, Any]]) -> None:
    """One line a solver."""
    out = console()
    out.print(f"\n{title}", highlight=False)
    for row in rows:
        out.print(
            f"  {row['solver']:38}{row['seconds']:11.5f} s  × {row['ratio']:<9.4g} "
            f"{row['nodes']:7d} nodes  gap {row['gap']:.1e}  {row['status']}",
            highlight=False,
        )


def known_instances(folder: Path) -> dict[str, Any]:
    """All instances of a folder; the rivals work on those of fewer than 300 rows."""
    found = {}
    for path in sorted(folder.glob("*.npz")):
        problem = load_problem(path)
        with np.load(path) as data:
            optimum, gap = float(data["optimum"]), float(data["gap"])
        tolerance, limit = _OWN.get(path.stem, (1e-4, _LIMIT))
        own = measure(lambda p=problem, t=tolerance, s=limit: branch_and_bound(p, t, s))
        small = len(problem.cross) <= 64 and problem.block == 1
        rows = rows_of(problem, own, RIVALS if small else {})
        if path.stem in _OWN:
            best = measure(
                lambda p=problem, t=tolerance, s=limit: branch_and_bound(p, t, s, "ascent")
            )
            rows.append(
                {
                    "solver": "branch and bound, ascent",
                    **best,
                    "ratio": best["seconds"] / own["seconds"],
                }
            )
        show(f"{path.stem}: known optimum {optimum:.8g}, proved to {gap:.1e}", rows)
        found[path.stem] = {"known_optimum": optimum, "known_gap": gap, "rows": rows}
    return found


def scaling() -> dict[str, list[dict[str, Any]]]:
    """How time grows with groups, outputs, correlation and price; HiGHS beside up to 64 groups."""
    tables = {}
    for name, values in _SCALING.items():
        tables[name] = []
        for value in values:
            words = [f"{key}={x}" for key, x in {**_BASE, name: value}.items()]
            problem = generate(configure(CompareConfig, {}, words))
            own = measure(lambda p=problem: branch_and_bound(p))
            rivals = {k: v for k, v in RIVALS.items() if k == "HiGHS, perspective cuts"}
            if problem.groups > 64:
                rivals = {}
            rows = rows_of(problem, own, rivals)
            show(f"{name} = {value}", rows)
            tables[name].append({name: value, "rows": rows})
    return tables


def main() -> None:
    """Solve everything and print the tables."""
    words = [word for word in sys.argv[1:] if not word.startswith("--")]
    config = configure(CompareConfig, {}, ["groups=6"])
    branch_and_bound(generate(config))  # compiled before the clock starts
    l0bnb_row(generate(configure(CompareConfig, {}, ["groups=6", "outputs=1"])))
    record: dict[str, Any] = {"environment": environment(), "limit": _LIMIT}
    record["instances"] = known_instances(Path(words[0])) if words else {}
    record["scaling"] = scaling()
    if "--record" in sys.argv[1:]:
        write_json(Path("benchmarks/results/exact.json"), record)


if __name__ == "__main__":
    main()
