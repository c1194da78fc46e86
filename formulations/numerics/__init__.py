"""Numerical methods that know nothing of pruning: roots, descent, block-diagonal algebra."""
