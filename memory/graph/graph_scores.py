"""Scores from the sums on a graph's edges, compiled; see `memory.graph.cluster_graph`."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from memory.arrays import Bools, Floats, Ids
from memory.jit import njit

__all__ = ["NONE", "Edges", "Slots", "Values", "bounds", "retrieve"]

Values = npt.NDArray[np.float64]
Slots = npt.NDArray[np.int32]

NONE = -1

_REACHED, _BARRED = 0, 1


class Edges(NamedTuple):
    """The live arrays, as the compiled functions take them; each (clusters * width,)."""

    slot: Slots
    similarity: Floats
    mass: Values
    reward: Values
    dirty: Bools
    width: int


@njit(cache=True, nogil=True)
def bounds(
    index: Ids, weight: Values, slots: Ids, request: Ids, where: Slots, edges: Edges, mean: Values, bonus: Values
) -> None:
    """See `ClusterGraph.bounds`; `where` holds -1 for every item, before and after; `mean` and `bonus` are written."""
    # Places of a cluster that are asked for are found first: an `if` for each would be guessed wrong too often.
    reached = np.empty(edges.width + 1, np.int64)
    stop = 0
    while stop < slots.size:
        start, b = stop, request[stop]
        while stop < slots.size and request[stop] == b:
            mean[stop], bonus[stop] = 0.0, -1.0
            if slots[stop] >= 0:
                where[slots[stop]] = stop - start
            stop += 1
        for at in range(index.shape[1]):
            w, c = weight[b, at], index[b, at]
            if c < 0:
                continue
            asked = 0
            for place in range(c * edges.width, (c + 1) * edges.width):
                reached[asked] = place
                slot = edges.slot[place]
                asked += (slot >= 0) & (where[max(slot, 0)] >= 0)
            for place in reached[:asked]:
                n = start + where[edges.slot[place]]
                bonus[n] = max(bonus[n], 0.0)
                if edges.mass[place] > 0.0:
                    share = w / edges.mass[place]
                    mean[n] += share * edges.reward[place]
                    bonus[n] += share * w
                else:
                    bonus[n] = np.inf
        for n in range(start, stop):
            if slots[n] >= 0 and where[slots[n]] != n - start:  # an item that came twice: the last one has the sums
                mean[n], bonus[n] = mean[start + where[slots[n]]], bonus[start + where[slots[n]]]
            if bonus[n] < 0.0:
                mean[n] = np.nan
        for n in range(start, stop):
            bonus[n] = np.sqrt(bonus[n]) if bonus[n] >= 0.0 else np.nan
            if slots[n] >= 0:
                where[slots[n]] = -1


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
    scratch: tuple[Slots, Values],
    edges: Edges,
) -> tuple[Ids, Ids, Values, Values]:
    """See `ClusterGraph.retrieve`; `scratch` is -1 for every item, before and after, and a pair of numbers."""
    where, sums = scratch
    reached = np.empty(index.shape[1] * edges.width, np.int64)
    room = index.shape[0] * max(min(k, reached.size), 0)
    slots, request = np.empty(room, np.int64), np.empty(room, np.int64)
    mean, bonus = np.empty(room), np.empty(room)
    rows = 0
    for b in range(index.shape[0]):
        for at in range(start[b], start[b + 1]):
            if excluded[at] >= 0:
                where[excluded[at]] = _BARRED
        found = 0
        for at in range(index.shape[1]):
            w, c = weight[b, at], index[b, at]
            if c < 0:
                continue
            for place in range(c * edges.width, (c + 1) * edges.width):
                slot = edges.slot[place]
                if slot < 0 or where[slot] == _BARRED:
                    continue
                if where[slot] != _REACHED:
                    where[slot] = _REACHED
                    sums[slot] = 0.0
                    reached[found] = slot
                    found += 1
                if edges.mass[place] > 0.0:
                    sums[slot, 0] += w / edges.mass[place] * edges.reward[place]
                    sums[slot, 1] += w / edges.mass[place] * w
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
        where[reached[:found]] = -1
        for at in range(start[b], start[b + 1]):
            if excluded[at] >= 0:
                where[excluded[at]] = -1
    return slots[:rows], request[:rows], mean[:rows], bonus[:rows]
