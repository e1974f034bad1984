"""Vectors in numbered slots, and search for the k most similar: exact, by inverted lists, or on a GPU.

A result must depend on the stored vectors alone. Otherwise a restored index would answer differently from the saved one. So
a search first collects a few more candidates than asked for: from faiss, from the nearest lists, or from the GPU. Then it
computes their similarities again one by one (lists in float32 need no second pass), and ties go to the lower slot. If the last
candidates of faiss or the GPU are tied, all vectors are compared.

References
----------
J. Johnson, M. Douze, H. Jegou, "Billion-Scale Similarity Search with GPUs", IEEE Transactions on Big Data 2021.
M. Douze et al., "The Faiss library", arXiv 2401.08281.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from memory.arrays import Arrays, Floats, Ids
from memory.jit import njit
from memory.stateful import Stateful
from memory.vectors.faiss_package import faiss
from memory.vectors.inverted_file import InvertedFile, similarity_of
from memory.vectors.inverted_lists import InvertedLists

if TYPE_CHECKING:
    from memory.vectors.gpu_vectors import GpuVectors, Nearest

__all__ = ["Device", "Kind", "Similarity", "VectorIndex"]

Similarity = Literal["cosine", "inner_product", "l2"]
Kind = Literal["flat", "ivf"]
Device = Literal["cpu", "cuda"]
Vectors = npt.NDArray[Any]

SLACK = 16
"""Candidates collected beyond those asked for."""

CACHE = 1 << 20
"""Bytes of vectors that fit into the processor's cache. For cosines, larger lists are rounded to 16 bits."""


class VectorIndex(Stateful):
    """Search for the most similar vectors among a fixed number of slots.

    It is not thread-safe. It belongs to the thread that learns and serves.

    Parameters
    ----------
    capacity : int
        Number of slots.
    width : int
        Dimensions of a vector.
    similarity : {"cosine", "inner_product", "l2"}
        Results are in descending order of it: the cosine (0 for a vector of length 0), the inner product, or the negative
        squared Euclidean distance.
    kind : {"flat", "ivf"}
        ``flat`` compares with every vector. ``ivf`` compares with the vectors in the lists nearest to the query. Until there
        are enough vectors for lists, it compares with all.
    device : {"cpu", "cuda"}
        ``cuda`` keeps a copy of the vectors on the GPU and searches there. It needs ``flat``.
    lists : int or None
        Number of lists of ``ivf``. None means twice the square root of the capacity.
    probes : int
        Lists that a search looks at.
    dtype : numpy type
        float32 or float64. Candidates are found in float32 in either case.
    values : callable, optional
        For ``cuda``: returns the numbers (n, values) to keep on the GPU beside the vectors of slots (n,), when these change.

    Attributes
    ----------
    device : str
        Where it searches.
    rows : Arrays
        ``vector`` (capacity, width), of length 1 if the similarity is cosine, and ``alive`` (capacity,) bool. Read-only.

    Raises
    ------
    ValueError
        If a size is below 1, or for ``cuda`` without a GPU.
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
        values: Callable[[Ids], Floats] | None = None,
    ) -> None:
        for name, value in (("capacity", capacity), ("width", width), ("probes", probes)):
            if value < 1:
                raise ValueError(f"{name}: {value}; give at least 1")
        self.capacity, self.width, self.similarity, self.probes = capacity, width, similarity, probes
        self.device, self._values = device, values
        self.rows = Arrays.from_factory(
            lambda: {"vector": np.zeros((capacity, width), dtype), "alive": np.zeros(capacity, np.bool_)}
        )
        self._end = self._count = 0
        self._gpu_copy: GpuVectors | None = None
        if device == "cuda":
            beside = 0 if values is None else values(np.empty(0, np.int64)).shape[1]
            self._gpu_copy = _gpu_vectors(capacity, width, beside)
        self._lists: dict[str, InvertedLists] = {}
        if kind == "ivf":
            if device == "cuda":
                raise ValueError('kind: "ivf" with device "cuda"; the GPU compares with all vectors faster, choose "flat"')
            number = min(lists or max(round(2 * math.sqrt(capacity)), 1), capacity)
            self.inverted = InvertedFile(capacity, width, number, angular=similarity != "l2")

    def __len__(self) -> int:
        return self._count

    def write(self, slots: Ids, vectors: Vectors) -> None:
        """Write finite `vectors` (n, width) into distinct `slots` (n,). Old vectors there are overwritten."""
        vectors = self._normalized(vectors)
        self._count += int(np.count_nonzero(~self.rows["alive"][slots]))
        self._end = max(self._end, int(slots.max(initial=-1)) + 1)
        self.rows["vector"][slots], self.rows["alive"][slots] = vectors, True
        self.rows.mark(slots)
        if self._inverted is not None:
            self._inverted.write(slots, vectors.astype(np.float32, copy=False))
        self._update_copies(slots)

    def delete(self, slots: Ids) -> None:
        """Remove the vectors in `slots` (n,)."""
        self.rows["vector"][slots], self.rows["alive"][slots] = 0, False
        self.rows.mark(slots)
        if self._inverted is not None:
            self._inverted.delete(slots)
        self._recount()
        self._update_copies(slots)

    def search(self, queries: Vectors, k: int) -> tuple[Ids, Vectors]:
        """Find the `k` most similar vectors. Ties are in the order of the slots.

        Parameters
        ----------
        queries : (q, width) array
            Finite.
        k : int

        Returns
        -------
        slots : (q, k) int64
            The most similar first; -1 where there are fewer than `k`.
        similarity : (q, k) array
            In the dtype of the index; -inf where the slot is -1.
        """
        queries = self._normalized(queries)
        if "now" in self._lists and queries.dtype == np.float32:
            # Similarities from lists depend on query and vector alone, so float32 needs no second pass.
            similarity, slots = self._lists["now"].search(queries, k, self.probes)
            return slots, similarity
        slots = np.full((len(queries), k), -1, np.int64)
        similarity = np.full((len(queries), k), -np.inf, queries.dtype)
        if len(self) and slots.size:
            queries32 = np.ascontiguousarray(queries, np.float32)
            if "now" not in self._lists:
                self._search_all(queries, queries32, slots, similarity)
            else:
                count = k + SLACK
                similarities, found = self._lists["now"].search(queries32, count, self.probes)
                while count < self._end and (similarities[:, -1] == similarities[:, k - 1]).any():
                    count *= 4
                    similarities, found = self._lists["now"].search(queries32, count, self.probes)
                self._rescore(queries, found, slots, similarity)
        return slots, similarity

    def nearest(self, queries: Vectors, k: int) -> Nearest | None:
        """Search like `search`, but leave the results on the GPU; None if they are not exact, and only `search` can tell.

        Parameters
        ----------
        queries : (q, width) array
            Finite; at least one.
        k : int
            At least 1. With fewer vectors, there are fewer columns.
        """
        if self._gpu_copy is None or not len(self):
            return None
        queries = self._normalized(queries).astype(np.float32, copy=False)
        found = self._gpu_copy.nearest(queries, k, SLACK, self._end, self.similarity != "l2", self._count == self._end)
        return None if bool(found.tied.any()) else found

    def maintain(self, k: int, rows: int) -> None:
        """Do a bounded step of what keeps search fast and accurate. Call it after every write. It changes the state.

        Parameters
        ----------
        k : int
            Recall is estimated for this many neighbours.
        rows : int
            Rows written since the last call.
        """
        if self._inverted is None:
            return
        generation = self._inverted.generation
        moved = self._inverted.maintain(self.rows["vector"], self.rows["alive"], self.probes, k, rows)
        if self._inverted.generation == generation:
            self._update_lists("next", moved)
        else:
            self._lists["now"] = self._lists.pop("next")
            self._update_lists("now", moved)

    def recall(self, k: int) -> float:
        """Share of the true `k` most similar vectors that a search finds: 1 if it is exact, else estimated at bounded cost."""
        if self._inverted is None or not self._inverted.generation:
            return 1.0
        return self._inverted.recall(self.rows["vector"], self.rows["alive"], self.probes, k)

    @property
    def training(self) -> bool:
        """Whether a training of the lists is running."""
        return self._inverted is not None and self._inverted.training

    @property
    def last_recall(self) -> float:
        """Last recall that `maintain` estimated; 1 if search is exact."""
        return 1.0 if self._inverted is None else self._inverted.last_recall

    def stores(self, prefix: str = "") -> Iterator[tuple[str, Stateful]]:
        """Yield this store under its own name."""
        yield prefix.rstrip("."), self

    def load_state_dict(self, state: Mapping[str, npt.NDArray[np.generic]]) -> None:
        """Replace all vectors and lists by those of `state`."""
        super().load_state_dict(state)
        self._rebuild()

    def apply_changes(self, changes: Mapping[str, npt.NDArray[np.generic]]) -> None:
        """Apply changes that another copy of this index returned from `take_changes`."""
        generation = -1 if self._inverted is None else self._inverted.generation
        super().apply_changes(changes)
        if self._inverted is not None and self._inverted.generation != generation:
            self._rebuild()
        else:
            self._recount()
            changed = [changes[name] for name in ("rows.rows", "inverted.places.rows") if name in changes]
            self._update_copies(np.unique(np.concatenate([np.empty(0, np.int64), *changed])).astype(np.int64))

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays and of their copies in lists: up to two copies, during a training."""
        inverted = self._inverted
        return super().nbytes + (
            0 if inverted is None else 2 * InvertedLists.bytes_of(self.capacity, self.width, inverted.lists, self._quantized)
        )

    @property
    def _inverted(self) -> InvertedFile | None:
        return getattr(self, "inverted", None)

    @property
    def _quantized(self) -> bool:
        return self.similarity == "cosine" and 4 * self.capacity * self.width > CACHE

    def _normalized(self, vectors: Vectors) -> Vectors:
        vectors = np.ascontiguousarray(vectors, self.rows["vector"].dtype)
        if self.similarity != "cosine":
            return vectors
        scaled = np.zeros_like(vectors)
        _scale(vectors, scaled)
        return scaled

    def _search_all(self, queries: Vectors, queries32: Floats, slots: Ids, similarity: Vectors) -> None:
        count = min(slots.shape[1] + SLACK, self._end)
        similarities, found = self._candidates(queries32, count)
        self._rescore(queries, found, slots, similarity)
        # If there are more vectors than candidates, others may be tied with the last candidate.
        last = similarities[:, min(slots.shape[1], count) - 1]
        tied = (found[:, -1] >= 0) & (count < self._end) & (similarities[:, -1] == last)
        for row in np.flatnonzero(tied):
            single, alive = slice(row, row + 1), np.flatnonzero(self.rows["alive"][: self._end])[None, :]
            self._rescore(queries[single], alive, slots[single], similarity[single])

    def _rescore(self, queries: Vectors, candidates: Ids, slots: Ids, similarity: Vectors) -> None:
        """Compute the similarities of each query's `candidates` (q, n) again, and write the best in order."""
        similarities = np.empty(candidates.shape, queries.dtype)
        _similarities(queries, self.rows["vector"], self.similarity != "l2", candidates, similarities)
        _write_best(np.argsort(-similarities, axis=1), candidates, similarities, slots, similarity)

    def _candidates(self, queries: Floats, count: int) -> tuple[Floats, Ids]:
        """Similarity and slots (q, count) of candidates from all vectors, best first; slot -1 where there are no more."""
        if self._gpu_copy is not None:
            return self._gpu_copy.search(queries, count, self._end, self.similarity != "l2", self._count == self._end)
        vectors = self.rows["vector"][: self._end].astype(np.float32, copy=False)
        similarities, found = np.empty((len(queries), count), np.float32), np.empty((len(queries), count), np.int64)
        alive = np.packbits(self.rows["alive"][: self._end], bitorder="little")
        only = faiss.IDSelectorBitmap(alive.size, faiss.swig_ptr(alive)) if self._count < self._end else None
        given = faiss.swig_ptr(queries), faiss.swig_ptr(vectors), self.width, len(queries), self._end, count
        results = faiss.swig_ptr(similarities), faiss.swig_ptr(found)
        # For the calling thread only. On a shared machine, two threads made the median search 60 times slower than one.
        faiss.omp_set_num_threads(1)
        if self.similarity == "l2":
            faiss.knn_L2sqr(*given, *results, None, only)
        else:
            faiss.knn_inner_product(*given, *results, only)
        return similarities, found

    def _update_copies(self, slots: Ids) -> None:
        """Update the GPU copy and the lists from the rows of `slots` (n,)."""
        if self._gpu_copy is not None and slots.size:
            values = None if self._values is None else self._values(slots)
            self._gpu_copy.write(slots, self.rows["vector"][slots], self.rows["alive"][slots], values)
        for side in ("now", "next"):
            self._update_lists(side, slots)

    def _update_lists(self, side: str, slots: Ids) -> None:
        inverted = self._inverted
        if inverted is None or (side == "next" and not inverted.moving):
            self._lists.pop(side, None)
            return
        trained = side == "next" or inverted.generation > 0
        if side not in self._lists:
            # Before the first training, all vectors are in a single list.
            centroids = inverted.centroids[side] if trained else np.zeros((1, self.width), np.float32)
            self._lists[side] = InvertedLists(centroids, self.capacity, self.similarity != "l2", self._quantized)
        lists = inverted.places[side][slots] if trained else np.where(self.rows["alive"][slots], np.int32(0), np.int32(-1))
        self._lists[side].update(slots, lists, self.rows["vector"])

    def _rebuild(self) -> None:
        self._lists.clear()
        self._recount()
        self._update_copies(np.arange(self.capacity))

    def _recount(self) -> None:
        alive = np.flatnonzero(self.rows["alive"])
        self._count, self._end = alive.size, int(alive[-1]) + 1 if alive.size else 0


def _gpu_vectors(capacity: int, width: int, values: int) -> GpuVectors:
    # torch is slow to load, so it is imported only if a GPU is asked for.
    from memory.vectors.gpu_vectors import GpuVectors

    return GpuVectors(capacity, width, values)


# Compiled part.


@njit(cache=True)
def _scale(vectors, scaled):  # type: ignore[no-untyped-def]
    """Scale vectors to length 1, except those of length 0."""
    for row in range(vectors.shape[0]):
        length = vectors[row, 0] * vectors[row, 0]
        for k in range(1, vectors.shape[1]):
            length += vectors[row, k] * vectors[row, k]
        length = np.sqrt(length)
        if length > 0:
            for k in range(vectors.shape[1]):
                scaled[row, k] = vectors[row, k] / length


@njit(cache=True, nogil=True)
def _similarities(queries, vectors, angular, candidates, similarity):  # type: ignore[no-untyped-def]
    """Similarity of each query to its candidate slots; -inf for slot -1. Each depends on its query and vector alone."""
    for row in range(candidates.shape[0]):
        for n in range(candidates.shape[1]):
            slot = candidates[row, n]
            similarity[row, n] = similarity_of(queries, row, vectors, slot, angular) if slot >= 0 else -np.inf


@njit(cache=True, nogil=True)
def _write_best(order, candidates, candidate_similarity, slots, similarity):  # type: ignore[no-untyped-def]
    """Write the first candidates in `order` to `slots` and `similarity`; ties by slot."""
    size = min(slots.shape[1], candidates.shape[1])
    for row in range(slots.shape[0]):
        for n in range(candidates.shape[1]):
            value, slot = candidate_similarity[row, order[row, n]], candidates[row, order[row, n]]
            if slot < 0 or (n >= size and value < similarity[row, size - 1]):
                break
            at = min(n, size)
            while at > 0 and similarity[row, at - 1] == value and slots[row, at - 1] > slot:
                if at < size:
                    similarity[row, at], slots[row, at] = similarity[row, at - 1], slots[row, at - 1]
                at -= 1
            if at < size:
                similarity[row, at], slots[row, at] = value, slot
