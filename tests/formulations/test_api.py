"""The public names and verbs: light to import, and wrong words refused by the right ones."""

import copy
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from layer_instances import layer_problem
from packages import install

import formulations
from formulations import (
    BilinearCost,
    BudgetProblem,
    InputError,
    Limit,
    Network,
    Selection,
    Status,
    relax,
    solve,
)

HEAVY = ("numpy", "scipy", "sympy", "pyomo", "highspy", "torch")


def network_problem():
    network = Network([np.array([[1.0], [-1.0]]), np.array([[1.0, 1.0]])], [np.zeros(2), [0.0]])
    return Selection(network, np.array([[1.0], [2.0]]), np.array([[1.0], [2.0]]))


def budget_problem():
    cost = BilinearCost(*(np.array(x) for x in ([1], [0], [[1]], [1], [[0]])))
    return BudgetProblem([np.array([1, 2, 3])], [np.array([1.0, 2, 3])], (Limit(cost, 2),))


def test_the_package_loads_nothing_heavy_by_itself():
    code = f"import formulations, sys; sys.exit(str([m for m in {HEAVY} if m in sys.modules]))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stderr.strip() == "[]"


def test_dir_names_what_the_stub_names_and_all_of_it_is_there():
    stub = Path(formulations.__file__).with_suffix(".pyi").read_text()
    named = [line.split(" as ")[1] for line in stub.splitlines() if line.startswith("from ")]
    assert sorted(named) == sorted(dir(formulations)) == sorted(formulations.__all__)
    for name in dir(formulations):
        assert getattr(formulations, name) is not None
    assert formulations.__version__


def test_every_kind_of_problem_is_solved():
    layer, budget, network = layer_problem(0), budget_problem(), network_problem()
    assert solve(layer).status == solve(layer, solver="highs").status == Status.OPTIMAL
    assert solve(budget).widths.tolist() == [2]
    assert solve(network, gap=1e-6).kept == 1
    assert relax(layer).bound <= solve(layer).objective
    assert relax(network).bound <= solve(network).objective


def test_relaxations_name_the_same_things():
    for relaxed in (relax(layer_problem(0)), relax(network_problem())):
        assert relaxed.bound <= relaxed.objective
        assert (relaxed.status, relaxed.kept >= 0) == ("optimal", True)
    with pytest.raises(InputError, match="a BudgetProblem is not solved here: one of LayerProb"):
        relax(budget_problem())
    with pytest.raises(InputError, match="the relaxation has no option 'form': it has tightened"):
        relax(network_problem(), "perspective")


@pytest.mark.parametrize("solver", ["branch-and-bound", "highs"])
def test_progress_is_told_when_the_root_suffices(solver):
    told = []
    problem = layer_problem(0)
    found = solve(problem, solver=solver, cardinality=0, on_progress=told.append)
    assert (len(told), found.nodes) == (2, 1)
    assert told[0].objective == pytest.approx(problem.constant)


@pytest.mark.parametrize("solver", ["branch-and-bound", "highs"])
def test_progress_ends_with_what_is_returned(solver):
    told = []
    found = solve(layer_problem(1), solver=solver, on_progress=told.append)
    assert told[-1].objective == pytest.approx(found.objective, rel=1e-12)
    assert told[-1].bound == pytest.approx(found.bound, rel=1e-12)
    assert told[-1].nodes == found.nodes


@pytest.mark.parametrize("loss", ["l1", "squared"])
def test_progress_of_networks_is_told_at_once(loss):
    told = []
    solve(replace(network_problem(), loss=loss), on_progress=told.append)
    assert told


@pytest.mark.parametrize("limit", [-1, 6, 2.5, float("nan"), float("inf"), "2"])
@pytest.mark.parametrize("ask", [solve, relax])
def test_a_cardinality_is_from_none_to_all_groups(ask, limit):
    with pytest.raises(InputError, match="cardinality must be a whole number from 0 to 5, the num"):
        ask(layer_problem(0), cardinality=limit)
    for fine in (0, 5, np.int32(3), 3.0):
        assert ask(layer_problem(0), cardinality=fine).kept <= fine


def test_what_is_no_problem_is_refused():
    with pytest.raises(InputError, match="a list is not solved here: one of LayerProblem, Bud"):
        solve([1, 2])


@pytest.mark.parametrize("kind", [layer_problem, budget_problem, network_problem])
def test_unknown_solvers_and_options_are_refused_by_those_there_are(kind):
    problem = kind(0) if kind is layer_problem else kind()
    with pytest.raises(InputError, match=r"unknown solver 'cplex': one of \w+"):
        solve(problem, solver="cplex")
    with pytest.raises(InputError, match=r"has no option 'tolerance': it has .*gap, seconds"):
        solve(problem, tolerance=1e-3)


def test_a_solver_of_another_package_is_called_by_its_name(tmp_path, monkeypatch):
    code = "def solve(problem, *, gap, seconds):\n    return problem.groups, gap\n"
    points = "[formulations.solvers]\ncounting = counting_solver:solve\n"
    install(tmp_path, monkeypatch, {"counting_solver.py": code}, points)
    assert solve(layer_problem(0), solver="counting", gap=0.1) == (5, 0.1)
    with pytest.raises(InputError, match=r"'cplex': one of branch-and-bound, highs, scip, count"):
        solve(layer_problem(0), solver="cplex")
    with pytest.raises(InputError, match="unknown solver 'counting'"):
        solve(budget_problem(), solver="counting")


def test_options_of_the_relaxation_are_checked_too():
    with pytest.raises(InputError, match="the relaxation has no option 'gap': it has form, ext"):
        relax(layer_problem(0), gap=1e-3)


def test_a_status_is_its_text():
    status = solve(layer_problem(0)).status
    assert status == "optimal"
    assert f"{status}" == "optimal"
    assert json.dumps({"status": status}) == '{"status": "optimal"}'


def test_what_follows_from_a_problem_does_not_travel_with_it():
    problem = layer_problem(0)
    assert problem.hessian.shape == (5, 5)
    again = copy.copy(problem)  # as pickle does it
    assert "hessian" in vars(problem)
    assert set(vars(again)) == {"gram", "cross", "constant", "term", "block"}
    assert (again.hessian == problem.hessian).all()
