"""A sparse graph from clusters to items, with two sums on each edge.

Cluster c has the `width` places ``c * width ... (c + 1) * width - 1``; a place holds the slot of an item, how close the item is
to the cluster, and the sums. An item's slot is its place in `items`, the corpus that the graph chooses from.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from numba import njit

from memory.arrays import Arrays, Bools, Floats, Ids
from memory.key_index import KeyIndex
from memory.stateful import Stateful

__all__ = ["ClusterGraph"]

Values = npt.NDArray[np.float64]
Slots = npt.NDArray[np.int32]

NONE = -1


class _Edges(NamedTuple):
    """The live arrays, as the compiled functions take them; each (clusters * width,)."""

    slot: Slots
    closeness: Floats
    mass: Values
    reward: Values
    dirty: Bools
    width: int


class ClusterGraph(Stateful):
    """The closest items of each cluster, and what came of showing them.

    Parameters
    ----------
    clusters, width : int
        Clusters, and items of each at most.
    items : int
        Items of the corpus at most; the one longest untouched gives way, with its edges.

    Attributes
    ----------
    items : KeyIndex
        The corpus.
    version : int
        Changes of the set of edges.
    mass, reward : (clusters * width,) float64
        The sums d and b of each place; live, not to be written to.

    Notes
    -----
    `prior`, where it is asked for, is the mass of an edge of which nothing is known; 0: its bound is infinite.
    """

    def __init__(self, clusters: int, width: int, items: int) -> None:
        self.clusters, self.width = clusters, width
        self.items = KeyIndex(items)
        edges = clusters * width
        self.edges = Arrays(
            slot=np.full(edges, NONE, np.int32),
            closeness=np.zeros(edges, np.float32),
            mass=np.zeros(edges),
            reward=np.zeros(edges),
        )
        self.clock = Arrays(version=np.zeros(1, np.int64))
        self.slot: Slots = self.edges["slot"]
        self.mass: Values = self.edges["mass"]
        self.reward: Values = self.edges["reward"]
        self._edges = _Edges(self.slot, self.edges["closeness"], self.mass, self.reward, self.edges.dirty, width)
        # Scratch: where each item is among the rows at hand.
        self._where: Ids = np.zeros(items, np.int64)
        self._sums = np.zeros((items, 2))

    @property
    def version(self) -> int:
        """Changes of the set of edges."""
        return int(self.clock["version"][0])

    def insert(self, keys: Ids) -> tuple[Ids, Bools]:
        """Put items (N,) into the corpus; their slots, and which of them are new, see `KeyIndex.insert`."""
        evictions = self.items.evictions
        slots, fresh = self.items.insert(keys)
        if self.items.evictions > evictions:
            self._cut(slots[fresh])
        return slots, fresh

    def remove(self, keys: Ids) -> None:
        """Take items (N,) out of the corpus, with their edges."""
        slots = self.items.delete(keys)
        self._cut(slots[slots >= 0])

    def link(self, closest: Ids, closeness: Floats, prior: float) -> None:
        """Replace all edges, and keep what is known of those that stay.

        Parameters
        ----------
        closest : (clusters, <= width) int64
            Slots of each cluster's items, -1 for none; all different.
        closeness : (clusters, <= width) float32
            How close each is.
        prior : float
        """
        self._changed(_link(closest, closeness, prior, self._edges))

    def admit(self, slots: Ids, closeness: Floats, prior: float) -> None:
        """Let each item into the clusters where it is closer than the least close one, which gives way.

        Parameters
        ----------
        slots : (n,) int64
        closeness : (n, clusters) float32
        prior : float
        """
        self._changed(_admit(slots, closeness, prior, self._edges))

    def reset(self, clusters: Bools, prior: float) -> None:
        """Forget what is known of these clusters' edges, (clusters,) bool."""
        places = np.flatnonzero(np.repeat(clusters, self.width) & (self.slot != NONE))
        self.mass[places], self.reward[places] = prior, 0.0
        self.edges.mark(places)

    def scale(self, factor: float) -> None:
        """Multiply all sums."""
        self.mass *= factor
        self.reward *= factor
        self.edges.mark()

    def bounds(self, index: Ids, weight: Values, slots: Ids, request: Ids) -> tuple[Values, Values]:
        """Mean and bonus of rows: sum of w b / d, and root of the sum of w^2 / d, over the edges of the request's clusters.

        Parameters
        ----------
        index : (B, K) int64
            Clusters of each request; -1 for none.
        weight : (B, K) float64
            Their weights w.
        slots, request : (N,) int64
            Items, and the request of each; non-decreasing.

        Returns
        -------
        mean, bonus : (N,) float64
            NaN where there is no edge; the bonus is infinite where an edge has no mass.
        """
        mean, bonus = np.empty(slots.size), np.empty(slots.size)
        _bounds(index, weight, slots, request, self._where, self._edges, mean, bonus)
        return mean, bonus

    def retrieve(
        self, index: Ids, weight: Values, k: int, optimism: float, excluded: Ids, start: Ids, lot: Ids
    ) -> tuple[Ids, Ids, Values, Values]:
        """At most `k` items per request by mean + optimism * bonus, best first.

        Parameters
        ----------
        index, weight : (B, K)
            As in `bounds`.
        k : int
        optimism : float
        excluded : (M,) int64
            Slots that may not come, those of request b from ``start[b]`` to ``start[b + 1]``; -1 for none.
        start : (B + 1,) int64
        lot : (B,) int64
            Decides, with the slot, between items that are tied: any of them is as likely to come first.

        Returns
        -------
        slots, request : (N,) int64
        mean, bonus : (N,) float64
        """
        scratch = self._where, self._sums
        return _retrieve(index, weight, k, optimism, excluded, start, lot, scratch, self._edges)

    def update(
        self, index: Ids, weight: Values, slots: Ids, mass: Values, reward: Values, *, squared: bool = True
    ) -> None:
        """Add to the sums of each row's edges, in row order; edges that are not there are not made.

        Parameters
        ----------
        index : (N, K) int64
            Clusters of each row; -1 for none.
        weight : (N, K) float64
            Their weights w.
        slots : (N,) int64
            Items; -1 for none.
        mass, reward : (N,) float64
            ``d += mass * w**2`` and ``b += reward * w``.
        squared : bool
            False: ``d += mass * w``.
        """
        _update(index, weight, slots, mass, reward, squared, self._edges)

    def _cut(self, slots: Ids) -> None:
        gone = np.zeros(self.items.capacity, np.bool_)
        gone[slots] = True
        self._changed(_cut(gone, self._edges))

    def _changed(self, changed: bool) -> None:
        if changed:
            self.clock["version"][0] += 1
            self.clock.mark()


@njit(cache=True, nogil=True)
def _write(place: int, slot: int, closeness: float, mass: float, edges: _Edges) -> None:
    """Begin an edge, or end it (slot -1)."""
    edges.slot[place], edges.closeness[place] = slot, closeness
    edges.mass[place], edges.reward[place] = mass, 0.0
    edges.dirty[place] = True


@njit(cache=True, nogil=True)
def _cut(gone: Bools, edges: _Edges) -> bool:
    changed = False
    for place in range(edges.slot.size):
        if edges.slot[place] != NONE and gone[edges.slot[place]]:
            _write(place, NONE, 0.0, 0.0, edges)
            changed = True
    return changed


@njit(cache=True, nogil=True)
def _place_of(cluster: int, slot: int, edges: _Edges) -> int:
    """Place of an item, or of nothing, among those of a cluster; -1 when it has none."""
    for place in range(cluster * edges.width, (cluster + 1) * edges.width):
        if edges.slot[place] == slot:
            return place
    return -1


@njit(cache=True, nogil=True)
def _link(closest: Ids, closeness: Floats, prior: float, edges: _Edges) -> bool:
    changed = False
    for c in range(closest.shape[0]):
        stays = np.zeros(edges.width, np.bool_)
        waiting = np.zeros(closest.shape[1], np.bool_)
        for n in range(closest.shape[1]):
            if closest[c, n] == NONE:
                continue
            place = _place_of(c, closest[c, n], edges)
            if place < 0:
                waiting[n] = True
                continue
            stays[place - c * edges.width] = True
            if edges.closeness[place] != closeness[c, n]:
                edges.closeness[place], edges.dirty[place] = closeness[c, n], True
        for at in range(edges.width):
            place = c * edges.width + at
            if not stays[at] and edges.slot[place] != NONE:
                _write(place, NONE, 0.0, 0.0, edges)
                changed = True
        for n in np.flatnonzero(waiting):
            _write(_place_of(c, NONE, edges), closest[c, n], closeness[c, n], prior, edges)
            changed = True
    return changed


@njit(cache=True, nogil=True)
def _least(cluster: int, edges: _Edges) -> int:
    """Place that a new item would get: a free one, or that of the least close."""
    least = cluster * edges.width
    for place in range(cluster * edges.width, (cluster + 1) * edges.width):
        if edges.slot[place] == NONE:
            return place
        if edges.closeness[place] < edges.closeness[least]:
            least = place
    return least


@njit(cache=True, nogil=True)
def _admit(slots: Ids, closeness: Floats, prior: float, edges: _Edges) -> bool:
    changed = False
    for c in range(closeness.shape[1]):
        least = _least(c, edges)
        for n in range(slots.size):
            place = _place_of(c, slots[n], edges)
            if place >= 0:
                edges.closeness[place], edges.dirty[place] = closeness[n, c], True
            elif edges.slot[least] == NONE or closeness[n, c] > edges.closeness[least]:
                _write(least, slots[n], closeness[n, c], prior, edges)
                changed = True
            else:
                continue
            least = _least(c, edges)
    return changed


@njit(cache=True, nogil=True)
def _bounds(
    index: Ids, weight: Values, slots: Ids, request: Ids, where: Ids, edges: _Edges, mean: Values, bonus: Values
) -> None:
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
def _retrieve(
    index: Ids,
    weight: Values,
    k: int,
    optimism: float,
    excluded: Ids,
    start: Ids,
    lot: Ids,
    scratch: tuple[Ids, Values],
    edges: _Edges,
) -> tuple[Ids, Ids, Values, Values]:
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
            slot = reached[n]
            slots[rows], request[rows], mean[rows], bonus[rows] = slot, b, sums[slot, 0], sums[slot, 1]
            rows += 1
    return slots[:rows], request[:rows], mean[:rows], bonus[:rows]


@njit(cache=True, nogil=True)
def _update(
    index: Ids, weight: Values, slots: Ids, mass: Values, reward: Values, squared: bool, edges: _Edges
) -> None:
    for n in range(slots.size):
        if slots[n] < 0:
            continue
        for at in range(index.shape[1]):
            w = weight[n, at]
            place = _place_of(index[n, at], slots[n], edges) if index[n, at] >= 0 else -1
            if place >= 0:
                edges.mass[place] += mass[n] * (w * w if squared else w)
                edges.reward[place] += reward[n] * w
                edges.dirty[place] = True
