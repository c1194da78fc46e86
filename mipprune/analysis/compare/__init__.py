"""Exact MIP pruning against relaxed pruning, on problems small enough to be solved to the end."""
