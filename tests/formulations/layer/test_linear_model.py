"""The linear model and its files: HiGHS, and CBC and GLPK where they are, against enumeration."""

import re
import shutil
import subprocess
from dataclasses import replace

import highspy
import numpy as np
import pyomo.environ as pyo
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from layer_instances import brute_force, layer_data, layer_problem

from formulations import LayerProblem, find, linear_model, refit, square, write_linear_model
from formulations.errors import InputError
from formulations.layer.linear_model import _squares, factored_loss
from formulations.solving.milp import Milp

FORMS = ("perspective", "big-m")


def scaled(scale):
    """A problem with data of a scale."""
    x, y = layer_data(0, 3, 1)
    return LayerProblem.from_data(x * scale, y * scale, square(scale**2, scale**2))


def highs_value(path):
    """The optimum that HiGHS finds in a file."""
    highs = highspy.Highs()
    highs.setOptionValue("output_flag", False)
    highs.setOptionValue("mip_rel_gap", 1e-7)
    assert highs.readModel(str(path)) == highspy.HighsStatus.kOk
    highs.run()
    assert highs.getModelStatus() == highspy.HighsModelStatus.kOptimal
    return highs.getInfo().objective_function_value


def cbc_value(path):
    told = subprocess.run(
        ["cbc", str(path), "-solve", "-quit"], capture_output=True, text=True, check=True
    )
    return float(re.search(r"Objective value:\s+(\S+)", told.stdout)[1])


def glpk_value(path):
    answer = path.with_suffix(".txt")
    reader = "--lp" if path.suffix == ".lp" else "--freemps"
    told = subprocess.run(
        ["glpsol", reader, str(path), "--output", str(answer)], capture_output=True, check=True
    )
    assert b"INTEGER OPTIMAL" in told.stdout
    return float(re.search(r"Objective:\s+\S+ = (\S+)", answer.read_text())[1])


@given(
    x=st.floats(-1, 1),
    y=st.floats(0.01, 1),
    half=st.floats(1e-3, 1e3),
    teeth=st.integers(1, 8),
)
@settings(max_examples=40, deadline=None)
def test_teeth_lie_below_the_square_by_no_more_than_they_say(x, y, half, teeth):
    model = pyo.ConcreteModel()
    model.x = pyo.Var(bounds=(x * half * y,) * 2)
    model.y = pyo.Var(bounds=(y, y))
    model.objective = pyo.Objective(expr=_squares(model, [model.x], [half], model.y, teeth))
    outcome = Milp(model).run(np.inf)
    error = x**2 * y - outcome.bound / half**2
    assert -1e-6 <= error <= 4.0**-teeth * y + 1e-6


@given(seed=st.integers(0, 100))
@settings(max_examples=20, deadline=None)
def test_the_loss_is_the_sum_of_its_squares(seed):
    problem = layer_problem(seed, groups=3, block=2, outputs=2)
    weights = np.random.default_rng(seed).normal(size=problem.cross.shape)
    factor, target, rest = factored_loss(problem)
    squares = rest + 0.5 * float(((factor @ weights - target) ** 2).sum())
    assert squares == pytest.approx(problem.loss(weights), rel=1e-9)


@pytest.mark.parametrize("ending", [".lp", ".mps"])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("accuracy", [1e-1, 1e-3])
def test_highs_finds_the_optimum_in_the_file_within_the_accuracy(form, ending, accuracy, tmp_path):
    problem = layer_problem(4, groups=4, outputs=2, price=0.6)
    best, support, _ = brute_force(problem)
    assert 0 < support.sum() < 4
    write_linear_model(problem, tmp_path / f"m{ending}", form, accuracy=accuracy)
    assert (1 - accuracy) * best - 1e-6 <= highs_value(tmp_path / f"m{ending}") <= best + 1e-6


@pytest.mark.parametrize("command", ["cbc", "glpsol"])
@pytest.mark.parametrize("ending", [".lp", ".mps"])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("seed", [2, 4])
def test_other_solvers_find_what_highs_finds(command, form, ending, seed, tmp_path):
    if shutil.which(command) is None:
        pytest.skip(f"{command} is not installed")
    path = tmp_path / f"model{ending}"
    write_linear_model(layer_problem(seed, groups=4, outputs=2, price=0.6), path, form)
    value = {"cbc": cbc_value, "glpsol": glpk_value}[command](path)
    assert value == pytest.approx(highs_value(path), rel=1e-5)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("case", ["bound", "cardinality", "extraction", "nested", "prices"])
def test_every_kind_of_square_is_stated(form, case, tmp_path):
    problem = layer_problem(5, groups=4, outputs=1, price=0.3)
    cardinality = None
    if case == "bound":
        problem = layer_problem(5, groups=4, outputs=1, price=0.3, bound=0.4)
    elif case == "cardinality":
        cardinality = 1
    elif case == "prices":
        term = replace(problem.term, price=np.array([0.1, 0.5, 0.2, 0.3]))
        problem = replace(problem, term=term)
    elif case == "extraction":
        least = float(np.linalg.eigvalsh(problem.gram)[0])
        weight, extract = problem.term.weight, 0.2 * least
        term = replace(problem.term, weight=weight + extract, extract=np.asarray(extract))
        problem = replace(problem, term=term)
    else:
        term = find("nested").nested(np.array([0, 0, 1, 1]), np.array([0.3, 0.4]), 0.1, a=0.05)
        problem = replace(problem, term=term)
    best = min(
        problem.objective(refit(problem, np.array(kept, bool)), np.array(kept, bool))
        for kept in np.ndindex(2, 2, 2, 2)
        if cardinality is None or sum(kept) <= cardinality
    )
    path = tmp_path / "model.lp"
    write_linear_model(problem, path, form, cardinality, accuracy=1e-3)
    assert (1 - 1e-3) * best - 1e-6 <= highs_value(path) <= best + 1e-6


def test_the_head_of_a_file_says_its_accuracy_and_what_the_names_mean(tmp_path):
    for ending, mark in ((".lp", "\\"), (".mps", "*")):
        path = tmp_path / f"model{ending}"
        write_linear_model(layer_problem(0), path, accuracy=0.02)
        lines = path.read_text().splitlines()
        head = [line for line in lines if line.startswith(mark + " ")]
        assert "below the true one by 0.02 of it or less" in head[0]
        assert f"{mark} group(j)_y: 1 if the group is kept" in head
        for name in ("w", "u", "residual", "group(j)_v", "group(j)_share", "squares_g"):
            assert any(line.startswith(f"{mark} {name}: ") for line in head)


@pytest.mark.parametrize(
    ("problem", "settings", "message"),
    [
        (layer_problem(0), {"form": "conic"}, "unknown form 'conic'"),
        (layer_problem(0), {"accuracy": 0.0}, "between 0 and 1: it is 0"),
        (layer_problem(0), {"accuracy": 1e-12}, "take a larger one, or scale the data"),
        (scaled(1e-12), {}, "nothing below 1e-06"),
        (
            replace(layer_problem(0), term=find("a*r**3").term(price=0.2, a=0.1)),
            {},
            "takes φ = a",
        ),
    ],
)
def test_what_a_linear_model_cannot_hold_is_refused(problem, settings, message, capfd):
    with pytest.raises(InputError, match=message):
        linear_model(problem, **settings)
    assert capfd.readouterr().err == ""


def test_a_linear_model_has_two_formats(tmp_path):
    with pytest.raises(InputError, match=r"m\.nl: .* \.lp or \.mps"):
        write_linear_model(layer_problem(0), tmp_path / "m.nl")


def test_all_that_is_stated_says_what_it_is():
    model = linear_model(layer_problem(0), cardinality=2)
    assert all(c.doc for c in model.component_objects((pyo.Var, pyo.Constraint)))


def test_a_file_is_written_where_its_name_leads(tmp_path):
    problem = layer_problem(0, groups=2)
    (tmp_path / "kept.lp").write_text("old")
    (tmp_path / "link.lp").symlink_to("kept.lp")
    write_linear_model(problem, tmp_path / "link.lp")
    assert (tmp_path / "link.lp").is_symlink()
    assert "group(1)_y" in (tmp_path / "kept.lp").read_text()
