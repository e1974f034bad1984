"""The vectors of an inverted file, list by list, in the layout in which many queries are compared with them fastest.

A list is a chain of blocks of 16 vectors, dimension by dimension, so that one instruction compares a query with all of them.
All queries that look at a list are compared with it while it is in the cache, some at a time. What is less close than as many
others as are wanted is never written down. faiss compares one query with one vector at a time.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from memory.arrays import Floats, Ids
from memory.jit import njit
from memory.simd import LANES, TOGETHER, fetch, packed, reached
from memory.vectors.blocks import compare, compare_all, empty_blocks, in_blocks, put
from memory.vectors.closest import EXACT, first_lanes, largest, least, ordered, strike_out

__all__ = ["InvertedLists"]

MOST = 128
"""Queries searched for at once, at most."""

NEAR = 0.6
"""Of the way from the last list that a query looks at to the nearest one: lists beyond are compared with it first, for what is
less close than the best there is not noted later."""

ROOM = 160
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
    short : bool
        Keep the vectors rounded to 16 bits; see `memory.vectors.blocks.put`. Fetching them takes longer than comparing them.
    """

    def __init__(self, centroids: Floats, capacity: int, angular: bool, short: bool) -> None:
        lists, width = centroids.shape
        blocks = capacity // LANES + lists  # at most one block of a list is not full
        self._short = short
        self._vectors = empty_blocks(blocks, width + 2, np.int16) if short else empty_blocks(blocks, width)
        self._slots = np.full((blocks, LANES), -1, np.int32)
        self._before = np.full(blocks, -1, np.int64)
        self._free = np.arange(blocks)
        self._tail, self._count = np.full(lists, -1, np.int64), np.zeros(lists, np.int64)
        self._home, self._at = np.full(capacity, -1, np.int32), np.full(capacity, -1, np.int64)
        self._used = np.zeros(1, np.int64)
        self._centroids = in_blocks(centroids)
        self._near = empty_blocks(TOGETHER, len(self._centroids)).reshape(TOGETHER, -1)
        self._close = empty_blocks(1, MOST + TOGETHER)[0]
        self._lanes = empty_blocks(1, 1, np.int32)[0]
        self._lanes[0] = np.arange(LANES)
        self._angular = angular
        self._values, self._places = np.empty((MOST, 0), np.float32), np.empty((MOST, 0), np.int32)

    @staticmethod
    def bytes_of(capacity: int, width: int, lists: int, short: bool) -> int:
        """Bytes of vectors and slots."""
        return (capacity + LANES * lists) * (2 * width + 9 if short else 4 * width + 5) + 12 * capacity

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
            self._short,
        )

    def search(self, queries: Floats, wanted: int, probes: int) -> tuple[Floats, Ids]:
        """Find the `wanted` closest to each of `queries` (q, width) in the `probes` lists nearest to it.

        Returns
        -------
        close : (q, wanted) float32
            Inner products, or minus squared distances, the greatest first; -inf where there are no more.
        slots : (q, wanted) int64
            Those that are equally close in their order; -1 where there are no more.
        """
        close = np.full((len(queries), wanted), -np.inf, np.float32)
        slots = np.full((len(queries), wanted), -1, np.int64)
        for start in range(0, len(queries), MOST):
            part = slice(start, start + MOST)
            self._search(queries[part], probes, close[part], slots[part])
        return close, slots

    def _search(self, queries: Floats, probes: int, close: Floats, slots: Ids) -> None:
        chains = self._vectors, self._slots, self._before, self._tail, self._count
        room = max(ROOM, 2 * close.shape[1]) // LANES * LANES + LANES
        while True:
            if self._values.shape[1] < room:
                self._values = empty_blocks(MOST, room // LANES).reshape(MOST, room)
                self._places = empty_blocks(MOST, room // LANES, np.int32).reshape(MOST, room)
            space = self._near, self._close, self._lanes, self._values, self._places
            if _search(queries, self._centroids, *chains, self._angular, probes, *space, close, slots):
                return
            room *= 4  # more than these are equally close


# Compiled part.


@njit(cache=True, nogil=True)
def _follow(slots, places, vectors, blocks, held, before, free, used, tail, count, home, at, short):  # type: ignore[no-untyped-def]
    for number in range(slots.size):
        slot = slots[number]
        if home[slot] >= 0:  # the last one of its list takes its place
            n, place = home[slot], at[slot]
            last, column = tail[n], (count[n] - 1) % LANES
            moved = held[last, column]
            block, hole = place // LANES, place % LANES
            put(vectors[moved], blocks, block, hole, short)
            held[block, hole], at[moved] = moved, place
            held[last, column], at[slot], home[slot] = -1, -1, -1
            count[n] -= 1
            if column == 0:
                tail[n] = before[last]
                used[0] -= 1
                free[used[0]] = last
        if places[number] >= 0:
            n = places[number]
            column = count[n] % LANES
            if column == 0:
                block = free[used[0]]
                used[0] += 1
                before[block], tail[n] = tail[n], block
            block = tail[n]
            put(vectors[slot], blocks, block, column, short)
            held[block, column], at[slot], home[slot] = slot, block * LANES + column, n
            count[n] += 1


@njit(cache=True, nogil=True)
def _search(  # type: ignore[no-untyped-def]
    queries, centroids, vectors, held, before, tail, count, angular, probes, near, close, lanes, values, places, told, slots
):
    """Write the closest of each query, in order, to `told` and `slots`; whether there was room for what had to be noted."""
    size = np.zeros(queries.shape[0], np.int64)
    start, asking = _asked(queries, centroids, tail.size, angular, probes, close, near)
    if not _scan(
        queries, start, asking, vectors, before, tail, count, angular, told.shape[1], close, lanes, values, places, size
    ):
        return False
    for row in range(queries.shape[0]):
        found = places[row]
        for n in range(size[row]):
            found[n] = held[found[n] // LANES, found[n] % LANES]
        ordered(values[row], found, size[row], told[row], slots[row])
    return True


@njit(cache=True, nogil=True)
def _asked(queries, centroids, lists, angular, probes, close, near):  # type: ignore[no-untyped-def]
    """Which queries look at which list: ``asking[start[n] : start[n + 1]]``; n goes twice through the lists, first the near."""
    rows, blocks = queries.shape[0], centroids.shape[0]
    row_of, which = np.empty(rows * lists, np.int32), np.empty(rows * lists, np.int32)
    start, pairs = np.zeros(2 * lists + 1, np.int64), 0
    for row in range(rows):
        if row % TOGETHER == 0:
            compare_all(queries[row : row + TOGETHER], centroids, angular, close, near)
        values = near[row % TOGETHER]
        looked = least(values, lists, probes, 0, EXACT)
        nearest = looked + (largest(values, lists) - looked) * np.float32(NEAR)
        for block in range(blocks):
            bits = reached(values, block, looked) & first_lanes(lists - block * LANES)
            n = block * LANES
            while bits:
                if bits & np.uint64(1):
                    row_of[pairs], which[pairs] = row, n + (values[n] < nearest) * lists
                    start[which[pairs] + 1] += 1
                    pairs += 1
                bits >>= np.uint64(1)
                n += 1
    at, asking = np.empty(2 * lists, np.int64), np.empty(pairs, np.int64)
    for n in range(2 * lists):
        at[n] = start[n]
        start[n + 1] += start[n]
    for pair in range(pairs):
        asking[at[which[pair]]] = row_of[pair]
        at[which[pair]] += 1
    return start, asking


@njit(cache=True, nogil=True)
def _scan(queries, start, asking, vectors, before, tail, count, angular, wanted, close, lanes, values, places, size):  # type: ignore[no-untyped-def]
    """Note of each query at least the `wanted` closest vectors of the lists it looks at; whether there was room.

    Each list is compared with all queries that look at it, block by block.
    """
    rows, room = values.shape
    bar, together = np.empty(rows, np.float32), np.empty(queries.shape[0] + TOGETHER, np.int64)
    for row in range(rows):
        bar[row] = -np.inf
    for one in range(start.size - 1):
        if one == tail.size:
            for row in range(size.size):
                size[row], bar[row] = strike_out(values[row], places[row], size[row], wanted)
        asked = start[one + 1] - start[one]
        if asked == 0:
            continue
        for n in range(asked + TOGETHER):
            together[n] = asking[start[one] + min(n, asked - 1)]
        which = one % tail.size
        block, left = tail[which], count[which]
        while block >= 0:
            filled = (left - 1) % LANES + 1
            valid, following = first_lanes(filled), before[block]
            ahead = following if following >= 0 or which + 1 == tail.size else tail[which + 1]
            if ahead >= 0:
                fetch(vectors, ahead)
            for first in range(0, asked, TOGETHER):
                compare(queries, together, first, vectors, block, angular, close)
            # Not within the loop above: a branch wrongly predicted would throw away the comparisons begun meanwhile.
            for n in range(asked):
                row = together[n]
                bits = reached(close, n, bar[row]) & valid
                if bits == 0:
                    continue
                packed(lanes, 0, bits, np.int32(block * LANES), places[row], size[row])
                size[row] += packed(close, n, bits, np.float32(0.0), values[row], size[row])
                if size[row] > room - LANES:
                    size[row], bar[row] = strike_out(values[row], places[row], size[row], wanted)
                    if size[row] > room - LANES:
                        return False
            block, left = following, left - filled
    for row in range(size.size):
        size[row], bar[row] = strike_out(values[row], places[row], size[row], wanted)
    return True
