"""Inverted file: the centroids of the lists and the list of each slot, trained in small steps.

Training must not delay requests that the same thread serves. So it runs in steps of bounded work: first k-means passes over a
sample, then the assignment of every slot to the new centroids. The old centroids stay in use until the last slot is assigned.
All of this is state: a copy made during a training continues like the original.

References
----------
J. Sivic, A. Zisserman, "Video Google: A Text Retrieval Approach to Object Matching in Videos", ICCV 2003: inverted files.
S. Lloyd, "Least Squares Quantization in PCM", IEEE Transactions on Information Theory 1982: k-means.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from memory.arrays import Arrays, Bools, Ids
from memory.jit import njit
from memory.stateful import Stateful
from memory.vectors.blocks import nearest, similarities, to_blocks
from memory.vectors.inverted_lists import BUDGET

__all__ = ["InvertedFile", "similarity_of"]

ListNumbers = npt.NDArray[np.int32]

WORK = 1 << 16
"""Multiplications per step for each row written, a few microseconds. The total work does not depend on the batch size."""

POINTS = 16
"""Training vectors per list. More would hardly move the centroids, and each one costs time."""

PASSES = 4
"""k-means passes of a training."""

QUERIES, SAMPLE = 64, 2048
"""Query vectors that estimate recall, and vectors among which their neighbours are searched."""

DROP, GROWTH = 0.03, 2.0
"""Loss of recall and growth factor of the imbalance, since the last training, that start the next training."""

IDLE, CENTROIDS, MOVING = 0, 1, 2
"""Phases: no training, training of centroids, assignment of slots to them."""


class InvertedFile(Stateful):
    """Assignment of slots to lists around centroids.

    Parameters
    ----------
    capacity : int
        Slots.
    width : int
        Dimensions of a vector.
    lists : int
        Number of lists; each has a centroid.
    angular : bool
        True: the nearest centroid has the greatest inner product, and centroids have length 1. False: it has the smallest
        Euclidean distance.

    Attributes
    ----------
    places : Arrays
        List of each slot, (capacity,) int32, -1 for none: ``now`` as in use, ``next`` as of the training.
    centroids : Arrays
        Centroids of the lists, (lists, width) float32: ``now`` and ``next``; sums of a k-means pass: ``total``, ``count``.
    """

    def __init__(self, capacity: int, width: int, lists: int, angular: bool) -> None:
        self.places = Arrays.from_factory(
            lambda: {"now": np.full(capacity, -1, np.int32), "next": np.full(capacity, -1, np.int32)}
        )
        self.centroids = Arrays(
            now=np.zeros((lists, width), np.float32),
            next=np.zeros((lists, width), np.float32),
            total=np.zeros((lists, width), np.float64),
            count=np.zeros(lists, np.int64),
            private=["total", "count"],
        )
        self.clock = Arrays(
            generation=np.zeros(1, np.int64),
            phase=np.zeros(1, np.int64),
            cursor=np.zeros(1, np.int64),
            written=np.zeros(1, np.int64),
            recall=np.zeros(1, np.float64),
            watched=np.ones(1, np.float64),
            imbalance=np.zeros(1, np.float64),
        )
        self._capacity, self._lists, self._width, self._angular = capacity, lists, width, angular
        self._blocks: dict[str, npt.NDArray[np.float32]] = {}  # centroids as a search takes them, until they change

    @property
    def generation(self) -> int:
        """Number of completed trainings; 0 means that there are no lists yet."""
        return int(self.clock["generation"][0])

    @property
    def lists(self) -> int:
        """Number of lists."""
        return self._lists

    @property
    def training(self) -> bool:
        """Whether a training is running."""
        return bool(self.clock["phase"][0] != IDLE)

    @property
    def moving(self) -> bool:
        """Whether slots are being assigned to new centroids."""
        return bool(self.clock["phase"][0] == MOVING)

    @property
    def last_recall(self) -> float:
        """Last recall that `maintain` estimated; 1 before there are lists."""
        return float(self.clock["watched"][0])

    def write(self, slots: Ids, vectors: npt.NDArray[np.float32]) -> None:
        """Assign `slots` (n,) to lists by their new `vectors` (n, width)."""
        for side, needed in (("now", self.generation > 0), ("next", self.moving)):
            if needed:
                self.places[side][slots] = self._nearest(vectors, side)
                self.places.mark(slots)
        self.clock["written"][0] += slots.size
        self.clock.mark()

    def delete(self, slots: Ids) -> None:
        """Remove `slots` (n,) from their lists."""
        for side in self.places:
            self.places[side][slots] = -1
        self.places.mark(slots)

    def maintain(self, vectors: npt.NDArray[Any], alive: Bools, probes: int, k: int, rows: int) -> Ids:
        """Do one bounded step: train, or check whether a training is due.

        Parameters
        ----------
        vectors : (capacity, width) array
        alive : (capacity,) bool
        probes, k : int
            See `recall`.
        rows : int
            Rows written since the last call.

        Returns
        -------
        (n,) int64
            Slots assigned to new centroids in this step. `generation` grows when the last one is assigned.
        """
        phase, budget = self.clock["phase"], max(WORK * rows // (self._lists * self._width), 1)
        if phase[0] == IDLE:
            self._start_training_if_due(vectors, alive, probes, k)
        elif phase[0] == CENTROIDS:
            self._train(vectors, alive, budget)
        else:
            return self._assign(vectors, alive, budget, probes, k)
        return np.empty(0, np.int64)

    def recall(self, vectors: npt.NDArray[Any], alive: Bools, probes: int, k: int) -> float:
        """Estimate the share of the true `k` nearest vectors that a search of `probes` lists finds, at bounded cost.

        Stored vectors serve as queries. Their neighbours are searched in an even sample of the slots: if it has one slot in s,
        k / s neighbours there stand for k neighbours among all. NaN if there is nothing to compare.
        """
        slots = np.flatnonzero(alive)
        if not self.generation or slots.size < 2:
            return math.nan
        queries, sample = _even_sample(slots, QUERIES), _even_sample(slots, SAMPLE)
        depth = min(max(round(k * sample.size / slots.size), 1), sample.size - 1)
        q = _vectors_of(vectors, queries)
        centroid_similarity = similarities(q, to_blocks(self.centroids["now"]), self._angular)[:, : self._lists]
        places = self.places["now"]
        sizes = np.bincount(places[places >= 0], minlength=self._lists)
        centroid_similarity[:, sizes == 0] = -np.inf
        order = np.argsort(-centroid_similarity, axis=1)[:, :probes]
        nearer = np.cumsum(sizes[order], axis=1) - sizes[order]  # vectors in lists that are nearer
        probed = np.zeros(centroid_similarity.shape, np.bool_)
        np.put_along_axis(probed, order, nearer < max(BUDGET * probes * slots.size // self._lists, k), axis=1)
        similarity = similarities(q, to_blocks(_vectors_of(vectors, sample)), self._angular)[:, : sample.size]
        similarity[sample == queries[:, None]] = -np.inf
        best = similarity >= np.partition(similarity, -depth, axis=1)[:, -depth, None]
        return float(np.count_nonzero(best & probed[:, self.places["now"][sample]]) / np.count_nonzero(best))

    def load_state_dict(self, state: Mapping[str, npt.NDArray[np.generic]]) -> None:
        """Replace the whole state by a copy of `state`."""
        super().load_state_dict(state)
        self._blocks.clear()

    def apply_changes(self, changes: Mapping[str, npt.NDArray[np.generic]]) -> None:
        """Apply changes that another copy returned from `take_changes`."""
        super().apply_changes(changes)
        self._blocks.clear()

    def imbalance(self) -> float:
        """Vectors that a search compares, relative to lists of equal size; NaN if the lists are empty."""
        places = self.places["now"]
        sizes = np.bincount(places[places >= 0], minlength=self._lists).astype(np.float64)
        return float(self._lists * np.square(sizes).sum() / sizes.sum() ** 2) if sizes.any() else math.nan

    def _start_training_if_due(self, vectors: npt.NDArray[Any], alive: Bools, probes: int, k: int) -> None:
        clock = self.clock
        if not self.generation:
            due = int(np.count_nonzero(alive)) >= max(min(POINTS * self._lists, self._capacity // 2), 1)
        elif clock["written"][0] < max(self._capacity // 4, 1):
            return
        else:
            clock["written"][0] = 0
            clock["watched"][0] = self.recall(vectors, alive, probes, k)
            due = clock["watched"][0] < clock["recall"][0] - DROP
            # If the vectors have moved near a single centroid, recall stays high but a search scans nearly all of them.
            due = due or self.imbalance() > GROWTH * clock["imbalance"][0]
        if due:
            slots = np.flatnonzero(alive)
            first = slots[np.arange(self._lists) * slots.size // self._lists]
            self.centroids["next"][...] = vectors[first]
            self._blocks.clear()
            self.centroids["total"][...] = 0
            self.centroids["count"][...] = 0
            self.centroids.mark()
            clock["phase"][0], clock["cursor"][0] = CENTROIDS, 0
        clock.mark()

    def _train(self, vectors: npt.NDArray[Any], alive: Bools, budget: int) -> None:
        """Run a part of a k-means pass. The sample is drawn anew in each step because slots may have been overwritten."""
        size = min(POINTS * self._lists, self._capacity)
        cursor = int(self.clock["cursor"][0])
        start = cursor % size
        stop = min(start + budget, size)
        sampled = np.empty(stop - start, np.int64)
        if _even_part(alive, size, start, sampled):
            sample = _vectors_of(vectors, sampled)
            _add(sample, self._nearest(sample, "next"), self.centroids["total"], self.centroids["count"])
        if stop == size:
            _move_centroids(self.centroids["next"], self.centroids["total"], self.centroids["count"], self._angular)
            self._blocks.clear()
        self.centroids.mark()
        self.clock["cursor"][0] = cursor + stop - start
        if self.clock["cursor"][0] == PASSES * size:
            self.clock["phase"][0], self.clock["cursor"][0] = MOVING, 0
        self.clock.mark()

    def _assign(self, vectors: npt.NDArray[Any], alive: Bools, budget: int, probes: int, k: int) -> Ids:
        """Assign some more slots to the new centroids, and take these into use after the last slot."""
        start, places = int(self.clock["cursor"][0]), self.places["next"]
        unassigned: Ids = _unassigned(alive, places, start, budget)
        places[unassigned] = self._nearest(_vectors_of(vectors, unassigned), "next")
        self.places.mark(unassigned)
        self.clock["cursor"][0] = unassigned[-1] + 1 if unassigned.size else self._capacity
        if unassigned.size < budget:
            self.places["now"][...], self.places["next"][...] = places.copy(), -1
            self.places.mark()
            self.centroids["now"][...] = self.centroids["next"]
            self._blocks.clear()
            self.centroids.mark()
            self.clock["generation"][0] += 1
            self.clock["phase"][0] = self.clock["cursor"][0] = self.clock["written"][0] = 0
            self.clock["recall"][0] = self.clock["watched"][0] = self.recall(vectors, alive, probes, k)
            self.clock["imbalance"][0] = self.imbalance()
        self.clock.mark()
        return unassigned

    def _nearest(self, vectors: npt.NDArray[np.float32], side: str) -> ListNumbers:
        queries = np.ascontiguousarray(vectors, np.float32)
        if side not in self._blocks:
            self._blocks[side] = to_blocks(self.centroids[side])
        return nearest(queries, self._blocks[side], self._lists, self._angular)


def _even_sample(slots: Ids, size: int) -> Ids:
    """Take at most `size` evenly spaced slots."""
    size = min(size, slots.size)
    return slots[np.arange(size) * slots.size // size]


def _vectors_of(vectors: npt.NDArray[Any], slots: Ids) -> npt.NDArray[np.float32]:
    return np.ascontiguousarray(vectors[slots], np.float32)


# Compiled part. The similarity of two vectors does not depend on what else is compared in the same call, so the work can be
# split anywhere.


@njit(cache=True, nogil=True, fastmath=True)
def similarity_of(some, row, others, n, angular):  # type: ignore[no-untyped-def]
    """Inner product of ``some[row]`` and ``others[n]`` if `angular`, else their negative squared Euclidean distance."""
    total = np.float32(0.0)
    if angular:
        for k in range(some.shape[1]):
            total += some[row, k] * others[n, k]
    else:
        for k in range(some.shape[1]):
            difference = some[row, k] - others[n, k]
            total -= difference * difference
    return total


@njit(cache=True, nogil=True)
def _even_part(alive, size, start, slots):  # type: ignore[no-untyped-def]
    """Write some of `size` evenly spaced used slots to `slots`, from the one with number `start` on. False if none is used.

    A slot that is free stands for the next one that is used. Only slots near those written are looked at.
    """
    end = alive.size
    while end > 0 and not alive[end - 1]:
        end -= 1
    for n in range(slots.size if end else 0):
        slot = (start + n) * end // size
        while not alive[slot]:  # it ends at the last one, which is used
            slot += 1
        slots[n] = slot
    return end > 0


@njit(cache=True, nogil=True)
def _unassigned(alive, places, start, count):  # type: ignore[no-untyped-def]
    """The first `count` used slots from `start` on that have no place. Slots after them are not looked at."""
    found, rows = np.empty(count, np.int64), 0
    for slot in range(start, alive.size):
        if rows == count:
            break
        if alive[slot] and places[slot] < 0:
            found[rows] = slot
            rows += 1
    return found[:rows]


@njit(cache=True, nogil=True)
def _add(vectors, places, total, count):  # type: ignore[no-untyped-def]
    for row in range(vectors.shape[0]):
        count[places[row]] += 1
        for k in range(vectors.shape[1]):
            total[places[row], k] += vectors[row, k]


@njit(cache=True, nogil=True)
def _move_centroids(centroids, total, count, angular):  # type: ignore[no-untyped-def]
    """Move each centroid to the mean of its vectors, and clear the sums. A centroid without vectors stays."""
    for n in range(centroids.shape[0]):
        if count[n] > 0:
            scale = 1.0 / count[n]
            if angular:
                length = np.sqrt((total[n] * total[n]).sum())
                scale = 1.0 / length if length > 0.0 else 0.0
            for k in range(centroids.shape[1]):
                centroids[n, k] = total[n, k] * scale
    total[...] = 0.0
    count[...] = 0
