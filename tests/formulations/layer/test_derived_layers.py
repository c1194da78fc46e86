"""Layer problems with derived terms: enumeration, SCIP on the exported model, files."""

import itertools

import numpy as np
import pyomo.environ as pyo
import pytest
from layer_instances import layer_data
from scipy.optimize import NonlinearConstraint, minimize

from formulations import (
    LayerProblem,
    derive,
    load_problem,
    pyomo_model,
    refit,
    relax,
    save_problem,
    solve,
    square,
    write_model,
)
from formulations.layer.big_m import bounded
from formulations.symbolic.catalogue import entry

TERMS = {
    "cube": derive("a*r**3", price=0.03, a=0.3).term(),
    "power 1.5 in a box": derive("a*r**p", price=0.03, a=0.3, p=1.5, bound=0.5).term(),
    "elastic net": derive("a*r**2 + b*r", price=0.03, a=0.1, b=0.05).term(),
    "pseudo-Huber": derive("a*(sqrt(1 + r**2) - 1)", price=0.03, a=0.3).term(),
    "pseudo-Huber above its growth": derive("a*(sqrt(1 + r**2) - 1)", price=0.06, a=0.05).term(),
    "big-M": derive("0", price=0.1, bound=1.5).term(),
    "MCP": derive("a*r**2", price=0.1, a=0.05, extract="a").term(),
    "ℓ1": derive("a*r**2", price=0.03, a=0.2, norm=1).term(),
    "ball": derive("a*r**2", price=0.03, a=0.2, ball=True, bound=0.8).term(),
    "one a group": derive("a*r**3").term(np.array([0.01, 0.02, 0.03, 0.04]), weight=0.3),
}


def problem_of(name, seed=1, groups=4, outputs=2):
    return LayerProblem.from_data(*layer_data(seed, groups, outputs), TERMS[name])


def optimum(problem):
    """Every support, refitted by a general-purpose solver: for each it is a convex problem."""
    best = np.inf
    groups, outputs = problem.groups, problem.outputs
    for chosen in itertools.product([False, True], repeat=groups):
        support = np.array(chosen)
        rows = np.flatnonzero(support)

        def cost(x, rows=rows, support=support):
            weights = np.zeros((groups, outputs))
            weights[rows] = x.reshape(-1, outputs)
            return problem.objective(weights, support)

        if not rows.size:
            best = min(best, problem.constant)
            continue
        limit = np.broadcast_to(problem.term.bound, (groups,))[rows]
        limit = np.repeat(np.minimum(limit, 1e3), outputs)
        start = np.clip(refit(problem, support)[rows].ravel(), -limit, limit)
        box = list(zip(-limit, limit, strict=True))
        ball = ()
        if problem.term.profile.ball:
            inside = NonlinearConstraint(
                lambda x: (x.reshape(-1, outputs) ** 2).sum(axis=1), 0, float(limit[0]) ** 2
            )
            ball = (inside,)
        found = minimize(cost, 0.5 * start, bounds=box, constraints=ball, tol=1e-10, method="SLSQP")
        if not ball or (found.x.reshape(-1, outputs) ** 2).sum(1).max() <= inside.ub * (1 + 1e-9):
            best = min(best, float(found.fun))
        best = min(best, cost(start))
    return best


@pytest.mark.parametrize("name", TERMS)
def test_exact_solution_agrees_with_enumeration_by_another_solver(name):
    # one output is as much as the big-M form, which gives weak bounds, solves in a second
    for form, outputs in (("perspective", 2), ("big-m", 1)):
        problem = problem_of(name, outputs=outputs)
        if form == "big-m" and problem.term.profile.ball:
            continue  # its box is wider than the ball: not this form's relaxation
        best = optimum(problem)
        solution = solve(problem, solver="highs", form=form, gap=1e-6)
        assert solution.status == "optimal", form
        assert solution.objective == pytest.approx(best, rel=1e-5), form
        assert solution.bound <= best * (1 + 1e-6), form
        assert 0 < solution.kept < problem.groups


@pytest.mark.parametrize("name", TERMS)
def test_relaxation_is_the_projected_regularizer(name):
    problem = problem_of(name)
    relaxed = relax(problem, tolerance=1e-7)
    own = bounded(problem)
    assert relaxed.objective == pytest.approx(own.relaxed_objective(relaxed.weights), rel=1e-6)
    assert own.dual_bound(relaxed.weights) <= relaxed.objective * (1 + 1e-9)
    assert relaxed.bound <= solve(problem, gap=1e-6).objective * (1 + 1e-9)


@pytest.mark.parametrize("name", TERMS)
@pytest.mark.parametrize("form", ["perspective", "big-m"])
def test_model_states_the_objective_of_the_problem(name, form):
    problem = bounded(problem_of(name))
    term = problem.term
    rng = np.random.default_rng(0)
    support = np.array([True, False, True, True])
    weights = rng.uniform(-0.3, 0.3, size=problem.cross.shape) * problem.rows(support)[:, None]
    model = pyomo_model(problem, form)
    for (k, n), w in np.ndenumerate(weights):
        model.w[k, n].set_value(w)
    norms, _ = term.measure(problem.by_group(weights))
    for j in range(problem.groups):
        block = model.group[j]
        block.y.set_value(int(support[j]))
        if hasattr(block, "t"):
            block.t.set_value(norms[j] ** 2)
        if hasattr(block, "s"):
            block.s.set_value(norms[j])
        for k in getattr(block, "size", ()):
            block.size[k].set_value(abs(problem.by_group(weights)[j][k]))
    expected = problem.objective(weights, support)
    assert pyo.value(model.objective) == pytest.approx(expected, rel=1e-9)
    for constraint in model.component_data_objects(pyo.Constraint, active=True):
        assert min(constraint.uslack(), constraint.lslack()) >= -1e-9


@pytest.mark.parametrize("name", ["cube", "pseudo-Huber", "ball"])
def test_scip_finds_the_same_optimum_in_the_exported_model(name, tmp_path, capfd):
    pyscipopt = pytest.importorskip("pyscipopt")
    problem = problem_of(name)
    solution = solve(problem, gap=1e-6)
    path = tmp_path / "model.nl"
    write_model(problem, path, "big-m")
    model = pyscipopt.Model()
    model.hideOutput()
    model.readProblem(str(path))
    model.optimize()
    capfd.readouterr()
    assert model.getStatus() == "optimal"
    assert model.getObjVal() == pytest.approx(solution.objective, rel=1e-4)


def test_model_that_is_not_quadratic_is_written_as_nl_alone(tmp_path):
    with pytest.raises(ValueError, match=r"\.nl"):
        write_model(problem_of("cube"), tmp_path / "model.lp")


@pytest.mark.parametrize("name", TERMS)
def test_saved_problem_loads_as_the_same(name, tmp_path):
    problem = problem_of(name)
    save_problem(problem, tmp_path / "problem.npz")
    again = load_problem(tmp_path / "problem.npz")
    weights = np.random.default_rng(0).uniform(-0.4, 0.4, problem.cross.shape)
    support = np.array([True, True, False, True])
    assert again.objective(weights, support) == problem.objective(weights, support)
    assert again.relaxed_objective(weights) == problem.relaxed_objective(weights)
    assert again.dual_bound(weights) == problem.dual_bound(weights)


def test_saved_nested_problem_loads_as_the_same(tmp_path):
    term = entry("nested").nested(np.array([0, 0, 1, 1]), np.array([0.3, 0.4]), 0.1)
    problem = LayerProblem.from_data(*layer_data(0, 4, 2), term)
    save_problem(problem, tmp_path / "problem.npz")
    again = load_problem(tmp_path / "problem.npz")
    weights = np.random.default_rng(0).normal(size=problem.cross.shape)
    assert again.relaxed_objective(weights) == problem.relaxed_objective(weights)


@pytest.mark.parametrize("content", ["not JSON", "[1]", '{"phi": "sqrt(r)"}', '{"phi": "a*z"}'])
def test_file_with_a_wrong_term_is_refused_in_one_line(content, tmp_path):
    problem = LayerProblem.from_data(*layer_data(0, 3, 1), square(0.1, 0.2))
    save_problem(problem, tmp_path / "good.npz")
    arrays = dict(np.load(tmp_path / "good.npz"))
    np.savez(tmp_path / "bad.npz", **arrays, term=content)
    with pytest.raises(ValueError, match=r"bad\.npz: ") as caught:
        load_problem(tmp_path / "bad.npz")
    assert "\n" not in str(caught.value)


def test_extraction_beyond_the_curvature_of_the_loss_is_refused():
    with pytest.raises(ValueError, match="extraction is beyond"):
        LayerProblem.from_data(*layer_data(0, 3, 1), derive("a*r**2", extract="a", a=50.0).term())


def test_bound_follows_from_the_shrinkage_where_the_loss_says_none():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(40, 2)) @ rng.normal(size=(2, 4))  # G is singular
    problem = LayerProblem.from_data(x, x[:, :1], derive("a*(sqrt(1 + r**2) - 1)").term())
    assert np.isfinite(bounded(problem).term.bound).all()  # φ itself bounds the norm
