"""The pruning MIP of a layer in the Conic Benchmark Format, for mixed-integer conic solvers.

Every square stands in a rotated cone of its own (Friberg 2016: 2 x₁ x₂ ≥ ‖x₃…‖², x₁, x₂ ≥ 0):

    perspective  2·(t_j/2)·y_j ≥ ‖W_j‖²           big-M  2·(t_j/2)·1 ≥ ‖W_j‖²,  |W| ≤ M y
    loss         2·ℓ·1 ≥ ‖F W − E‖²

The columns are W row by row, then t, y, z of nested indicators, ℓ.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from formulations.arrays import FloatArray
from formulations.errors import InputError
from formulations.layer.big_m import valid_bounds
from formulations.layer.linear_model import factored_loss
from formulations.layer.problem import LayerProblem

Row = tuple[dict[int, float], float]  # coefficients of columns, and a constant


@dataclass
class _Cones:
    """Rows, in the cones that they are in."""

    names: list[tuple[str, int]] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)

    def state(self, cone: str, rows: Iterable[Row]) -> None:
        """State that rows lie in a cone: ``L+`` for each ≥ 0, ``QR`` for a rotated one."""
        before = len(self.rows)
        self.rows += rows
        if len(self.rows) > before:
            self.names.append((cone, len(self.rows) - before))


def conic_text(problem: LayerProblem, form: str, cardinality: int | None) -> str:
    """The model as the text of a .cbf file.

    Parameters
    ----------
    problem : LayerProblem
        With φ = a‖w‖².
    form : {"perspective", "big-m"}
    cardinality : int, optional
        The largest number of groups kept.

    Raises
    ------
    InputError
        Another φ, an unknown form, or no bound where the form needs one.
    """
    if form not in ("perspective", "big-m"):
        raise InputError(f"unknown form {form!r}: one of perspective, big-m")
    term = problem.term
    if term.ridge is None or term.profile.ball:
        raise InputError("a conic file takes φ = a‖w‖², with bounds on single weights if any")
    count, outputs, groups = *problem.cross.shape, problem.groups
    size, perspective = problem.block * outputs, form == "perspective"
    prices = np.zeros(0) if term.blocks is None else term.block_price
    first_y = count * outputs + groups
    loss = first_y + groups + len(prices)
    cones = _Cones()
    for j in range(groups):
        over: Row = ({first_y + j: 1.0}, 0.0) if perspective else ({}, 1.0)
        epigraph: Row = ({count * outputs + j: 0.5}, 0.0)
        weights = [({j * size + k: 1.0}, 0.0) for k in range(size)]
        cones.state("QR", [epigraph, over, *weights])
    factor, target, constant = factored_loss(problem)
    residual = [
        (
            {k * outputs + n: float(factor[r, k]) for k in range(count) if factor[r, k] != 0},
            -float(target[r, n]),
        )
        for r in range(len(factor))
        for n in range(outputs)
    ]
    cones.state("QR", [({loss: 1.0}, 0.0), ({}, 1.0), *residual])
    _state_limits(cones, problem, perspective, cardinality, first_y)
    cost = np.concatenate([np.zeros(count * outputs), problem.ridge, problem.price, prices, [1.0]])
    return _text(cones, cost, constant, range(first_y, loss))


def _state_limits(
    cones: _Cones, problem: LayerProblem, perspective: bool, cardinality: int | None, first: int
) -> None:
    """|W| ≤ M y, indicators from 0 to 1, y ≤ z and Σ y ≤ K; y begins at column ``first``."""
    term, size = problem.term, problem.block * problem.outputs
    box = (
        problem.per_row(term.bound)[:, None]
        if perspective
        else valid_bounds(problem, problem.constant)
    )
    if not perspective and not np.isfinite(box).all():
        raise InputError("the big-M form needs a finite bound for every weight")
    limits = enumerate(np.broadcast_to(box, problem.cross.shape).ravel().tolist())
    for e, m in limits:
        if np.isfinite(m):
            cones.state("L+", [({first + e // size: m, e: sign}, 0.0) for sign in (1.0, -1.0)])
    second = first + problem.groups
    total = second + (0 if term.blocks is None else len(term.block_price))
    cones.state("L+", [({e: 1.0}, 0.0) for e in range(first, total)])
    cones.state("L+", [({e: -1.0}, 1.0) for e in range(first, total)])
    if term.blocks is not None:
        nested = enumerate(term.blocks)
        cones.state("L+", [({second + int(b): 1.0, first + j: -1.0}, 0.0) for j, b in nested])
    if cardinality is not None:
        kept = dict.fromkeys(range(first, second), -1.0)
        cones.state("L+", [(kept, float(cardinality))])


def _text(cones: _Cones, cost: FloatArray, constant: float, binary: range) -> str:
    entries = [(r, e, a) for r, (row, _) in enumerate(cones.rows) for e, a in row.items()]
    shifts = [(r, b) for r, (_, b) in enumerate(cones.rows) if b != 0]
    priced = [(e, c) for e, c in enumerate(cost.tolist()) if c != 0]
    parts = [
        ("VER", ["3"]),
        ("OBJSENSE", ["MIN"]),
        ("VAR", [f"{len(cost)} 1", f"F {len(cost)}"]),
        ("INT", [len(binary), *binary]),
        ("CON", [f"{len(cones.rows)} {len(cones.names)}", *(f"{c} {n}" for c, n in cones.names)]),
        ("OBJACOORD", [len(priced), *(f"{e} {c!r}" for e, c in priced)]),
        ("OBJBCOORD", [repr(constant)]),
        ("ACOORD", [len(entries), *(f"{r} {e} {a!r}" for r, e, a in entries)]),
        ("BCOORD", [len(shifts), *(f"{r} {b!r}" for r, b in shifts)]),
    ]
    head = (
        "# Which groups of a layer to keep. Columns: weights row by row, t, y, z if nested, loss\n"
    )
    return head + "\n\n".join("\n".join([name, *map(str, lines)]) for name, lines in parts) + "\n"
