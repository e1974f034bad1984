"""Keeps what is learned from within bounds, so that one row of absurd numbers costs a learner no more than that row."""

from __future__ import annotations

import numpy as np

from memory.jit import njit
from streams.batch import Floats

__all__ = ["LARGEST", "bounded", "finite"]

LARGEST = 100.0
"""Size of a feature's value, and of a row's weight, past which learners take it for that.

Numbers come as standard deviations, products of two of them are below 10, and weights are about 1: what is larger is a mistake.
Its gradient would outweigh all that a learner has accumulated in years (AdaGrad), or overflow.
"""


def bounded(array: Floats, most: float = LARGEST) -> Floats:
    """The array itself where all of it is within ``[-most, most]``, as it nearly always is, else a copy that is.

    Parameters
    ----------
    array : float32 array
        Of any shape; NaN becomes 0.
    most : float
    """
    if _within(array.ravel(), np.float32(most)):
        return array
    return np.nan_to_num(np.clip(array, -most, most), nan=0.0)


def finite(array: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> Floats:
    """As float32, the largest one where a number is larger than that."""
    most = np.finfo(np.float32).max
    return np.clip(array, -most, most).astype(np.float32)


@njit(cache=True)
def _within(array, most):  # type: ignore[no-untyped-def]
    """Without a way out of the loop, which would keep it from being done many at a time."""
    outside = 0
    for n in range(array.size):
        outside += not (abs(array[n]) <= most)
    return outside == 0
