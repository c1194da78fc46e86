"""Conic files, read here and solved by Clarabel for every choice of groups."""

import itertools

import numpy as np
import pytest
from layer_instances import brute_force, layer_problem
from scipy import sparse

from formulations import LayerProblem, find, refit, write_model
from formulations.errors import InputError

clarabel = pytest.importorskip("clarabel")

FORMS = ("perspective", "big-m")


def read(path):
    """The parts of a .cbf file by name, each a list of lines in words."""
    parts = {}
    for part in path.read_text().split("\n\n"):
        lines = [line for line in part.splitlines() if not line.startswith("#")]
        parts[lines[0]] = [line.split() for line in lines[1:]]
    return parts


def optimum(path):
    """The least value over all binary choices."""
    parts = read(path)
    columns, rows = int(parts["VAR"][0][0]), int(parts["CON"][0][0])
    binary = [int(e) for (e,) in parts["INT"][1:]]
    matrix, shift, cost = np.zeros((rows, columns)), np.zeros(rows), np.zeros(columns)
    for r, e, a in parts["ACOORD"][1:]:
        matrix[int(r), int(e)] = float(a)
    for r, b in parts["BCOORD"][1:]:
        shift[int(r)] = float(b)
    for e, c in parts["OBJACOORD"][1:]:
        cost[int(e)] = float(c)
    cones, at = [], 0
    for name, size in parts["CON"][1:]:
        own = slice(at, at + int(size))
        if name == "QR":  # turned into a second-order cone
            turn = np.array([[1, 1], [1, -1]]) / np.sqrt(2)
            matrix[own][:2], shift[own][:2] = turn @ matrix[own][:2], turn @ shift[own][:2]
            cones.append(clarabel.SecondOrderConeT(int(size)))
        else:
            cones.append(clarabel.NonnegativeConeT(int(size)))
        at += int(size)
    assert at == rows
    fixed = np.zeros((len(binary), columns))
    fixed[range(len(binary)), binary] = 1
    settings = clarabel.DefaultSettings()
    settings.verbose = False
    values = []
    for choice in itertools.product((0.0, 1.0), repeat=len(binary)):
        solution = clarabel.DefaultSolver(
            sparse.csc_matrix((columns, columns)),
            cost,
            sparse.csc_matrix(np.vstack([fixed, -matrix])),
            np.concatenate([choice, shift]),
            [clarabel.ZeroConeT(len(binary)), *cones],
            settings,
        ).solve()
        if "Solved" in str(solution.status):
            values.append(solution.obj_val)
    return min(values) + float(parts["OBJBCOORD"][0][0])


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    "problem",
    [
        layer_problem(4, groups=3, block=2, outputs=2, price=0.6),
        layer_problem(4, groups=4, price=0.6, bound=0.4),
    ],
)
def test_the_optimum_of_a_conic_file_is_that_of_the_problem(form, problem, tmp_path):
    write_model(problem, tmp_path / "m.cbf", form)
    assert optimum(tmp_path / "m.cbf") == pytest.approx(brute_force(problem)[0], rel=1e-6)


@pytest.mark.parametrize("form", FORMS)
def test_a_conic_file_holds_cardinality_and_nested_groups(form, tmp_path):
    plain = layer_problem(5, groups=3, price=0.3)
    term = find("nested").nested(np.array([0, 0, 1]), np.array([0.3, 0.4]), 0.1, a=0.05)
    problem = LayerProblem(plain.gram, plain.cross, plain.constant, term)
    write_model(problem, tmp_path / "m.cbf", form, cardinality=1)
    supports = [np.zeros(3, bool), *np.eye(3, dtype=bool)]
    best = min(problem.objective(refit(problem, s), s) for s in supports)
    assert optimum(tmp_path / "m.cbf") == pytest.approx(best, rel=1e-6)


def test_what_a_conic_file_cannot_hold_is_refused(tmp_path):
    with pytest.raises(InputError, match="unknown form 'conic'"):
        write_model(layer_problem(0), tmp_path / "m.cbf", "conic")
    plain = layer_problem(5, groups=3)
    cube = LayerProblem(
        plain.gram, plain.cross, plain.constant, find("a*r**3").term(price=0.2, a=0.1)
    )
    with pytest.raises(InputError, match="this φ is not quadratic"):
        write_model(cube, tmp_path / "m.cbf")
    assert not list(tmp_path.iterdir())
