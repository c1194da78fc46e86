"""The compiled steps have the types of those in NumPy, and do what is said there."""

from formulations.layer.relaxations.descent_numpy import Descent as Descent
