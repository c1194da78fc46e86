"""The optimization side of mipprune: terms, MIP formulations and their exact solution.

Nothing here imports torch. Names are loaded on first use, so that a training run, which needs
only :mod:`formulations.terms`, never loads Pyomo or HiGHS.
"""

from importlib import import_module

_HOME = {
    "BilinearCost": "budget",
    "BudgetProblem": "budget",
    "CATALOGUE": "catalogue",
    "Derivation": "derive",
    "LayerProblem": "layer",
    "Limit": "budget",
    "Parameter": "derive",
    "Network": "relu_network",
    "Partition": "terms",
    "Solution": "solution",
    "Term": "terms",
    "check": "checks",
    "derive": "derive",
    "find": "catalogue",
    "spr": "catalogue",
    "square": "catalogue",
}

__all__ = sorted(_HOME)


def __getattr__(name: str):
    if name in _HOME:
        return getattr(import_module(f"formulations.{_HOME[name]}"), name)
    raise AttributeError(f"module 'formulations' has no attribute {name!r}")
