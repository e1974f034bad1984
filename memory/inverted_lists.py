"""The vectors of an inverted file, list by list, in the layout in which many queries are compared with them fastest.

A list is a chain of blocks of 64 vectors, dimension by dimension, so that one instruction compares a query with several.
All queries that look at a list are compared with it while it is in the cache, two at a time. What is less close than as many
others as are wanted is never written down. faiss compares one query with one vector at a time.
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

PART = BLOCK // 4
"""What a block is folded to when it is looked over for anything close."""

TOGETHER = 128
"""Queries compared at once, at most."""

NEAR = 6
"""Lists, of those that a query looks at, that are compared first: what is less close than the best there is not noted."""

ROOM = 1024
"""Vectors noted of a query before all but the closest are struck out."""


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
        self._angular = angular
        self._values, self._places = np.empty((TOGETHER, 0), np.float32), np.empty((TOGETHER, 0), np.int32)
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

    def search(self, queries: Floats, wanted: int, probes: int) -> tuple[Floats, Ids]:
        """Find the `wanted` closest to each of `queries` (q, width) in the `probes` lists nearest to it, and a few more.

        Returns
        -------
        close : (q, n) float32
            Inner products, or minus squared distances; -inf where there are no more.
        slots : (q, n) int64
            In any order, with all that are at least as close as another one among them; -1 where there are no more.
        """
        parts = [self._search(queries[start : start + TOGETHER], wanted, probes) for start in range(0, len(queries), TOGETHER)]
        if len(parts) == 1:
            return parts[0]
        widest = max(slots.shape[1] for _, slots in parts)
        close = np.full((len(queries), widest), -np.inf, np.float32)
        found = np.full((len(queries), widest), -1, np.int64)
        for n, (some, slots) in enumerate(parts):
            rows = slice(n * TOGETHER, n * TOGETHER + len(slots))
            close[rows, : slots.shape[1]], found[rows, : slots.shape[1]] = some, slots
        return close, found

    def _search(self, queries: Floats, wanted: int, probes: int) -> tuple[Floats, Ids]:
        rows, lists = len(queries), self._tail.size
        near = np.empty((rows, self._centroids.shape[0] * BLOCK), np.float32)
        _approach(queries, self._centroids, self._angular, near)
        near = near[:, :lists]
        last = max(lists - probes, 0)
        looked = (near >= np.partition(near, last, axis=1)[:, last, None]).astype(np.int8)
        _mark_near(near, looked)
        chains = self._vectors, self._before, self._tail, self._count
        room = max(ROOM, 2 * wanted) + BLOCK
        while True:
            if self._values.shape[1] < room:
                self._values, self._places = np.empty((TOGETHER, room), np.float32), np.empty((TOGETHER, room), np.int32)
            noted = self._values[:rows], self._places[:rows], np.zeros(rows, np.int64)
            if _scan(queries, looked, *chains, self._angular, wanted, *noted):
                break
            room *= 4  # more than these are equally close
        close = np.full((rows, int(noted[2].max())), -np.inf, np.float32)
        found = np.full(close.shape, -1, np.int64)
        _told(*noted, self._slots, close, found)
        return close, found


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


@njit(cache=True, nogil=True, fastmath={"contract", "nsz"})
def _compare(queries, a, b, vectors, block, angular, close):  # type: ignore[no-untyped-def]
    """Closeness of two queries to the vectors of a block, (2, BLOCK): inner products, or minus squared distances.

    Sums are made dimension by dimension: what comes out for a vector does not depend on its column, or on the other query.
    """
    width = queries.shape[1]
    for n in range(BLOCK):
        close[0, n] = close[1, n] = np.float32(0.0)
    even = width - width % 8
    for d in range(0, even, 8):
        p0, p1, p2, p3 = queries[a, d], queries[a, d + 1], queries[a, d + 2], queries[a, d + 3]
        p4, p5, p6, p7 = queries[a, d + 4], queries[a, d + 5], queries[a, d + 6], queries[a, d + 7]
        q0, q1, q2, q3 = queries[b, d], queries[b, d + 1], queries[b, d + 2], queries[b, d + 3]
        q4, q5, q6, q7 = queries[b, d + 4], queries[b, d + 5], queries[b, d + 6], queries[b, d + 7]
        if angular:
            for n in range(BLOCK):
                v0, v1, v2, v3 = (
                    vectors[block, d, n],
                    vectors[block, d + 1, n],
                    vectors[block, d + 2, n],
                    vectors[block, d + 3, n],
                )
                v4, v5, v6, v7 = (
                    vectors[block, d + 4, n],
                    vectors[block, d + 5, n],
                    vectors[block, d + 6, n],
                    vectors[block, d + 7, n],
                )
                close[0, n] = close[0, n] + p0 * v0 + p1 * v1 + p2 * v2 + p3 * v3 + p4 * v4 + p5 * v5 + p6 * v6 + p7 * v7
                close[1, n] = close[1, n] + q0 * v0 + q1 * v1 + q2 * v2 + q3 * v3 + q4 * v4 + q5 * v5 + q6 * v6 + q7 * v7
        else:
            for k in range(8):
                p, q = queries[a, d + k], queries[b, d + k]
                for n in range(BLOCK):
                    v = vectors[block, d + k, n]
                    close[0, n] -= (p - v) * (p - v)
                    close[1, n] -= (q - v) * (q - v)
    for d in range(even, width):
        p, q = queries[a, d], queries[b, d]
        for n in range(BLOCK):
            v = vectors[block, d, n]
            if angular:
                close[0, n] += p * v
                close[1, n] += q * v
            else:
                close[0, n] -= (p - v) * (p - v)
                close[1, n] -= (q - v) * (q - v)


@njit(cache=True, nogil=True)
def _approach(queries, centroids, angular, near):  # type: ignore[no-untyped-def]
    """Closeness of queries to all centroids, (q, lists up to a whole block)."""
    close = np.empty((2, BLOCK), np.float32)
    for row in range(0, queries.shape[0], 2):
        other = min(row + 1, queries.shape[0] - 1)
        for block in range(centroids.shape[0]):
            _compare(queries, row, other, centroids, block, angular, close)
            for n in range(BLOCK):
                near[row, block * BLOCK + n] = close[0, n]
                near[other, block * BLOCK + n] = close[other - row, n]


@njit(cache=True, nogil=True)
def _least(values, size, wanted, counts):  # type: ignore[no-untyped-def]
    """Of the first `size` values one that at least `wanted` of them reach, and few more; the smallest where there are fewer."""
    low, high = values[0], values[0]
    for n in range(size):
        low, high = min(low, values[n]), max(high, values[n])
    if size <= wanted or low == high:
        return low
    scale = np.float32(counts.size - 1) / (high - low)
    counts[:] = 0
    for n in range(size):
        counts[int((values[n] - low) * scale)] += 1
    last, above = counts.size - 1, counts[-1]
    while above < wanted:
        last -= 1
        above += counts[last]
    least = high
    for n in range(size):
        if int((values[n] - low) * scale) >= last:
            least = min(least, values[n])
    return least


@njit(cache=True, nogil=True)
def _mark_near(near, looked):  # type: ignore[no-untyped-def]
    """Mark (2), of the lists that a query looks at (1), about the NEAR nearest."""
    counts = np.empty(256, np.int64)
    for row in range(near.shape[0]):
        nearest = _least(near[row], near.shape[1], NEAR, counts)
        for n in range(near.shape[1]):
            looked[row, n] += looked[row, n] == 1 and near[row, n] >= nearest


@njit(cache=True, nogil=True)
def _any_reach(close, side, least):  # type: ignore[no-untyped-def]
    """Whether any vector of a block is at least so close."""
    hits = np.int32(0)
    for n in range(PART):
        hits += np.int32(
            (close[side, n] >= least)
            | (close[side, n + PART] >= least)
            | (close[side, n + 2 * PART] >= least)
            | (close[side, n + 3 * PART] >= least)
        )
    return hits > 0


@njit(cache=True, nogil=True)
def _scan(queries, looked, vectors, before, tail, count, angular, wanted, values, places, size):  # type: ignore[no-untyped-def]
    """Note of each query at least the `wanted` closest vectors of the lists it looks at; whether there was room.

    Each list is compared with all queries that look at it, block by block; first those that are near (2), then the others (1).
    """
    rows, room = values.shape
    bar, asking = np.full(rows, -np.inf, np.float32), np.empty(rows, np.int64)
    close, counts = np.empty((2, BLOCK), np.float32), np.empty(256, np.int64)
    for near in (2, 1):
        for n in range(tail.size):
            asked = 0
            for row in range(rows):
                if looked[row, n] == near:
                    asking[asked] = row
                    asked += 1
            block, left = tail[n], count[n]
            while block >= 0 and asked > 0:
                filled = (left - 1) % BLOCK + 1
                for at in range(0, asked, 2):
                    both = min(at + 1, asked - 1)
                    _compare(queries, asking[at], asking[both], vectors, block, angular, close)
                    for side in range(1 + both - at):
                        row = asking[at + side]
                        least = bar[row]
                        if not _any_reach(close, side, least):
                            continue
                        kept = size[row]
                        for column in range(filled):
                            if close[side, column] >= least:
                                values[row, kept], places[row, kept] = close[side, column], block * BLOCK + column
                                kept += 1
                        size[row] = kept
                        if kept > room - BLOCK:
                            size[row], bar[row] = _strike_out(values[row], places[row], kept, wanted, counts)
                            if size[row] > room - BLOCK:
                                return False
                block, left = before[block], left - filled
        for row in range(rows):
            size[row], bar[row] = _strike_out(values[row], places[row], size[row], wanted, counts)
    return True


@njit(cache=True, nogil=True)
def _strike_out(values, places, size, wanted, counts):  # type: ignore[no-untyped-def]
    """Keep of what is noted the `wanted` closest, few more, and all that are as close as one kept; size, and what to reach."""
    least = _least(values, size, wanted, counts) if size else np.float32(-np.inf)
    kept = 0
    for n in range(size):
        if values[n] >= least:
            values[kept], places[kept] = values[n], places[n]
            kept += 1
    return kept, least if kept >= wanted else np.float32(-np.inf)


@njit(cache=True, nogil=True)
def _told(values, places, size, held, close, found):  # type: ignore[no-untyped-def]
    """What is noted, with the slots that are held at the places."""
    for row in range(found.shape[0]):
        for n in range(size[row]):
            close[row, n], found[row, n] = values[row, n], held[places[row, n] // BLOCK, places[row, n] % BLOCK]
