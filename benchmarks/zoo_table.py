"""Tables of the zoo's rows, and which of them are faults."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Row = dict[str, Any]
NONE = "–"
# of the largest output: ours in float32, torch-pruning's, and an export's
EXACT, SAME, EXPORT = 1e-4, 1e-3, 1e-4
BUDGET, WITHIN = 0.5, 0.52


def groups_found(row: Row) -> bool:
    """Whether there are groups."""
    return row.get("groups", 0) > 0


def exact(row: Row) -> bool | None:
    """Whether the network without the channels computes what the one with them at zero does."""
    return None if row.get("difference") is None else bool(row["difference"] <= EXACT)


def met(row: Row) -> bool | None:
    """Whether half of the MACs are left, two per cent of them more at most."""
    return None if row.get("share") is None else bool(row["share"] <= WITHIN)


def exported(row: Row) -> bool | None:
    """Whether ONNX Runtime says the same; None where the dense network's export fails too."""
    if "export_difference" in row:
        return bool(row["export_difference"] <= EXPORT)
    return False if row.get("export_dense") is not None else None


def runs(row: Row) -> bool:
    """Whether torch-pruning's network runs."""
    return "share" in row


def same_shapes(row: Row) -> bool | None:
    """Whether its outputs have the shapes of the dense network's."""
    return row.get("same_shapes")


def same(row: Row) -> bool | None:
    """Whether torch-pruning's network computes what the masked one does."""
    return None if row.get("difference") is None else bool(row["difference"] <= SAME)


def all_three(*columns: Callable[[Row], bool | None]) -> Callable[[Row], bool | None]:
    """Whether some columns all are met."""
    return lambda row: all(holds(row) for holds in columns)


def refitted(row: Row) -> bool | None:
    """Whether ``prune`` ran, with its refit; None where nobody asked."""
    return row.get("one_shot", {}).get("ran")


OURS: dict[str, Callable[[Row], bool | None]] = {
    "groups": groups_found,
    "exact": exact,
    "budget": met,
    "all three": all_three(groups_found, exact, met),
    "ONNX": exported,
}
PEER: dict[str, Callable[[Row], bool | None]] = {
    "runs": runs,
    "same shapes": same_shapes,
    "budget": met,
    "all three": all_three(runs, same_shapes, met),
    "as masked": same,
}


def _of_ours(rows: dict[str, Row]) -> dict[str, Callable[[Row], bool | None]]:
    """The columns of ours, with the one that has to be asked for if somebody did."""
    asked = any("one_shot" in row.get("ours", {}) for row in rows.values())
    return {**OURS, "prune": refitted} if asked else OURS


def faults(rows: dict[str, Row]) -> list[str]:
    """What of ours is wrong, not only refused, a line each."""
    lines = []
    for name, row in rows.items():
        ours = row.get("ours", {})
        if exact(ours) is False:
            lines.append(f"{name}: outputs differ by {ours['difference']:.2g} of the largest")
        if ours.get("unchanged") is False:
            lines.append(f"{name}: the network that was given is changed")
        if ours.get("share", 0.0) > ours.get("budget", 1.0) + WITHIN - BUDGET:
            lines.append(f"{name}: {ours['share']:.3f} of the MACs for {ours['budget']}")
        if ours.get("refused") is False:
            lines.append(f"{name}: {ours['step']}: {ours['reason']}")
        if "ended" in ours:
            lines.append(f"{name}: {ours['ended']}")
        if exported(ours) is False:
            lines.append(f"{name}: the export {ours.get('export_reason', 'differs')}")
    return lines


def rank(row: Row | None) -> int:
    """How many columns of ours are met."""
    return sum(bool(holds(row or {})) for holds in OURS.values())


def one_row(name: str, side: str, row: Row) -> str:
    """A line of one side's result."""
    columns = OURS if side == "ours" else PEER
    said = ", ".join(f"{title} {_mark(holds(row))}" for title, holds in columns.items())
    reason = _reason(row)
    return f"{name} {side}: {said}, {row.get('seconds', 0)} s{'; ' if reason else ''}{reason}"


def _mark(holds: bool | None) -> str:
    return NONE if holds is None else "yes" if holds else "no"


def _reason(row: Row) -> str:
    parts = [
        f"{row.get('step', '')}: {row['reason']}" if "step" in row else row.get("reason"),
        row.get("budget_reason"),
        row.get("export_reason"),
        row.get("mask_reason"),
        row.get("ended"),
        row.get("one_shot", {}).get("reason"),
    ]
    return "; ".join(part for part in parts if part)


def _grid(head: list[str], rows: list[list[str]]) -> str:
    return "\n".join(f"| {' | '.join(line)} |" for line in [head, ["---"] * len(head), *rows])


def summary(rows: dict[str, Row]) -> str:
    """How many networks of each package meet each column."""
    ours = _of_ours(rows)
    head = ["networks of", "count", *(f"ours: {title}" for title in ours)]
    head += [f"torch-pruning: {title}" for title in PEER]
    packages = list(dict.fromkeys(name.partition("/")[0] for name in rows))
    lines = []
    for package in [*packages, "all"]:
        own = [row for name, row in rows.items() if package in (name.partition("/")[0], "all")]
        cells = [package, str(len(own))]
        for side, columns in (("ours", ours), ("peer", PEER)):
            measured = [row[side] for row in own if side in row]
            for holds in columns.values():
                count = sum(bool(holds(row)) for row in measured)
                cells.append(str(count) if measured else NONE)
        lines.append(cells)
    return _grid(head, lines)


def full(rows: dict[str, Row]) -> str:
    """A line for every network."""
    asked = [title for title in _of_ours(rows) if title not in OURS]
    head = [
        "network", "parameters, M", "MACs, M", "groups", "exact", "MACs left %", "ONNX", *asked,
        "torch-pruning: runs", "same shapes", "MACs left %", "as masked", "reasons",
    ]  # fmt: skip
    return _grid(head, [_cells(name, row, bool(asked)) for name, row in rows.items()])


def _cells(name: str, row: Row, asked: bool) -> list[str]:
    ours, peer = row.get("ours", {}), row.get("peer", {})
    either = ours or peer
    reasons = [f"{who}: {_reason(side)}" for who, side in (("ours", ours), ("torch-pruning", peer))
               if _reason(side)]  # fmt: skip
    return [
        name,
        f"{either['params'] / 1e6:.2f}" if "params" in either else NONE,
        f"{either['macs'] / 1e6:.1f}" if "macs" in either else NONE,
        str(ours.get("groups", NONE)),
        _number(exact(ours), ours.get("difference")),
        _share(ours),
        _number(exported(ours), ours.get("export_difference")),
        *([_mark(refitted(ours))] if asked else []),
        _mark(("share" in peer) if peer else None),
        _mark(peer.get("same_shapes")),
        _share(peer),
        _number(same(peer), peer.get("difference")),
        _escaped("; ".join(reasons)),
    ]


def _number(holds: bool | None, value: float | None) -> str:
    """Yes, or by how much not."""
    return f"no, {value:.1e}" if holds is False and value is not None else _mark(holds)


def _share(row: Row) -> str:
    return NONE if row.get("share") is None else f"{100 * row['share']:.1f}"


def _escaped(text: str) -> str:
    """Plain text inside a cell of Markdown."""
    for sign in "\\|<>*_`[]":
        text = text.replace(sign, f"\\{sign}")
    return text if len(text) <= 300 else f"{text[:297].rstrip(chr(92))}…"
