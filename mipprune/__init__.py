"""The training side of mipprune: pruned networks from the terms of :mod:`formulations`.

Names are loaded on first use: a penalty in somebody's own loop needs neither the data nor the
solvers. The names and where they stand are in ``__init__.pyi``.
"""

from importlib.metadata import PackageNotFoundError, version

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

try:
    __version__ = version("mipprune")
except PackageNotFoundError:  # a checkout that is not installed
    __version__ = "0"
