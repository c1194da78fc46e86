"""The whole path on a laptop: prune a network trained on digits, and compare with the exact MIP.

python benchmarks/demo.py            writes runs/demo/
python benchmarks/demo.py --record   also benchmarks/results/demo.json and docs/demo.png
python benchmarks/demo.py --check    compares with benchmarks/results/demo.json; exit code 1 if it
                                     is not what was recorded
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from environment import environment

from mipprune.analysis.compare.compare import compare
from mipprune.config.compare import CompareConfig
from mipprune.config.overrides import configure
from mipprune.config.recipes import read_recipe
from mipprune.config.train import Config
from mipprune.report.pictures import draw_report
from mipprune.report.tables import print_result, print_rows, status
from mipprune.runs.files import write_json
from mipprune.training.run import train

FOLDER = Path("runs/demo")
RECORD = Path("benchmarks/results/demo.json")
PROBLEMS = {
    "generated, 16 groups": ("layer:generated", ["groups=16", "outputs=4"]),
    "trained layer1.0.conv2, 16 groups": (
        f"layer:{FOLDER}/dense:layer1.0.conv2",
        ["ridge=0.5", "price=0.03", "time_limit=30"],
    ),
}


def main() -> None:
    """Train, compare, print the tables, draw the picture."""
    shutil.rmtree(FOLDER, ignore_errors=True)
    config = configure(Config, read_recipe("digits-spr"), [f"name={FOLDER.name}"])
    result = train(config)
    comparisons = {}
    for title, (source, settings) in PROBLEMS.items():
        chosen = configure(CompareConfig, {}, settings)
        with status() as show:
            found = compare(source, chosen, show)
        if found["interrupted"]:
            raise KeyboardInterrupt
        comparisons[title] = found["rows"]
    print_result(result)
    for title, rows in comparisons.items():
        print_rows(title, rows)
    write_json(FOLDER / "compare.json", comparisons)
    draw_report(FOLDER / "report.png", result, comparisons)
    print(f"wrote {FOLDER}/result.json, {FOLDER}/compare.json and {FOLDER}/report.png")
    if "--record" in sys.argv[1:]:
        record = {"environment": environment(), "result": result, "comparisons": comparisons}
        write_json(RECORD, record)
        shutil.copy(FOLDER / "report.png", "docs/demo.png")
    if "--check" in sys.argv[1:]:
        found = differences(json.loads(RECORD.read_text()), result, comparisons)
        print("\n".join(found) or f"as recorded in {RECORD}")
        sys.exit(bool(found))


def differences(
    record: Mapping[str, Any], result: Mapping[str, Any], comparisons: Mapping[str, Any]
) -> list[str]:
    """What is not as recorded, or not as it has to be, a line each.

    The first problem is the same everywhere, and so are its rows. In 45 epochs of training another
    processor, or another number of threads, rounds to other weights: of the trained network the
    accuracy, the budget and the order of the rows are what has to hold.
    """
    found = []
    for network in ("dense", "pruned"):
        old, new = record["result"][network]["accuracy"], result[network]["accuracy"]
        if new < old - 1:  # five images of 450
            found.append(f"accuracy of the {network} network: {new:.2f} %, recorded {old:.2f} %")
    share, budget = result["kept"]["macs"], result["budget"]["macs"]
    if not 0.98 * budget <= share <= budget:
        found.append(f"kept MACs: {share:.4f} of the dense, the budget is {budget:g}")
    same, trained = PROBLEMS
    for old, new in zip(record["comparisons"][same], comparisons[same], strict=True):
        if abs(new["objective"] - old["objective"]) > 1e-6 * old["objective"]:
            found.append(
                f"{same}, {old['name']}: {new['objective']:g}, recorded {old['objective']:g}"
            )
    return found + disorder(record["comparisons"][trained], comparisons[trained])


def disorder(recorded: Sequence[Mapping[str, Any]], rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """What rows of a comparison do not do that they must on every problem, a line each."""
    value = {row["name"]: row["objective"] for row in rows}
    if list(value) != [row["name"] for row in recorded]:
        return [f"the rows are {', '.join(value)}"]
    exact, slack = value["exact"], 1e-6 * value["exact"]
    found = [] if rows[0]["status"] == "optimal" else ["exact: not proved optimal"]
    for row in rows[1:]:
        relaxed = row["status"] != "heuristic"
        if relaxed and row["bound"] > exact + slack:
            found.append(f"{row['name']}: a bound of {row['bound']:g}, exact is {exact:g}")
        if not relaxed and row["objective"] < exact - slack:
            found.append(f"{row['name']}: {row['objective']:g}, below the exact {exact:g}")
    order = ["big-m-relaxation", "perspective-relaxation", "perspective+schur"]
    order += ["perspective+ascent", "exact"]
    found += [  # a relaxation's bound may end some 1e-4 below its value
        f"{tighter}: {value[tighter]:g}, below {looser}: {value[looser]:g}"
        for looser, tighter in pairwise(order)
        if value[tighter] < (1 - 1e-3) * value[looser]
    ]
    if abs(value["spr-trained"] - value["perspective-relaxation"]) > slack:
        found.append("spr-trained does not reach the relaxation that it descends")
    return found


if __name__ == "__main__":
    main()
