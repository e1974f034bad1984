"""The vectors of an inverted file, list by list, in a layout that is fast for many queries at once.

A list is a chain of blocks. A block holds 16 vectors, dimension by dimension, so that one instruction compares a query with all
of them. All queries that probe a list are compared with it while it is in the cache. Vectors below a query's threshold are not
written down. (faiss compares one query with one vector at a time.)
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from memory.arrays import Floats, Ids
from memory.jit import njit
from memory.simd import LANES, QUERIES_AT_ONCE, compress_store, mask_at_least, prefetch
from memory.vectors.blocks import compare, compare_all, empty_blocks, to_blocks, write_lane
from memory.vectors.top_k import EXACT, find_threshold, keep_top, lane_mask, maximum, sort_top

__all__ = ["InvertedLists"]

MAX_QUERIES = 128
"""Most queries searched for at once."""

NEAR_FRACTION = 0.6
"""How far a list must be on the way from the last probed list to the nearest one to count as near. Near lists are searched
first: their best vectors give a threshold that rejects most vectors of the other lists."""

BUDGET = 2
"""Lists of average size, for each list probed, with whose vectors a query is compared at most, or with as many vectors as asked
for. Where many vectors are alike, few lists have most of them, and the nearest of these are enough."""

BUFFER_SIZE = 160
"""Candidates that a query collects before all but the best are dropped."""


class InvertedLists:
    """Vectors in slots, each in one list or in none. Derived from the assignments and centroids of an inverted file.

    With a single list, a search compares with all vectors.

    Parameters
    ----------
    centroids : (lists, width) float32
    capacity : int
        Slots.
    angular : bool
        See `InvertedFile`.
    quantized : bool
        Round the vectors to 16 bits, see `memory.vectors.blocks.write_lane`. This saves time: loading vectors is slower than
        comparing them.
    """

    def __init__(self, centroids: Floats, capacity: int, angular: bool, quantized: bool) -> None:
        lists, width = centroids.shape
        blocks = capacity // LANES + lists  # at most one block of a list is not full
        self._quantized = quantized
        self._vectors = empty_blocks(blocks, width + 2, np.int16) if quantized else empty_blocks(blocks, width)
        self._slots = np.full((blocks, LANES), -1, np.int32)
        self._previous = np.full(blocks, -1, np.int64)
        self._free = np.arange(blocks)
        self._tail, self._count = np.full(lists, -1, np.int64), np.zeros(lists, np.int64)
        self._list_of, self._position_of = np.full(capacity, -1, np.int32), np.full(capacity, -1, np.int64)
        self._used = np.zeros(1, np.int64)
        self._centroids = to_blocks(centroids)
        self._list_similarity = empty_blocks(QUERIES_AT_ONCE, len(self._centroids)).reshape(QUERIES_AT_ONCE, -1)
        self._scratch = empty_blocks(1, MAX_QUERIES + QUERIES_AT_ONCE)[0]
        self._lanes = empty_blocks(1, 1, np.int32)[0]
        self._lanes[0] = np.arange(LANES)
        self._angular = angular
        self._values, self._positions = np.empty((MAX_QUERIES, 0), np.float32), np.empty((MAX_QUERIES, 0), np.int32)

    @staticmethod
    def bytes_of(capacity: int, width: int, lists: int, quantized: bool) -> int:
        """Memory of the vectors and slots, in bytes."""
        return (capacity + LANES * lists) * (2 * width + 9 if quantized else 4 * width + 5) + 12 * capacity

    def update(self, slots: Ids, lists: npt.NDArray[np.int32], vectors: npt.NDArray[Any]) -> None:
        """Put the vectors of `slots` (n,) into `lists` (n,); list -1 removes them. `vectors` is (capacity, width)."""
        _update(
            slots,
            lists,
            vectors,
            self._vectors,
            self._slots,
            self._previous,
            self._free,
            self._used,
            self._tail,
            self._count,
            self._list_of,
            self._position_of,
            self._quantized,
        )

    def search(self, queries: Floats, k: int, probes: int) -> tuple[Floats, Ids]:
        """Find the `k` most similar vectors to each of `queries` (q, width) in its `probes` nearest lists; see also `BUDGET`.

        Returns
        -------
        similarity : (q, k) float32
            Inner products, or negative squared distances, in descending order; -inf where there are no more.
        slots : (q, k) int64
            Ties are in the order of the slots; -1 where there are no more.
        """
        similarity = np.full((len(queries), k), -np.inf, np.float32)
        slots = np.full((len(queries), k), -1, np.int64)
        for start in range(0, len(queries), MAX_QUERIES):
            part = slice(start, start + MAX_QUERIES)
            self._search(queries[part], probes, similarity[part], slots[part])
        return similarity, slots

    def _search(self, queries: Floats, probes: int, similarity: Floats, slots: Ids) -> None:
        chains = self._vectors, self._slots, self._previous, self._tail, self._count
        buffer_size = max(BUFFER_SIZE, 2 * similarity.shape[1]) // LANES * LANES + LANES
        while True:
            if self._values.shape[1] < buffer_size:
                self._values = empty_blocks(MAX_QUERIES, buffer_size // LANES).reshape(MAX_QUERIES, buffer_size)
                self._positions = empty_blocks(MAX_QUERIES, buffer_size // LANES, np.int32).reshape(MAX_QUERIES, buffer_size)
            buffers = self._list_similarity, self._scratch, self._lanes, self._values, self._positions
            if _search(queries, self._centroids, *chains, self._angular, probes, *buffers, similarity, slots):
                return
            buffer_size *= 4  # too many ties for the buffer


# Compiled part.


@njit(cache=True, nogil=True)
def _update(slots, lists, vectors, blocks, held, previous, free, used, tail, count, list_of, position_of, quantized):  # type: ignore[no-untyped-def]
    for row in range(slots.size):
        slot = slots[row]
        if list_of[slot] >= 0:  # the last vector of the list moves to its position
            n, position = list_of[slot], position_of[slot]
            last, lane = tail[n], (count[n] - 1) % LANES
            moved = held[last, lane]
            block, hole = position // LANES, position % LANES
            write_lane(vectors[moved], blocks, block, hole, quantized)
            held[block, hole], position_of[moved] = moved, position
            held[last, lane], position_of[slot], list_of[slot] = -1, -1, -1
            count[n] -= 1
            if lane == 0:
                tail[n] = previous[last]
                used[0] -= 1
                free[used[0]] = last
        if lists[row] >= 0:
            n = lists[row]
            lane = count[n] % LANES
            if lane == 0:
                block = free[used[0]]
                used[0] += 1
                previous[block], tail[n] = tail[n], block
            block = tail[n]
            write_lane(vectors[slot], blocks, block, lane, quantized)
            held[block, lane], position_of[slot], list_of[slot] = slot, block * LANES + lane, n
            count[n] += 1


@njit(cache=True, nogil=True)
def _search(  # type: ignore[no-untyped-def]
    queries,
    centroids,
    vectors,
    held,
    previous,
    tail,
    count,
    angular,
    probes,
    list_similarity,
    scratch,
    lanes,
    values,
    positions,
    similarity,
    slots,
):
    """Write the best of each query, in order, to `similarity` and `slots`. Return False if the buffer was too small."""
    size = np.zeros(queries.shape[0], np.int64)
    start, probing = _probes(queries, centroids, count, angular, probes, similarity.shape[1], scratch, list_similarity)
    if not _scan(
        queries,
        start,
        probing,
        vectors,
        previous,
        tail,
        count,
        angular,
        similarity.shape[1],
        scratch,
        lanes,
        values,
        positions,
        size,
    ):
        return False
    for row in range(queries.shape[0]):
        found = positions[row]
        for n in range(size[row]):
            found[n] = held[found[n] // LANES, found[n] % LANES]
        sort_top(values[row], found, size[row], similarity[row], slots[row])
    return True


@njit(cache=True, nogil=True)
def _probes(queries, centroids, count, angular, probes, k, scratch, list_similarity):  # type: ignore[no-untyped-def]
    """Find the queries that probe each list. Empty lists are the last to be probed: where vectors are alike, many are empty.

    Returns
    -------
    start : (2 * lists + 1,) int64
        ``probing[start[n] : start[n + 1]]`` are the queries that probe list n as a near list; for n of `lists` and more, those
        that probe list ``n - lists`` as another list.
    probing : (pairs,) int64
    """
    rows, blocks, lists = queries.shape[0], centroids.shape[0], count.size
    row_of, group_of = np.empty(rows * lists, np.int32), np.empty(rows * lists, np.int32)
    start, pairs = np.zeros(2 * lists + 1, np.int64), 0
    budget = max(BUDGET * probes * count.sum() // lists, k)
    for row in range(rows):
        if row % QUERIES_AT_ONCE == 0:
            compare_all(queries[row : row + QUERIES_AT_ONCE], centroids, angular, scratch, list_similarity)
        values = list_similarity[row % QUERIES_AT_ONCE]
        lowest = values[0]
        for n in range(lists):
            lowest = min(lowest, values[n])
        for n in range(lists):
            if count[n] == 0:
                values[n] = lowest
        threshold = _affordable(values, count, find_threshold(values, lists, probes, 0, EXACT), budget)
        near = threshold + (maximum(values, lists) - threshold) * np.float32(NEAR_FRACTION)
        for block in range(blocks):
            bits = mask_at_least(values, block, threshold) & lane_mask(lists - block * LANES)
            n = block * LANES
            while bits:
                if bits & np.uint64(1):
                    row_of[pairs], group_of[pairs] = row, n + (values[n] < near) * lists
                    start[group_of[pairs] + 1] += 1
                    pairs += 1
                bits >>= np.uint64(1)
                n += 1
    end, probing = np.empty(2 * lists, np.int64), np.empty(pairs, np.int64)
    for n in range(2 * lists):
        end[n] = start[n]
        start[n + 1] += start[n]
    for pair in range(pairs):
        probing[end[group_of[pair]]] = row_of[pair]
        end[group_of[pair]] += 1
    return start, probing


@njit(cache=True, nogil=True)
def _affordable(values, count, threshold, budget):  # type: ignore[no-untyped-def]
    """Raise a threshold where the lists that reach it hold more vectors than `budget`: the nearest that hold it are left."""
    held, reached = 0, 0
    for n in range(count.size):
        if values[n] >= threshold:
            held += count[n]
            reached += 1
    if held <= budget:
        return threshold
    lists, rows = np.empty(reached, np.int64), 0
    for n in range(count.size):
        if values[n] >= threshold:
            lists[rows] = n
            rows += 1
    for at in np.argsort(-values[lists]):
        budget -= count[lists[at]]
        if budget <= 0:
            return values[lists[at]]
    return threshold


@njit(cache=True, nogil=True)
def _scan(  # type: ignore[no-untyped-def]
    queries, start, probing, vectors, previous, tail, count, angular, k, scratch, lanes, values, positions, size
):
    """Collect at least the `k` most similar vectors for each query. Return False if the buffer was too small.

    Each list is compared with all queries that probe it, block by block.
    """
    rows, buffer_size = values.shape
    threshold, query_rows = np.empty(rows, np.float32), np.empty(queries.shape[0] + QUERIES_AT_ONCE, np.int64)
    for row in range(rows):
        threshold[row] = -np.inf
    for group in range(start.size - 1):
        if group == tail.size:
            for row in range(size.size):
                size[row], threshold[row] = keep_top(values[row], positions[row], size[row], k)
        probing_count = start[group + 1] - start[group]
        if probing_count == 0:
            continue
        for n in range(probing_count + QUERIES_AT_ONCE):
            query_rows[n] = probing[start[group] + min(n, probing_count - 1)]
        list_number = group % tail.size
        block, left = tail[list_number], count[list_number]
        while block >= 0:
            filled = (left - 1) % LANES + 1
            valid, next_block = lane_mask(filled), previous[block]
            upcoming = next_block if next_block >= 0 or list_number + 1 == tail.size else tail[list_number + 1]
            if upcoming >= 0:
                prefetch(vectors, upcoming)
            for first in range(0, probing_count, QUERIES_AT_ONCE):
                compare(queries, query_rows, first, vectors, block, angular, scratch)
            # A second loop, because a mispredicted branch in the first one would discard comparisons already begun.
            for n in range(probing_count):
                row = query_rows[n]
                bits = mask_at_least(scratch, n, threshold[row]) & valid
                if bits == 0:
                    continue
                compress_store(lanes, 0, bits, np.int32(block * LANES), positions[row], size[row])
                size[row] += compress_store(scratch, n, bits, np.float32(0.0), values[row], size[row])
                if size[row] > buffer_size - LANES:
                    size[row], threshold[row] = keep_top(values[row], positions[row], size[row], k)
                    if size[row] > buffer_size - LANES:
                        return False
            block, left = next_block, left - filled
    for row in range(size.size):
        size[row], threshold[row] = keep_top(values[row], positions[row], size[row], k)
    return True
