"""Two solutions in the landscape of their loss: paths between them, barriers, curvature.

Pure functions over flat parameter vectors; :mod:`mipprune.analysis.valley` applies them to
networks.

Sources. Paths and the training of the curve: Garipov, Izmailov, Podoprikhin, Vetrov, Wilson, "Loss
surfaces, mode connectivity, and fast ensembling of DNNs" (NeurIPS 2018), section 3. The share of a
displacement in the span of the Hessian's top eigenvectors: Chao, Wang, Xing, Cheng, "Directional
pruning of deep neural networks" (NeurIPS 2020).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import torch
from scipy.sparse.linalg import LinearOperator, eigsh

from formulations.arrays import FloatArray

Loss = Callable[[torch.Tensor], torch.Tensor]
"""From a flat parameter vector (d,) to a scalar, differentiable; it may draw its own batch."""

BARRIER = (
    "barrier: max over t of the loss minus the larger end's loss, 0 if never above; "
    "share: of log(classes), the loss of guessing, minus the lower end's loss"
)

_MOMENTUM = 0.9


def line(a: torch.Tensor, b: torch.Tensor, t: float) -> torch.Tensor:
    """(1 − t)·a + t·b."""
    return (1 - t) * a + t * b


def bezier(a: torch.Tensor, b: torch.Tensor, c: torch.Tensor, t: float) -> torch.Tensor:
    """(1 − t)²·a + 2t(1 − t)·c + t²·b: from a to b, drawn towards the control point c."""
    return (1 - t) ** 2 * a + 2 * t * (1 - t) * c + t**2 * b


def train_curve(
    loss: Loss,
    a: torch.Tensor,
    b: torch.Tensor,
    *,
    steps: int,
    lr: float,
    generator: torch.Generator,
    report: Callable[[int], None] = lambda step: None,
) -> torch.Tensor:
    """Control point c of the quadratic Bézier curve that minimises E[L(θ(t))], t ~ U(0, 1).

    SGD with momentum 0.9 from the midpoint of a and b, one t a step; the learning rate falls from
    ``lr`` to 0 by a cosine.

    Parameters
    ----------
    loss : callable
        L, or an unbiased sample of it, of a vector (d,).
    a, b : (d,) tensors
        Ends, held fixed.
    steps : int
    lr : float
    generator : torch.Generator
        On the CPU: draws t.
    report : callable, optional
        Told the number of every step, from 1.

    Returns
    -------
    (d,) tensor
    """
    control = line(a, b, 0.5).detach().requires_grad_()
    optimizer = torch.optim.SGD([control], lr=lr, momentum=_MOMENTUM)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for step in range(steps):
        t = float(torch.rand((), generator=generator))
        optimizer.zero_grad()
        loss(bezier(a, b, control, t)).backward()
        optimizer.step()
        schedule.step()
        report(step + 1)
    return control.detach()


@dataclass
class Barrier:
    """How far a path rises above its ends.

    Attributes
    ----------
    height : float
        Largest loss minus the larger end's loss; 0 if the path is never above that end.
    share : float or None
        height / (log(classes) − the lower end's loss): log(classes) is the loss of guessing, so 1
        means that a network on the path knows nothing. None where no end is better than guessing.
    at : float or None
        t of the largest loss, None without a barrier.
    """

    height: float
    share: float | None
    at: float | None

    asdict = asdict


def barrier(t: Sequence[float], losses: Sequence[float], classes: int) -> Barrier:
    """The barrier of a path from its losses at t, the ends first and last."""
    ends = losses[0], losses[-1]
    peak = int(np.argmax(losses))
    height = losses[peak] - max(ends)
    scale = math.log(classes) - min(ends)
    return Barrier(
        height=height,
        share=height / scale if scale > 0 else None,
        at=t[peak] if height > 0 else None,
    )


def hessian_product(parts: Sequence[Loss], at: torch.Tensor) -> Callable[[FloatArray], FloatArray]:
    """V ↦ H·v with H the Hessian of the sum of the parts, exact, by double backward.

    One part is in memory at a time. The product is computed in the precision of ``at``.

    Parameters
    ----------
    parts : sequence of callables
        Summands of the loss, such as one for every batch.
    at : (d,) tensor
    """

    def product(vector: FloatArray) -> FloatArray:
        direction = torch.from_numpy(vector).to(at)
        total = torch.zeros(len(at), dtype=torch.float64, device=at.device)
        for part in parts:
            theta = at.detach().clone().requires_grad_()
            (gradient,) = torch.autograd.grad(part(theta), theta, create_graph=True)
            (turned,) = torch.autograd.grad(gradient, theta, direction)
            total += turned
        return total.cpu().numpy()

    return product


@dataclass
class Eigenpairs:
    """Largest eigenvalues (k,), in descending order, and their vectors, the columns of (d, k).

    ``residual`` is ‖H·v − λ·v‖ of the last pair, which converges last, over the largest |λ|.
    """

    values: FloatArray
    vectors: FloatArray
    residual: float


def top_eigenpairs(
    product: Callable[[FloatArray], FloatArray],
    size: int,
    count: int,
    rng: np.random.Generator,
    tolerance: float = 1e-4,
) -> Eigenpairs:
    """The (algebraically) largest eigenvalues of a symmetric matrix by Lanczos with restarts.

    Parameters
    ----------
    product : callable
        v ↦ H·v over float64 arrays (size,).
    size, count : int
        d, and k < d.
    rng : numpy.random.Generator
        Draws the first vector.
    tolerance : float
        Relative accuracy of the eigenvalues.

    Raises
    ------
    scipy.sparse.linalg.ArpackNoConvergence
    """
    operator = LinearOperator((size, size), matvec=product, dtype=np.float64)
    start = rng.standard_normal(size)
    values, vectors = eigsh(operator, count, which="LA", v0=start, tol=tolerance)
    order = np.argsort(values)[::-1]
    values, vectors = values[order], vectors[:, order]
    last = np.linalg.norm(product(vectors[:, -1]) - values[-1] * vectors[:, -1])
    return Eigenpairs(values, vectors, float(last / np.abs(values).max()))


def shares(vectors: FloatArray, displacement: FloatArray) -> FloatArray:
    """How much of a displacement Δ lies along each of k directions: (v_i·Δ)²/‖Δ‖², (k,).

    Their sum is its share in the span. A random direction has 1/d each on average.

    Parameters
    ----------
    vectors : (d, k) array
        Of orthonormal columns v_i.
    displacement : (d,) array
    """
    return (vectors.T @ displacement) ** 2 / (displacement @ displacement)
