"""The layer problem: keep a subset of a layer's input groups, refit, reproduce the layer's output.

With inputs X ∈ R^{n×D} (im2col; D = groups × block, block the kernel area), outputs Y ∈ R^{n×O},
G = XᵀX/n, B = XᵀY/n and c₀ = ‖Y‖²/(2n):

    min  ½⟨W, G W⟩ − ⟨B, W⟩ + c₀ + Σ_j [ φ(W_j) − δ‖W_j‖² + c_j y_j ],   ‖W_j‖ ≤ M_j y_j,

y_j ∈ {0, 1}, W_j ∈ R^{block×O} the rows of group j. The loss is ‖X W − Y‖²/(2n): the mean over
samples of half the squared error. A term's extraction δ, which makes its own part concave, is met
by the loss: the problem is solved as one in the curvature G − 2δI and φ alone.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from scipy.optimize import lsq_linear

from formulations.errors import InputError
from formulations.numerics.proximal_gradient import accelerated
from formulations.numerics.roots import chandrupatla
from formulations.terms.term import Term

if TYPE_CHECKING:
    import pyomo.environ as pyo

    from formulations.solving.result import Solution

_SOLVERS = {
    "branch-and-bound": "layer.solvers.branch_and_bound",
    "highs": "layer.solvers.outer_approximation",
    "scip": "layer.solvers.scip",
}
_FIELDS = ("G", "B", "c0", "block", "ridge", "cost")


@dataclass(frozen=True, eq=False)
class LayerProblem:
    """Data of one layer problem.

    Parameters
    ----------
    gram : (D, D) array
        G, symmetric positive semidefinite.
    cross : (D, O) array
        B, in the range of G = XᵀX/n, as XᵀY/n always is.
    constant : float
        c₀ ≥ 0.
    term : Term
        Shrinkage φ, price c and bound M, one for all groups or one a group.
    block : int
        Rows of a group; D must be a multiple.

    Raises
    ------
    InputError
        Naming the number that is wrong: NaN, shapes that do not fit, an asymmetric or indefinite G,
        a B that G cannot produce (the loss would be unbounded below), an extraction beyond the
        curvature of the loss.
    """

    gram: np.ndarray
    cross: np.ndarray
    constant: float
    term: Term
    block: int = 1

    def __post_init__(self):
        for name, value in (("G", self.gram), ("B", self.cross)):
            if np.iscomplexobj(value):
                raise InputError(f"{name} must be real: it is complex")
        gram, cross = np.asarray(self.gram, float), np.asarray(self.cross, float)
        object.__setattr__(self, "gram", gram)
        object.__setattr__(self, "cross", cross)
        object.__setattr__(self, "constant", float(self.constant))
        if not float(self.block).is_integer():
            raise InputError(f"block must be a whole number of rows: it is {self.block}")
        object.__setattr__(self, "block", int(self.block))
        self._check()

    def _check(self):
        gram, cross = self.gram, self.cross
        if gram.ndim != 2 or gram.shape[0] != gram.shape[1] or gram.size == 0:
            raise InputError(f"G must be a square matrix: its shape is {gram.shape}")
        if cross.ndim != 2 or cross.shape[0] != gram.shape[0] or cross.shape[1] == 0:
            raise InputError(f"B must have {gram.shape[0]} rows like G: its shape is {cross.shape}")
        if self.block < 1 or gram.shape[0] % self.block:
            raise InputError(f"block {self.block} does not divide the {gram.shape[0]} rows of G")
        for name, value in (("G", gram), ("B", cross), ("c0", np.asarray(self.constant))):
            if not np.isfinite(value).all():
                at = tuple(int(i) for i in np.argwhere(~np.isfinite(value))[0])
                raise InputError(f"{name}{list(at) if at else ''} is not a finite number")
        scale = np.abs(gram).max()
        if scale == 0:
            raise InputError("G is zero: the layer sees no input")
        skew = np.abs(gram - gram.T)
        if skew.max() > 1e-8 * scale:
            i, j = (int(k) for k in np.unravel_index(skew.argmax(), skew.shape))
            raise InputError(
                f"G is not symmetric: G[{i},{j}] = {gram[i, j]:g}, G[{j},{i}] = {gram[j, i]:g}"
            )
        lowest = self._spectrum[0][0]
        if lowest < -1e-8 * scale:
            raise InputError(f"G is not positive semidefinite: it has the eigenvalue {lowest:g}")
        values, vectors = self._spectrum
        null = vectors[:, values <= 1e-10 * values[-1]]
        beyond = np.abs(null.T @ cross).max(initial=0.0)
        if beyond > 1e-6 * np.abs(cross).max():
            raise InputError(f"B is not in the range of G: a part of size {beyond:g} lies outside")
        numbers = {
            name: getattr(self.term, name) for name in ("price", "bound", "weight", "extract")
        }
        for name, value in {**numbers, **self.term.parameters}.items():
            shape = np.shape(value)
            if shape not in ((), (self.groups,)):
                raise InputError(f"{name} has shape {shape}: one number, or {self.groups}, fit")
        if self.term.blocks is not None and len(self.term.blocks) != self.groups:
            raise InputError(f"{len(self.term.blocks)} groups are in blocks, of {self.groups}")
        if self.term.extract.any():
            lowest = np.linalg.eigvalsh(self.curvature)[0]
            if lowest < -1e-8 * scale:
                raise InputError(
                    f"the extraction is beyond the loss's curvature: G − 2δI has the eigenvalue "
                    f"{lowest:g}"
                )
        if self.constant < 0:
            raise InputError(f"c0 must not be negative: it is {self.constant:g}")

    # ---- construction and files -------------------------------------------------------------

    @classmethod
    def from_data(
        cls, inputs: np.ndarray, outputs: np.ndarray, term: Term, block: int = 1
    ) -> LayerProblem:
        """Build G, B, c₀ from inputs X (n, D) and outputs Y (n, O)."""
        n = len(inputs)
        if n == 0 or len(outputs) != n:
            raise InputError(f"{n} inputs and {len(outputs)} outputs: equal, positive numbers fit")
        return cls(
            inputs.T @ inputs / n,
            inputs.T @ outputs / n,
            float((outputs * outputs).sum() / (2 * n)),
            term,
            block,
        )

    @classmethod
    def load(cls, path: str | Path) -> LayerProblem:
        """Read an ``.npz`` with arrays G, B, c0, block, ridge, cost (c), optionally bound (M).

        ``ridge`` is a of φ = a‖w‖². With an array ``term``, the JSON of another φ as :meth:`save`
        writes it, it is the factor of that φ.

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
            return cls(arrays["G"], arrays["B"], arrays["c0"], _read_term(arrays), arrays["block"])
        except InputError as error:
            raise InputError(f"{path}: {error}") from None

    def save(self, path: str | Path) -> None:
        """Write what :meth:`load` reads."""
        term, ridge, more = self.term, self.term.ridge, {}
        plain = ridge is not None and not term.profile.ball and not term.extract.any()
        if not plain or term.blocks is not None:
            ridge = term.weight
            more = {f"parameter_{name}": value for name, value in term.parameters.items()}
            more["term"] = json.dumps(term.profile.definition)
            if term.blocks is not None:
                more |= {"blocks": term.blocks, "block_price": term.block_price}
        with open(path, "wb") as file:  # np.savez would change the name
            np.savez_compressed(
                file,
                G=self.gram,
                B=self.cross,
                c0=self.constant,
                block=self.block,
                ridge=ridge,
                cost=term.price,
                bound=term.bound,
                **more,
            )

    # ---- sizes ------------------------------------------------------------------------------

    @property
    def groups(self) -> int:
        """Number of input groups."""
        return self.gram.shape[0] // self.block

    @property
    def price(self) -> np.ndarray:
        """C of every group, (groups,)."""
        return np.broadcast_to(self.term.price, (self.groups,)).astype(float)

    @property
    def outputs(self) -> int:
        """Number of output columns, O."""
        return self.cross.shape[1]

    def by_group(self, weights: np.ndarray) -> np.ndarray:
        """(D, O) weights to (groups, block·O), one group a row: what a term reads."""
        return weights.reshape(self.groups, -1)

    def rows(self, support: np.ndarray) -> np.ndarray:
        """(G,) mask of groups to (D,) mask of rows."""
        return np.repeat(np.asarray(support, bool), self.block)

    def per_row(self, value) -> np.ndarray:
        """A term's parameter, one a row of W, (D,)."""
        return np.repeat(np.broadcast_to(value, (self.groups,)), self.block)

    # ---- values -----------------------------------------------------------------------------

    def loss(self, weights: np.ndarray) -> float:
        """½⟨W, G W⟩ − ⟨B, W⟩ + c₀."""
        inner = 0.5 * np.vdot(weights, self.gram @ weights) - np.vdot(self.cross, weights)
        return float(inner + self.constant)

    def objective(self, weights: np.ndarray, support: np.ndarray) -> float:
        """Loss + shrinkage + prices of the support: the MIP's objective. (G,) bool support."""
        shrinkage = self.term.shrinkage(self.by_group(weights)).sum()
        return self.loss(weights) + float(shrinkage) + self.term.prices(support.astype(float))

    def relaxed_objective(self, weights: np.ndarray) -> float:
        """Loss + Σ_j h(W_j): the perspective relaxation, its indicators projected away."""
        return self.loss(weights) + float(self.term.value(self.by_group(weights)).sum())

    def dual_bound(self, weights: np.ndarray) -> float:
        """Lower bound on the perspective relaxation from any (D, O) weights V, by Fenchel duality.

        D(V) = −½⟨V, G V⟩ + c₀ − Σ_j h*(v_j),  v = B − G V; after an extraction G − 2δI for G.
        """
        image = self.curvature @ weights
        dual = self.term.conjugate(self.by_group(self.cross - image)).sum()
        return float(self.constant - 0.5 * np.vdot(weights, image) - dual)

    def refit(self, support: np.ndarray, pause: Callable[[], None] = lambda: None) -> np.ndarray:
        """Best weights (D, O) on a support (G,): what a kept group pays, within its bound.

        ``pause`` is called now and then; what it raises ends the work.
        """
        return self.best_weights(np.asarray(support, float), pause=pause)

    def best_weights(
        self,
        y: np.ndarray,
        *,
        limit: np.ndarray | None = None,
        pause: Callable[[], None] = lambda: None,
    ) -> np.ndarray:
        """argmin_W loss + Σ_j y_j·φ(W_j/y_j) − δ‖W_j‖², (D, O), for indicators y (G,).

        Parameters
        ----------
        y : (G,) array
            In [0, 1]; groups at 0 get no weights.
        limit : (D, O) array, optional
            Largest magnitudes; φ is then taken at W_j itself (the big-M form) and M left aside.
        pause : callable
            Called now and then; what it raises ends the work.
        """
        term, weights = self.term, np.zeros_like(self.cross)
        alive = y > 1e-9
        rows = self.rows(alive)
        if not rows.any():
            return weights
        curvature, cross = self.curvature[np.ix_(rows, rows)], self.cross[rows]
        scale = np.ones_like(y) if limit is not None else y
        if limit is None:
            bound = np.broadcast_to(term.bound, y.shape)
            bound = np.multiply(bound, y, out=np.full(y.shape, np.inf), where=np.isfinite(bound))
            limit = self.per_row(bound)[:, None] * np.ones_like(self.cross)
        limit, term = limit[rows], term.take(alive)
        scale = scale[alive]
        if term.ridge is not None and not term.profile.ball:
            hessian = curvature + 2 * np.diag(np.repeat(term.ridge / scale, self.block))
            weights[rows] = minimise_in_box(hessian, cross, limit, pause)
            return weights
        step = 1 / max(np.linalg.eigvalsh(curvature)[-1], 1e-300)
        box = None if term.profile.ball else limit

        def prox(w):
            flat = w.reshape(len(scale), -1)
            return term.shrinkage_prox(flat, step, scale, limit=box).reshape(w.shape)

        weights[rows] = accelerated(
            lambda w: curvature @ w - cross, prox, np.zeros_like(cross), step, pause=pause
        )
        return weights

    def valid_bounds(self, upper: float) -> np.ndarray:
        """|W| of every solution at most this, entry by entry, (D, O), given an upper bound U.

        The loss, with the ridge if φ is one, is a quadratic of Hessian H with minimum q at W°, so
        a solution has ½‖W − W°‖²_H ≤ U − q, hence |W_ko − W°_ko| ≤ √(2(U − q)·(H⁻¹)_kk); and any
        other φ has φ(W_j) ≤ U − q. Infinite where neither says anything.
        """
        term = self.term
        limit = self.per_row(term.bound)[:, None] * np.ones_like(self.cross)
        ridge = 0.0 if term.ridge is None else term.ridge
        hessian = self.curvature + 2 * np.diag(self.per_row(ridge))
        values = np.linalg.eigvalsh(hessian)
        lowest = 0.0 if not term.extract.any() else -np.inf
        if values[0] > 1e-10 * values[-1]:
            dense = np.linalg.solve(hessian, self.cross)
            lowest = self.constant - 0.5 * float(np.vdot(self.cross, dense))
            slack = 2 * max(0.0, upper - lowest)
            radius = np.sqrt(slack * np.diag(np.linalg.inv(hessian)))[:, None]
            limit = np.minimum(limit, np.abs(dense) + radius)
        if term.ridge is None and np.isfinite(lowest):
            limit = np.minimum(limit, self.per_row(self._reach(upper - lowest))[:, None])
        return limit

    def _reach(self, value: float) -> np.ndarray:
        """Largest norm with φ at most ``value``, (G,); infinite where φ never exceeds it."""
        term = self.term.take(np.ones(self.groups, bool))
        high = np.ones(self.groups)
        while ((short := term.phi(high) < value) & (high < 1e12)).any():
            high = np.where(short & (high < 1e12), 4 * high, high)
        root = chandrupatla(lambda r: term.phi(r) - value, 0 * high, high)
        return np.where(short, np.inf, root)

    @cached_property
    def curvature(self) -> np.ndarray:
        """G − 2δI, (D, D): the Hessian of the loss after the term's extraction."""
        if not self.term.extract.any():
            return self.gram
        return self.gram - 2 * np.diag(self.per_row(self.term.extract))

    @cached_property
    def plain(self) -> bool:
        """Whether φ = a‖w‖² for every group, with neither a bound nor nested indicators."""
        term = self.term
        simple = term.ridge is not None and not term.profile.ball and term.blocks is None
        return simple and bool(np.isinf(term.bound).all())

    @cached_property
    def hessian(self) -> np.ndarray:
        """G − 2δI + 2aI, (D, D), of the whole objective where φ = a‖w‖²."""
        return self.curvature + 2 * np.diag(self.per_row(self.term.ridge))

    def transformed(self, gram: np.ndarray, cross: np.ndarray, term: Term) -> LayerProblem:
        """Another form of this problem, whose data are right by construction and not checked."""
        return LayerProblem.unchecked(gram, cross, self.constant, term, self.block)

    @classmethod
    def unchecked(
        cls, gram: np.ndarray, cross: np.ndarray, constant: float, term: Term, block: int
    ) -> LayerProblem:
        """A problem whose data are right by construction, as they come from other problems'."""
        problem = object.__new__(cls)
        fields = {"gram": gram, "cross": cross, "constant": constant, "term": term, "block": block}
        for name, value in fields.items():
            object.__setattr__(problem, name, value)
        return problem

    @cached_property
    def _spectrum(self) -> tuple[np.ndarray, np.ndarray]:
        return np.linalg.eigh(self.gram)

    # ---- the MIP ----------------------------------------------------------------------------

    def model(self, form: str = "perspective", cardinality: int | None = None) -> pyo.ConcreteModel:
        """The pruning MIP as a Pyomo model.

        Sets
            J groups, K rows of W, N columns of W
        Variables
            w[k,n], and per group the block of ``form`` (y, and t for the perspective); with nested
            indicators z[b] of every block
        Constraints
            y_j ≤ z_b(j), with nested indicators
            Σ_j y_j ≤ K, with a cardinality K
        Objective
            ½ Σ_n w_nᵀ G w_n − Σ_kn B_kn w_kn + c₀ + Σ_j block[j].cost (+ Σ_b C_b z_b)

        Parameters
        ----------
        form : {"big-m", "perspective"}
            See :mod:`formulations.layer.pyomo_blocks`. The big-M form takes :meth:`big_m` for M.
        cardinality : int, optional
            K, the largest number of groups kept.
        """
        import pyomo.environ as pyo

        from formulations.layer.pyomo_blocks import BLOCKS

        if form not in BLOCKS:
            raise InputError(f"unknown form {form!r}: one of {', '.join(BLOCKS)}")
        count, columns = self.cross.shape
        model = pyo.ConcreteModel()
        model.J, model.K = pyo.RangeSet(0, self.groups - 1), pyo.RangeSet(0, count - 1)
        model.N = pyo.RangeSet(0, columns - 1)
        # Bounds that every optimal solution satisfies: without them some solvers never get a bound.
        box = self.big_m()
        model.w = pyo.Var(
            model.K,
            model.N,
            bounds=lambda _, k, n: tuple(_finite(b) for b in (-box[k, n], box[k, n])),
        )
        bounds = np.broadcast_to(self.per_row(self.term.bound)[:, None], self.cross.shape)
        if form == "big-m":
            bounds = box

        def group(block, j):
            rows = range(j * self.block, (j + 1) * self.block)
            entries = [(k, n) for k in rows for n in model.N]
            BLOCKS[form](
                block,
                [model.w[e] for e in entries],
                self.term.single(j, self.groups),
                [float(bounds[e]) for e in entries],
            )

        model.group = pyo.Block(model.J, rule=group)
        if cardinality is not None:
            kept = sum(model.group[j].y for j in model.J)
            model.cardinality = pyo.Constraint(expr=kept <= cardinality)
        prices = 0.0
        if self.term.blocks is not None:
            model.Z = pyo.RangeSet(0, len(self.term.block_price) - 1)
            model.z = pyo.Var(model.Z, domain=pyo.Binary)
            model.nested = pyo.Constraint(
                model.J, rule=lambda m, j: m.group[j].y <= m.z[int(self.term.blocks[j])]
            )
            prices = sum(float(self.term.block_price[b]) * model.z[b] for b in model.Z)
        quadratic = sum(
            (0.5 if k == l else 1.0) * float(self.gram[k, l]) * model.w[k, n] * model.w[l, n]
            for n in model.N
            for k in model.K
            for l in range(k, count)
            if self.gram[k, l] != 0
        )
        linear = sum(float(self.cross[k, n]) * model.w[k, n] for k in model.K for n in model.N)
        costs = sum(model.group[j].cost for j in model.J)
        model.objective = pyo.Objective(expr=quadratic - linear + self.constant + costs + prices)
        return model

    def bounded(self) -> LayerProblem:
        """The same problem, with a bound M wherever its perspective needs one.

        Where φ grows only linearly, y·φ(w/y) is finite at y = 0: without a bound a removed group
        need not be zero in the closed perspective. :meth:`valid_bounds` then gives M.

        Raises
        ------
        InputError
            If no bound follows from the loss and φ.
        """
        term = self.term
        if term.superlinear or np.isfinite(term.bound).all() or term.blocks is not None:
            return self
        limit = self.by_group(self.big_m()).max(axis=1)
        if not np.isfinite(limit).all():
            raise InputError("no bound on the weights follows from the loss and φ: give a bound M")
        return replace(self, term=term.bounded_by(limit))

    def big_m(self) -> np.ndarray:
        """Finite bounds for the big-M form, (D, O): M, or the valid ones from keeping all."""
        everything = np.ones(self.groups, bool)
        upper = min(self.objective(self.refit(everything), everything), self.constant)
        return self.valid_bounds(upper)

    def write(
        self, path: str | Path, form: str = "perspective", cardinality: int | None = None
    ) -> None:
        """Export the model as .lp, .mps or .nl, by the file's ending, for any other solver."""
        path = Path(path)
        if path.suffix not in {".lp", ".mps", ".nl"}:
            raise InputError(f"{path.name}: a model is written as .lp, .mps or .nl")
        if not path.parent.is_dir():
            raise InputError(f"there is no folder {path.parent} to write {path.name} in")
        if path.suffix != ".nl" and self.term.ridge is None:
            raise InputError(f"{path.name}: this φ is not quadratic: write the model as .nl")
        self.model(form, cardinality).write(str(path), io_options={"symbolic_solver_labels": True})
        if path.suffix == ".lp":  # "x ^ 2" is read by some solvers, "x ^2" by all
            path.write_text(path.read_text().replace(" ^ 2", " ^2"))

    def solve(self, solver: str = "branch-and-bound", **options) -> Solution:
        """Solve to proved optimality.

        Parameters
        ----------
        solver : {"branch-and-bound", "highs", "scip"}
            :func:`branch_and_bound.solve`; :func:`outer_approximation.solve`, which also takes
            nested indicators and is what these are solved with in any case; :func:`scip.solve`,
            where pyscipopt is installed.
        **options
            Of the solver. All take ``cardinality``, ``tolerance`` and ``time_limit``.
        """
        if solver not in _SOLVERS:
            raise InputError(f"unknown solver {solver!r}: one of {', '.join(_SOLVERS)}")
        if solver == "branch-and-bound" and self.term.blocks is not None:
            solver = "highs"
        return import_module(f"formulations.{_SOLVERS[solver]}").solve(self, **options)

    def relax(self, form: str = "perspective", **options) -> Solution:
        """Solve the continuous relaxation with HiGHS (:func:`outer_approximation.relax`)."""
        from formulations.layer.solvers import outer_approximation

        return outer_approximation.relax(self, form, **options)


def _finite(bound: float) -> float | None:
    return float(bound) if np.isfinite(bound) else None


def _read_term(arrays: Mapping[str, np.ndarray]) -> Term:
    from formulations.symbolic.catalogue import square
    from formulations.symbolic.derivation import derive

    price, bound = arrays["cost"], arrays.get("bound", np.inf)
    if "term" not in arrays:
        return square(arrays["ridge"], price, bound)
    try:
        definition = json.loads(str(arrays["term"]))
    except ValueError:
        raise InputError("the array term is not JSON") from None
    if not isinstance(definition, dict):
        raise InputError("the array term is not a JSON object")
    prefix = "parameter_"
    parameters = {k.removeprefix(prefix): v for k, v in arrays.items() if k.startswith(prefix)}
    values = {name: float(np.ravel(value)[0]) for name, value in parameters.items()}
    bounded = {} if np.isinf(bound).all() else {"bound": float(np.min(bound))}
    if "blocks" in arrays:
        bounded["block_price"] = float(np.ravel(arrays["block_price"])[0])
    derivation = derive(**definition, **values, **bounded)
    if "blocks" in arrays:
        return derivation.nested(
            arrays["blocks"], arrays["block_price"], price, arrays["ridge"], **parameters
        )
    return derivation.term(price, bound, arrays["ridge"], **parameters)


def minimise_in_box(
    hessian: np.ndarray, linear: np.ndarray, bound: np.ndarray, pause: Callable[[], None]
) -> np.ndarray:
    """Argmin ½⟨W, H W⟩ − ⟨B, W⟩ over |W| ≤ bound, column by column.

    Parameters
    ----------
    hessian : (D, D) array
        H, positive definite.
    linear, bound : (D, O) arrays
        B, and the bounds (may be infinite).
    pause : callable
        Called before every column that needs the box.
    """
    weights = np.linalg.solve(hessian, linear)
    outside = np.flatnonzero((np.abs(weights) > bound).any(axis=0))
    if outside.size:
        factor = np.linalg.cholesky(hessian).T
        target = np.linalg.solve(factor.T, linear)
        for n in outside:
            pause()
            box = np.maximum(bound[:, n], 1e-300)  # the solver wants room between its bounds
            fit = lsq_linear(factor, target[:, n], (-box, box), method="bvls").x
            weights[:, n] = np.clip(fit, -bound[:, n], bound[:, n])
    return weights
