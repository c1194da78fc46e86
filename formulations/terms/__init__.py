"""The term φ(w) + c·y of a pruning MIP in numbers: value, gradient, prox, conjugate, score."""
