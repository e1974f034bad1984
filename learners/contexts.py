"""Soft membership of vectors in clusters: the context of a bandit that learns by cluster."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from memory.jit import njit
from streams.batch import Ids

__all__ = ["contexts"]

_Values = npt.NDArray[np.float64]


@njit(cache=True, nogil=True)
def contexts(closeness: _Values, most: int, temperature: float, least: float) -> tuple[Ids, _Values]:
    """Closest clusters of each vector, and the softmax of its closeness to them.

    Parameters
    ----------
    closeness : (B, C) float64
        Inner products with the centroids.
    most : int
        Clusters of each at most: K.
    temperature : float
        What inner products are divided by.
    least : float
        Clusters with a smaller weight are left out, and the others' weights add up to 1 again.

    Returns
    -------
    index : (B, min(most, C)) int64
        Closest first, the lower number first among equals; -1 where left out.
    weight : (B, min(most, C)) float64

    References
    ----------
    X. Yi et al., "Online Matching: A Real-time Bandit System for Large-scale Recommendations", RecSys 2023, equation 10.
    """
    size = min(most, closeness.shape[1])
    index, weight = np.full((closeness.shape[0], size), -1, np.int64), np.zeros((closeness.shape[0], size))
    for b in range(closeness.shape[0]):
        held = 0
        for c in range(closeness.shape[1]):
            at = held
            while at > 0 and closeness[b, c] > closeness[b, index[b, at - 1]]:
                at -= 1
            if at == size:
                continue
            held = min(held + 1, size)
            for later in range(held - 1, at, -1):
                index[b, later] = index[b, later - 1]
            index[b, at] = c
        total = 0.0
        for at in range(size):
            weight[b, at] = np.exp((closeness[b, index[b, at]] - closeness[b, index[b, 0]]) / temperature)
            total += weight[b, at]
        kept = 0.0
        for at in range(size):
            weight[b, at] /= total
            if weight[b, at] < least:
                index[b, at], weight[b, at] = -1, 0.0
            kept += weight[b, at]
        if least > 0.0:
            for at in range(size):
                weight[b, at] /= kept
    return index, weight
