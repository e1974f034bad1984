"""Groups of items that are alike by their attributes: the actions of the world model."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from learners.lookups import Catalogues
from learners.schema import Schema
from memory.arrays import Arrays, Bools, Floats, Ids
from memory.jit import njit
from memory.stateful import Stateful
from memory.vectors.centroids import Centroids

__all__ = ["Groups"]

Values = npt.NDArray[np.float64]

_MATCH = 0.7
"""Cosine above which centroids of two epochs are the same group."""

_SAMPLE = 4096
"""Items that are clustered at most."""


class Groups(Stateful):
    """k-means clusters of the catalogue's items, which keep their numbers from epoch to epoch.

    An item's vector is the sum of one random vector for each of its attributes, of unit length. The random vectors are made
    from the attributes' hashes, so nothing has to be stored or learned, and a new item has its group at once.

    Parameters
    ----------
    count, dim : int
        Number G of groups, and length d of a vector.

    Attributes
    ----------
    centroids : Centroids
    sizes : Arrays
        ``items`` (G,) float32: items of each group at the beginning of the epoch.
    """

    def __init__(self, count: int, dim: int) -> None:
        self.centroids = Centroids(count, dim)
        self.sizes = Arrays(items=np.zeros(count, np.float32))
        self._dim = dim

    def bind(self, schema: Schema, catalogues: Catalogues) -> None:
        """Receive the columns of items; raises ValueError if none of them is an attribute that items can share."""
        shared = [n for n, column in enumerate(schema.items) if column.type != "number"]
        if not shared:
            raise ValueError(
                "features.item: no category, tags or bucket, and losse_ftl groups items by what they share; "
                "add such an attribute"
            )
        self._columns, self._items = np.array(shared), catalogues.items

    @property
    def epoch(self) -> int:
        """Number of the epoch; 0 while there are no groups."""
        return self.centroids.epoch

    @property
    def alive(self) -> Ids:
        """Numbers of the groups that have items, (n,) int64."""
        return np.flatnonzero(self.sizes["items"] > 0)

    def vectors(self, items: Ids) -> Floats:
        """Vectors of items (n, d) float32, of unit length; 0 for items without attributes."""
        made = np.zeros((items.size, self._dim), np.float32)
        keys, values = self._items.encoded
        _vectors(self._items.find(items), keys, values, self._columns, made)
        return made

    def of(self, vectors: Floats) -> Ids:
        """Numbers of the groups of items with these vectors (n, d), (n,) int64; -1 for a vector of 0, or without groups."""
        group = np.full(len(vectors), -1)
        if self.epoch:
            _nearest(vectors, self.centroids.vectors, group)
        return group

    def begin_epoch(self) -> Bools | None:
        """Cluster the catalogue's items. Returns which numbers (G,) stand for new groups; None if there are too few items."""
        items = np.sort(self._items.items())[:_SAMPLE]
        vectors = self.vectors(items)
        vectors = vectors[vectors.any(axis=1)]
        if len(vectors) < len(self.centroids):
            return None
        renewed = self.centroids.fit(vectors, _MATCH)
        self.sizes["items"][...] = np.bincount(self.of(vectors), minlength=len(self.centroids))
        self.sizes.mark()
        return renewed


# Compiled part.


@njit(cache=True, nogil=True)
def _mixed(key, salt):  # type: ignore[no-untyped-def]
    """A number from -1 to 1 from a key and a salt, by Murmur3's 64-bit finaliser."""
    x = np.uint64(key) ^ (np.uint64(salt + 1) * np.uint64(0x9E3779B97F4A7C15))
    x ^= x >> np.uint64(33)
    x *= np.uint64(0xFF51AFD7ED558CCD)
    x ^= x >> np.uint64(33)
    x *= np.uint64(0xC4CEB9FE1A85EC53)
    x ^= x >> np.uint64(33)
    return np.float64(x >> np.uint64(11)) * (2.0 / 9007199254740992.0) - 1.0


@njit(cache=True, nogil=True)
def _vectors(slots, keys, values, columns, made):  # type: ignore[no-untyped-def]
    for n in range(slots.size):
        if slots[n] < 0:
            continue
        length = 0.0
        for c in columns:
            key = keys[slots[n], c]
            if key == 0 or values[slots[n], c] == 0.0:
                continue
            for d in range(made.shape[1]):
                made[n, d] += np.float32(_mixed(key, d))
        for d in range(made.shape[1]):
            length += made[n, d] * made[n, d]
        if length > 0.0:
            for d in range(made.shape[1]):
                made[n, d] /= np.float32(np.sqrt(length))


@njit(cache=True, nogil=True)
def _nearest(vectors, centroids, group):  # type: ignore[no-untyped-def]
    for n in range(vectors.shape[0]):
        best = 0.0
        for g in range(centroids.shape[0]):
            cosine = 0.0
            for d in range(centroids.shape[1]):
                cosine += vectors[n, d] * centroids[g, d]
            if group[n] < 0 or cosine > best:
                best, group[n] = cosine, g
        nothing = True
        for d in range(centroids.shape[1]):
            nothing = nothing and vectors[n, d] == 0.0
        if nothing:
            group[n] = -1
