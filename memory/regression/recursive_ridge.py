"""Ridge regression on dense features, kept exact row by row (recursive least squares).

References
----------
R. Plackett, "Some Theorems in Least Squares", Biometrika 37 (1950): the recursion.
L. Cao, H. Schwartz, "A directional forgetting algorithm based on the decomposition of the information matrix", Automatica 36
(2000): forgetting.
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
        Number D of features, and number m of outputs. Memory is 8 D (D + m) + 4 D m bytes, and 8 D D more
        with forgetting.
    ridge : float
        Strength of the ridge, above 0.
    forgetting : float
        Factor applied to what earlier rows say about the direction of a new row; 1 forgets nothing. What is known of directions
        that no new row has does not fade, so the inverse does not grow without bound.

    Attributes
    ----------
    weights : Arrays
        ``weight`` (D, m) float32, for serving. Private, in float64: ``exact`` (D, m), ``inverse`` (D, D), the inverse of the
        sum of ``phi phi'`` with the ridge, and with forgetting this sum, ``gram`` (D, D), otherwise without columns.
    """

    def __init__(self, features: int, outputs: int, ridge: float, forgetting: float = 1.0) -> None:
        if not ridge > 0.0:
            raise ValueError(f"ridge: {ridge}; give a number above 0")
        self.weights = Arrays(
            weight=np.zeros((features, outputs), np.float32),
            exact=np.zeros((features, outputs)),
            inverse=np.eye(features) / ridge,
            gram=ridge * np.eye(features, features if forgetting < 1.0 else 0),
            private=["exact", "inverse", "gram"],
        )
        self._forgetting = forgetting

    def update(self, features: Values, target: Values, weight: float = 1.0) -> None:
        """Learn one row: features (D,) float64, outputs (m,) float64, all finite, and its weight."""
        arrays = self.weights
        if weight > 0.0 and self._forgetting < 1.0:
            _forget(arrays["inverse"], arrays["gram"], features, weight, self._forgetting)
        _update(arrays["inverse"], arrays["exact"], arrays["weight"], features, target, weight)
        arrays.mark()

    def predict(self, features: Floats, outputs: slice = slice(None)) -> Floats:
        """Predict some outputs (n, outputs) float32 of rows with the features (n, D) float32."""
        made: Floats = features @ self.weights["weight"][:, outputs]
        return made


@njit(cache=True, nogil=True)
def _forget(inverse, gram, features, mass, forgetting):  # type: ignore[no-untyped-def]
    """Fade what is known along the features, and add the new row to the sum."""
    along = np.dot(gram, features)
    known = np.dot(features, along)
    if known <= 0.0:
        return
    less, more = (1.0 - forgetting) / known, (1.0 - forgetting) / (forgetting * known)
    for i in range(features.size):
        for j in range(features.size):
            gram[i, j] += mass * features[i] * features[j] - less * along[i] * along[j]
            inverse[i, j] += more * features[i] * features[j]


@njit(cache=True, nogil=True)
def _update(inverse, exact, weight, features, target, mass):  # type: ignore[no-untyped-def]
    if mass <= 0.0:
        return
    direction = np.dot(inverse, features)
    factor = mass / (1.0 + mass * np.dot(features, direction))
    error = target - np.dot(features, exact)
    for i in range(features.size):
        step = factor * direction[i]
        for o in range(target.size):
            exact[i, o] += step * error[o]
            weight[i, o] = exact[i, o]
        for j in range(features.size):
            inverse[i, j] -= step * direction[j]
