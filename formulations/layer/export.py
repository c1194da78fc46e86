"""Layer problems written as models that any other solver reads."""

from __future__ import annotations

from pathlib import Path

from formulations.errors import InputError
from formulations.layer.problem import LayerProblem
from formulations.layer.pyomo_model import pyomo_model

_ENDINGS = (".lp", ".mps", ".nl")


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
        quadratics.
    """
    path = Path(path)
    if path.suffix not in _ENDINGS:
        raise InputError(f"{path.name}: a model is written as .lp, .mps or .nl")
    if not path.parent.is_dir():
        raise InputError(f"there is no folder {path.parent} to write {path.name} in")
    if path.suffix != ".nl" and problem.term.ridge is None:
        raise InputError(f"{path.name}: this φ is not quadratic: write the model as .nl")
    model = pyomo_model(problem, form, cardinality)
    model.write(str(path), io_options={"symbolic_solver_labels": True})
    if path.suffix == ".lp":  # "x ^ 2" is read by some solvers, "x ^2" by all
        path.write_text(path.read_text().replace(" ^ 2", " ^2"))
