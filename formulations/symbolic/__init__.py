"""From φ and c to the regularizer: sympy, validation, generated code, checks, the catalogue."""
