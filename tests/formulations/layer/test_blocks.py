"""The Pyomo blocks and the exported model, against the problem's own values and SCIP."""

import numpy as np
import pyomo.environ as pyo
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from layer_instances import brute_force, direct_objective, layer_problem, layer_problems

from formulations import pyomo_model, square, write_model
from formulations.layer.pyomo_blocks import BLOCKS, big_m_block, perspective_block

quick = settings(max_examples=20, deadline=None)
FORMS = ("perspective", "big-m")


def fill(model, problem, weights, y):
    """Put weights and indicators into a model, t at the least value its cone allows."""
    for (k, n), w in np.ndenumerate(weights):
        model.w[k, n].set_value(w)
    for j in range(problem.groups):
        model.group[j].y.set_value(y[j], skip_validation=True)
        if hasattr(model.group[j], "t"):
            energy = float((problem.by_group(weights)[j] ** 2).sum())
            model.group[j].t.set_value(energy / y[j] if y[j] else 0.0)


def slack(model):
    """The least slack of all constraints: negative at an infeasible point."""
    return min(
        min(c.uslack(), c.lslack())
        for c in model.component_data_objects(pyo.Constraint, active=True)
    )


@pytest.mark.parametrize("form", FORMS)
@given(problem=layer_problems(max_groups=4, max_size=6), seed=st.integers(0, 1000))
@quick
def test_model_objective_is_the_objective_of_the_problem(form, problem, seed):
    rng = np.random.default_rng(seed)
    support = rng.random(problem.groups) < 0.6
    weights = rng.normal(size=problem.cross.shape) * problem.rows(support)[:, None]
    model = pyomo_model(problem, form)
    fill(model, problem, weights, support.astype(float))
    expected = direct_objective(problem, weights, support)
    assert pyo.value(model.objective) == pytest.approx(expected, rel=1e-9, abs=1e-9)


@given(problem=layer_problems(max_groups=4, max_size=6, bounds=(1.0,)), seed=st.integers(0, 1000))
@quick
def test_perspective_model_at_the_keep_scores_is_the_relaxed_objective(problem, seed):
    weights = np.random.default_rng(seed).uniform(-1, 1, size=problem.cross.shape)
    model = pyomo_model(problem, "perspective")
    fill(model, problem, weights, problem.term.keep(problem.by_group(weights)))
    assert pyo.value(model.objective) == pytest.approx(problem.relaxed_objective(weights), rel=1e-9)
    assert slack(model) >= -1e-9


@pytest.mark.parametrize("form", FORMS)
@given(problem=layer_problems(max_groups=3, max_size=6))
@quick
def test_optimum_is_feasible_in_the_model(form, problem):
    best, support, weights = brute_force(problem)
    model = pyomo_model(problem, form)
    fill(model, problem, weights, support.astype(float))
    assert slack(model) >= -1e-7
    assert pyo.value(model.objective) == pytest.approx(best, rel=1e-7)


@pytest.mark.parametrize("form", FORMS)
def test_weight_of_a_group_that_is_not_kept_is_infeasible(form):
    problem = layer_problem(0)
    weights, model = np.full_like(problem.cross, 0.1), pyomo_model(problem, form)
    fill(model, problem, weights, np.ones(problem.groups))
    assert slack(model) >= 0
    y = np.ones(problem.groups)
    y[2] = 0
    fill(model, problem, weights, y)
    assert slack(model) < -1e-3


@pytest.mark.parametrize("form", FORMS)
def test_weight_beyond_its_bound_is_infeasible(form):
    problem = layer_problem(0, bound=0.5)
    model = pyomo_model(problem, form)
    for sign in (1, -1):
        for size, feasible in ((0.5, True), (0.51, False)):
            fill(model, problem, np.full_like(problem.cross, sign * size), np.ones(problem.groups))
            assert (slack(model) >= -1e-12) == feasible


@pytest.mark.parametrize(
    ("w", "t", "y", "feasible"),
    [
        ((3.0, 4.0), 25.0, 1.0, True),
        ((3.0, 4.0), 24.9, 1.0, False),
        ((3.0, 4.0), 50.0, 0.5, True),
        ((3.0, 4.0), 49.9, 0.5, False),
        ((0.0, 0.0), 0.0, 0.0, True),
        ((0.1, 0.0), 100.0, 0.0, False),
    ],
)
def test_cone_holds_exactly_where_the_energy_is_at_most_t_times_y(w, t, y, feasible):
    model = pyo.ConcreteModel()
    model.w, model.group = pyo.Var([0, 1]), pyo.Block()
    perspective_block(model.group, [model.w[0], model.w[1]], square(2.0, 3.0), [np.inf, np.inf])
    for k in (0, 1):
        model.w[k].set_value(w[k])
    model.group.t.set_value(t)
    model.group.y.set_value(y, skip_validation=True)
    assert (slack(model) >= 0) == feasible
    assert pyo.value(model.group.cost) == pytest.approx(2 * t + 3 * y)
    assert model.group.t.lb == 0
    assert model.group.y.is_binary()


def test_perspective_block_states_the_box_only_where_the_bound_is_finite():
    model = pyo.ConcreteModel()
    model.w, model.group = pyo.Var([0, 1]), pyo.Block()
    perspective_block(model.group, [model.w[0], model.w[1]], square(1.0, 1.0), [2.0, np.inf])
    assert (len(model.group.below), len(model.group.above)) == (1, 1)


def test_big_m_block_refuses_an_infinite_bound():
    model = pyo.ConcreteModel()
    model.w, model.group = pyo.Var([0]), pyo.Block()
    with pytest.raises(ValueError, match="finite bound"):
        big_m_block(model.group, [model.w[0]], square(1.0, 1.0), [np.inf])


def test_the_forms_are_the_two_of_the_layer_problem():
    assert set(BLOCKS) == set(FORMS)


def test_unknown_form_is_refused_by_name():
    with pytest.raises(ValueError, match="'conic'"):
        pyomo_model(layer_problem(0), "conic")


# ---- export --------------------------------------------------------------------------------------


@pytest.mark.parametrize("bound", [np.inf, 0.5])
@pytest.mark.parametrize("ending", [".lp", ".mps", ".nl"])
@pytest.mark.parametrize("form", FORMS)
def test_model_is_exported_in_every_format(form, ending, bound, tmp_path):
    path = tmp_path / f"model{ending}"
    problem = layer_problem(1, groups=3, block=2, outputs=2, bound=bound)
    write_model(problem, path, form)
    text = path.read_text()
    if ending == ".nl":
        size = len(list(pyomo_model(problem, form).component_data_objects(pyo.Var)))
        assert int(text.splitlines()[1].split()[0]) == size
    else:
        assert text.count("group(2)_y") > 1
        assert "w(5_1)" in text


def test_export_refuses_another_ending_by_the_name_of_the_file(tmp_path):
    with pytest.raises(ValueError, match=r"model\.txt"):
        write_model(layer_problem(0), tmp_path / "model.txt")


@pytest.mark.parametrize("bound", [np.inf, 0.4])
@pytest.mark.parametrize("ending", [".lp", ".mps", ".nl"])
@pytest.mark.parametrize("form", FORMS)
def test_scip_proves_the_same_optimum_from_the_exported_file(form, ending, bound, tmp_path):
    pyscipopt = pytest.importorskip("pyscipopt")
    problem = layer_problem(4, groups=4, block=2, outputs=2, price=0.6, bound=bound)
    best, support, _ = brute_force(problem)
    assert 0 < support.sum() < 4
    path = tmp_path / f"model{ending}"
    write_model(problem, path, form)
    model = pyscipopt.Model()
    model.hideOutput()
    model.readProblem(str(path))
    model.optimize()
    assert model.getStatus() == "optimal"
    assert model.getObjVal() == pytest.approx(best, rel=1e-4)
