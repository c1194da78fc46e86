"""The optimization side of mipprune: terms, MIP formulations and their exact solution.

Nothing here imports torch. Names are loaded on first use, so that a training run, which needs
only :mod:`formulations.terms`, never loads Pyomo or HiGHS. The names and where they stand are in
``__init__.pyi``.
"""

from importlib.metadata import PackageNotFoundError, version

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

try:
    __version__ = version("mipprune")
except PackageNotFoundError:  # a checkout that is not installed
    __version__ = "0"
