"""Layer problems written as models that any other solver reads."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path

import numpy as np
import pyomo.environ as pyo

from formulations.errors import InputError
from formulations.layer.conic_file import conic_text
from formulations.layer.linear_model import linear_model
from formulations.layer.problem import LayerProblem
from formulations.layer.pyomo_model import pyomo_model
from formulations.output import write_output

# what SCIP, HiGHS, CBC and others take for infinite
_INFINITE = 1e20


def write_model(
    problem: LayerProblem,
    path: str | Path,
    form: str = "perspective",
    cardinality: int | None = None,
) -> None:
    """Write the model as .lp, .mps, .nl or .cbf, by the file's ending.

    Parameters
    ----------
    problem : LayerProblem
    path : path
        In a folder that exists.
    form, cardinality
        As in :func:`formulations.layer.pyomo_model.pyomo_model`; a .cbf file has the cones of
        :mod:`formulations.layer.conic_file`.

    Raises
    ------
    InputError
        Another ending, no such folder, a φ that is not quadratic in a file that holds only
        quadratics, numbers beyond what solvers read.
    """
    path = _checked(problem, path, (".lp", ".mps", ".nl", ".cbf"))
    if path.suffix != ".nl" and problem.term.ridge is None:
        raise InputError(f"{path.name}: this φ is not quadratic: write the model as .nl")
    if path.suffix == ".cbf":
        write_output(path, conic_text(problem, form, cardinality).encode())
        return
    write_file(pyomo_model(problem, form, cardinality), path)


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
    path = _checked(problem, path, (".lp", ".mps"))
    write_file(linear_model(problem, form, cardinality, accuracy), path)


def _checked(problem: LayerProblem, path: str | Path, endings: tuple[str, ...]) -> Path:
    path = Path(path)
    if path.suffix not in endings:
        listed = f"{', '.join(endings[:-1])} or {endings[-1]}"
        raise InputError(f"{path.name}: this model is written as {listed}")
    if not path.parent.is_dir():
        raise InputError(f"there is no folder {path.parent} to write {path.name} in")
    check_numbers(problem)
    return path


def check_numbers(problem: LayerProblem) -> None:
    """Refuse numbers that solvers take for infinite.

    Raises
    ------
    InputError
        Naming what holds one.
    """
    term = problem.term
    numbers = {
        "G": problem.gram,
        "B": problem.cross,
        "c0": problem.constant,
        "the price": term.price,
        "the weight of φ": term.weight,
        "the bound M": np.where(np.isinf(term.bound), 0.0, term.bound),
    }
    for name, value in numbers.items():
        largest = float(np.abs(value).max())
        if largest >= _INFINITE:
            raise InputError(
                f"{name} holds {largest:g}, and solvers take what is not below {_INFINITE:g} for "
                "infinite: scale the problem, and give inf for no bound"
            )


def write_file(model: pyo.ConcreteModel, path: Path) -> None:
    """Write a model as .lp, .mps or .nl, by the file's ending; .nl with its names beside it."""
    with tempfile.TemporaryDirectory() as folder:
        model.write(f"{folder}/m{path.suffix}", io_options={"symbolic_solver_labels": True})
        for written in Path(folder).iterdir():
            data = written.read_bytes()
            if path.suffix != ".nl":
                data = _readable(data.decode(), path.suffix, _legend(model)).encode()
            write_output(path.with_suffix(written.suffix), data)


def _readable(text: str, ending: str, legend: list[str]) -> str:
    """An .lp or .mps file that more solvers read, what its names mean at its head."""
    if ending == ".lp":  # "x ^ 2" is read by some solvers, "x ^2" by all
        mark, text = "\\", text.replace(" ^ 2", " ^2")
    else:  # GLPK knows no section of the sense; every reader minimises
        mark, text = "*", text.replace("OBJSENSE\n MIN\n", "")
    return "".join(f"{mark} {line}\n" for line in legend) + text


def _legend(model: pyo.ConcreteModel) -> list[str]:
    """What the names in a file mean, a line each; those of all groups alike."""
    meanings = {}
    for component in model.component_objects((pyo.Var, pyo.Constraint)):
        name = re.sub(r"\[\d+\]", "(j)", component.name).replace(".", "_")
        meanings[name] = f"{name}: {component.doc}"
    return [f"Which groups of a layer to keep: {model.doc}.", *meanings.values()]
