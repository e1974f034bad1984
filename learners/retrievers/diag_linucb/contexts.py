"""Soft cluster memberships of user vectors, the bandit's contexts, and their encoding as bytes for the log."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from memory.jit import njit
from streams.batch import Ids

__all__ = ["Contexts", "contexts", "pack_contexts", "unpack_contexts"]

_Values = npt.NDArray[np.float64]


@dataclass(slots=True, kw_only=True)
class Contexts:
    """Cluster memberships of B requests, and the version of the clustering.

    Attributes
    ----------
    index : (B, K) int64
        Cluster numbers; -1 for none.
    weight : (B, K) float64
        Weight of each cluster; 0 for none.
    epoch : (B,) int64
        Epoch of the clustering; 0 if the context is unknown.
    schema : (B,) int64
        Fingerprint of the centroids. It detects clusters of another config or of another run.
    graph : (B,) int64
        Version of the graph from clusters to items.
    """

    index: Ids
    weight: _Values
    epoch: Ids
    schema: Ids
    graph: Ids


_HEAD = np.dtype([("epoch", "<i8"), ("schema", "<i8"), ("graph", "<i8")])
_CLUSTER = np.dtype([("index", "<i4"), ("weight", "<f8")])


def pack_contexts(found: Contexts) -> list[bytes]:
    """Encode the context of each request, a list of length B: 24 bytes of version and 12 bytes per cluster, little-endian."""
    size, clusters = found.index.shape
    record = np.empty(size, np.dtype([("head", _HEAD), ("clusters", _CLUSTER, (clusters,))]))
    for name in ("epoch", "schema", "graph"):
        record["head"][name] = getattr(found, name)
    record["clusters"]["index"], record["clusters"]["weight"] = found.index, found.weight
    return [context.tobytes() for context in record]


def unpack_contexts(packed: Sequence[bytes]) -> Contexts:
    """Decode the contexts of B requests. Bytes of an impossible length get epoch 0, which means unknown."""
    counts = [
        (len(context) - _HEAD.itemsize) // _CLUSTER.itemsize
        if len(context) % _CLUSTER.itemsize == 0 and len(context) > 24
        else 0
        for context in packed
    ]
    size, width = len(packed), max(counts, default=0)
    found = Contexts(
        index=np.full((size, width), -1),
        weight=np.zeros((size, width)),
        **{name: np.zeros(size, np.int64) for name in ("epoch", "schema", "graph")},
    )
    for n, (context, count) in enumerate(zip(packed, counts, strict=True)):
        if count:
            (head,) = np.frombuffer(context, _HEAD, 1)
            clusters = np.frombuffer(context, _CLUSTER, count, _HEAD.itemsize)
            found.index[n, :count], found.weight[n, :count] = clusters["index"], clusters["weight"]
            found.epoch[n], found.schema[n], found.graph[n] = head["epoch"], head["schema"], head["graph"]
    return found


@njit(cache=True, nogil=True)
def contexts(similarity: _Values, nearest: int, temperature: float, min_weight: float) -> tuple[Ids, _Values]:
    """Return the nearest clusters of each vector, and the softmax of its similarities to them.

    Parameters
    ----------
    similarity : (B, C) float64
        Inner products with the centroids.
    nearest : int
        Maximum number of clusters per vector: K.
    temperature : float
        Temperature of the softmax.
    min_weight : float
        Clusters with a smaller weight are dropped, and the weights of the others are normalised again.

    Returns
    -------
    index : (B, min(nearest, C)) int64
        Cluster numbers, nearest first. Ties are ordered by number. -1 for dropped clusters.
    weight : (B, min(nearest, C)) float64
        Weights, which sum to 1.

    References
    ----------
    X. Yi et al., "Online Matching: A Real-time Bandit System for Large-scale Recommendations", RecSys 2023, equation 10.
    """
    size = min(nearest, similarity.shape[1])
    index, weight = np.full((similarity.shape[0], size), -1, np.int64), np.zeros((similarity.shape[0], size))
    for b in range(similarity.shape[0]):
        held = 0
        for c in range(similarity.shape[1]):
            at = held
            while at > 0 and similarity[b, c] > similarity[b, index[b, at - 1]]:
                at -= 1
            if at == size:
                continue
            held = min(held + 1, size)
            for later in range(held - 1, at, -1):
                index[b, later] = index[b, later - 1]
            index[b, at] = c
        total = 0.0
        for at in range(size):
            weight[b, at] = np.exp((similarity[b, index[b, at]] - similarity[b, index[b, 0]]) / temperature)
            total += weight[b, at]
        kept = 0.0
        for at in range(size):
            weight[b, at] /= total
            if weight[b, at] < min_weight:
                index[b, at], weight[b, at] = -1, 0.0
            kept += weight[b, at]
        if min_weight > 0.0:
            for at in range(size):
                weight[b, at] /= kept
    return index, weight
