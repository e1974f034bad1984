"""Labels and row weights from rewards, for learners whose label is between 0 and 1."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from learners.bounds import LARGEST
from memory.jit import njit
from streams.batch import Floats

__all__ = ["Graded", "graded"]


class Graded(NamedTuple):
    """Labels and weights of rows.

    Attributes
    ----------
    label : (n,) float32
        From 0 to 1.
    weight : (n,) float32
        At most `learners.bounds.LARGEST`.
    capped : int
        Rows whose weight would have been larger, or whose reward or weight is NaN. A learner counts them in its metrics as
        ``capped``.
    """

    label: Floats
    weight: Floats
    capped: int


def graded(reward: Floats, weight: Floats) -> Graded:
    """Return labels and weights, so that a logistic learner prefers higher rewards.

    ========== ======= ==============
    reward r   label   weight times
    ========== ======= ==============
    above 1    1       r
    0 to 1     r       1
    below 0    0       1 - r
    ========== ======= ==============

    So the gradient of a row, weight * (p - label), falls with its reward everywhere. Rows with a reward or weight of NaN get
    the weight 0. Returns `reward` and `weight` themselves if they are the labels and weights, which is the usual case.

    Parameters
    ----------
    reward : (n,) float32
    weight : (n,) float32
        Weights of the rows, without regard to their rewards.

    Examples
    --------
    >>> import numpy as np
    >>> label, weight, capped = graded(np.array([5.0, 0.5, -1.0], np.float32), np.ones(3, np.float32))
    >>> label.tolist(), weight.tolist(), capped
    ([1.0, 0.5, 0.0], [5.0, 1.0, 2.0], 0)
    """
    if _ordinary(reward, weight, np.float32(LARGEST)):
        return Graded(reward, weight, 0)
    label, graded_weight = np.empty_like(reward), np.empty_like(weight)
    capped = _grade(reward, weight, LARGEST, label, graded_weight)
    return Graded(label, graded_weight, capped)


@njit(cache=True)
def _ordinary(reward, weight, largest):  # type: ignore[no-untyped-def]
    """Whether rewards are labels and weights are within bounds. There is no early return: it would prevent vectorisation."""
    others = 0
    for n in range(reward.size):
        others += not (np.float32(0.0) <= reward[n] <= np.float32(1.0))
        others += not (abs(weight[n]) <= largest)
    return others == 0


@njit(cache=True)
def _grade(reward, weight, largest, label, graded_weight):  # type: ignore[no-untyped-def]
    capped = 0
    for n in range(reward.size):
        r = np.float64(reward[n])
        exact = np.float64(weight[n]) * (1.0 - r if r < 0.0 else max(r, 1.0))
        label[n] = min(max(r, 0.0), 1.0)
        graded_weight[n] = min(max(exact, -largest), largest)
        if np.isnan(r) or np.isnan(exact):
            label[n] = graded_weight[n] = 0.0
        capped += not (abs(exact) <= largest) or np.isnan(r)
    return capped
