"""Compiled selection of the k highest scores, shared by the retrievers."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from memory.jit import njit
from streams.batch import Ids

__all__ = ["top_k"]


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
    heap = np.empty(max(k, 0), np.int64)  # the lowest of the k highest scores so far is on top
    size = 0
    for position in range(score.size):
        if not score[position] > 0:
            continue
        if size < k:
            at = size
            size += 1
            while at > 0 and _worse(score, slot, position, heap[(at - 1) // 2]):
                heap[at] = heap[(at - 1) // 2]
                at = (at - 1) // 2
            heap[at] = position
        elif k > 0 and _worse(score, slot, heap[0], position):
            _sink(score, slot, heap, size, position)
    ordered = np.empty(size, np.int64)
    while size:
        size -= 1
        ordered[size] = heap[0]
        _sink(score, slot, heap, size, heap[size])
    return ordered


@njit(cache=True, nogil=True)
def _worse(score: npt.NDArray[np.floating[Any]], slot: Ids, one: int, other: int) -> bool:
    return bool(score[one] < score[other] or (score[one] == score[other] and slot[one] > slot[other]))


@njit(cache=True, nogil=True)
def _sink(score: npt.NDArray[np.floating[Any]], slot: Ids, heap: Ids, size: int, position: int) -> None:
    """Replace the top of the heap by `position` and sift it down."""
    at = 0
    while 2 * at + 1 < size:
        child = 2 * at + 1
        if child + 1 < size and _worse(score, slot, heap[child + 1], heap[child]):
            child += 1
        if not _worse(score, slot, heap[child], position):
            break
        heap[at] = heap[child]
        at = child
    heap[at] = position
