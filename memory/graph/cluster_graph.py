"""A sparse graph from clusters to items, with two sums on each edge.

Cluster c has the `width` places ``c * width ... (c + 1) * width - 1``; a place holds the slot of an item, how close the item is
to the cluster, and the sums. An item's slot is its place in `items`, the corpus that the graph chooses from.
"""

from __future__ import annotations

import numpy as np

from memory.arrays import Arrays, Bools, Floats, Ids
from memory.graph import graph_scores
from memory.graph.graph_scores import NONE, Edges, Slots, Values
from memory.jit import njit
from memory.keyed.key_index import KeyIndex
from memory.stateful import Stateful

__all__ = ["ClusterGraph"]


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
            similarity=np.zeros(edges, np.float32),
            mass=np.zeros(edges),
            reward=np.zeros(edges),
            private=["similarity"],
        )
        self.clock = Arrays(version=np.zeros(1, np.int64))
        self.slot: Slots = self.edges["slot"]
        self.mass: Values = self.edges["mass"]
        self.reward: Values = self.edges["reward"]
        self._edges = Edges(self.slot, self.edges["similarity"], self.mass, self.reward, self.edges.dirty, width)
        # Scratch: where each item is among the rows at hand.
        self._where: Slots = np.full(items, NONE, np.int32)
        self._sums = np.zeros((items, 2))

    @property
    def nbytes(self) -> int:
        """Memory held, scratch included."""
        return super().nbytes + self._where.nbytes + self._sums.nbytes

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

    def link(self, closest: Ids, similarity: Floats, prior: float) -> None:
        """Replace all edges, and keep what is known of those that stay.

        Parameters
        ----------
        closest : (clusters, <= width) int64
            Slots of each cluster's items, -1 for none; all different.
        similarity : (clusters, <= width) float32
            How close each is.
        prior : float
        """
        self._changed(_link(closest, similarity, prior, self._edges))

    def admit(self, slots: Ids, similarity: Floats, prior: float) -> None:
        """Let each item into the clusters where it is closer than the least close one, which gives way.

        Parameters
        ----------
        slots : (n,) int64
        similarity : (n, clusters) float32
        prior : float
        """
        by_cluster = np.ascontiguousarray(similarity.T)
        self._changed(_admit(slots, by_cluster, prior, self._where, self._edges))

    def measure(self, places: Ids, similarity: Floats) -> None:
        """Say anew how close the items at these places (n,) are to their clusters, (n,) float32."""
        self.edges["similarity"][places] = similarity
        self.edges.mark(places)

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
        graph_scores.bounds(index, weight, slots, request, self._where, self._edges, mean, bonus)
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
        return graph_scores.retrieve(index, weight, k, optimism, excluded, start, lot, scratch, self._edges)

    def update(self, index: Ids, weight: Values, slots: Ids, mass: Values, reward: Values, *, squared: bool = True) -> None:
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
def _write(place: int, slot: int, similarity: float, mass: float, edges: Edges) -> None:
    """Begin an edge, or end it (slot -1)."""
    edges.slot[place], edges.similarity[place] = slot, similarity
    edges.mass[place], edges.reward[place] = mass, 0.0
    edges.dirty[place] = True


@njit(cache=True, nogil=True)
def _cut(gone: Bools, edges: Edges) -> bool:
    changed = False
    for place in range(edges.slot.size):
        if edges.slot[place] != NONE and gone[edges.slot[place]]:
            _write(place, NONE, 0.0, 0.0, edges)
            changed = True
    return changed


@njit(cache=True, nogil=True)
def _place_of(cluster: int, slot: int, edges: Edges) -> int:
    """Place of an item, or of nothing, among those of a cluster; -1 when it has none."""
    for place in range(cluster * edges.width, (cluster + 1) * edges.width):
        if edges.slot[place] == slot:
            return place
    return -1


@njit(cache=True, nogil=True)
def _link(closest: Ids, similarity: Floats, prior: float, edges: Edges) -> bool:
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
            if edges.similarity[place] != similarity[c, n]:
                edges.similarity[place], edges.dirty[place] = similarity[c, n], True
        for at in range(edges.width):
            place = c * edges.width + at
            if not stays[at] and edges.slot[place] != NONE:
                _write(place, NONE, 0.0, 0.0, edges)
                changed = True
        for n in range(closest.shape[1]):
            if waiting[n]:
                _write(_place_of(c, NONE, edges), closest[c, n], similarity[c, n], prior, edges)
                changed = True
    return changed


@njit(cache=True, nogil=True)
def _least(cluster: int, edges: Edges) -> int:
    """Place that a new item would get: a free one, or that of the least close."""
    least = cluster * edges.width
    for place in range(cluster * edges.width, (cluster + 1) * edges.width):
        if edges.slot[place] == NONE:
            return place
        if edges.similarity[place] < edges.similarity[least]:
            least = place
    return least


@njit(cache=True, nogil=True)
def _admit(slots: Ids, similarity: Floats, prior: float, where: Slots, edges: Edges) -> bool:
    """See `ClusterGraph.admit`; similarity is (clusters, n), `where` holds -1 for every item, before and after."""
    changed = False
    for n in range(slots.size):  # of an item that comes twice, the last row
        where[slots[n]] = n
    at = np.empty(slots.size, np.int64)
    for c in range(similarity.shape[0]):
        at[:] = -1
        for place in range(c * edges.width, (c + 1) * edges.width):
            if edges.slot[place] != NONE and where[edges.slot[place]] >= 0:
                at[where[edges.slot[place]]] = place
        least = _least(c, edges)
        for n in range(slots.size):
            place = at[where[slots[n]]]
            if place >= 0 and edges.slot[place] == slots[n]:  # and has not just given way
                edges.similarity[place], edges.dirty[place] = similarity[c, n], True
            elif edges.slot[least] == NONE or similarity[c, n] > edges.similarity[least]:
                _write(least, slots[n], similarity[c, n], prior, edges)
                at[where[slots[n]]] = least
                changed = True
            else:
                continue
            least = _least(c, edges)
    for n in range(slots.size):
        where[slots[n]] = NONE
    return changed


@njit(cache=True, nogil=True)
def _update(index: Ids, weight: Values, slots: Ids, mass: Values, reward: Values, squared: bool, edges: Edges) -> None:
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
