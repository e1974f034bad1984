"""Linear model of sparse features that follows the leader: after each row, the weights of its active features are exact.

References
----------
Z. Liu et al., "Locality Sensitive Sparse Encoding for Learning World Models Online", ICLR 2024, arXiv 2401.13034: algorithm 2,
the sparse update.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt

from memory.arrays import Arrays, Floats, Ids
from memory.jit import njit
from memory.stateful import Stateful

__all__ = ["SparseLinear"]

Values = npt.NDArray[np.float64]

MAX_FEATURES = 8192
"""The sums of products of this many features take 512 MB."""

RESCALE = 1e9
"""The sums of a model that forgets are divided by their scale when it reaches this, so that they never overflow."""


class SparseLinear(Stateful):
    """Predicts outputs from a few active features, as ``W' phi``; learned row by row by block-coordinate steps.

    With A the sum of ``phi phi'`` and B the sum of ``phi y'`` over all rows, ridge regression minimises
    ``sum |y - W' phi|^2 + ridge |W|^2``. After each row, the rows s of W that belong to its active features get the values that
    are best while all others stay as they are: ``(A_ss + ridge I) W_s = B_s - A_s,rest W_rest``. So the objective never
    increases, and weights of features that are not active keep their bits. If all features are active, W is the exact ridge
    solution. A and B are float64, because small products would vanish in float32.

    Parameters
    ----------
    features, outputs : int
        Number D of features, and number m of outputs. Memory is 8 D (D + 2 m) + 4 D (m + 1) bytes.
    ridge : float
        Strength of the ridge, above 0.
    ridge_mode : {"const", "count"}
        ``count`` multiplies the ridge by the number of rows so far, as the paper's code does. Then rare features are shrunk to
        0 on long streams.
    forgetting : float
        Factor applied to the weight of all earlier rows at each row; 1 forgets nothing. The ridge does not fade.

    Attributes
    ----------
    weights : Arrays
        ``weight`` (D, m) float32 and ``visits`` (D,) float32, the diagonal of A, for serving. Private: ``exact`` (D, m),
        ``gram`` (D, D) and ``moment`` (D, m), all float64.
    """

    def __init__(
        self,
        features: int,
        outputs: int,
        ridge: float,
        ridge_mode: Literal["const", "count"] = "const",
        forgetting: float = 1.0,
    ) -> None:
        if features > MAX_FEATURES:
            raise ValueError(f"features: {features}, whose products do not fit into memory; choose {MAX_FEATURES} at most")
        if not ridge > 0.0:
            raise ValueError(f"ridge: {ridge}; give a number above 0, because features are not independent of each other")
        self.weights = Arrays(
            weight=np.zeros((features, outputs), np.float32),
            visits=np.zeros(features, np.float32),
            exact=np.zeros((features, outputs)),
            gram=np.zeros((features, features)),
            moment=np.zeros((features, outputs)),
            private=["exact", "gram", "moment"],
        )
        # Instead of fading all sums at each row, later rows count more: by ``scale``, which is at most RESCALE.
        self.clock = Arrays(count=np.zeros(1, np.int64), scale=np.ones(1), private=["count", "scale"])
        self._ridge, self._count, self._forgetting = ridge, ridge_mode == "count", forgetting

    def update(self, index: Ids, value: Values, target: Values, weight: float = 1.0) -> None:
        """Learn one row.

        Parameters
        ----------
        index : (K,) int64
            Active features, ascending and distinct.
        value : (K,) float64
            Their values.
        target : (m,) float64
            Outputs. All numbers are finite.
        weight : float
            Weight of the row.

        Raises
        ------
        ValueError
            If the features are not ascending, or outside of the model. Nothing is changed.
        """
        features = len(self.weights)
        if index.size and not (index[0] >= 0 and index[-1] < features and (np.diff(index) > 0).all()):
            raise ValueError(f"index: not ascending numbers below {features}; give each active feature once")
        count, scale = self.clock["count"], self.clock["scale"]
        count[0] += 1
        scale[0] /= self._forgetting
        if scale[0] > RESCALE:
            self.weights["gram"][...] /= scale[0]
            self.weights["moment"][...] /= scale[0]
            scale[0] = 1.0
        ridge = self._ridge * (count[0] if self._count else 1.0) * scale[0]
        sums = self.weights["gram"], self.weights["moment"]
        weights = self.weights["exact"], self.weights["weight"], self.weights["visits"]
        _update(*sums, *weights, index, value, target, weight * scale[0], ridge, scale[0])
        self.weights.mark(index)
        self.clock.mark()

    def predict(self, index: Ids, value: Floats, outputs: slice = slice(None)) -> Floats:
        """Predict some outputs of rows with K active features each.

        Parameters
        ----------
        index : (n, K) int64
        value : (n, K) float32
        outputs : slice
            Outputs to predict.

        Returns
        -------
        (n, outputs) float32
        """
        start, stop, _ = outputs.indices(self.weights["weight"].shape[1])
        made = np.empty((len(index), stop - start), np.float32)
        _predict(index, value, self.weights["weight"], start, made)
        return made

    def visits(self, index: Ids, value: Floats) -> Floats:
        """Harmonic mean of the visits of rows' active features, weighted by the squares of their values, (n,) float32.

        It is low if any feature that matters for the prediction is almost unknown.
        """
        mean = np.empty(len(index), np.float32)
        _harmonic(index, value, self.weights["visits"], mean)
        return mean


# Compiled part. Sums are in a fixed order, so that equal states learn equally.


@njit(cache=True, nogil=True)
def _update(gram, moment, exact, weight, visits, index, value, target, mass, ridge, scale):  # type: ignore[no-untyped-def]
    active = index.size
    outputs = target.size
    for i in range(active):
        row = index[i]
        for j in range(active):
            gram[row, index[j]] += mass * value[i] * value[j]
        for o in range(outputs):
            moment[row, o] += mass * value[i] * target[o]
    rows = np.empty((active, gram.shape[1]))
    for i in range(active):
        rows[i] = gram[index[i]]
    right = np.dot(rows, exact)
    block = np.empty((active, active))
    for i in range(active):
        for j in range(active):
            block[i, j] = rows[i, index[j]]
    own = np.empty((active, outputs))
    for i in range(active):
        own[i] = exact[index[i]]
    inner = np.dot(block, own)
    for i in range(active):
        for o in range(outputs):
            right[i, o] = moment[index[i], o] - right[i, o] + inner[i, o]
        block[i, i] += ridge
    root = np.linalg.cholesky(block)
    _substitute(root, right)
    for i in range(active):
        for o in range(outputs):
            exact[index[i], o] = right[i, o]
            weight[index[i], o] = right[i, o]
        visits[index[i]] = gram[index[i], index[i]] / scale


@njit(cache=True, nogil=True)
def _substitute(root, right):  # type: ignore[no-untyped-def]
    """Solve ``root root' x = right`` in place."""
    for i in range(right.shape[0]):
        for j in range(i):
            for o in range(right.shape[1]):
                right[i, o] -= root[i, j] * right[j, o]
        for o in range(right.shape[1]):
            right[i, o] /= root[i, i]
    for i in range(right.shape[0] - 1, -1, -1):
        for o in range(right.shape[1]):
            right[i, o] /= root[i, i]
        for j in range(i):
            for o in range(right.shape[1]):
                right[j, o] -= root[i, j] * right[i, o]


@njit(cache=True, nogil=True)
def _predict(index, value, weight, start, made):  # type: ignore[no-untyped-def]
    made[:] = np.float32(0.0)
    for n in range(index.shape[0]):
        for k in range(index.shape[1]):
            for o in range(made.shape[1]):
                made[n, o] += value[n, k] * weight[index[n, k], start + o]


@njit(cache=True, nogil=True)
def _harmonic(index, value, visits, mean):  # type: ignore[no-untyped-def]
    for n in range(index.shape[0]):
        weights = total = 0.0
        for k in range(index.shape[1]):
            weights += value[n, k] * value[n, k]
            total += value[n, k] * value[n, k] / (visits[index[n, k]] + 1e-6)
        mean[n] = weights / total
