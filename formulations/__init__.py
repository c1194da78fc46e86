"""The optimization side of mipprune: terms, MIP formulations and their exact solution.

Nothing here imports torch. Names are loaded on first use, so that a training run, which needs
only :mod:`formulations.terms`, never loads Pyomo or HiGHS.
"""

from importlib import import_module

_HOME = {
    "BilinearCost": "budget.problem",
    "BudgetProblem": "budget.problem",
    "CATALOGUE": "symbolic.catalogue",
    "Derivation": "symbolic.derivation",
    "LayerProblem": "layer.problem",
    "Limit": "budget.problem",
    "Parameter": "symbolic.derivation",
    "Network": "relu.network",
    "Partition": "terms.term",
    "Solution": "solving.result",
    "Term": "terms.term",
    "check": "symbolic.checks",
    "derive": "symbolic.derivation",
    "find": "symbolic.catalogue",
    "spr": "symbolic.catalogue",
    "square": "symbolic.catalogue",
}

__all__ = sorted(_HOME)


def __getattr__(name: str):
    if name in _HOME:
        return getattr(import_module(f"formulations.{_HOME[name]}"), name)
    raise AttributeError(f"module 'formulations' has no attribute {name!r}")
