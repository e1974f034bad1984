"""Cluster centroids that keep their numbers from epoch to epoch, so that what was learned about a cluster stays with it.

This is the only module that uses faiss' k-means.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.optimize import linear_sum_assignment

from memory.arrays import Arrays, Bools, Floats, Ids
from memory.stateful import Stateful
from memory.vectors.faiss_package import faiss

__all__ = ["Centroids"]

Vectors = npt.NDArray[np.float64]

FIRST_RUNS = 5
"""k-means runs of the first epoch; the best one is kept."""


class Centroids(Stateful):
    """Unit-length centroids of unit-length vectors, computed anew in each epoch.

    Parameters
    ----------
    count : int
        Number of clusters.
    width : int
        Dimensions of a vector.

    Attributes
    ----------
    epoch : int
        0 means that there are no centroids yet.
    vectors : (count, width) float64
        Live and read-only.
    born : (count,) int64
        Epoch in which each number was last given to a new cluster.
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
        """Number of the current epoch."""
        return int(self.clock["epoch"][0])

    def fit(self, sample: Floats, match_threshold: float, rounds: int = 20) -> Bools:
        """Begin an epoch with the k-means clusters of `sample`.

        The first epoch starts from k-means++. Later ones start from the current centroids, so that clusters that moved a little
        are found again.

        Parameters
        ----------
        sample : (n, width) float32
            At least as many vectors as there are clusters.
        match_threshold : float
            See `replace`.
        rounds : int
            Iterations of k-means.

        Returns
        -------
        (count,) bool
            Whether each number now stands for a new cluster.
        """
        faiss.omp_set_num_threads(1)  # for the calling thread only
        is_first = self.epoch == 0
        kmeans = faiss.Kmeans(
            self.vectors.shape[1],
            len(self),
            niter=rounds,
            nredo=FIRST_RUNS if is_first else 1,
            spherical=True,
            seed=self.epoch + 1,
            min_points_per_centroid=1,
        )
        kmeans.cp.init_method = faiss.ClusteringInitMethod_KMEANS_PLUS_PLUS
        kmeans.train(np.ascontiguousarray(sample), init_centroids=None if is_first else self.vectors.astype(np.float32))
        assert kmeans.centroids is not None, "it has just been trained"
        return self.replace(kmeans.centroids.astype(np.float64), match_threshold)

    def replace(self, vectors: Vectors, match_threshold: float) -> Bools:
        """Begin an epoch with the given centroids.

        Each centroid gets the number of the old centroid that it matches. The Hungarian method finds the matching with the
        highest sum of cosines. Centroids without a match get the remaining numbers.

        Parameters
        ----------
        vectors : (count, width) float64
            Unit-length centroids.
        match_threshold : float
            Cosine above which two centroids belong to the same cluster.

        Returns
        -------
        (count,) bool
            Whether each number now stands for a new cluster.
        """
        cosine = vectors @ self.vectors.T
        # Pairs below the threshold have weight 0, so that they never displace a match.
        weights = np.where((cosine > match_threshold) & (self.epoch > 0), cosine, 0.0)
        new, old = linear_sum_assignment(weights, maximize=True)
        matched = weights[new, old] > 0.0
        number = np.empty(len(self), np.int64)
        number[new] = old
        renewed = np.ones(len(self), np.bool_)
        renewed[old[matched]] = False
        self.vectors[number] = vectors
        self.clock["epoch"][0] += 1
        self.born[renewed] = self.epoch
        self.rows.mark()
        self.clock.mark()
        return renewed
