"""Compiled selection of the k highest scores, shared by the retrievers."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from memory.jit import njit
from streams.batch import Ids

__all__ = ["top_k"]

_ROOM = 512
"""Positions, at least, that are collected before the best of them are selected, which takes linear time."""


@njit(cache=True, nogil=True)
def top_k(score: npt.NDArray[np.floating[Any]], slot: Ids, k: int) -> Ids:
    """Return the positions of the `k` highest scores, highest first. Equal scores are ordered by slot.

    Parameters
    ----------
    score : (n,) float
        Scores. NaN and scores of 0 or less are skipped.
    slot : (n,) int64
        Tie-breakers, all different: the lower slot goes first.
    k : int
        Maximum number of positions.

    Returns
    -------
    (m,) int64
        m <= k.
    """
    room = max(4 * k, _ROOM) if k > 0 else 0
    kept = np.empty(min(room, score.size), np.int64)
    size, least = 0, score.dtype.type(0)  # no score below `least` is among the k highest
    for position in range(score.size if k > 0 else 0):
        if not score[position] > 0 or score[position] < least:
            continue
        if size == kept.size:
            _keep_best(score, slot, kept, k)
            size, least = k, score[kept[:k]].min()
        kept[size] = position
        size += 1
    if size > k > 0:
        _keep_best(score, slot, kept[:size], k)
        size = k
    ordered = kept[:size]
    ordered = ordered[np.argsort(slot[ordered])]
    return ordered[np.argsort(-score[ordered], kind="mergesort")]  # stable, so that equal scores stay in order of slot


@njit(cache=True, nogil=True)
def _keep_best(score: npt.NDArray[np.floating[Any]], slot: Ids, kept: Ids, k: int) -> None:
    """Put the `k` best of the positions `kept` (n,) in front, in any order; k < n."""
    threshold = np.partition(score[kept], kept.size - k)[kept.size - k]
    best, tied, ties = 0, np.empty(kept.size, np.int64), 0
    for position in kept:
        if score[position] > threshold:
            kept[best] = position
            best += 1
        elif score[position] == threshold:
            tied[ties] = position
            ties += 1
    tied = tied[:ties]
    if ties > k - best:
        tied = tied[np.argsort(slot[tied])]
    kept[best:k] = tied[: k - best]
