"""The vectors of an inverted file, list by list, in the layout in which many queries are compared with them fastest.

A list is a chain of blocks of 64 vectors, dimension by dimension, so that one instruction compares a query with several.
All queries that look at a list are compared with it while it is in the cache. faiss compares one query with one vector at a
time, which takes up to twice as long for the hundred candidates of a ranking.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from numba import njit

from memory.arrays import Floats, Ids

__all__ = ["InvertedLists"]

BLOCK = 64
"""Vectors in a block."""

TOGETHER, ROOM = 64, 1 << 20
"""Queries compared at once, at most, and numbers that may be kept of what they were compared with: fewer queries go together
when their lists are long."""

GROUPS = 8
"""Of how many parts of a block the closest vector is noted."""


class InvertedLists:
    """Vectors in slots, each in one list or in none; derived from an inverted file's places and centroids.

    With one list, whatever its centroid, search compares with all.

    Parameters
    ----------
    centroids : (lists, width) float32
    capacity : int
        Slots.
    angular : bool
        As `InvertedFile`.
    """

    def __init__(self, centroids: Floats, capacity: int, angular: bool) -> None:
        lists, width = centroids.shape
        blocks = capacity // BLOCK + lists  # at most one block of a list is not full
        self._vectors = _aligned(blocks, width)
        self._slots = np.full((blocks, BLOCK), -1, np.int64)
        self._before = np.full(blocks, -1, np.int64)
        self._free = np.arange(blocks)
        self._tail, self._count = np.full(lists, -1, np.int64), np.zeros(lists, np.int64)
        self._home, self._at = np.full(capacity, -1, np.int32), np.full(capacity, -1, np.int64)
        self._used = np.zeros(1, np.int64)
        self._centroids = _aligned(-(-lists // BLOCK), width)
        self._angular, self._close, self._found = angular, np.empty(0, np.float32), np.empty(0, np.int64)
        for n in range(lists):
            self._centroids[n // BLOCK, :, n % BLOCK] = centroids[n]

    @staticmethod
    def bytes_of(capacity: int, width: int, lists: int) -> int:
        """Bytes of vectors and slots."""
        return (capacity + BLOCK * lists) * (4 * width + 8) + 12 * capacity

    def follow(self, slots: Ids, places: npt.NDArray[np.int32], vectors: npt.NDArray[Any]) -> None:
        """Hold `slots` (n,) as they are in `vectors` (capacity, width) in the lists `places` (n,); of place -1 no more."""
        _follow(
            slots,
            places,
            vectors,
            self._vectors,
            self._slots,
            self._before,
            self._free,
            self._used,
            self._tail,
            self._count,
            self._home,
            self._at,
        )

    def search(self, queries: Floats, wanted: int, probes: int) -> Ids:
        """Find the `wanted` closest to each of `queries` (q, width) in the `probes` lists nearest to it, and a few more.

        Returns
        -------
        (q, n) int64
            Slots, in any order, with all that are at least as close as another one among them; -1 where there are no more.
        """
        longest = int(np.sort(self._count)[-probes:].sum()) + BLOCK * min(probes, self._count.size)
        together = min(max(ROOM // longest, 1), TOGETHER)
        parts = [self._search(queries[start : start + together], wanted, probes) for start in range(0, len(queries), together)]
        widest = max(part.shape[1] for part in parts)
        return np.concatenate([np.pad(part, ((0, 0), (0, widest - part.shape[1])), constant_values=-1) for part in parts])

    def _search(self, queries: Floats, wanted: int, probes: int) -> Ids:
        rows, lists = len(queries), self._tail.size
        near = np.empty((rows, self._centroids.shape[0] * BLOCK), np.float32)
        _approach(queries, self._centroids, self._angular, near)
        near = near[:, :lists]
        least = max(lists - probes, 0)
        looked = near >= np.partition(near, least, axis=1)[:, least, None]
        most = int((looked @ -(-self._count // BLOCK)).max())  # of integers, or BLAS would wake its threads for it
        if self._close.size < rows * most * BLOCK:
            self._close = np.empty(rows * most * BLOCK, np.float32)
            self._found = np.empty(rows * most * BLOCK, np.int64)
        close = self._close[: rows * most * BLOCK].reshape(rows, most, BLOCK)
        found = self._found[: rows * most * BLOCK].reshape(rows, most * BLOCK)
        blocks, closest, size = (
            np.empty((rows, most), np.int64),
            np.empty((rows, most, GROUPS), np.float32),
            np.zeros(rows, np.int64),
        )
        chains = self._vectors, self._before, self._tail, self._count
        _scan(queries, looked, *chains, self._angular, blocks, close, closest, size)
        return found[:, : _pick(blocks, close, closest, size, self._slots, wanted, found)].copy()


def _aligned(blocks: int, width: int) -> Floats:
    """Zeros (blocks, width, BLOCK) at an address that lets 16 numbers be loaded from one line of the cache."""
    size = 4 * blocks * width * BLOCK
    raw = np.zeros(size + 64, np.uint8)
    start = -raw.ctypes.data % 64
    return raw[start : start + size].view(np.float32).reshape(blocks, width, BLOCK)


# Compiled part.


@njit(cache=True, nogil=True)
def _follow(slots, places, vectors, blocks, held, before, free, used, tail, count, home, at):  # type: ignore[no-untyped-def]
    for number in range(slots.size):
        slot = slots[number]
        if home[slot] >= 0:  # the last one of its list takes its place
            n, place = home[slot], at[slot]
            last, column = tail[n], (count[n] - 1) % BLOCK
            moved = held[last, column]
            block, hole = place // BLOCK, place % BLOCK
            for d in range(blocks.shape[1]):
                blocks[block, d, hole] = blocks[last, d, column]
            held[block, hole], at[moved] = moved, place
            held[last, column], at[slot], home[slot] = -1, -1, -1
            count[n] -= 1
            if column == 0:
                tail[n] = before[last]
                used[0] -= 1
                free[used[0]] = last
        if places[number] >= 0:
            n = places[number]
            column = count[n] % BLOCK
            if column == 0:
                block = free[used[0]]
                used[0] += 1
                before[block], tail[n] = tail[n], block
            block = tail[n]
            for d in range(blocks.shape[1]):
                blocks[block, d, column] = vectors[slot, d]
            held[block, column], at[slot], home[slot] = slot, block * BLOCK + column, n
            count[n] += 1


@njit(cache=True, nogil=True, fastmath=True)
def _compare(query, block, angular, close):  # type: ignore[no-untyped-def]
    """Closeness of a query (width,) to the vectors of a block (width, BLOCK): inner products, or minus squared distances."""
    width = query.size
    for n in range(BLOCK):
        close[n] = np.float32(0.0)
    even = width - width % 8
    for d in range(0, even, 8):
        q0, q1, q2, q3 = query[d], query[d + 1], query[d + 2], query[d + 3]
        q4, q5, q6, q7 = query[d + 4], query[d + 5], query[d + 6], query[d + 7]
        v0, v1, v2, v3 = block[d], block[d + 1], block[d + 2], block[d + 3]
        v4, v5, v6, v7 = block[d + 4], block[d + 5], block[d + 6], block[d + 7]
        if angular:
            for n in range(BLOCK):
                close[n] += (
                    q0 * v0[n] + q1 * v1[n] + q2 * v2[n] + q3 * v3[n] + q4 * v4[n] + q5 * v5[n] + q6 * v6[n] + q7 * v7[n]
                )
        else:
            for n in range(BLOCK):
                close[n] -= (
                    (q0 - v0[n]) ** 2
                    + (q1 - v1[n]) ** 2
                    + (q2 - v2[n]) ** 2
                    + (q3 - v3[n]) ** 2
                    + (q4 - v4[n]) ** 2
                    + (q5 - v5[n]) ** 2
                    + (q6 - v6[n]) ** 2
                    + (q7 - v7[n]) ** 2
                )
    for d in range(even, width):
        q0, v0 = query[d], block[d]
        for n in range(BLOCK):
            close[n] += q0 * v0[n] if angular else -((q0 - v0[n]) ** 2)


@njit(cache=True, nogil=True)
def _approach(queries, centroids, angular, near):  # type: ignore[no-untyped-def]
    """Closeness of queries to all centroids, (q, lists up to a whole block)."""
    for row in range(queries.shape[0]):
        for block in range(centroids.shape[0]):
            _compare(queries[row], centroids[block], angular, near[row, block * BLOCK : (block + 1) * BLOCK])


@njit(cache=True, nogil=True)
def _scan(queries, looked, vectors, before, tail, count, angular, blocks, close, closest, size):  # type: ignore[no-untyped-def]
    """Compare each list with the queries that look at it, block by block, and note the closest of each group of columns."""
    asking, part = np.empty(queries.shape[0], np.int64), BLOCK // 4
    for n in range(tail.size):
        asked = 0
        for row in range(queries.shape[0]):
            asking[asked] = row
            asked += looked[row, n]
        block, left = tail[n], count[n]
        while block >= 0 and asked > 0:
            filled = (left - 1) % BLOCK + 1
            for row in asking[:asked]:
                at = size[row]
                size[row], blocks[row, at] = at + 1, block
                found, best = close[row, at], closest[row, at]
                _compare(queries[row], vectors[block], angular, found)
                for column in range(filled, BLOCK):
                    found[column] = -np.inf
                for g in range(GROUPS):
                    other = g + GROUPS
                    best[g] = max(
                        max(max(found[g], found[g + part]), max(found[g + 2 * part], found[g + 3 * part])),
                        max(max(found[other], found[other + part]), max(found[other + 2 * part], found[other + 3 * part])),
                    )
            block, left = before[block], left - filled


@njit(cache=True, nogil=True)
def _bar(values, wanted, counts):  # type: ignore[no-untyped-def]
    """What at least `wanted` of the values reach, and few more: (value - low) * scale >= bar; -inf where there are fewer."""
    low, high = np.float32(np.inf), np.float32(-np.inf)
    for value in values:
        if value > -np.inf:
            low, high = min(low, value), max(high, value)
    scale = np.float32(counts.size - 1) / (high - low) if high > low else np.float32(0.0)
    counts[:] = 0
    for value in values:
        if value > -np.inf:
            counts[int((value - low) * scale)] += 1
    bar, above = counts.size - 1, counts[-1]
    while bar > 0 and above < wanted:
        bar -= 1
        above += counts[bar]
    return low, scale, np.float32(bar) if above >= wanted else np.float32(-np.inf)


@njit(cache=True, nogil=True)
def _pick(blocks, close, closest, size, held, wanted, found):  # type: ignore[no-untyped-def]
    """The slots of the closest of all that each query was compared with; returns how many there are of one query at most."""
    counts, values, widest = np.empty(256, np.int64), np.empty(found.shape[1], np.float32), 0
    for row in range(size.size):
        # Each group has one that is as close as its closest.
        low, scale, bar = _bar(closest[row, : size[row]].ravel(), wanted, counts)
        kept = 0
        for at in range(size[row]):
            for group in range(GROUPS):
                if (closest[row, at, group] - low) * scale >= bar:
                    for column in range(group, BLOCK, GROUPS):
                        value = close[row, at, column]
                        if (value - low) * scale >= bar and value > -np.inf:
                            values[kept], found[row, kept] = value, held[blocks[row, at], column]
                            kept += 1
        low, scale, bar = _bar(values[:kept], wanted, counts)
        size[row] = 0
        for n in range(kept):
            if (values[n] - low) * scale >= bar:
                found[row, size[row]] = found[row, n]
                size[row] += 1
        widest = max(widest, size[row])
    for row in range(size.size):
        found[row, size[row] : widest] = -1
    return widest
