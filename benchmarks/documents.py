"""Write the tables of the documentation from the recorded results.

    python benchmarks/documents.py           rewrite them in place
    python benchmarks/documents.py --check   name the documents that differ, exit 1 if one does

In a document, what is between ``<!-- table NAME -->`` and ``<!-- end -->`` is what TABLES[NAME]
makes of ``benchmarks/results``; under it stands what it was recorded with.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
_BLOCK = re.compile(r"(<!-- table (\S+) -->\n).*?(<!-- end -->)", re.DOTALL)
NONE = "–"


def main() -> None:
    """Rewrite or check README.md and docs/."""
    check = "--check" in sys.argv[1:]
    different = []
    for path in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]:
        text = path.read_text(encoding="utf-8")
        if (new := rewritten(text)) != text:
            different.append(path.relative_to(ROOT))
            if not check:
                path.write_text(new, encoding="utf-8")
    for path in different:
        print(f"{path}: {'differs from benchmarks/results' if check else 'written'}")
    sys.exit(1 if check and different else 0)


def rewritten(text: str) -> str:
    """A document with the tables as the results have them now."""
    return _BLOCK.sub(lambda m: f"{m[1]}\n{TABLES[m[2]]()}\n\n{m[3]}", text)


# ---- parts --------------------------------------------------------------------------------------


def load(name: str) -> dict[str, Any] | None:
    """A result file, None if nothing has been recorded."""
    file = RESULTS / f"{name}.json"
    return json.loads(file.read_text()) if file.exists() else None


def grid(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def provenance(*environments: dict[str, Any], more: str = "") -> str:
    """What rows were recorded with, in a sentence."""
    first = environments[0]
    commands = " and ".join(dict.fromkeys(f"`{e['command']}`" for e in environments))
    revisions = sorted({e["revision"] or "an unknown revision" for e in environments})
    machines = {e["gpu"] or f"{e['cores']} CPU cores ({e['machine']})" for e in environments}
    return (
        f"Recorded by {commands} at {', '.join(revisions)} on "
        f"{', '.join(sorted(machines))}, torch {first['packages']['torch']}, "
        f"Python {first['python']}{more}."
    )


def missing(command: str) -> str:
    """What stands in place of a table that nobody has recorded."""
    return f"Not recorded yet: `{command}`."


def percent(share: float | None, digits: int = 2) -> str:
    """A share as per cent."""
    return NONE if share is None else f"{100 * share:.{digits}f}"


def seconds(value: float) -> str:
    """A time in a readable unit."""
    return f"{1e3 * value:.2f} ms" if value < 1 else f"{value:.1f} s"


# ---- tables -------------------------------------------------------------------------------------


def demo_networks() -> str:
    """Dense and pruned network of the demo."""
    result = load("demo")["result"]
    rows = [
        [
            name,
            f"{result[name]['accuracy']:.2f}",
            f"{result[name]['macs']:,}",
            f"{result[name]['params']:,}",
            f"{result[name]['bytes'] / 1024:.0f}",
        ]
        for name in ("dense", "pruned")
    ]
    return grid(["digits, ResNet-14", "accuracy %", "MACs", "parameters", "file KiB"], rows)


def demo_relaxations() -> str:
    """How far relaxations and training are below the optimum."""
    record = load("demo")
    ways = {
        "big-m-relaxation": "big-M relaxation",
        "perspective-relaxation": "perspective relaxation",
        "spr-trained": "trained with SPR in PyTorch",
    }
    rows = []
    for title, found in record["comparisons"].items():
        by_name = {row["name"]: row for row in found}
        optimum = by_name["exact"]["objective"]
        bounds = [by_name[way]["objective"] for way in ways]
        rows.append([title, *(percent(1 - value / optimum) for value in bounds)])
    table = grid(["objective below the exact optimum, %", *ways.values()], rows)
    return f"{table}\n\n{provenance(record['environment'])}"


def exact_rivals() -> str:
    """Our time, and that of rivals as a ratio."""
    record = load("exact")
    ours = "branch and bound"
    rivals = [
        "HiGHS, perspective cuts", "HiGHS, perspective cuts, extraction", "HiGHS, big-M cuts",
        "SCIP", "l0bnb",
    ]  # fmt: skip
    rows = []
    for name, instance in record["instances"].items():
        found = {row["solver"]: row for row in instance["rows"]}
        if not any(rival in found for rival in rivals):
            continue
        cells = [_ratio(found[rival]) if rival in found else NONE for rival in rivals]
        rows.append([name, seconds(found[ours]["seconds"]), *cells])
    limit = f"; rivals had {record['limit']:.0f} seconds"
    table = grid(["instance", ours, *rivals], rows)
    return f"{table}\n\n{provenance(record['environment'], more=limit)}"


def _ratio(row: dict[str, Any]) -> str:
    return f"{'> ' if row['status'] == 'time_limit' else ''}{row['ratio']:,.0f} ×"


def exact_instances() -> str:
    """Every instance by our branch and bound."""
    rows = []
    for name, instance in load("exact")["instances"].items():
        for row in instance["rows"]:
            if not row["solver"].startswith("branch and bound"):
                continue
            rows.append(
                [
                    name + row["solver"].removeprefix("branch and bound"),
                    f"{instance['known_optimum']:.7g}",
                    f"{instance['known_gap']:.1e}",
                    f"{row['objective']:.7g}",
                    f"{row['gap']:.1e}",
                    seconds(row["seconds"]),
                    str(row["nodes"]),
                ]
            )
    head = ["instance", "known optimum", "known gap", "found", "proved gap", "time", "nodes"]
    return grid(head, rows)


def exact_scaling() -> str:
    """How time grows on generated problems."""
    rows = []
    for varied, settings in load("exact")["scaling"].items():
        for setting in settings:
            own, *others = setting["rows"]
            highs = next((r for r in others if r["solver"] == "HiGHS, perspective cuts"), None)
            gap = f", gap {own['gap']:.1%}" if own["status"] == "time_limit" else ""
            rows.append(
                [
                    varied,
                    f"{setting[varied]:g}",
                    seconds(own["seconds"]) + gap,
                    str(own["nodes"]),
                    NONE if highs is None else _ratio(highs),
                ]
            )
    return grid(["varied", "value", "branch and bound", "nodes", "HiGHS, perspective cuts"], rows)


def toy_networks() -> str:
    """Selections from toy networks: every choice tried, and the MILP as a ratio to it."""
    record = load("toy-networks")
    if record is None:
        return missing("python benchmarks/toy_networks.py --record")
    rows = [
        [
            row["loss"],
            str(row["seed"]),
            f"{row['enumeration']['objective']:.6g}",
            f"{row['highs']['objective']:.6g}",
            str(row["enumeration"]["kept"]),
            seconds(row["enumeration"]["seconds"]),
            f"{row['highs']['seconds'] / row['enumeration']['seconds']:,.0f} ×",
        ]
        for row in record["rows"]
    ]
    head = ["loss", "seed", "optimum", "of the MILP", "kept of 20", "every choice", "MILP"]
    return grid(head, rows) + "\n\n" + provenance(record["environment"])


def methods(name: str) -> Callable[[], str]:
    """All methods on one data set."""

    def make() -> str:
        from methods import table

        rows = load(f"methods-{name}")["rows"]
        return f"{table(rows)}\n\n{provenance(*(row['environment'] for row in rows))}"

    return make


def valley() -> str:
    """Barriers between two pairs of networks."""
    record = load("valley")
    rows = []
    for name, pair in record["pairs"].items():
        if "directional" in name:
            name = f"{name}, {percent(record['kept']['0']['macs'], 0)} % of the MACs left"
        cells = [
            f"{barrier['height']:.3f}, {percent(barrier['share'], 1)} %"
            for barrier in (pair["barriers"][way] for way in ("line", "curve"))
        ]
        hessian = pair["hessian"]
        rows.append([name, *cells, f"{hessian['share']:.1e} ({hessian['expected_share']:.0e})"])
    head = [
        "between",
        "line: barrier, share",
        "curve: barrier, share",
        "of A − B in the top 10 eigenvectors (of a random direction)",
    ]
    return f"{grid(head, rows)}\n\n{provenance(record['environment'])}"


def export_parity() -> str:
    """Differences of exported networks."""
    record = load("export-parity")
    rows = []
    for row in record["rows"]:
        name = row["model"]["name"]
        shortcut = {"A": ", zero-padding shortcuts", "B": ", projections"}
        onnx = row["parity"][0]
        rows.append(
            [
                name + shortcut.get(row["model"].get("shortcut", ""), ""),
                *(f"{found['difference']:.1e}" for found in row["parity"]),
                f"{onnx['rounding']:.1e}",
                f"{onnx['largest']:.2g}",
            ]
        )
    head = ["network", "ONNX", "torch.export", "own rounding", "largest output"]
    return f"{grid(head, rows)}\n\n{provenance(record['environment'])}"


def export_latency() -> str:
    """Dense and pruned networks in several runtimes."""
    record = load("export-latency")
    if record is None:
        return missing("python benchmarks/export.py latency --record")
    rows = []
    for found in record["rows"]:
        title = f"{percent(found['macs'], 1)} % of the MACs, multiples of {found['multiple']}"
        by_setting: dict[tuple[str, int], dict[str, dict[str, Any]]] = {}
        for row in found["latency"]["rows"]:
            by_setting.setdefault((row["runtime"], row["batch"]), {})[row["network"]] = row
        for (runtime, batch), pair in by_setting.items():
            ratio = pair["dense"]["median_ms"] / pair["pruned"]["median_ms"]
            cells = [_spread(pair[network]) for network in ("dense", "pruned")]
            rows.append([title, runtime, str(batch), *cells, f"{ratio:.2f}"])
    timed = record["rows"][0]["latency"]
    more = (
        f"; {timed['threads']} threads, median (quartiles) of {timed['timed']} calls after "
        f"{timed['warm_up']} of warm-up"
    )
    head = ["ResNet-56 with", "runtime", "batch", "dense, ms", "pruned, ms", "times as fast"]
    return f"{grid(head, rows)}\n\n{provenance(record['environment'], more=more)}"


def _spread(row: dict[str, Any]) -> str:
    low, high = row["quartiles_ms"]
    return f"{row['median_ms']:.2f} ({low:.2f}–{high:.2f})"


def regularizer(kind: str) -> Callable[[], str]:
    """What a penalty adds to a step."""

    def make() -> str:
        record = load(f"regularizer-{kind}")
        if record is None:
            return missing(
                "python benchmarks/regularizer.py --precision float32 bfloat16 --record` and `"
                "python benchmarks/regularizer.py --model resnet50 --batch 256 "
                "--precision bfloat16 --record"
            )
        parts = []
        for network, measured in record.items():
            for found in measured["result"]:
                rows = [
                    [
                        row["way"],
                        f"{row['ms']:.2f}",
                        f"{percent(row['share'])} %",
                        f"{percent(row['of_ceiling'], 1)} %" if row["bytes"] else NONE,
                        f"{row['images_per_second']:,.0f}",
                    ]
                    for row in found["rows"]
                ]
                title = (
                    f"{network}, {found['precision']}, "
                    f"{found['threads']} thread{'s' * (found['threads'] > 1)}, "
                    f"{found['bandwidth'] / 1e9:.1f} GB/s"
                )
                parts.append(grid([title, "ms", "of a step", "of the ceiling", "images/s"], rows))
            rounds = f"; medians of {measured['setting']['rounds']} rounds"
            parts.append(provenance(measured["environment"], more=rounds))
        return "\n\n".join(parts)

    return make


def throughput(kind: str) -> Callable[[], str]:
    """Images a second of a whole step."""

    def make() -> str:
        record = load(f"throughput-{kind}")
        if record is None:
            return missing(
                "python benchmarks/throughput.py --precision bfloat16 --compile --rounds 8 "
                "--steps 200 --record` and `python benchmarks/throughput.py --model resnet50 "
                "--batch 256 --precision bfloat16 --compile --steps 50 --record"
            )
        rows = []
        for title, found in record.items():
            for name, speed in found["images_per_second"].items():
                own = name == "ours"
                rows.append(
                    [
                        f"{title}, {found['threads']} thread{'s' * (found['threads'] > 1)}",
                        name,
                        f"{speed:,.0f}",
                        f"{found['times_ours'][name]:.2f}",
                        f"{percent(found['penalty_share'])} %"
                        if own and "penalty_share" in found
                        else NONE,
                        f"{percent(found['data_share'])} %" if own else NONE,
                        f"{percent(found['of_peak'], 0)} %" if own else NONE,
                    ]
                )
        head = [
            "setting",
            "loop",
            "images/s",
            "ours is so many times as fast",
            "penalty, of a step",
            "making batches, of a step",
            "of peak FLOP/s",
        ]
        environments = [found["environment"] for found in record.values()]
        return f"{grid(head, rows)}\n\n{provenance(*environments)}"

    return make


def cifar10() -> str:
    """ResNet-56 at the published speed-ups, with the published figures."""
    from cifar10 import PUBLISHED, SPEEDS
    from methods import table

    rows = (load("cifar10-resnet56") or {"rows": []})["rows"]
    parts = []
    for speed in SPEEDS:
        published = grid(
            [f"published at {speed} × fewer MACs", "accuracy %"],
            [[name, f"{accuracy:.2f}"] for name, accuracy in PUBLISHED[speed]],
        )
        own = [row for row in rows if row["speed"] == speed]
        parts += [table(own)] if own else []
        parts.append(published)
    if rows:
        parts.append(provenance(*(row["environment"] for row in rows)))
    else:
        parts.append(missing("python benchmarks/cifar10.py --init WEIGHTS --record"))
    return "\n\n".join(parts)


def penalty() -> str:
    """Generated penalties beside hand-written code."""
    record = load("penalty")
    operations = list(dict.fromkeys(row["operation"] for row in record["result"]["rows"]))
    ratios = {(r["way"], r["operation"]): r["ratio"] for r in record["result"]["rows"]}
    ways = dict.fromkeys(way for way, _ in ratios)
    rows = [
        [way, *(f"{ratios[way, o]:.2f}" if (way, o) in ratios else NONE for o in operations)]
        for way in ways
    ]
    found = record["result"]
    size = f"; {found['model']}, {found['weights']:,} weights in {found['groups']:,} groups"
    return f"{grid(['', *operations], rows)}\n\n{provenance(record['environment'], more=size)}"


def input_pipeline() -> str:
    """Images a second of the input pipeline alone."""
    record = load("input-pipeline")
    found = record["result"]
    rows = [
        [
            row["form"],
            str(row["workers"]),
            f"{row['images_per_s']:.0f}",
            f"{row['processor_ms']:.2f}",
            f"{1000 / row['processor_ms']:.0f}",
        ]
        for row in found["rows"]
    ]
    head = ["images", "workers", "images/s", "processor time an image, ms", "images/s of a core"]
    more = (
        f"; {found['images']} generated JPEGs of {found['bytes_per_image'] / 1e3:.0f} kB, load "
        f"average {found['load_average']:.1f}"
    )
    return f"{grid(head, rows)}\n\n{provenance(record['environment'], more=more)}"


def one_shot() -> str:
    """Accuracy without training."""
    from one_shot import table

    rows = load("one-shot")["rows"]
    parts = [
        table([row for row in rows if row["network"] == network])
        for network in sorted({row["network"] for row in rows}, reverse=True)
    ]
    return "\n\n".join([*parts, provenance(*(row["environment"] for row in rows))])


def memory() -> str:
    """Peak memory of a calibration."""
    found = load("one-shot")["memory"]
    row = [
        str(found["images"]),
        str(found["pixels"]),
        str(found["layers"]),
        f"{found['largest_gram']:,}",
        str(found["positions"]),
        f"{found['peak_gib']:.2f} GiB",
    ]
    head = ["images", "pixels", "layers", "rows of the largest Gram matrix", "positions", "peak"]
    return f"{grid(head, [row])}\n\n{provenance(found['environment'])}"


def zoo(part: str) -> Callable[[], str]:
    """Networks of other packages: how many of them, or each."""

    def make() -> str:
        import zoo_table
        from zoo_networks import entries

        record = load("zoo")
        if record is None:
            return missing("python benchmarks/zoo.py --record")
        if part == "networks":
            return zoo_table.full(record["rows"])
        sides = [side for row in record["rows"].values() for side in row.values()]
        used = sorted({side["environment"] for side in sides})
        versions = record["environments"][used[-1]]["packages"]
        others = ("torchvision", "timm", "transformers", "torch-pruning")
        more = "".join(f", {name} {versions[name]}" for name in others)
        more += f"; {len(record['rows'])} of {len(entries())} networks so far"
        recorded = provenance(*(record["environments"][number] for number in used), more=more)
        return f"{zoo_table.summary(record['rows'])}\n\n{recorded}"

    return make


TABLES: dict[str, Callable[[], str]] = {
    "demo-networks": demo_networks,
    "demo-relaxations": demo_relaxations,
    "exact-rivals": exact_rivals,
    "exact-instances": exact_instances,
    "exact-scaling": exact_scaling,
    "toy-networks": toy_networks,
    "methods-digits": methods("digits"),
    "methods-cifar10": methods("cifar10"),
    "valley": valley,
    "export-parity": export_parity,
    "export-latency": export_latency,
    "regularizer-cpu": regularizer("cpu"),
    "regularizer-gpu": regularizer("gpu"),
    "throughput-cpu": throughput("cpu"),
    "throughput-gpu": throughput("gpu"),
    "cifar10": cifar10,
    "penalty": penalty,
    "input-pipeline": input_pipeline,
    "one-shot": one_shot,
    "memory": memory,
    "zoo": zoo("summary"),
    "zoo-networks": zoo("networks"),
}


if __name__ == "__main__":
    main()
