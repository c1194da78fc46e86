"""A search for wrong answers: random problems of every kind against brute force, by seed.

python benchmarks/fuzz.py [--first 0] [--share 1.0] [--record]

Each kind's problems have the seeds from ``--first`` on: 3,000 layer problems, 1,000 budgets, 200
stacks and 200 toy networks, or a share of them. What does not hold is printed, a line each, and the
exit code is 1. With ``--record`` the summary is written to benchmarks/results/fuzz.json.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import fuzz_budgets
import fuzz_layers
import fuzz_networks
import fuzz_stacks
from environment import environment

from mipprune.runs.files import write_json

RECORD = Path("benchmarks/results/fuzz.json")
# of a solve, in seconds
LIMIT = 5.0
# kind: how many, a case by its seed, and what does not hold of it within a limit
KINDS: dict[str, tuple[int, Callable[..., Any], Callable[..., tuple[list[str], str]]]] = {
    "layers": (3000, fuzz_layers.layer_case, fuzz_layers.faults),
    "budgets": (1000, fuzz_budgets.budget_case, fuzz_budgets.faults),
    "stacks": (200, fuzz_stacks.stack_case, fuzz_stacks.faults),
    "networks": (200, fuzz_networks.network_case, fuzz_networks.faults),
}


def tried(kind: str, seed: int) -> tuple[list[str], str]:
    """What does not hold of a case, and its status; of any kind."""
    _, make, faults = KINDS[kind]
    try:
        lines, status = faults(make(seed), LIMIT)
    except Exception as error:  # of the search itself: it has to be seen
        return [f"{kind} {seed}: {type(error).__name__}: {error}"], "failed"
    return lines, status.partition(":")[0]


def main() -> None:
    """Try all, print what is found, and the summary."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--share", type=float, default=1.0, help="of all problems")
    parser.add_argument("--record", action="store_true", help=f"write {RECORD}")
    words = parser.parse_args()
    start, found, summary = time.perf_counter(), [], {}
    with ProcessPoolExecutor(2) as pool:
        for kind, (count, _, _) in KINDS.items():
            seeds = range(words.first, words.first + max(1, round(words.share * count)))
            statuses: Counter[str] = Counter()
            for lines, status in pool.map(tried, [kind] * len(seeds), seeds, chunksize=4):
                statuses[status] += 1
                found += lines
                print("".join(f"{line}\n" for line in lines), end="", flush=True)
            summary[kind] = {"problems": len(seeds), "first": words.first, **statuses}
            print(f"{kind}: {dict(statuses)}", flush=True)
    print(f"{len(found)} faults, {time.perf_counter() - start:.0f} s")
    if words.record:
        record = {"environment": environment(), "limit": LIMIT, "kinds": summary, "faults": found}
        write_json(RECORD, record)
    sys.exit(bool(found))


if __name__ == "__main__":
    main()
