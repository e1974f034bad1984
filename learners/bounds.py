"""Bounds the numbers that learners learn from, so that one row of absurd numbers cannot ruin a learner.

Features and weights are clipped, and rewards become labels and weights.
"""

from __future__ import annotations

import numpy as np

from memory.jit import njit
from streams.batch import Floats

__all__ = ["LARGEST", "bounded", "finite", "graded"]

_ORDINARY = -1

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


def graded(reward: Floats, weight: Floats) -> tuple[Floats, Floats, int]:
    """Return labels and weights, so that a logistic learner prefers higher rewards.

    ========== ======= ==============
    reward r   label   weight times
    ========== ======= ==============
    above 1    1       r
    0 to 1     r       1
    below 0    0       1 - r
    ========== ======= ==============

    So the gradient of a row, weight * (p - label), falls with its reward everywhere. Rows with a reward or weight of NaN get
    the weight 0.

    Parameters
    ----------
    reward : (n,) float32
    weight : (n,) float32
        Weights of the rows, without regard to their rewards.

    Returns
    -------
    label : (n,) float32
        From 0 to 1. `reward` itself if nothing has to be changed, which is the usual case.
    weight : (n,) float32
        At most `LARGEST`. `weight` itself if nothing has to be changed.
    capped : int
        Rows whose weight would have been larger, or whose reward or weight is NaN. A learner counts them in its metrics as
        ``capped``.

    Examples
    --------
    >>> import numpy as np
    >>> label, weight, capped = graded(np.array([5.0, 0.5, -1.0], np.float32), np.ones(3, np.float32))
    >>> label.tolist(), weight.tolist(), capped
    ([1.0, 0.5, 0.0], [5.0, 1.0, 2.0], 0)
    """
    made = np.empty((2, reward.size), np.float32)
    capped = _grade(reward, weight, made)
    return (reward, weight, 0) if capped == _ORDINARY else (made[0], made[1], capped)


@njit(cache=True)
def _within(array, limit):  # type: ignore[no-untyped-def]
    """Whether all magnitudes are at most `limit`. There is no early return, because it would prevent vectorisation."""
    outside = 0
    for n in range(array.size):
        outside += not (abs(array[n]) <= limit)
    return outside == 0


# One function for both cases: the first large reward may come long after everything else was compiled.
@njit(cache=True)
def _grade(reward, weight, made):  # type: ignore[no-untyped-def]
    """Fill the rows of `made` (2, n) with labels and weights, and return the number of limited rows.

    Returns `_ORDINARY`, and fills nothing, if rewards are labels and weights are within bounds. That loop has no early return,
    because it would prevent vectorisation.
    """
    others, zero, one, largest = 0, np.float32(0.0), np.float32(1.0), np.float32(LARGEST)
    for n in range(reward.size):
        others += not ((reward[n] >= zero) & (reward[n] <= one) & (abs(weight[n]) <= largest))
    if others == 0:
        return _ORDINARY
    label, graded_weight, capped = made[0], made[1], 0
    for n in range(reward.size):
        r = np.float64(reward[n])
        exact = np.float64(weight[n]) * (1.0 - r if r < 0.0 else max(r, 1.0))
        label[n] = min(max(r, 0.0), 1.0)
        graded_weight[n] = min(max(exact, -LARGEST), LARGEST)
        if np.isnan(r) or np.isnan(exact):
            label[n] = graded_weight[n] = 0.0
        capped += not (abs(exact) <= LARGEST) or np.isnan(r)
    return capped
