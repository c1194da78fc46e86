"""Types of the compiled steps; what they do stands in :mod:`.descent_numpy`."""

from formulations.arrays import BoolArray, FloatArray

class Descent:
    weights: FloatArray
    surplus: FloatArray
    def __init__(
        self,
        gram: FloatArray,
        cross: FloatArray,
        constant: float,
        ridge: FloatArray,
        price: FloatArray,
        bound: FloatArray,
        lipschitz: FloatArray,
        free: BoolArray,
        weights: FloatArray,
        rounding: float,
    ) -> None: ...
    def look(self) -> tuple[float, float]: ...
    def advance(self, steps: int) -> None: ...
