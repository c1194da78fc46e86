"""The training side of mipprune: pruned networks from the terms of :mod:`formulations`."""
