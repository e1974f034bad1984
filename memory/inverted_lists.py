"""The vectors of an inverted file, list by list, in the layout in which many queries are compared with them fastest.

A list is a chain of blocks of 16 vectors, dimension by dimension, so that one instruction compares a query with all of them.
All queries that look at a list are compared with it while it is in the cache, some at a time. What is less close than as many
others as are wanted is never written down. faiss compares one query with one vector at a time.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from numba import njit

from memory.arrays import Floats, Ids
from memory.blocks import compare, empty_blocks, how_close, in_blocks
from memory.lanes import LANES, TOGETHER, fetch, packed, reached

__all__ = ["InvertedLists"]

MOST = 128
"""Queries searched for at once, at most."""

NEAR = 10
"""Lists, of those that a query looks at, that are compared first: what is less close than the best there is not noted."""

HALVINGS = 16
"""Of the span of what is noted, at most, to find how close the wanted are."""

ROOM = 512
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
        blocks = capacity // LANES + lists  # at most one block of a list is not full
        self._vectors = empty_blocks(blocks, width)
        self._slots = np.full((blocks, LANES), -1, np.int64)
        self._before = np.full(blocks, -1, np.int64)
        self._free = np.arange(blocks)
        self._tail, self._count = np.full(lists, -1, np.int64), np.zeros(lists, np.int64)
        self._home, self._at = np.full(capacity, -1, np.int32), np.full(capacity, -1, np.int64)
        self._used = np.zeros(1, np.int64)
        self._centroids = in_blocks(centroids)
        self._close = empty_blocks(1, MOST + TOGETHER)[0]
        self._lanes = _numbers(1, LANES)
        self._lanes[0] = np.arange(LANES)
        self._angular = angular
        self._values, self._places = np.empty((MOST, 0), np.float32), np.empty((MOST, 0), np.int32)

    @staticmethod
    def bytes_of(capacity: int, width: int, lists: int) -> int:
        """Bytes of vectors and slots."""
        return (capacity + LANES * lists) * (4 * width + 9) + 12 * capacity

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
        parts = [self._search(queries[start : start + MOST], wanted, probes) for start in range(0, len(queries), MOST)]
        if len(parts) == 1:
            return parts[0]
        widest = max(slots.shape[1] for _, slots in parts)
        close = np.full((len(queries), widest), -np.inf, np.float32)
        found = np.full((len(queries), widest), -1, np.int64)
        for n, (some, slots) in enumerate(parts):
            rows = slice(n * MOST, n * MOST + len(slots))
            close[rows, : slots.shape[1]], found[rows, : slots.shape[1]] = some, slots
        return close, found

    def _search(self, queries: Floats, wanted: int, probes: int) -> tuple[Floats, Ids]:
        rows, lists = len(queries), self._tail.size
        near = how_close(queries, self._centroids, self._angular)[:, :lists]
        nearest = _largest(near, probes)
        looked = (near >= nearest[:, :1]).view(np.int8) + (near >= _largest(nearest, NEAR)[:, :1])
        looked = np.ascontiguousarray(looked.T)
        chains = self._vectors, self._before, self._tail, self._count
        room = max(ROOM, 2 * wanted) // LANES * LANES + LANES
        while True:
            if self._values.shape[1] < room:
                self._values = empty_blocks(MOST, room // LANES).reshape(MOST, room)
                self._places = _numbers(MOST, room)
            noted = self._values[:rows], self._places[:rows], np.zeros(rows, np.int64)
            if _scan(queries, looked, *chains, self._angular, wanted, self._close, self._lanes, *noted):
                break
            room *= 4  # more than these are equally close
        close = np.full((rows, int(noted[2].max())), -np.inf, np.float32)
        found = np.full(close.shape, -1, np.int64)
        _told(*noted, self._slots, close, found)
        return close, found


def _numbers(rows: int, count: int) -> npt.NDArray[np.int32]:
    """Zeros (rows, count), where each 16 are one line of the cache."""
    return empty_blocks(rows, count // LANES).reshape(rows, count).view(np.int32)


def _largest(values: Floats, count: int) -> Floats:
    """The `count` largest of each row, the smallest of them first; all where there are fewer."""
    count = min(count, values.shape[1])
    return np.partition(values, -count, axis=1)[:, -count:]


# Compiled part.


@njit(cache=True, nogil=True)
def _follow(slots, places, vectors, blocks, held, before, free, used, tail, count, home, at):  # type: ignore[no-untyped-def]
    for number in range(slots.size):
        slot = slots[number]
        if home[slot] >= 0:  # the last one of its list takes its place
            n, place = home[slot], at[slot]
            last, column = tail[n], (count[n] - 1) % LANES
            moved = held[last, column]
            block, hole = place // LANES, place % LANES
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
            column = count[n] % LANES
            if column == 0:
                block = free[used[0]]
                used[0] += 1
                before[block], tail[n] = tail[n], block
            block = tail[n]
            for d in range(blocks.shape[1]):
                blocks[block, d, column] = vectors[slot, d]
            held[block, column], at[slot], home[slot] = slot, block * LANES + column, n
            count[n] += 1


@njit(cache=True, nogil=True)
def _scan(queries, looked, vectors, before, tail, count, angular, wanted, close, lanes, values, places, size):  # type: ignore[no-untyped-def]
    """Note of each query at least the `wanted` closest vectors of the lists it looks at; whether there was room.

    Each list is compared with all queries that look at it, block by block; first those that are near (2), then the others (1).
    """
    rows, room = values.shape
    bar, asking = np.full(rows, -np.inf, np.float32), np.empty(rows + TOGETHER, np.int64)
    for near in (2, 1):
        for which in range(tail.size):
            asked = 0
            for row in range(rows):
                asking[asked] = row
                asked += looked[which, row] == near
            if asked == 0:
                continue
            asking[asked : asked + TOGETHER] = asking[asked - 1]
            block, left = tail[which], count[which]
            while block >= 0:
                filled = (left - 1) % LANES + 1
                valid, following = _lanes(filled), before[block]
                ahead = following if following >= 0 or which + 1 == tail.size else tail[which + 1]
                if ahead >= 0:
                    fetch(vectors, ahead)
                for first in range(0, asked, TOGETHER):
                    compare(queries, asking, first, vectors, block, angular, close)
                # Not within the loop above: a branch wrongly predicted would throw away the comparisons begun meanwhile.
                for n in range(asked):
                    row = asking[n]
                    bits = reached(close, n, bar[row]) & valid
                    if bits == 0:
                        continue
                    packed(lanes, 0, bits, np.int32(block * LANES), places[row], size[row])
                    size[row] += packed(close, n, bits, np.float32(0.0), values[row], size[row])
                    if size[row] > room - LANES:
                        size[row], bar[row] = _strike_out(values[row], places[row], size[row], wanted)
                        if size[row] > room - LANES:
                            return False
                block, left = following, left - filled
        for row in range(rows):
            size[row], bar[row] = _strike_out(values[row], places[row], size[row], wanted)
    return True


@njit(cache=True, nogil=True)
def _strike_out(values, places, size, wanted):  # type: ignore[no-untyped-def]
    """Keep of what is noted the `wanted` closest, few more, and all that are as close as one kept; size, and what to reach."""
    if size < wanted:
        return size, np.float32(-np.inf)
    low, high = _range(values, size)
    for _ in range(HALVINGS):
        middle = low + (high - low) * np.float32(0.5)
        above = _count(values, size, middle)
        if above < wanted:
            high = middle
        else:
            low = middle
            if above <= wanted + wanted // 8:
                break
    kept = 0
    for start in range(0, size, LANES):
        bits = reached(values, start // LANES, low) & _lanes(size - start)
        packed(places, start // LANES, bits, np.int32(0), places, kept)
        kept += packed(values, start // LANES, bits, np.float32(0.0), values, kept)
    return kept, low


@njit(cache=True, nogil=True)
def _lanes(filled):  # type: ignore[no-untyped-def]
    """A bit for each of the first `filled` lanes."""
    return (np.uint64(1) << np.uint64(min(filled, LANES))) - np.uint64(1)


@njit(cache=True, nogil=True)
def _count(values, size, least):  # type: ignore[no-untyped-def]
    above = np.int32(0)
    for n in range(size):
        above += np.int32(values[n] >= least)
    return above


@njit(cache=True, nogil=True, fastmath={"nnan", "nsz"})
def _range(values, size):  # type: ignore[no-untyped-def]
    low, high = np.float32(np.inf), np.float32(-np.inf)
    for n in range(size):
        low, high = min(low, values[n]), max(high, values[n])
    return low, high


@njit(cache=True, nogil=True)
def _told(values, places, size, held, close, found):  # type: ignore[no-untyped-def]
    """What is noted, with the slots that are held at the places."""
    for row in range(found.shape[0]):
        for n in range(size[row]):
            close[row, n], found[row, n] = values[row, n], held[places[row, n] // LANES, places[row, n] % LANES]
