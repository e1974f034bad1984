"""Soft membership of vectors in clusters: the context of a bandit that learns by cluster, and its bytes in the log."""

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
    """Clusters of requests, and what must be known to recognise them later.

    Attributes
    ----------
    index : (B, K) int64
        Numbers of the clusters; -1 for none.
    weight : (B, K) float64
        Weight of each, 0 for none.
    epoch : (B,) int64
        In which the numbers mean what they mean; 0: nothing is known.
    schema : (B,) int64
        Fingerprint of the clusters, so that those of another config or another history are recognised.
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
    """Bytes of each request's context, length B: 24 for what recognises it, and 12 for each of K clusters, little-endian."""
    size, most = found.index.shape
    record = np.empty(size, np.dtype([("head", _HEAD), ("clusters", _CLUSTER, (most,))]))
    for name in ("epoch", "schema", "graph"):
        record["head"][name] = getattr(found, name)
    record["clusters"]["index"], record["clusters"]["weight"] = found.index, found.weight
    return [one.tobytes() for one in record]


def unpack_contexts(packed: Sequence[bytes]) -> Contexts:
    """Undo `pack_contexts` for B requests; what is no context at all is in epoch 0."""
    counts = [
        (len(one) - _HEAD.itemsize) // _CLUSTER.itemsize if len(one) % _CLUSTER.itemsize == 0 and len(one) > 24 else 0
        for one in packed
    ]
    size, most = len(packed), max(counts, default=0)
    found = Contexts(
        index=np.full((size, most), -1),
        weight=np.zeros((size, most)),
        **{name: np.zeros(size, np.int64) for name in ("epoch", "schema", "graph")},
    )
    for n, (one, count) in enumerate(zip(packed, counts, strict=True)):
        if count:
            (head,) = np.frombuffer(one, _HEAD, 1)
            clusters = np.frombuffer(one, _CLUSTER, count, _HEAD.itemsize)
            found.index[n, :count], found.weight[n, :count] = clusters["index"], clusters["weight"]
            found.epoch[n], found.schema[n], found.graph[n] = head["epoch"], head["schema"], head["graph"]
    return found


@njit(cache=True, nogil=True)
def contexts(similarity: _Values, most: int, temperature: float, least: float) -> tuple[Ids, _Values]:
    """Closest clusters of each vector, and the softmax of its similarity to them.

    Parameters
    ----------
    similarity : (B, C) float64
        Inner products with the centroids.
    most : int
        Clusters of each at most: K.
    temperature : float
        What inner products are divided by.
    least : float
        Clusters with a smaller weight are left out, and the others' weights add up to 1 again.

    Returns
    -------
    index : (B, min(most, C)) int64
        Closest first, the lower number first among equals; -1 where left out.
    weight : (B, min(most, C)) float64

    References
    ----------
    X. Yi et al., "Online Matching: A Real-time Bandit System for Large-scale Recommendations", RecSys 2023, equation 10.
    """
    size = min(most, similarity.shape[1])
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
            if weight[b, at] < least:
                index[b, at], weight[b, at] = -1, 0.0
            kept += weight[b, at]
        if least > 0.0:
            for at in range(size):
                weight[b, at] /= kept
    return index, weight
