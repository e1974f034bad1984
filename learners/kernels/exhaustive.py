"""Compiled selection of the best of all items by their scores, without excluded ones; shared by retrievers."""

from __future__ import annotations

import numpy as np

from memory.jit import njit
from streams.batch import Floats, Ids

__all__ = ["best_items"]


@njit(cache=True, nogil=True)
def best_items(score: Floats, slots: Ids, k: int, excluded: Ids, start: Ids) -> tuple[Ids, Ids, Floats]:
    """Return the `k` best items of each request, best first. Equal scores are ordered by slot.

    Parameters
    ----------
    score : (B, V) float32
        Scores of all items, finite. Those of excluded items are set to minus infinity.
    slots : (V,) int64
        Slots of the items, ascending.
    k : int
        Items per request, at most.
    excluded : (M,) int64
        Slots of items that request b excludes: ``excluded[start[b]:start[b + 1]]``; -1 for an unknown item.
    start : (B + 1,) int64

    Returns
    -------
    slot, request : (n,) int64
    score : (n,) float32
    """
    k = min(max(k, 0), slots.size)
    room = (start.size - 1) * k
    slot, request, best = np.empty(room, np.int64), np.empty(room, np.int64), np.empty(room, np.float32)
    rows = 0
    for b in range(start.size - 1 if k else 0):
        mine = score[b]
        for gone in excluded[start[b] : start[b + 1]]:
            at = np.searchsorted(slots, gone)
            if at < slots.size and slots[at] == gone:
                mine[at] = -np.inf
        least = np.partition(mine, slots.size - k)[slots.size - k]
        kept = np.flatnonzero((mine >= least) & (mine > -np.inf))
        order = np.argsort(-mine[kept], kind="mergesort")  # stable
        for n in range(min(k, kept.size)):
            at = kept[order[n]]
            slot[rows], request[rows], best[rows] = slots[at], b, mine[at]
            rows += 1
    return slot[:rows], request[:rows], best[:rows]
