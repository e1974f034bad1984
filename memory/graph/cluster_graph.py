"""A sparse graph from clusters to items, with two sums on each edge.

Cluster c has `width` edge positions, ``c * width`` to ``(c + 1) * width - 1``. A position holds the slot of an item, the
similarity of item and cluster, and the sums. An item's slot is its slot in `items`, the index of the corpus.
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
    """The most similar items of each cluster, and statistics of their rewards.

    Parameters
    ----------
    clusters, width : int
        Number of clusters, and maximum number of items of each.
    items : int
        Maximum size of the corpus. The least recently touched item is evicted, with its edges.

    Attributes
    ----------
    items : KeyIndex
        The corpus.
    version : int
        Number of changes to the set of edges.
    mass, reward : (clusters * width,) float64
        The sums d and b of each position. Live and read-only.

    Notes
    -----
    The parameter `prior` of several methods is the mass of an edge without observations. With 0 its bound is infinite.
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
        # Scratch: the row of each item in the current call, and its sums.
        self._row_of: Slots = np.full(items, NONE, np.int32)
        self._sums = np.zeros((items, 2))

    @property
    def nbytes(self) -> int:
        """Memory used in bytes, including scratch."""
        return super().nbytes + self._row_of.nbytes + self._sums.nbytes

    @property
    def version(self) -> int:
        """Number of changes to the set of edges."""
        return int(self.clock["version"][0])

    def insert(self, keys: Ids) -> tuple[Ids, Bools]:
        """Add items (N,) to the corpus. Return their slots and which of them are new, see `KeyIndex.insert`."""
        evictions = self.items.evictions
        slots, fresh = self.items.insert(keys)
        if self.items.evictions > evictions:
            self._cut(slots[fresh])
        return slots, fresh

    def remove(self, keys: Ids) -> None:
        """Remove items (N,) from the corpus, with their edges."""
        slots = self.items.delete(keys)
        self._cut(slots[slots >= 0])

    def link(self, closest: Ids, similarity: Floats, prior: float) -> None:
        """Replace all edges, and keep the sums of those that stay.

        Parameters
        ----------
        closest : (clusters, <= width) int64
            Slots of each cluster's items, all different; -1 for none.
        similarity : (clusters, <= width) float32
            Similarity of each item to the cluster.
        prior : float
        """
        self._changed(_link(closest, similarity, prior, self._edges))

    def admit(self, slots: Ids, similarity: Floats, prior: float) -> None:
        """Add each item to the clusters where it is more similar than the least similar item, which it replaces.

        Parameters
        ----------
        slots : (n,) int64
        similarity : (n, clusters) float32
        prior : float
        """
        by_cluster = np.ascontiguousarray(similarity.T)
        self._changed(_admit(slots, by_cluster, prior, self._row_of, self._edges))

    def measure(self, positions: Ids, similarity: Floats) -> None:
        """Update the similarity (n,) float32 of the edges at `positions` (n,)."""
        self.edges["similarity"][positions] = similarity
        self.edges.mark(positions)

    def reset(self, clusters: Bools, prior: float) -> None:
        """Reset the sums of the edges of the marked clusters, (clusters,) bool."""
        positions = np.flatnonzero(np.repeat(clusters, self.width) & (self.slot != NONE))
        self.mass[positions], self.reward[positions] = prior, 0.0
        self.edges.mark(positions)

    def scale(self, factor: float) -> None:
        """Multiply all sums by a factor."""
        self.mass *= factor
        self.reward *= factor
        self.edges.mark()

    def bounds(self, index: Ids, weight: Values, slots: Ids, request: Ids) -> tuple[Values, Values]:
        """Mean and bonus of rows: sum of w b / d, and square root of the sum of w^2 / d, over the request's clusters.

        Parameters
        ----------
        index : (B, K) int64
            Clusters of each request; -1 for none.
        weight : (B, K) float64
            Their weights w.
        slots, request : (N,) int64
            Item slots, and the request of each row (non-decreasing).

        Returns
        -------
        mean, bonus : (N,) float64
            NaN if there is no edge. The bonus is infinite if an edge has mass 0.
        """
        mean, bonus = np.empty(slots.size), np.empty(slots.size)
        graph_scores.bounds(index, weight, slots, request, self._row_of, self._edges, mean, bonus)
        return mean, bonus

    def retrieve(
        self, index: Ids, weight: Values, k: int, optimism: float, excluded: Ids, start: Ids, tie_seed: Ids
    ) -> tuple[Ids, Ids, Values, Values]:
        """Retrieve up to `k` items per request by mean + optimism * bonus, best first.

        Parameters
        ----------
        index, weight : (B, K)
            See `bounds`.
        k : int
        optimism : float
        excluded : (M,) int64
            Slots to leave out; -1 for none. Those of request b are at ``start[b]`` up to ``start[b + 1]``.
        start : (B + 1,) int64
        tie_seed : (B,) int64
            It orders tied items in a random order.

        Returns
        -------
        slots, request : (N,) int64
        mean, bonus : (N,) float64
        """
        scratch = self._row_of, self._sums
        return graph_scores.retrieve(index, weight, k, optimism, excluded, start, tie_seed, scratch, self._edges)

    def update(self, index: Ids, weight: Values, slots: Ids, mass: Values, reward: Values, *, squared: bool = True) -> None:
        """Add to the sums of each row's edges, in row order. Missing edges are not created.

        Parameters
        ----------
        index : (N, K) int64
            Clusters of each row; -1 for none.
        weight : (N, K) float64
            Their weights w.
        slots : (N,) int64
            Item slots; -1 for none.
        mass, reward : (N,) float64
            ``d += mass * w**2`` and ``b += reward * w``.
        squared : bool
            If False, ``d += mass * w``.
        """
        _update(index, weight, slots, mass, reward, squared, self._edges)

    def _cut(self, slots: Ids) -> None:
        removed = np.zeros(self.items.capacity, np.bool_)
        removed[slots] = True
        self._changed(_cut(removed, self._edges))

    def _changed(self, changed: bool) -> None:
        if changed:
            self.clock["version"][0] += 1
            self.clock.mark()


@njit(cache=True, nogil=True)
def _write(position: int, slot: int, similarity: float, mass: float, edges: Edges) -> None:
    """Create an edge, or delete it (slot -1)."""
    edges.slot[position], edges.similarity[position] = slot, similarity
    edges.mass[position], edges.reward[position] = mass, 0.0
    edges.dirty[position] = True


@njit(cache=True, nogil=True)
def _cut(removed: Bools, edges: Edges) -> bool:
    changed = False
    for position in range(edges.slot.size):
        if edges.slot[position] != NONE and removed[edges.slot[position]]:
            _write(position, NONE, 0.0, 0.0, edges)
            changed = True
    return changed


@njit(cache=True, nogil=True)
def _position_of(cluster: int, slot: int, edges: Edges) -> int:
    """Position of an item among a cluster's edges (slot -1: of a free position). -1 if there is none."""
    for position in range(cluster * edges.width, (cluster + 1) * edges.width):
        if edges.slot[position] == slot:
            return position
    return -1


@njit(cache=True, nogil=True)
def _link(closest: Ids, similarity: Floats, prior: float, edges: Edges) -> bool:
    changed = False
    for c in range(closest.shape[0]):
        kept = np.zeros(edges.width, np.bool_)
        is_new = np.zeros(closest.shape[1], np.bool_)
        for n in range(closest.shape[1]):
            if closest[c, n] == NONE:
                continue
            position = _position_of(c, closest[c, n], edges)
            if position < 0:
                is_new[n] = True
                continue
            kept[position - c * edges.width] = True
            if edges.similarity[position] != similarity[c, n]:
                edges.similarity[position], edges.dirty[position] = similarity[c, n], True
        for at in range(edges.width):
            position = c * edges.width + at
            if not kept[at] and edges.slot[position] != NONE:
                _write(position, NONE, 0.0, 0.0, edges)
                changed = True
        for n in range(closest.shape[1]):
            if is_new[n]:
                _write(_position_of(c, NONE, edges), closest[c, n], similarity[c, n], prior, edges)
                changed = True
    return changed


@njit(cache=True, nogil=True)
def _replaceable(cluster: int, edges: Edges) -> int:
    """Position for a new item: a free one, or else that of the least similar item."""
    replaceable = cluster * edges.width
    for position in range(cluster * edges.width, (cluster + 1) * edges.width):
        if edges.slot[position] == NONE:
            return position
        if edges.similarity[position] < edges.similarity[replaceable]:
            replaceable = position
    return replaceable


@njit(cache=True, nogil=True)
def _admit(slots: Ids, similarity: Floats, prior: float, row_of: Slots, edges: Edges) -> bool:
    """See `ClusterGraph.admit`. Similarity is (clusters, n). `row_of` holds -1 for every item, before and after."""
    changed = False
    for n in range(slots.size):  # the last row of an item that occurs twice
        row_of[slots[n]] = n
    at = np.empty(slots.size, np.int64)
    for c in range(similarity.shape[0]):
        at[:] = -1
        for position in range(c * edges.width, (c + 1) * edges.width):
            if edges.slot[position] != NONE and row_of[edges.slot[position]] >= 0:
                at[row_of[edges.slot[position]]] = position
        replaceable = _replaceable(c, edges)
        for n in range(slots.size):
            position = at[row_of[slots[n]]]
            if position >= 0 and edges.slot[position] == slots[n]:  # and it has not just been replaced
                edges.similarity[position], edges.dirty[position] = similarity[c, n], True
            elif edges.slot[replaceable] == NONE or similarity[c, n] > edges.similarity[replaceable]:
                _write(replaceable, slots[n], similarity[c, n], prior, edges)
                at[row_of[slots[n]]] = replaceable
                changed = True
            else:
                continue
            replaceable = _replaceable(c, edges)
    for n in range(slots.size):
        row_of[slots[n]] = NONE
    return changed


@njit(cache=True, nogil=True)
def _update(index: Ids, weight: Values, slots: Ids, mass: Values, reward: Values, squared: bool, edges: Edges) -> None:
    for n in range(slots.size):
        if slots[n] < 0:
            continue
        for at in range(index.shape[1]):
            w = weight[n, at]
            position = _position_of(index[n, at], slots[n], edges) if index[n, at] >= 0 else -1
            if position >= 0:
                edges.mass[position] += mass[n] * (w * w if squared else w)
                edges.reward[position] += reward[n] * w
                edges.dirty[position] = True
