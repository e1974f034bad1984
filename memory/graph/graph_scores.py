"""Compiled functions that compute scores from the sums on a graph's edges; see `memory.graph.cluster_graph`."""

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

_FOUND, _EXCLUDED = 0, 1


class Edges(NamedTuple):
    """The live arrays of a graph for compiled functions, each (clusters * width,)."""

    slot: Slots
    similarity: Floats
    mass: Values
    reward: Values
    dirty: Bools
    width: int


@njit(cache=True, nogil=True)
def bounds(
    index: Ids, weight: Values, slots: Ids, request: Ids, row_of: Slots, edges: Edges, mean: Values, bonus: Values
) -> None:
    """See `ClusterGraph.bounds`. `row_of` holds -1 for every item, before and after. Writes to `mean` and `bonus`."""
    # A first loop collects the requested positions of a cluster: an `if` in the second would be mispredicted too often.
    positions = np.empty(edges.width + 1, np.int64)
    stop = 0
    while stop < slots.size:
        start, b = stop, request[stop]
        while stop < slots.size and request[stop] == b:
            mean[stop], bonus[stop] = 0.0, -1.0
            if slots[stop] >= 0:
                row_of[slots[stop]] = stop - start
            stop += 1
        for at in range(index.shape[1]):
            w, c = weight[b, at], index[b, at]
            if c < 0:
                continue
            count = 0
            for position in range(c * edges.width, (c + 1) * edges.width):
                positions[count] = position
                slot = edges.slot[position]
                count += (slot >= 0) & (row_of[max(slot, 0)] >= 0)
            for position in positions[:count]:
                n = start + row_of[edges.slot[position]]
                bonus[n] = max(bonus[n], 0.0)
                if edges.mass[position] > 0.0:
                    share = w / edges.mass[position]
                    mean[n] += share * edges.reward[position]
                    bonus[n] += share * w
                else:
                    bonus[n] = np.inf
        for n in range(start, stop):
            if slots[n] >= 0 and row_of[slots[n]] != n - start:  # an item that occurs twice: its last row has the sums
                mean[n], bonus[n] = mean[start + row_of[slots[n]]], bonus[start + row_of[slots[n]]]
            if bonus[n] < 0.0:
                mean[n] = np.nan
        for n in range(start, stop):
            bonus[n] = np.sqrt(bonus[n]) if bonus[n] >= 0.0 else np.nan
            if slots[n] >= 0:
                row_of[slots[n]] = -1


@njit(cache=True, nogil=True)
def _hash(slot: int, tie_seed: int) -> np.uint64:
    """Hash for random tie order: murmur3's 64-bit finalizer."""
    x = np.uint64(slot) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(tie_seed)
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
    tie_seed: Ids,
    scratch: tuple[Slots, Values],
    edges: Edges,
) -> tuple[Ids, Ids, Values, Values]:
    """See `ClusterGraph.retrieve`. `scratch` is -1 for every item, before and after, and two numbers per item."""
    mark, sums = scratch
    reached = np.empty(index.shape[1] * edges.width, np.int64)
    size = index.shape[0] * max(min(k, reached.size), 0)
    slots, request = np.empty(size, np.int64), np.empty(size, np.int64)
    mean, bonus = np.empty(size), np.empty(size)
    rows = 0
    for b in range(index.shape[0]):
        for at in range(start[b], start[b + 1]):
            if excluded[at] >= 0:
                mark[excluded[at]] = _EXCLUDED
        found = 0
        for at in range(index.shape[1]):
            w, c = weight[b, at], index[b, at]
            if c < 0:
                continue
            for position in range(c * edges.width, (c + 1) * edges.width):
                slot = edges.slot[position]
                if slot < 0 or mark[slot] == _EXCLUDED:
                    continue
                if mark[slot] != _FOUND:
                    mark[slot] = _FOUND
                    sums[slot] = 0.0
                    reached[found] = slot
                    found += 1
                if edges.mass[position] > 0.0:
                    sums[slot, 0] += w / edges.mass[position] * edges.reward[position]
                    sums[slot, 1] += w / edges.mass[position] * w
                else:
                    sums[slot, 1] = np.inf
        negative_bound, ties = np.empty(found), np.empty(found, np.uint64)
        for n in range(found):
            slot = reached[n]
            sums[slot, 1] = np.sqrt(sums[slot, 1])
            negative_bound[n] = -(sums[slot, 0] + optimism * sums[slot, 1] if optimism > 0.0 else sums[slot, 0])
            ties[n] = _hash(slot, tie_seed[b])
        order = np.argsort(ties)
        order = order[np.argsort(negative_bound[order], kind="mergesort")]
        for n in order[: max(k, 0)]:
            slot = np.int32(reached[n])
            slots[rows], request[rows], mean[rows], bonus[rows] = slot, b, sums[slot, 0], sums[slot, 1]
            rows += 1
        mark[reached[:found]] = -1
        for at in range(start[b], start[b + 1]):
            if excluded[at] >= 0:
                mark[excluded[at]] = -1
    return slots[:rows], request[:rows], mean[:rows], bonus[:rows]
