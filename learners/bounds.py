"""Clips the numbers that learners learn from, so that one row of absurd numbers cannot ruin a learner."""

from __future__ import annotations

import numpy as np

from memory.jit import njit
from streams.batch import Floats

__all__ = ["LARGEST", "bounded", "finite"]

LARGEST = 100.0
"""Magnitude to which feature values and row weights are clipped.

Numbers are standardised, products of two of them are below 10, and weights are about 1, so anything larger is a mistake.
Its gradient would overflow, or dominate AdaGrad's sum of squared gradients for good.
"""


def bounded(array: Floats, limit: float = LARGEST) -> Floats:
    """Clip an array to ``[-limit, limit]`` and replace NaN by 0.

    Returns the array itself if nothing has to be changed, which is the usual case, else a copy.

    Parameters
    ----------
    array : float32 array
        Any shape.
    limit : float
    """
    if _within(array.ravel(), np.float32(limit)):
        return array
    return np.nan_to_num(np.clip(array, -limit, limit), nan=0.0)


def finite(array: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> Floats:
    """Convert to float32. Numbers beyond its range become its largest or smallest finite number."""
    limit = np.finfo(np.float32).max
    return np.clip(array, -limit, limit).astype(np.float32)


@njit(cache=True)
def _within(array, limit):  # type: ignore[no-untyped-def]
    """Whether all magnitudes are at most `limit`. There is no early return, because it would prevent vectorisation."""
    outside = 0
    for n in range(array.size):
        outside += not (abs(array[n]) <= limit)
    return outside == 0
