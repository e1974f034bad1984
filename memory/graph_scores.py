"""Scores from the sums on a graph's edges, compiled; see `memory.cluster_graph`."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from numba import njit

from memory.arrays import Bools, Floats, Ids

__all__ = ["NONE", "Edges", "Slots", "Values", "bounds", "retrieve"]

Values = npt.NDArray[np.float64]
Slots = npt.NDArray[np.int32]

NONE = -1


class Edges(NamedTuple):
    """The live arrays, as the compiled functions take them; each (clusters * width,)."""

    slot: Slots
    closeness: Floats
    mass: Values
    reward: Values
    dirty: Bools
    width: int


@njit(cache=True, nogil=True)
def bounds(index: Ids, weight: Values, slots: Ids, request: Ids, where: Ids, edges: Edges, mean: Values, bonus: Values) -> None:
    """See `ClusterGraph.bounds`; `where` is scratch of one number an item, `mean` and `bonus` are written."""
    stop = 0
    while stop < slots.size:
        start, b = stop, request[stop]
        while stop < slots.size and request[stop] == b:
            mean[stop], bonus[stop] = np.nan, 0.0
            if slots[stop] >= 0:
                where[slots[stop]] = stop
            stop += 1
        for at in range(index.shape[1]):
            w, c = weight[b, at], index[b, at]
            if c < 0:
                continue
            for place in range(c * edges.width, (c + 1) * edges.width):
                slot = edges.slot[place]
                if slot < 0:
                    continue
                n = where[slot]
                # What others have left there is no row of this request, or one of another item.
                if n < start or n >= stop or slots[n] != slot:
                    continue
                if np.isnan(mean[n]):
                    mean[n] = 0.0
                if edges.mass[place] > 0.0:
                    mean[n] += w * edges.reward[place] / edges.mass[place]
                    bonus[n] += w * w / edges.mass[place]
                else:
                    bonus[n] = np.inf
        for n in range(start, stop):
            bonus[n] = np.nan if np.isnan(mean[n]) else np.sqrt(bonus[n])
        for n in range(start, stop):
            if slots[n] >= 0 and where[slots[n]] != n:  # an item that came twice
                mean[n], bonus[n] = mean[where[slots[n]]], bonus[where[slots[n]]]


@njit(cache=True, nogil=True)
def _mixed(slot: int, lot: int) -> np.uint64:
    """Murmur3's 64-bit finaliser."""
    x = np.uint64(slot) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(lot)
    x ^= x >> np.uint64(33)
    x *= np.uint64(0xFF51AFD7ED558CCD)
    x ^= x >> np.uint64(33)
    x *= np.uint64(0xC4CEB9FE1A85EC53)
    return x ^ (x >> np.uint64(33))


@njit(cache=True, nogil=True)
def retrieve(
    index: Ids,
    weight: Values,
    k: int,
    optimism: float,
    excluded: Ids,
    start: Ids,
    lot: Ids,
    scratch: tuple[Ids, Values],
    edges: Edges,
) -> tuple[Ids, Ids, Values, Values]:
    """See `ClusterGraph.retrieve`; `scratch` is one number and a pair of numbers an item."""
    where, sums = scratch
    where[:] = -1
    reached = np.empty(index.shape[1] * edges.width, np.int64)
    room = index.shape[0] * max(min(k, reached.size), 0)
    slots, request = np.empty(room, np.int64), np.empty(room, np.int64)
    mean, bonus = np.empty(room), np.empty(room)
    rows = 0
    for b in range(index.shape[0]):
        # A mark of this request: even when it was reached, odd when it may not come.
        for at in range(start[b], start[b + 1]):
            if excluded[at] >= 0:
                where[excluded[at]] = 2 * b + 1
        found = 0
        for at in range(index.shape[1]):
            w, c = weight[b, at], index[b, at]
            if c < 0:
                continue
            for place in range(c * edges.width, (c + 1) * edges.width):
                slot = edges.slot[place]
                if slot < 0 or where[slot] == 2 * b + 1:
                    continue
                if where[slot] != 2 * b:
                    where[slot] = 2 * b
                    sums[slot] = 0.0
                    reached[found] = slot
                    found += 1
                if edges.mass[place] > 0.0:
                    sums[slot, 0] += w * edges.reward[place] / edges.mass[place]
                    sums[slot, 1] += w * w / edges.mass[place]
                else:
                    sums[slot, 1] = np.inf
        worst, ties = np.empty(found), np.empty(found, np.uint64)
        for n in range(found):
            slot = reached[n]
            sums[slot, 1] = np.sqrt(sums[slot, 1])
            worst[n] = -(sums[slot, 0] + optimism * sums[slot, 1] if optimism > 0.0 else sums[slot, 0])
            ties[n] = _mixed(slot, lot[b])
        order = np.argsort(ties)
        order = order[np.argsort(worst[order], kind="mergesort")]
        for n in order[: max(k, 0)]:
            slot = np.int32(reached[n])
            slots[rows], request[rows], mean[rows], bonus[rows] = slot, b, sums[slot, 0], sums[slot, 1]
            rows += 1
    return slots[:rows], request[:rows], mean[:rows], bonus[:rows]
