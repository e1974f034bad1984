"""The k best of many scores, compiled: what retrievers share."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from memory.jit import njit
from streams.batch import Ids

__all__ = ["best"]


@njit(cache=True, nogil=True)
def best(score: npt.NDArray[np.floating[Any]], slot: Ids, k: int) -> Ids:
    """Positions of the `k` highest scores, best first; the lower slot goes first among equals.

    Parameters
    ----------
    score : (n,) float
        Scores; NaN and scores that are not above 0 are passed over.
    slot : (n,) int64
        What decides between equal scores; all different.
    k : int
        Positions at most.

    Returns
    -------
    (m,) int64
        m <= k.
    """
    heap = np.empty(max(k, 0), np.int64)  # the worst of the best so far is on top
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
    """Replace the top of the heap by `position` and let it sink to its place."""
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
