"""Exact solvers of layer problems and of stacks of them."""
