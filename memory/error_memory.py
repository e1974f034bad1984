"""Past predictions of a model and their outcomes, retrieved by similarity of the hidden vectors: two kinds of bounded memory.

References
----------
J. Zhu et al., "ReLoop2: Building Self-Adaptive Recommendation Models via Responsive Error Compensation Loop", KDD 2023,
arXiv 2306.08808: the memory (section 3.3) and its sketch (equations 17 and 18).
B. Coleman, A. Shrivastava, "Sub-linear RACE Sketches for Approximate Kernel Density Estimation on Streaming Data", WWW 2020:
arrays of counters under locality-sensitive hashes.
M. Charikar, "Similarity Estimation Techniques from Rounding Algorithms", STOC 2002: signed random projections.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from memory.arrays import Arrays, Floats, Ids
from memory.jit import njit
from memory.stateful import Stateful
from memory.vectors.vector_index import Device, Kind, Similarity, VectorIndex, Vectors

if TYPE_CHECKING:
    from memory.vectors.gpu_vectors import Nearest

__all__ = ["ErrorMemory", "ErrorSketch", "Evidence"]

Doubles = npt.NDArray[np.float64]

MIN_WEIGHT = 1e-30
"""If the decayed unit weight falls below this, the sums are rescaled. A total weight below this counts as zero."""


@dataclass(slots=True)
class Evidence:
    """Up to K earlier outcomes, or buckets of them, for each of q queries.

    Attributes
    ----------
    slots : (q, K) int64
        Slot or bucket of each; -1 for none.
    similarity : (q, K) array
        Similarity to the query; -inf for none.
    label, base_score : (q, K) array
        Outcome, and prediction of the model; 0 for none.
    age : (q, K) int64
        Number of rows written since; 0 for the last one. Always 0 for buckets, whose age is unknown.
    weight : (q, K) array
        Weight of the row; 0 for none. Always 1 for buckets, whose similarity has the weights of their rows.
    """

    slots: Ids
    similarity: Vectors
    label: Vectors
    base_score: Vectors
    age: Ids
    weight: Vectors

    def of(self, queries: Ids) -> Evidence:
        """Select queries (n,), in the given order."""
        return Evidence(*(getattr(self, field.name)[queries] for field in fields(self)))


class ErrorMemory(Stateful):
    """The last `capacity` rows, retrieved by the k most similar keys.

    Parameters
    ----------
    capacity : int
        Rows kept. A new row overwrites the oldest one.
    width : int
        Dimensions of a key.
    similarity, kind, device, lists, probes, dtype
        See `VectorIndex`. Labels, scores and weights have the dtype of the index.

    Attributes
    ----------
    index : VectorIndex
    rows : Arrays
        By slot, (capacity,): ``label``, ``base_score``, ``weight``, ``timestamp`` float64, ``version`` int64 (number of the
        write), ``user`` and ``item`` int64. Read-only.
    """

    def __init__(
        self,
        capacity: int,
        width: int,
        *,
        similarity: Similarity = "cosine",
        kind: Kind = "flat",
        device: Device = "cpu",
        lists: int | None = None,
        probes: int = 24,
        dtype: type[np.floating[Any]] = np.float32,
    ) -> None:
        self.rows = Arrays.from_factory(
            lambda: {
                "label": np.zeros(capacity, dtype),
                "base_score": np.zeros(capacity, dtype),
                "weight": np.zeros(capacity, dtype),
                "timestamp": np.zeros(capacity, np.float64),
                "version": np.zeros(capacity, np.int64),
                "user": np.zeros(capacity, np.int64),
                "item": np.zeros(capacity, np.int64),
            },
            # Only `forget` reads the users. They are shipped because a follower must be able to erase them, too.
            private=["version"],
        )
        # After the rows, so that changes of the rows are applied before the index copies them to a GPU.
        self.index = VectorIndex(
            capacity,
            width,
            similarity=similarity,
            kind=kind,
            device=device,
            lists=lists,
            probes=probes,
            dtype=dtype,
            values=self._outcomes,
        )
        self.clock = Arrays(place=np.zeros(1, np.int64), version=np.zeros(1, np.int64), private=["version"])

    def __len__(self) -> int:
        return len(self.index)

    @property
    def capacity(self) -> int:
        """Most rows kept."""
        return self.index.capacity

    def write(
        self,
        keys: Vectors,
        label: Vectors,
        base_score: Vectors,
        *,
        timestamp: Doubles,
        user: Ids,
        item: Ids,
        k: int,
        weight: Vectors | None = None,
    ) -> None:
        """Store rows in their order. Of more than `capacity` rows, the last are stored.

        Parameters
        ----------
        keys : (n, width) array
            Finite.
        label, base_score : (n,) array
        timestamp : (n,) float64
            Unix seconds.
        user, item : (n,) int64
            Hashed ids.
        k : int
            See `VectorIndex.maintain`.
        weight : (n,) array or None
            Weights of the rows, above 0; None: all 1.
        """
        if not len(keys):
            return
        position, last = int(self.clock["place"][0]), slice(max(len(keys) - self.capacity, 0), None)
        slots = ((position + np.arange(len(keys))) % self.capacity)[last]
        self.clock["place"][0], self.clock["version"][0] = (position + len(keys)) % self.capacity, self.clock["version"][0] + 1
        self.clock.mark()
        columns = {"label": label, "base_score": base_score, "timestamp": timestamp, "user": user, "item": item}
        columns["weight"] = np.ones_like(base_score) if weight is None else weight
        for name, values in columns.items():
            self.rows[name][slots] = values[last]
        self.rows["version"][slots] = self.clock["version"][0]
        self.rows.mark(slots)
        self.index.write(slots, keys[last])
        self.index.maintain(k, slots.size)

    def read(self, queries: Vectors, k: int) -> Evidence:
        """Find the `k` rows with the most similar keys for each of `queries` (q, width), the most similar first."""
        slots, similarity = self.index.search(queries, k)
        label, base_score, weight = np.zeros_like(similarity), np.zeros_like(similarity), np.zeros_like(similarity)
        age, rows = np.zeros_like(slots), (self.rows["label"], self.rows["base_score"], self.rows["weight"])
        _read_rows(slots, rows, self.clock["place"][0], label, base_score, weight, age)
        return Evidence(slots, similarity, label, base_score, age, weight)

    def nearest(self, queries: Vectors, k: int) -> Nearest | None:
        """Find what `read` finds, with label, base score and weight as values, and leave it on the GPU.

        None without a GPU, for an empty memory, and if only `read` is exact for these queries.
        """
        return self.index.nearest(queries, k)

    def forget(self, users: Ids) -> None:
        """Erase the rows of `users` (n,)."""
        self._erase(np.isin(self.rows["user"], users[users != 0]))

    def remove(self, items: Ids) -> None:
        """Erase the rows of `items` (n,)."""
        self._erase(np.isin(self.rows["item"], items[items != 0]))

    def clear(self) -> None:
        """Erase everything."""
        self._erase(self.index.rows["alive"])

    def _outcomes(self, slots: Ids) -> Floats:
        """Label, base score and weight of slots, (n, 3) float32."""
        return np.stack([self.rows[name][slots] for name in ("label", "base_score", "weight")], 1).astype(np.float32)

    def _erase(self, mask: npt.NDArray[np.bool_]) -> None:
        slots = np.flatnonzero(mask & self.index.rows["alive"])
        if slots.size:
            for name in self.rows:
                self.rows[name][slots] = 0
            self.rows.mark(slots)
            self.index.delete(slots)


class ErrorSketch(Stateful):
    """Sums of weights, of labels and of base scores in hashed buckets. Its size does not depend on the number of rows.

    Parameters
    ----------
    width : int
        Dimensions of a key.
    arrays : int
        Independent hash functions, each with its own array of buckets.
    bits : int
        Bits of a hash. An array has 2**bits buckets of 24 bytes.
    centred : bool
        Subtract the running mean of the keys before hashing. Keys without negative numbers have similar directions: without
        centring nearly all of them share a bucket.
    decay : float
        Each write multiplies the weight of earlier rows by this. 1 means no decay.
    seed : int
        Seed of the hash functions.

    Attributes
    ----------
    planes : (arrays, bits, width) float64
        Bit b of a key's bucket in array a is 1 if its inner product with ``planes[a, b]`` is positive.
    """

    def __init__(
        self, width: int, *, arrays: int = 20, bits: int = 8, centred: bool = True, decay: float = 1.0, seed: int = 0
    ) -> None:
        self.planes: Doubles = np.random.default_rng(seed).normal(size=(arrays, bits, width))
        self.sums = Arrays.from_factory(lambda: {"sums": np.zeros((arrays << bits, 3))})
        self.clock = Arrays(total=np.zeros((1, width)), count=np.zeros(1), unit=np.ones(1))
        self._centred, self._decay = centred, decay

    def __len__(self) -> int:
        return round(float(self.clock["count"][0]))

    def buckets(self, keys: Vectors) -> Ids:
        """Bucket of each of `keys` (n, width) in each array, (n, arrays) int64. Buckets are numbered across all arrays."""
        found = np.empty((len(keys), len(self.planes)), np.int64)
        count = self.clock["count"][0] if self._centred else 0.0
        centre = self.clock["total"][0] / count if count else np.zeros(keys.shape[1])
        _hash(keys, centre, self.planes, found)
        return found

    def write(self, keys: Vectors, label: Vectors, base_score: Vectors, weight: Vectors | None = None) -> None:
        """Add rows: finite `keys` (n, width), `label` (n,), `base_score` (n,), and `weight` (n,) above 0, or None for all 1."""
        if not len(keys):
            return
        weight = np.ones_like(base_score) if weight is None else weight
        clock = self.clock
        clock["total"][0] = clock["total"][0] * self._decay + (keys * weight[:, None]).sum(axis=0, dtype=np.float64)
        clock["count"][0] = clock["count"][0] * self._decay + weight.sum(dtype=np.float64)
        clock["unit"][0] *= self._decay
        if clock["unit"][0] < MIN_WEIGHT:
            self.sums["sums"][...] *= clock["unit"][0]
            self.sums.mark()
            clock["unit"][0] = 1.0
        clock.mark()
        # New rows get more weight instead of old sums less. So a write touches only its own buckets.
        unit = weight / clock["unit"][0]
        _add(self.buckets(keys), label, base_score, unit, self.sums["sums"], self.sums.dirty)

    def read(self, queries: Vectors) -> Evidence:
        """Read the bucket of each of `queries` (q, width) in each array.

        The similarity is the bucket's share of the total weight (0 to 1).
        """
        buckets = self.buckets(queries)
        share, label, base_score = np.zeros((3, *buckets.shape))
        slots, age = np.full_like(buckets, -1), np.zeros_like(buckets)
        weight = self.clock["unit"][0] / max(self.clock["count"][0], MIN_WEIGHT)
        _read_buckets(buckets, self.sums["sums"], weight, slots, share, label, base_score)
        return Evidence(slots, share, label, base_score, age, np.ones_like(share))

    def clear(self) -> None:
        """Empty all buckets, but keep the mean of the keys."""
        self.sums["sums"][...] = 0
        self.sums.mark()


# Compiled part. It keeps the GIL, because getting it back from other threads may take longer than the work.


@njit(cache=True)
def _read_rows(slots, rows, position, label, base_score, weight, age):  # type: ignore[no-untyped-def]
    labels, base_scores, weights = rows
    for row in range(slots.shape[0]):
        for n in range(slots.shape[1]):
            slot = slots[row, n]
            if slot >= 0:
                label[row, n], base_score[row, n], weight[row, n] = labels[slot], base_scores[slot], weights[slot]
                age[row, n] = position - 1 - slot + (labels.size if slot >= position else 0)


@njit(cache=True)
def _hash(keys, centre, planes, found):  # type: ignore[no-untyped-def]
    """Compute the products with all planes together, dimension by dimension. Each sum is the same as if computed alone."""
    arrays, bits, width = planes.shape
    transposed, products = np.empty((width, arrays * bits)), np.empty(arrays * bits)
    for a in range(arrays):
        for b in range(bits):
            transposed[:, a * bits + b] = planes[a, b]
    for row in range(keys.shape[0]):
        products[:] = 0.0
        for k in range(width):
            x = keys[row, k] - centre[k]
            for n in range(products.size):
                products[n] += transposed[k, n] * x
        for a in range(arrays):
            bucket = np.int64(0)
            for b in range(bits):
                bucket |= np.int64(products[a * bits + b] > 0.0) << b
            found[row, a] = (a << bits) + bucket


@njit(cache=True)
def _read_buckets(buckets, sums, weight, slots, similarity, label, base_score):  # type: ignore[no-untyped-def]
    for row in range(buckets.shape[0]):
        for a in range(buckets.shape[1]):
            bucket = buckets[row, a]
            count = sums[bucket, 0]
            if count > 0.0:
                slots[row, a], similarity[row, a] = bucket, count * weight
                label[row, a], base_score[row, a] = sums[bucket, 1] / count, sums[bucket, 2] / count
            else:
                similarity[row, a] = -np.inf


@njit(cache=True)
def _add(buckets: Ids, label: Floats, base_score: Floats, unit: Vectors, sums: Doubles, dirty: npt.NDArray[np.bool_]) -> None:
    for row in range(buckets.shape[0]):
        for bucket in buckets[row]:
            sums[bucket, 0] += unit[row]
            sums[bucket, 1] += unit[row] * label[row]
            sums[bucket, 2] += unit[row] * base_score[row]
            dirty[bucket] = True
