"""Networks of torchvision, timm and transformers, and modules as people write them, made smaller.

    python benchmarks/zoo.py [--only PATTERN ...] [--slice K/N] [--no-peer] [--no-ours] [--record]
    python benchmarks/zoo.py --list
    python benchmarks/zoo.py --show

Every network has random weights and loses half of its multiply-accumulates, once by this package
and once by torch-pruning: see docs/zoo.md for what is asked of the results. Each runs in a process
of its own, with limits of processor time and memory. With --record rows are added to
benchmarks/results/zoo.json as they come, and networks that have theirs are left out unless --again
is given. The exit code is 1 if a network of ours computes something else, misses a budget that it
said to meet, or fails without a refusal; with --strict, also if it does worse than its recorded
row. torchvision, timm and transformers have to be importable; --only 'modules/*' needs none of
them.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import signal
import sys
import time
from collections.abc import Sequence
from fnmatch import fnmatch
from importlib.metadata import PackageNotFoundError, version
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
import zoo_ours
import zoo_peer
from environment import environment
from zoo_networks import PACKAGES, entries, need
from zoo_table import faults, full, one_row, rank, summary

from mipprune.runs.files import write_json

FILE = Path("benchmarks/results/zoo.json")
SIDES = ("ours", "peer")
_VERSIONS = (*PACKAGES, "torch-pruning", "onnx", "onnxscript", "onnxruntime")
# of wall time, as a multiple of the limit of processor time: a machine may be shared
_PATIENCE = 5
Row = dict[str, Any]


def main() -> None:
    """Run what was asked for, print the table."""
    given = _words()
    record = json.loads(FILE.read_text()) if FILE.exists() else {"environments": [], "rows": {}}
    if given.show:
        print(f"{summary(record['rows'])}\n\n{full(record['rows'])}")
        return
    chosen = _chosen(given)
    if given.list:
        print("\n".join(chosen))
        return
    for package in sorted({name.partition("/")[0] for name in chosen} & {*PACKAGES}):
        need(package)
    sides = [side for side in SIDES if getattr(given, side)]
    number = _environment(record, sides)
    found: dict[str, Row] = {}
    for name in chosen:
        for side in sides:
            if given.record and not given.again and side in record["rows"].get(name, {}):
                continue
            row = {**measured(name, side, given), "environment": number}
            found.setdefault(name, {})[side] = row
            print(one_row(name, side, row), file=sys.stderr, flush=True)
            if given.record:
                _add(record, name, side, row)
    print(f"{summary(found)}\n\n{full(found)}")
    wrong = faults(found)
    if given.strict:
        wrong += [
            f"{name}: worse than recorded"
            for name, row in found.items()
            if "ours" in row and rank(row["ours"]) < rank(record["rows"].get(name, {}).get("ours"))
        ]
    print("".join(f"{line}\n" for line in wrong), end="")
    sys.exit(bool(wrong))


def _words() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", default=["*"], help="patterns of names")
    parser.add_argument("--slice", default="1/1", help="K/N: every N-th network, from the K-th")
    for side, help_text in (("ours", "this package"), ("peer", "torch-pruning")):
        parser.add_argument(
            f"--{side}", action=argparse.BooleanOptionalAction, default=True, help=help_text
        )
    parser.add_argument(
        "--export", action=argparse.BooleanOptionalAction, default=True, help="ONNX, of ours"
    )
    parser.add_argument("--one-shot", action="store_true", help="also prune(), with its refit")
    parser.add_argument("--seconds", type=int, default=180, help="of processor time a network")
    parser.add_argument("--gib", type=float, default=8, help="of address space a network")
    parser.add_argument("--record", action="store_true", help=f"add rows to {FILE}")
    parser.add_argument("--again", action="store_true", help="also those that are recorded")
    parser.add_argument("--strict", action="store_true", help="compare with what is recorded")
    parser.add_argument("--list", action="store_true", help="print the names")
    parser.add_argument("--show", action="store_true", help="print what is recorded")
    return parser.parse_args()


def _chosen(given: argparse.Namespace) -> list[str]:
    names = [name for name in entries() if any(fnmatch(name, p) for p in given.only)]
    first, step = (int(word) for word in given.slice.split("/"))
    if not 1 <= first <= step:
        sys.exit(f"--slice {given.slice}: K/N with 1 ≤ K ≤ N")
    return names[first - 1 :: step]


def _environment(record: Row, sides: Sequence[str]) -> int:
    """The number of this run's environment among the recorded ones."""
    here = environment()
    here["command"] = "python benchmarks/zoo.py --record"
    if len(sides) < len(SIDES):
        here["command"] += f" --no-{next(side for side in SIDES if side not in sides)}"
    for name in _VERSIONS:
        try:
            here["packages"][name] = version(name)
        except PackageNotFoundError:
            here["packages"][name] = None
    here["threads"] = 1
    if here not in record["environments"]:
        record["environments"].append(here)
    return record["environments"].index(here)


def _add(record: Row, name: str, side: str, row: Row) -> None:
    """Write a row; rows stand in the order of the networks."""
    record["rows"].setdefault(name, {})[side] = row
    order = {each: place for place, each in enumerate(entries())}
    record["rows"] = dict(sorted(record["rows"].items(), key=lambda r: order.get(r[0], len(order))))
    write_json(FILE, record)


def measured(name: str, side: str, given: argparse.Namespace) -> Row:
    """The row of one side of a network, from a process of its own."""
    with TemporaryDirectory() as folder:
        file, said = Path(folder) / "row.json", Path(folder) / "said"
        # all that it needs has been imported, once for all
        process = get_context("fork").Process(target=_work, args=(name, side, given, file, said))
        process.start()
        process.join(_PATIENCE * given.seconds)
        if process.is_alive():
            process.kill()
            process.join()
            end = f"more than {_PATIENCE * given.seconds} s"
        else:
            end = _end(process.exitcode, said.read_text(), given)
        row = json.loads(file.read_text()) if file.exists() else {}
    return {**row, "ended": end} if end else row


def _work(name: str, side: str, given: argparse.Namespace, file: Path, said: Path) -> None:
    """Run one side of a network within its limits; what is known so far is in a file."""
    with said.open("w") as words, open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 1)
        os.dup2(words.fileno(), 2)
    resource.setrlimit(resource.RLIMIT_CPU, (given.seconds, given.seconds + 5))
    resource.setrlimit(resource.RLIMIT_AS, (int(given.gib * 2**30),) * 2)
    torch.set_num_threads(1)

    def say(row: Row) -> None:
        write_json(file, {**row, "seconds": round(time.process_time(), 1)})

    say({})
    if side == "ours":
        zoo_ours.run(entries()[name], say, export=given.export, one_shot=given.one_shot)
    else:
        zoo_peer.run(entries()[name], say)


def _end(code: int | None, said: str, given: argparse.Namespace) -> str:
    """How a process ended that did not end well."""
    if code == 0:
        return ""
    if code in (-signal.SIGXCPU, -signal.SIGKILL):
        return f"more than {given.seconds} s of processor time"
    if code is not None and code < 0:
        return f"{signal.Signals(-code).name}, in no more than {given.gib:g} GiB"
    lines = [line for line in said.splitlines() if line.strip()]
    return f"exit code {code}: {lines[-1][:200] if lines else 'without a word'}"


if __name__ == "__main__":
    main()
