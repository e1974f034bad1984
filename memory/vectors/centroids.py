"""Centroids that keep their numbers: what was learned under a number stays with the cluster it was learned of.

The one door to faiss' k-means.
"""

from __future__ import annotations

import faiss
import numpy as np
import numpy.typing as npt
from scipy.optimize import linear_sum_assignment

from memory.arrays import Arrays, Bools, Floats, Ids
from memory.stateful import Stateful

__all__ = ["Centroids"]

Vectors = npt.NDArray[np.float64]

REDONE = 5
"""First clusterings that are tried; the best is kept."""


class Centroids(Stateful):
    """Unit-length centroids of unit-length vectors, renewed in epochs.

    Parameters
    ----------
    count : int
        Clusters.
    width : int
        Numbers in a vector.

    Attributes
    ----------
    epoch : int
        0: there are no centroids yet.
    vectors : (count, width) float64
        Live, not to be written to.
    born : (count,) int64
        Epoch in which each number was given to a cluster that is not the one before.
    """

    def __init__(self, count: int, width: int) -> None:
        self.rows = Arrays(vector=np.zeros((count, width)), born=np.zeros(count, np.int64))
        self.clock = Arrays(epoch=np.zeros(1, np.int64))
        self.vectors: Vectors = self.rows["vector"]
        self.born: Ids = self.rows["born"]

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def epoch(self) -> int:
        """Number of the epoch."""
        return int(self.clock["epoch"][0])

    def fit(self, sample: Floats, match_threshold: float, rounds: int = 20) -> Bools:
        """Begin an epoch with the k-means clusters of `sample`.

        The first epoch begins anywhere (k-means++), a later one at the centroids that there are, so that clusters that have
        moved a little are found again.

        Parameters
        ----------
        sample : (n, width) float32
            At least as many vectors as there are clusters.
        match_threshold : float
            As in `replace`.
        rounds : int
            Of k-means.

        Returns
        -------
        (count,) bool
            Numbers that name another cluster than before.
        """
        faiss.omp_set_num_threads(1)  # of the calling thread
        first = self.epoch == 0
        kmeans = faiss.Kmeans(
            self.vectors.shape[1],
            len(self),
            niter=rounds,
            nredo=REDONE if first else 1,
            spherical=True,
            seed=self.epoch + 1,
            min_points_per_centroid=1,
        )
        kmeans.cp.init_method = faiss.ClusteringInitMethod_KMEANS_PLUS_PLUS
        kmeans.train(np.ascontiguousarray(sample), init_centroids=None if first else self.vectors.astype(np.float32))
        assert kmeans.centroids is not None, "it has just been trained"
        return self.replace(kmeans.centroids.astype(np.float64), match_threshold)

    def replace(self, vectors: Vectors, match_threshold: float) -> Bools:
        """Begin an epoch with these centroids.

        Each takes over the number of an earlier one that matches it, so that the sum of all pairs' cosines is highest (the
        Hungarian method). Where none matches, it gets one of the other numbers.

        Parameters
        ----------
        vectors : (count, width) float64
            Of unit length.
        match_threshold : float
            Cosine above which two clusters are taken to be the same.

        Returns
        -------
        (count,) bool
            Numbers that name another cluster than before.
        """
        cosine = vectors @ self.vectors.T
        # Pairs that do not match count nothing, so no other pair is given up for them.
        worth = np.where((cosine > match_threshold) & (self.epoch > 0), cosine, 0.0)
        new, old = linear_sum_assignment(worth, maximize=True)
        carried = worth[new, old] > 0.0
        number = np.empty(len(self), np.int64)
        number[new] = old
        other = np.ones(len(self), np.bool_)
        other[old[carried]] = False
        self.vectors[number] = vectors
        self.clock["epoch"][0] += 1
        self.born[other] = self.epoch
        self.rows.mark()
        self.clock.mark()
        return other
