"""The whole path on a laptop: prune a network trained on digits, and compare with the exact MIP.

python benchmarks/demo.py            writes runs/demo/
python benchmarks/demo.py --record   also benchmarks/results/demo.json and docs/demo.png
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from environment import environment

from mipprune.analysis.compare.compare import compare
from mipprune.config.schema import CompareConfig, Config, configure, read_recipe
from mipprune.report.pictures import draw_report
from mipprune.report.tables import print_result, print_rows, status
from mipprune.runs.checkpoint import write_json
from mipprune.training.run import train

FOLDER = Path("runs/demo")
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
            comparisons[title] = compare(source, chosen, show)["rows"]
    print_result(result)
    for title, rows in comparisons.items():
        print_rows(title, rows)
    write_json(FOLDER / "compare.json", comparisons)
    draw_report(FOLDER / "report.png", result, comparisons)
    print(f"wrote {FOLDER}/result.json, {FOLDER}/compare.json and {FOLDER}/report.png")
    if "--record" in sys.argv[1:]:
        record = {"environment": environment(), "result": result, "comparisons": comparisons}
        write_json(Path("benchmarks/results/demo.json"), record)
        shutil.copy(FOLDER / "report.png", "docs/demo.png")


if __name__ == "__main__":
    main()
