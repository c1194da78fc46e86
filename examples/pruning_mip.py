"""Pruning a layer as a mixed-integer program, from NumPy arrays: exactly, and relaxed.

The inputs X of a layer and its outputs Y make the problem; the shrinkage φ of a term is any
expression in the norm r of a group's weights. Run it by ``python pruning_mip.py``; it takes some
seconds.
"""

import numpy as np

from formulations import LayerProblem, derive, relax, solve

SAMPLES, GROUPS, OUTPUTS = 200, 8, 3


def layer() -> tuple[np.ndarray, np.ndarray]:
    """Inputs (n, D), correlated, and outputs (n, O) for which half of them matter little."""
    generator = np.random.default_rng(0)
    inputs = generator.standard_normal((SAMPLES, GROUPS))
    inputs = inputs @ (np.eye(GROUPS) + 0.3 * generator.standard_normal((GROUPS, GROUPS)))
    weights = generator.standard_normal((GROUPS, OUTPUTS))
    weights[::2] *= 0.2
    return inputs, inputs @ weights + 0.1 * generator.standard_normal((SAMPLES, OUTPUTS))


def main() -> None:
    """Solve and relax at three prices of a kept input, and print what comes of it."""
    inputs, outputs = layer()
    print("price  objective  proved  relaxed  inputs kept")
    for price in (0.1, 0.3, 0.9):
        term = derive("a*r**3", a=0.05, price=price).term()  # 0.05·‖w‖³ + price·y, every group
        problem = LayerProblem.from_data(inputs, outputs, term)
        exact = solve(problem, gap=1e-4, seconds=60)
        relaxed = relax(problem)
        print(
            f"{price:5}  {exact.objective:9.4f}  {exact.bound:6.4f}  {relaxed.objective:7.4f}  "
            f"{np.flatnonzero(exact.support).tolist()}"
        )


if __name__ == "__main__":
    main()
