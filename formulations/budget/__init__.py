"""Widths under a budget: the problem, its bounds and its exact solution."""
