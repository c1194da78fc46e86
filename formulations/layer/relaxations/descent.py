"""The steps of block coordinate descent: compiled where that was possible, else in NumPy."""

try:
    from formulations.layer.relaxations._descent import Descent
except ImportError:  # installed without a compiler: the same steps, some ten times slower
    from formulations.layer.relaxations.descent_numpy import Descent

__all__ = ["Descent"]
