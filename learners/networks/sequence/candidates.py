"""Items of a softmax: all, or a sample with the correction that makes up for it.

References
----------
X. Yi et al., "Sampling-Bias-Corrected Neural Modeling for Large Corpus Item Recommendations", RecSys 2019: equation 3.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from memory.arrays import Floats, Ids

__all__ = ["SoftmaxItems", "distinct", "softmax_items"]

_POWER = 0.75
"""Items are drawn in proportion to this power of their likes: rare ones are also drawn."""


class SoftmaxItems(NamedTuple):
    """Items of a softmax.

    Attributes
    ----------
    item : (m,) int64
        Slots, ascending.
    correction : (m,) float32
        Added to the logit of an item that is not the target: minus the logarithm of the probability of being drawn; minus
        infinity for the targets of others that were not drawn.
    """

    item: Ids
    correction: Floats


def softmax_items(likes: Floats, targets: Ids, exact: int, drawn: int, rng: np.random.Generator) -> SoftmaxItems:
    """Return all liked items if they are `exact` at most; otherwise the targets, and `drawn` items with replacement.

    Parameters
    ----------
    likes : (V,) float32
        Likes of each slot; 0: not among the items.
    targets : (n,) int64
        Slots with likes.
    exact, drawn : int
    rng : numpy.random.Generator
    """
    liked = np.flatnonzero(likes)
    if liked.size <= exact:
        return SoftmaxItems(liked, np.zeros(liked.size, np.float32))
    mass = likes[liked].astype(np.float64) ** _POWER
    total = mass.cumsum()
    found = distinct(liked.size, total.searchsorted(rng.random(drawn) * total[-1], side="right"))
    share = mass[found] / total[-1]
    items = distinct(likes.size, liked[found], targets)
    correction = np.full(items.size, -np.inf, np.float32)
    correction[items.searchsorted(liked[found])] = -np.log(-np.expm1(drawn * np.log1p(-share)))
    return SoftmaxItems(items, correction)


def distinct(size: int, *numbers: Ids) -> Ids:
    """Return the different numbers of several arrays, all from 0 to `size` - 1, ascending. Faster than sorting them."""
    present = np.zeros(size, np.bool_)
    for some in numbers:
        present[some] = True
    return np.flatnonzero(present)
