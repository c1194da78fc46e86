"""Layer problems in files: ``.npz`` with the arrays of the problem and the term's definition."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from formulations.errors import InputError
from formulations.layer.problem import LayerProblem
from formulations.output import write_output
from formulations.symbolic.catalogue import square
from formulations.symbolic.definition import derive
from formulations.terms.term import Term

_FIELDS = ("G", "B", "c0", "block", "ridge", "cost")
_PARAMETER = "parameter_"


def load_problem(path: str | Path) -> LayerProblem:
    """Read an ``.npz`` with arrays G, B, c0, block, ridge, cost (c), optionally bound (M).

    ``ridge`` is a of φ = a‖w‖². With an array ``term``, the JSON of another φ as
    :func:`save_problem` writes it, it is the factor of that φ.

    Raises
    ------
    InputError
        In one line that names the file and what is wrong with it.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"no layer problem at {path}")
    try:
        with np.load(path, allow_pickle=False) as data:
            arrays = {name: data[name] for name in data.files}
    except Exception as error:
        raise InputError(f"{path} is not a readable .npz file: {error}") from None
    missing = [name for name in _FIELDS if name not in arrays]
    if missing:
        raise InputError(f"{path} lacks the arrays {', '.join(missing)}")
    for name, value in arrays.items():
        if name in (*_FIELDS, "bound") and not np.issubdtype(value.dtype, np.number):
            raise InputError(f"{path}: the array {name} does not hold numbers")
        if name in ("c0", "block") and value.ndim:
            raise InputError(f"{path}: {name} must be one number, not {value.shape}")
    try:
        return LayerProblem(
            *(arrays["G"], arrays["B"], arrays["c0"], _read_term(arrays), arrays["block"])
        )
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def save_problem(problem: LayerProblem, path: str | Path) -> None:
    """Write what :func:`load_problem` reads."""
    term = problem.term
    factor, more = term.ridge, {}
    if factor is None or term.profile.ball or term.extract.any() or term.blocks is not None:
        factor = term.weight
        more = {f"{_PARAMETER}{name}": value for name, value in term.parameters.items()}
        more["term"] = np.array(json.dumps(term.profile.definition))
        if term.blocks is not None:
            more |= {"blocks": term.blocks, "block_price": term.block_price}
    content = io.BytesIO()
    np.savez_compressed(
        content,
        G=problem.gram,
        B=problem.cross,
        c0=problem.constant,
        block=problem.block,
        ridge=factor,
        cost=term.price,
        bound=term.bound,
        **more,
    )
    write_output(Path(path), content.getbuffer())


def _read_term(arrays: Mapping[str, NDArray[Any]]) -> Term:
    price, bound = arrays["cost"], arrays.get("bound", np.array(np.inf))
    if "term" not in arrays:
        return square(arrays["ridge"], price, bound)
    try:
        definition = json.loads(str(arrays["term"]))
    except ValueError:
        raise InputError("the array term is not JSON") from None
    if not isinstance(definition, dict):
        raise InputError("the array term is not a JSON object")
    parameters = {
        name.removeprefix(_PARAMETER): value
        for name, value in arrays.items()
        if name.startswith(_PARAMETER)
    }
    given: dict[str, Any] = dict(definition)
    given |= {name: float(np.ravel(value)[0]) for name, value in parameters.items()}
    if not np.isinf(bound).all():
        given["bound"] = float(np.min(bound))
    if "blocks" in arrays:
        given["block_price"] = float(np.ravel(arrays["block_price"])[0])
    derivation = derive(**given)
    if "blocks" in arrays:
        return derivation.nested(
            arrays["blocks"], arrays["block_price"], price, arrays["ridge"], **parameters
        )
    return derivation.term(price, bound, arrays["ridge"], **parameters)
