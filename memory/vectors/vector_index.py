"""Vectors in numbered slots, and the k most similar of them: exact, by inverted lists, or on a GPU. The one door to faiss.

Which vectors are found must depend on what is stored and on nothing else, or a restored index would answer differently from
the one it was saved from. Candidates are found first, some more than asked for: by faiss among all, in the lists that are near,
or on the GPU. Their similarities are then computed again one by one (not those from lists in float32), and ties go to the lower
slot. Where faiss or the GPU sees a tie across the border of its candidates, all vectors are compared.

References
----------
J. Johnson, M. Douze, H. Jegou, "Billion-Scale Similarity Search with GPUs", IEEE Transactions on Big Data 2021.
M. Douze et al., "The Faiss library", arXiv 2401.08281.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Literal

import faiss
import numpy as np
import numpy.typing as npt

from memory.arrays import Arrays, Floats, Ids
from memory.jit import njit
from memory.stateful import Stateful
from memory.vectors.inverted_file import InvertedFile, similarity_of
from memory.vectors.inverted_lists import InvertedLists

if TYPE_CHECKING:
    from memory.vectors.gpu_vectors import GpuVectors

__all__ = ["Device", "Kind", "Similarity", "VectorIndex"]

Similarity = Literal["cosine", "inner_product", "l2"]
Kind = Literal["flat", "ivf"]
Device = Literal["cpu", "cuda"]
Vectors = npt.NDArray[Any]

SLACK = 16
"""Candidates beyond those asked for."""


CACHE = 1 << 20
"""Bytes of vectors that a processor keeps near. Beyond that, lists for cosines hold vectors rounded to 16 bits."""


class VectorIndex(Stateful):
    """A fixed number of slots, each empty or with a vector, and search for the most similar.

    Not safe for use by several threads at once, whichever the kind: it lives on the thread that learns and serves.

    Parameters
    ----------
    capacity : int
        Slots.
    width : int
        Numbers in a vector.
    similarity : {"cosine", "inner_product", "l2"}
        What search orders by, the greatest first: the cosine (0 for a vector of length 0), the inner product, or minus the
        squared Euclidean distance.
    kind : {"flat", "ivf"}
        ``flat`` compares with every vector. ``ivf`` compares with the vectors in the lists nearest to the query, once there are
        enough vectors to make lists; until then it compares with all.
    device : {"cpu", "cuda"}
        ``cuda`` keeps a copy of the vectors on the GPU and compares there; ``flat`` only.
    lists : int or None
        Lists of ``ivf``; None: twice the square root of the capacity.
    probes : int
        Lists looked at by a search.
    dtype : numpy type
        float32; float64 for comparisons of results with more digits (candidates are found in float32 all the same).

    Attributes
    ----------
    rows : Arrays
        ``vector`` (capacity, width), of length 1 when the similarity is the cosine, and ``alive`` (capacity,) bool. Not to be
        written to.

    Raises
    ------
    ValueError
        For sizes below 1, or ``cuda`` where there is none.
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
        for name, value in (("capacity", capacity), ("width", width), ("probes", probes)):
            if value < 1:
                raise ValueError(f"{name}: {value}; give at least 1")
        self.capacity, self.width, self.similarity, self.probes = capacity, width, similarity, probes
        self.rows = Arrays.made_by(
            lambda: {"vector": np.zeros((capacity, width), dtype), "alive": np.zeros(capacity, np.bool_)}
        )
        self._end = self._count = 0
        self._copy = _on_gpu(capacity, width) if device == "cuda" else None
        self._lists: dict[str, InvertedLists] = {}
        if kind == "ivf":
            if device == "cuda":
                raise ValueError('kind: "ivf" with device "cuda"; the GPU compares with all vectors faster, choose "flat"')
            number = min(lists or max(round(2 * math.sqrt(capacity)), 1), capacity)
            self.inverted = InvertedFile(capacity, width, number, angular=similarity != "l2")

    def __len__(self) -> int:
        return self._count

    def write(self, slots: Ids, vectors: Vectors) -> None:
        """Put `vectors` (n, width), all finite, into `slots` (n,), all different, in place of what was there."""
        vectors = self._scaled(vectors)
        self._count += int(np.count_nonzero(~self.rows["alive"][slots]))
        self._end = max(self._end, int(slots.max(initial=-1)) + 1)
        self.rows["vector"][slots], self.rows["alive"][slots] = vectors, True
        self.rows.mark(slots)
        if self._inverted is not None:
            self._inverted.write(slots, vectors.astype(np.float32, copy=False))
        self._follow(slots)

    def delete(self, slots: Ids) -> None:
        """Empty `slots` (n,)."""
        self.rows["vector"][slots], self.rows["alive"][slots] = 0, False
        self.rows.mark(slots)
        if self._inverted is not None:
            self._inverted.delete(slots)
        self._count_again()
        self._follow(slots)

    def search(self, queries: Vectors, k: int) -> tuple[Ids, Vectors]:
        """Find the `k` most similar vectors, ties in the order of their slots.

        Parameters
        ----------
        queries : (q, width) array
            Finite.
        k : int

        Returns
        -------
        slots : (q, k) int64
            The most similar first; -1 where there are not so many.
        similarity : (q, k) array
            In the index's dtype; -inf where the slot is -1.
        """
        queries = self._scaled(queries)
        if "now" in self._lists and queries.dtype == np.float32:
            # What a list says of a vector depends on nothing else: in float32 there is nothing to settle.
            similarity, slots = self._lists["now"].search(queries, k, self.probes)
            return slots, similarity
        slots = np.full((len(queries), k), -1, np.int64)
        similarity = np.full((len(queries), k), -np.inf, queries.dtype)
        if len(self) and slots.size:
            few = np.ascontiguousarray(queries, np.float32)
            if "now" not in self._lists:
                self._search_all(queries, few, slots, similarity)
            else:
                wanted = k + SLACK
                close, found = self._lists["now"].search(few, wanted, self.probes)
                while wanted < self._end and (close[:, -1] == close[:, k - 1]).any():
                    wanted *= 4
                    close, found = self._lists["now"].search(few, wanted, self.probes)
                self._settle(queries, found, slots, similarity)
        return slots, similarity

    def maintain(self, k: int, rows: int) -> None:
        """Do a bounded part of what keeps search fast and good; call it after every write. It counts as learning.

        Parameters
        ----------
        k : int
            Recall is watched for this many neighbours.
        rows : int
            Written since it was called last.
        """
        if self._inverted is None:
            return
        generation = self._inverted.generation
        moved = self._inverted.turn(self.rows["vector"], self.rows["alive"], self.probes, k, rows)
        if self._inverted.generation == generation:
            self._mirror("next", moved)
        else:
            self._lists["now"] = self._lists.pop("next")
            self._mirror("now", moved)

    def recall(self, k: int) -> float:
        """Share of the true `k` most similar vectors that a search finds: 1 for exact kinds, else estimated at bounded cost."""
        if self._inverted is None or not self._inverted.generation:
            return 1.0
        return self._inverted.recall(self.rows["vector"], self.rows["alive"], self.probes, k)

    @property
    def training(self) -> bool:
        """Whether `maintain` is in the middle of something."""
        return self._inverted is not None and self._inverted.training

    @property
    def last_recall(self) -> float:
        """Recall as `maintain` last saw it."""
        return 1.0 if self._inverted is None else self._inverted.watched

    def stores(self, prefix: str = "") -> Iterator[tuple[str, Stateful]]:
        """Yield this store under its own name."""
        yield prefix.rstrip("."), self

    def load_state_dict(self, state: Mapping[str, npt.NDArray[np.generic]]) -> None:
        """Replace all vectors, and the lists that they are in, by those of `state`."""
        super().load_state_dict(state)
        self._rebuild()

    def apply_changes(self, changes: Mapping[str, npt.NDArray[np.generic]]) -> None:
        """Follow the changes that another copy of this index has taken."""
        generation = -1 if self._inverted is None else self._inverted.generation
        super().apply_changes(changes)
        if self._inverted is not None and self._inverted.generation != generation:
            self._rebuild()
        else:
            self._count_again()
            changed = [changes[name] for name in ("rows.rows", "inverted.places.rows") if name in changes]
            self._follow(np.unique(np.concatenate([np.empty(0, np.int64), *changed])).astype(np.int64))

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays, and of the lists' copies of them at most: two, while lists are trained anew."""
        inverted = self._inverted
        return super().nbytes + (
            0 if inverted is None else 2 * InvertedLists.bytes_of(self.capacity, self.width, inverted.lists, self._short)
        )

    @property
    def _inverted(self) -> InvertedFile | None:
        return getattr(self, "inverted", None)

    @property
    def _short(self) -> bool:
        return self.similarity == "cosine" and 4 * self.capacity * self.width > CACHE

    def _scaled(self, vectors: Vectors) -> Vectors:
        vectors = np.ascontiguousarray(vectors, self.rows["vector"].dtype)
        if self.similarity != "cosine":
            return vectors
        scaled = np.zeros_like(vectors)
        _scale(vectors, scaled)
        return scaled

    def _search_all(self, queries: Vectors, few: Floats, slots: Ids, similarity: Vectors) -> None:
        wanted = min(slots.shape[1] + SLACK, self._end)
        close, found = self._compare_all(few, wanted)
        self._settle(queries, found, slots, similarity)
        # Of fewer candidates than wanted there are no more; otherwise others may be as close as the last one.
        last = close[:, min(slots.shape[1], wanted) - 1]
        border = (found[:, -1] >= 0) & (wanted < self._end) & (close[:, -1] == last)
        for row in np.flatnonzero(border):
            one, alive = slice(row, row + 1), np.flatnonzero(self.rows["alive"][: self._end])[None, :]
            self._settle(queries[one], alive, slots[one], similarity[one])

    def _settle(self, queries: Vectors, candidates: Ids, slots: Ids, similarity: Vectors) -> None:
        """Of each query's `candidates` (q, n) the most similar, by similarities computed here, in order."""
        close = np.empty(candidates.shape, queries.dtype)
        _similarities(queries, self.rows["vector"], self.similarity != "l2", candidates, close)
        _take(np.argsort(-close, axis=1), candidates, close, slots, similarity)

    def _compare_all(self, queries: Floats, wanted: int) -> tuple[Floats, Ids]:
        """Closeness (in faiss' sense) and slots (q, wanted) of candidates, best first, -1 where there are no more."""
        if self._copy is not None:
            return self._copy.search(queries, wanted, self._end, self.similarity != "l2")
        vectors = self.rows["vector"][: self._end].astype(np.float32, copy=False)
        close, found = np.empty((len(queries), wanted), np.float32), np.empty((len(queries), wanted), np.int64)
        alive = np.packbits(self.rows["alive"][: self._end], bitorder="little")
        only = faiss.IDSelectorBitmap(alive.size, faiss.swig_ptr(alive)) if self._count < self._end else None
        given = faiss.swig_ptr(queries), faiss.swig_ptr(vectors), self.width, len(queries), self._end, wanted
        results = faiss.swig_ptr(close), faiss.swig_ptr(found)
        # Of the calling thread. Two threads searching a shared machine made the median search 60 times slower than one.
        faiss.omp_set_num_threads(1)
        if self.similarity == "l2":
            faiss.knn_L2sqr(*given, *results, None, only)
        else:
            faiss.knn_inner_product(*given, *results, only)
        return close, found

    def _follow(self, slots: Ids) -> None:
        """Bring what is derived from the rows of `slots` (n,) in line with them."""
        if self._copy is not None and slots.size:
            self._copy.write(slots, self.rows["vector"][slots], self.rows["alive"][slots])
        for side in ("now", "next"):
            self._mirror(side, slots)

    def _mirror(self, side: str, slots: Ids) -> None:
        inverted = self._inverted
        if inverted is None or (side == "next" and not inverted.moving):
            self._lists.pop(side, None)
            return
        trained = side == "next" or inverted.generation > 0
        if side not in self._lists:
            # Until there are lists, all are in one.
            centroids = inverted.centroids[side] if trained else np.zeros((1, self.width), np.float32)
            self._lists[side] = InvertedLists(centroids, self.capacity, self.similarity != "l2", self._short)
        places = inverted.places[side][slots] if trained else np.where(self.rows["alive"][slots], np.int32(0), np.int32(-1))
        self._lists[side].follow(slots, places, self.rows["vector"])

    def _rebuild(self) -> None:
        self._lists.clear()
        self._count_again()
        self._follow(np.arange(self.capacity))

    def _count_again(self) -> None:
        alive = np.flatnonzero(self.rows["alive"])
        self._count, self._end = alive.size, int(alive[-1]) + 1 if alive.size else 0


def _on_gpu(capacity: int, width: int) -> GpuVectors:
    # Only who asks for a GPU waits for torch to load.
    from memory.vectors.gpu_vectors import GpuVectors

    return GpuVectors(capacity, width)


# Compiled part.


@njit(cache=True)
def _scale(vectors, scaled):  # type: ignore[no-untyped-def]
    """Give vectors length 1, but those of length 0."""
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
    """Of each query with its candidate slots; -inf for slot -1. Computed one by one: they depend on nothing else."""
    for row in range(candidates.shape[0]):
        for n in range(candidates.shape[1]):
            slot = candidates[row, n]
            similarity[row, n] = similarity_of(queries, row, vectors, slot, angular) if slot >= 0 else -np.inf


@njit(cache=True, nogil=True)
def _take(order, candidates, candidate_similarity, slots, similarity):  # type: ignore[no-untyped-def]
    """The first of the candidates in `order`, those of equal similarity by slot."""
    size = min(slots.shape[1], candidates.shape[1])
    for row in range(slots.shape[0]):
        for n in range(candidates.shape[1]):
            close, slot = candidate_similarity[row, order[row, n]], candidates[row, order[row, n]]
            if slot < 0 or (n >= size and close < similarity[row, size - 1]):
                break
            at = min(n, size)
            while at > 0 and similarity[row, at - 1] == close and slots[row, at - 1] > slot:
                if at < size:
                    similarity[row, at], slots[row, at] = similarity[row, at - 1], slots[row, at - 1]
                at -= 1
            if at < size:
                similarity[row, at], slots[row, at] = close, slot
