from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import faiss
import numpy as np

from memory.vectors.centroids import Centroids

COUNT, WIDTH = 5, 8


def unit(x: np.ndarray) -> np.ndarray:
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def crowd(rng: np.random.Generator, centers: np.ndarray, noise: float = 0.1) -> np.ndarray:
    """Users around the centers, in random order."""
    points = np.repeat(centers, 60, axis=0)
    return rng.permutation(unit(points + noise * rng.normal(size=points.shape))).astype(np.float32)


def test_clusters_are_found() -> None:
    rng = np.random.default_rng(0)
    centers = unit(rng.normal(size=(COUNT, WIDTH)))
    centroids = Centroids(COUNT, WIDTH)
    assert centroids.epoch == 0
    assert centroids.fit(crowd(rng, centers), 0.95).all(), "all of them are new"
    assert centroids.epoch == 1 and (centroids.born == 1).all()
    assert (np.linalg.norm(centroids.vectors, axis=1) - 1 < 1e-6).all()
    cosine = centroids.vectors @ centers.T
    assert (cosine.max(axis=1) > 0.99).all() and set(cosine.argmax(axis=1)) == set(range(COUNT))


def test_clusters_that_stay_keep_their_numbers() -> None:
    rng = np.random.default_rng(1)
    before = unit(rng.normal(size=(COUNT, WIDTH)))
    centroids = Centroids(COUNT, WIDTH)
    centroids.replace(before, 0.95)
    assert np.array_equal(centroids.vectors, before)
    # Two moved a little, one is somewhere else, and all are in another order.
    after = before.copy()
    after[:2] = unit(after[:2] + 0.05 * rng.normal(size=(2, WIDTH)))
    after[4] = unit(rng.normal(size=(1, WIDTH)))[0]
    new = centroids.replace(after[[3, 4, 0, 2, 1]], 0.95)
    assert new.tolist() == [False, False, False, False, True]
    assert np.array_equal(centroids.vectors, after)
    assert centroids.born.tolist() == [1, 1, 1, 1, 2] and centroids.epoch == 2


def test_a_later_epoch_finds_the_same_clusters_again() -> None:
    rng = np.random.default_rng(2)
    centers = unit(rng.normal(size=(COUNT, WIDTH)))
    centroids = Centroids(COUNT, WIDTH)
    centroids.fit(crowd(rng, centers), 0.95)
    first = centroids.vectors.copy()
    assert not centroids.fit(crowd(rng, centers), 0.95).any()
    assert (np.einsum("cd,cd->c", first, centroids.vectors) > 0.99).all()


def test_the_same_sample_gives_the_same_centroids() -> None:
    sample = crowd(np.random.default_rng(3), unit(np.random.default_rng(4).normal(size=(COUNT, WIDTH))))
    one, other = Centroids(COUNT, WIDTH), Centroids(COUNT, WIDTH)
    for _ in range(2):
        one.fit(sample, 0.95)
        other.fit(sample, 0.95)
    assert np.array_equal(one.vectors, other.vectors)


def test_as_many_users_as_clusters_are_enough() -> None:
    centroids = Centroids(COUNT, WIDTH)
    centroids.fit(unit(np.random.default_rng(5).normal(size=(COUNT, WIDTH))).astype(np.float32), 0.95)
    assert np.isfinite(centroids.vectors).all()


def test_faiss_uses_one_thread_whatever_thread_calls() -> None:
    sample = unit(np.random.default_rng(6).normal(size=(60, WIDTH))).astype(np.float32)

    def threads() -> int:
        faiss.omp_set_num_threads(4)
        Centroids(COUNT, WIDTH).fit(sample, 0.95)
        return faiss.omp_get_max_threads()

    with ThreadPoolExecutor(1) as other:
        assert other.submit(threads).result() == 1
