"""Candidates from a vector index for retrievers, and their order by other scores."""

from __future__ import annotations

import numpy as np

from memory.arrays import Floats, Ids
from memory.vectors.vector_index import VectorIndex

__all__ = ["in_order", "nearest_items"]


def nearest_items(index: VectorIndex, queries: Floats, k: int, excluded: Ids, start: Ids) -> tuple[Ids, Ids]:
    """Search for about `k` slots for each request, without those that it excludes.

    Parameters
    ----------
    index : VectorIndex
    queries : (B, width) float32
    k : int
        Slots of a request, at most. There are fewer where the searched lists have no more.
    excluded : (M,) int64
        Slots that request b excludes: ``excluded[start[b]:start[b + 1]]``; -1 for none.
    start : (B + 1,) int64

    Returns
    -------
    slot, request : (n,) int64
        By request.
    """
    own = np.diff(start)
    slots, _ = index.search(queries, max(k, 0) + int(own.max(initial=0)))
    # Each request gets as many as it would get alone, whatever the others exclude.
    slots[np.arange(slots.shape[1]) >= max(k, 0) + own[:, None]] = -1
    for b in np.flatnonzero(own):
        slots[b, np.isin(slots[b], excluded[start[b] : start[b + 1]])] = -1
    request, at = np.nonzero(slots >= 0)
    return slots[request, at], request


def in_order(slot: Ids, request: Ids, score: Floats, k: int) -> tuple[Ids, Ids, Floats]:
    """Return the `k` candidates with the highest score of each request, highest first. Equal scores are ordered by slot."""
    order = np.lexsort((slot, -score, request))
    request = request[order]
    place = np.arange(request.size) - np.searchsorted(request, request)
    kept = order[place < k]
    return slot[kept], request[place < k], score[kept]
