"""Which list of an inverted file each slot belongs to, and the centroids of the lists, trained a little at a time.

Training must not hold up whoever is served by the same thread, so it is cut into turns of bounded work: passes of k-means
over a sample, then every slot's place under the new centroids; until the last slot has one, the old centroids stay in use.
All of it is state: a copy made in the middle of a training goes on as the original does.

References
----------
J. Sivic, A. Zisserman, "Video Google: A Text Retrieval Approach to Object Matching in Videos", ICCV 2003: inverted files.
S. Lloyd, "Least Squares Quantization in PCM", IEEE Transactions on Information Theory 1982: k-means.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from memory.arrays import Arrays, Bools, Ids
from memory.jit import njit
from memory.stateful import Stateful
from memory.vectors.blocks import how_close, in_blocks, nearest

__all__ = ["InvertedFile", "similarity_of"]

Places = npt.NDArray[np.int32]

WORK = 1 << 16
"""Multiplications of a turn for each row written, a few microseconds: as much is due whatever the size of the batches."""

POINTS = 16
"""Vectors a list is trained from: more hardly moves the centroids, and every one of them costs a turn's work."""

PASSES = 4

QUERIES, SAMPLE = 64, 2048
"""Vectors that recall is estimated with, and among which their neighbours are looked for."""

DROP, GROWTH = 0.03, 2.0
"""Loss of recall, or growth of the imbalance, since the last training that starts the next one."""

IDLE, CENTROIDS, MOVING = 0, 1, 2


class InvertedFile(Stateful):
    """Lists of slots around centroids.

    Parameters
    ----------
    capacity : int
        Slots.
    width : int
        Numbers in a vector.
    lists : int
        Lists, each with a centroid.
    angular : bool
        True: the nearest centroid is the one with the greatest inner product, and centroids have length 1. False: the one
        at the smallest Euclidean distance.
    """

    def __init__(self, capacity: int, width: int, lists: int, angular: bool) -> None:
        self.places = Arrays.made_by(lambda: {"now": np.full(capacity, -1, np.int32), "next": np.full(capacity, -1, np.int32)})
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

    @property
    def generation(self) -> int:
        """Trainings completed; 0: there are no lists yet."""
        return int(self.clock["generation"][0])

    @property
    def lists(self) -> int:
        """Lists there are, once trained."""
        return self._lists

    @property
    def training(self) -> bool:
        """Whether new centroids are being made, or slots being given places under them."""
        return bool(self.clock["phase"][0] != IDLE)

    @property
    def moving(self) -> bool:
        """Whether slots are being given places under new centroids."""
        return bool(self.clock["phase"][0] == MOVING)

    @property
    def watched(self) -> float:
        """Recall as last estimated by `turn`; 1 before there are lists."""
        return float(self.clock["watched"][0])

    def write(self, slots: Ids, vectors: npt.NDArray[np.float32]) -> None:
        """Give `slots` (n,) places by their new `vectors` (n, width)."""
        for side, wanted in (("now", self.generation > 0), ("next", self.moving)):
            if wanted:
                self.places[side][slots] = self._nearest(vectors, side)
                self.places.mark(slots)
        self.clock["written"][0] += slots.size
        self.clock.mark()

    def delete(self, slots: Ids) -> None:
        """Take `slots` (n,) out of their lists."""
        for side in self.places:
            self.places[side][slots] = -1
        self.places.mark(slots)

    def turn(self, vectors: npt.NDArray[Any], alive: Bools, probes: int, k: int, rows: int) -> Ids:
        """Do a bounded part of what is due: train, or check whether training is due.

        Parameters
        ----------
        vectors : (capacity, width) array
        alive : (capacity,) bool
        probes, k : int
            As `recall`.
        rows : int
            Written since the last turn.

        Returns
        -------
        (n,) int64
            Slots that got a place under the new centroids in this turn. `generation` grows with the last of them.
        """
        phase, budget = self.clock["phase"], max(WORK * rows // (self._lists * self._width), 1)
        if phase[0] == IDLE:
            self._begin_if_due(vectors, alive, probes, k)
        elif phase[0] == CENTROIDS:
            self._train(vectors, alive, budget)
        else:
            return self._move(vectors, alive, budget, probes, k)
        return np.empty(0, np.int64)

    def recall(self, vectors: npt.NDArray[Any], alive: Bools, probes: int, k: int) -> float:
        """Estimate the share of the true `k` nearest vectors that lies in the `probes` lists looked at; at bounded cost.

        Stored vectors are the queries. Their neighbours are looked for in an even sample of the slots: the nearest of one slot
        in s stand for the s times as many nearest of all. NaN where there is nothing to compare.
        """
        slots = np.flatnonzero(alive)
        if not self.generation or slots.size < 2:
            return math.nan
        queries, sample = _even(slots, QUERIES), _even(slots, SAMPLE)
        depth = min(max(round(k * sample.size / slots.size), 1), sample.size - 1)
        q = _of(vectors, queries)
        near = how_close(q, in_blocks(self.centroids["now"]), self._angular)[:, : self._lists]
        last = max(self._lists - probes, 0)
        looked = near >= np.partition(near, last, axis=1)[:, last, None]
        close = how_close(q, in_blocks(_of(vectors, sample)), self._angular)[:, : sample.size]
        close[sample == queries[:, None]] = -np.inf
        best = close >= np.partition(close, -depth, axis=1)[:, -depth, None]
        return float(np.count_nonzero(best & looked[:, self.places["now"][sample]]) / np.count_nonzero(best))

    def imbalance(self) -> float:
        """How many times as many vectors a search looks at as if all lists were equally long; NaN without vectors in lists."""
        places = self.places["now"]
        sizes = np.bincount(places[places >= 0], minlength=self._lists).astype(np.float64)
        return float(self._lists * np.square(sizes).sum() / sizes.sum() ** 2) if sizes.any() else math.nan

    def _begin_if_due(self, vectors: npt.NDArray[Any], alive: Bools, probes: int, k: int) -> None:
        clock = self.clock
        if not self.generation:
            due = int(np.count_nonzero(alive)) >= max(min(POINTS * self._lists, self._capacity // 2), 1)
        elif clock["written"][0] < max(self._capacity // 4, 1):
            return
        else:
            clock["written"][0] = 0
            clock["watched"][0] = self.recall(vectors, alive, probes, k)
            due = clock["watched"][0] < clock["recall"][0] - DROP
            # Vectors that have gone elsewhere may all be near to one centroid: then nothing is missed, and everything scanned.
            due = due or self.imbalance() > GROWTH * clock["imbalance"][0]
        if due:
            slots = np.flatnonzero(alive)
            first = slots[np.arange(self._lists) * slots.size // self._lists]
            self.centroids["next"][...] = vectors[first]
            self.centroids["total"][...] = 0
            self.centroids["count"][...] = 0
            self.centroids.mark()
            clock["phase"][0], clock["cursor"][0] = CENTROIDS, 0
        clock.mark()

    def _train(self, vectors: npt.NDArray[Any], alive: Bools, budget: int) -> None:
        """A part of one pass of k-means; the sample is taken anew each turn, since slots are overwritten meanwhile."""
        size = min(POINTS * self._lists, self._capacity)
        cursor = int(self.clock["cursor"][0])
        start = cursor % size
        stop = min(start + budget, size)
        alive_slots = np.flatnonzero(alive)
        if alive_slots.size:
            sample = _of(vectors, alive_slots[np.arange(start, stop) * alive_slots.size // size])
            _add(sample, self._nearest(sample, "next"), self.centroids["total"], self.centroids["count"])
        if stop == size:
            _centre(self.centroids["next"], self.centroids["total"], self.centroids["count"], self._angular)
        self.centroids.mark()
        self.clock["cursor"][0] = cursor + stop - start
        if self.clock["cursor"][0] == PASSES * size:
            self.clock["phase"][0], self.clock["cursor"][0] = MOVING, 0
        self.clock.mark()

    def _move(self, vectors: npt.NDArray[Any], alive: Bools, budget: int, probes: int, k: int) -> Ids:
        """Places for some of the slots that have none under the new centroids; after the last one, these are in use."""
        start, places = int(self.clock["cursor"][0]), self.places["next"]
        waiting = np.flatnonzero(alive[start:] & (places[start:] < 0))[:budget] + start
        places[waiting] = self._nearest(_of(vectors, waiting), "next")
        self.places.mark(waiting)
        self.clock["cursor"][0] = waiting[-1] + 1 if waiting.size else self._capacity
        if waiting.size < budget:
            self.places["now"][...], self.places["next"][...] = places.copy(), -1
            self.places.mark()
            self.centroids["now"][...] = self.centroids["next"]
            self.centroids.mark()
            self.clock["generation"][0] += 1
            self.clock["phase"][0] = self.clock["cursor"][0] = self.clock["written"][0] = 0
            self.clock["recall"][0] = self.clock["watched"][0] = self.recall(vectors, alive, probes, k)
            self.clock["imbalance"][0] = self.imbalance()
        self.clock.mark()
        return waiting

    def _nearest(self, vectors: npt.NDArray[np.float32], side: str) -> Places:
        queries = np.ascontiguousarray(vectors, np.float32)
        return nearest(queries, in_blocks(self.centroids[side]), self._lists, self._angular)


def _even(slots: Ids, size: int) -> Ids:
    """At most `size` of the slots, at even distances."""
    size = min(size, slots.size)
    return slots[np.arange(size) * slots.size // size]


def _of(vectors: npt.NDArray[Any], slots: Ids) -> npt.NDArray[np.float32]:
    return np.ascontiguousarray(vectors[slots], np.float32)


# Compiled part. How similar two vectors are does not depend on what else is compared in the same call, so that turns can be cut
# anywhere.


@njit(cache=True, nogil=True, fastmath=True)
def similarity_of(some, row, others, n, angular):  # type: ignore[no-untyped-def]
    """Inner product of two vectors, ``some[row]`` and ``others[n]``, or minus the square of their Euclidean distance."""
    total = np.float32(0.0)
    if angular:
        for k in range(some.shape[1]):
            total += some[row, k] * others[n, k]
    else:
        for k in range(some.shape[1]):
            apart = some[row, k] - others[n, k]
            total -= apart * apart
    return total


@njit(cache=True, nogil=True)
def _add(vectors, places, total, count):  # type: ignore[no-untyped-def]
    for row in range(vectors.shape[0]):
        count[places[row]] += 1
        for k in range(vectors.shape[1]):
            total[places[row], k] += vectors[row, k]


@njit(cache=True, nogil=True)
def _centre(centroids, total, count, angular):  # type: ignore[no-untyped-def]
    """Put each centroid amid its vectors, one without vectors stays; and clear the sums."""
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
