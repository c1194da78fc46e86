"""Layer problems written as models that any other solver reads."""

from __future__ import annotations

import re
from pathlib import Path

import pyomo.environ as pyo

from formulations.errors import InputError
from formulations.layer.linear_model import linear_model
from formulations.layer.problem import LayerProblem
from formulations.layer.pyomo_model import pyomo_model


def write_model(
    problem: LayerProblem,
    path: str | Path,
    form: str = "perspective",
    cardinality: int | None = None,
) -> None:
    """Write the model as .lp, .mps or .nl, by the file's ending.

    Parameters
    ----------
    problem : LayerProblem
    path : path
        In a folder that exists.
    form, cardinality
        As in :func:`formulations.layer.pyomo_model.pyomo_model`.

    Raises
    ------
    InputError
        Another ending, no such folder, a φ that is not quadratic in a file that holds only
        quadratics, numbers beyond what solvers read.
    """
    path = _checked(path, (".lp", ".mps", ".nl"))
    if path.suffix != ".nl" and problem.term.ridge is None:
        raise InputError(f"{path.name}: this φ is not quadratic: write the model as .nl")
    _write(pyomo_model(problem, form, cardinality), path)


def write_linear_model(
    problem: LayerProblem,
    path: str | Path,
    form: str = "perspective",
    cardinality: int | None = None,
    accuracy: float = 1e-3,
) -> None:
    """Write the model without squares as .lp or .mps, by the file's ending, for any MILP solver.

    Parameters
    ----------
    problem : LayerProblem
        With φ = a‖w‖².
    path : path
        In a folder that exists.
    form, cardinality, accuracy
        As in :func:`formulations.layer.linear_model.linear_model`.

    Raises
    ------
    InputError
        Another ending, no such folder, and what the model refuses.
    """
    path = _checked(path, (".lp", ".mps"))
    _write(linear_model(problem, form, cardinality, accuracy), path)


def _checked(path: str | Path, endings: tuple[str, ...]) -> Path:
    path = Path(path)
    if path.suffix not in endings:
        listed = f"{', '.join(endings[:-1])} or {endings[-1]}"
        raise InputError(f"{path.name}: this model is written as {listed}")
    if not path.parent.is_dir():
        raise InputError(f"there is no folder {path.parent} to write {path.name} in")
    return path


def _write(model: pyo.ConcreteModel, path: Path) -> None:
    model.write(str(path), io_options={"symbolic_solver_labels": True})
    if path.suffix == ".nl":
        return
    text = path.read_text()
    mark = "\\"
    if path.suffix == ".lp":  # "x ^ 2" is read by some solvers, "x ^2" by all
        text = text.replace(" ^ 2", " ^2")
    else:  # GLPK knows no section of the sense; every reader minimises
        mark, text = "*", text.replace("OBJSENSE\n MIN\n", "")
    path.write_text("".join(f"{mark} {line}\n" for line in _legend(model)) + text)


def _legend(model: pyo.ConcreteModel) -> list[str]:
    """What the names in a file mean, a line each; those of all groups alike."""
    meanings = {}
    for component in model.component_objects((pyo.Var, pyo.Constraint)):
        name = re.sub(r"\[\d+\]", "(j)", component.name).replace(".", "_")
        meanings[name] = f"{name}: {component.doc}"
    return [f"Which groups of a layer to keep: {model.doc}.", *meanings.values()]
