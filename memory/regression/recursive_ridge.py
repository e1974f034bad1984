"""Ridge regression on dense features, kept exact row by row (recursive least squares).

References
----------
R. Plackett, "Some Theorems in Least Squares", Biometrika 37 (1950): the recursion.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from memory.arrays import Arrays, Floats
from memory.jit import njit
from memory.stateful import Stateful

__all__ = ["RecursiveRidge"]

Values = npt.NDArray[np.float64]


class RecursiveRidge(Stateful):
    """Predicts outputs from dense features, as ``W' phi``, with the exact minimiser of the ridge objective after each row.

    Parameters
    ----------
    features, outputs : int
        Number D of features, and number m of outputs. Memory is 8 D (D + m) + 4 D m bytes.
    ridge : float
        Strength of the ridge, above 0.
    forgetting : float
        Factor applied to the weight of all earlier rows at each row; 1 forgets nothing. Directions that no row has had for long
        fade only until they are as unknown as at the start.

    Attributes
    ----------
    weights : Arrays
        ``weight`` (D, m) float32, for serving. Private: ``exact`` (D, m) and ``inverse`` (D, D), the inverse of the sum of
        ``phi phi'`` with the ridge, both float64.
    """

    def __init__(self, features: int, outputs: int, ridge: float, forgetting: float = 1.0) -> None:
        if not ridge > 0.0:
            raise ValueError(f"ridge: {ridge}; give a number above 0")
        self.weights = Arrays(
            weight=np.zeros((features, outputs), np.float32),
            exact=np.zeros((features, outputs)),
            inverse=np.eye(features) / ridge,
            private=["exact", "inverse"],
        )
        self._largest, self._forgetting = 1.0 / ridge, forgetting

    def update(self, features: Values, target: Values, weight: float = 1.0) -> None:
        """Learn one row: features (D,) float64, outputs (m,) float64, all finite, and its weight."""
        arrays = self.weights
        tables = (arrays["inverse"], arrays["exact"], arrays["weight"])
        _update(*tables, features, target, weight, self._forgetting, self._largest)
        arrays.mark()

    def predict(self, features: Floats, outputs: slice = slice(None)) -> Floats:
        """Predict some outputs (n, outputs) float32 of rows with the features (n, D) float32."""
        made: Floats = features @ self.weights["weight"][:, outputs]
        return made


@njit(cache=True, nogil=True)
def _update(inverse, exact, weight, features, target, mass, forgetting, largest):  # type: ignore[no-untyped-def]
    if mass <= 0.0:
        return
    direction = np.dot(inverse, features)
    spread = 0.0
    for i in range(features.size):
        spread += features[i] * direction[i]
    factor = mass / (forgetting + mass * spread)
    error = target - np.dot(features, exact)
    trace = 0.0
    for i in range(features.size):
        trace += inverse[i, i]
    # Without the limit, the inverse would grow without bound in directions that no row has.
    fade = 1.0 / forgetting if trace < 0.99 * largest * features.size else 1.0
    for i in range(features.size):
        step = factor * direction[i]
        for o in range(target.size):
            exact[i, o] += step * error[o]
            weight[i, o] = exact[i, o]
        for j in range(features.size):
            inverse[i, j] = (inverse[i, j] - step * direction[j]) * fade
