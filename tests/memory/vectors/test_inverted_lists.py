"""Lists of vectors: what is put in can be found, what is taken out cannot, and nothing near is left out."""

from __future__ import annotations

import numpy as np
import pytest

from memory.simd import LANES
from memory.vectors.blocks import LARGEST
from memory.vectors.inverted_lists import MOST, ROOM, InvertedLists

LISTS = 7


class World:
    """Lists, and what they should hold."""

    def __init__(self, width: int, angular: bool, capacity: int = 24 * LANES, short: bool = False) -> None:
        rng = np.random.default_rng(0)
        self.vectors = rng.normal(size=(capacity, width)).astype(np.float32)
        self.places = np.full(capacity, -1, np.int32)
        self.centroids = rng.normal(size=(LISTS, width)).astype(np.float32)
        self.angular, self.short = angular, short
        self.lists = InvertedLists(self.centroids, capacity, angular, short)

    def put(self, slots: np.ndarray, places: np.ndarray) -> None:
        self.places[slots] = places
        self.lists.follow(slots, self.places[slots], self.vectors)

    def similarity(self, queries: np.ndarray, vectors: np.ndarray) -> np.ndarray:
        if self.angular:
            return queries @ vectors.T
        return -np.square(queries[:, None] - vectors).sum(-1)

    def held(self, slots: np.ndarray) -> np.ndarray:
        vectors = self.vectors[slots]
        step = np.abs(vectors).max(axis=1, keepdims=True) / LARGEST
        return np.rint(vectors / step) * step if self.short else vectors

    def check(self, queries: np.ndarray, wanted: int, probes: int) -> None:
        said, found = self.lists.search(queries, wanted, probes)
        looked = np.argsort(-self.similarity(queries, self.centroids), axis=1)[:, :probes]
        for row, slots in enumerate(found):
            within = np.flatnonzero(np.isin(self.places, looked[row]))
            close = self.similarity(queries[row : row + 1], self.held(within))[0]
            best = np.argsort(-close, kind="stable")[:wanted]
            assert slots[: best.size].tolist() == within[best].tolist()
            assert said[row, : best.size] == pytest.approx(close[best], rel=1e-4, abs=1e-5)
            assert (slots[best.size :] == -1).all()
            assert np.isneginf(said[row, best.size :]).all()


@pytest.mark.parametrize(("angular", "short"), [(True, False), (False, False), (True, True)])
@pytest.mark.parametrize("width", [3, 8, 19])
def test_the_nearest_are_found_whatever_was_moved_before(width: int, angular: bool, short: bool) -> None:
    world, rng = World(width, angular, short=short), np.random.default_rng(1)
    queries = rng.normal(size=(20, width)).astype(np.float32)
    for step in range(60):
        slots = rng.permutation(world.places.size)[: rng.integers(1, 80)]
        world.vectors[slots] = rng.normal(size=(slots.size, width))
        world.put(slots, rng.integers(-1, LISTS if step % 9 else 1, slots.size))
        world.check(queries, 10, int(rng.integers(1, LISTS + 1)))


def test_all_in_one_list_and_more_queries_than_go_together() -> None:
    world = World(16, angular=True)
    world.put(np.arange(world.places.size), np.full(world.places.size, 3))
    queries = np.random.default_rng(1).normal(size=(2 * MOST + 5, 16)).astype(np.float32)
    world.check(queries, 5, LISTS)
    world.check(queries, 4 * LANES, LISTS)
    world.put(np.arange(world.places.size), np.full(world.places.size, -1))
    assert (world.lists.search(queries, 5, LISTS)[1] == -1).all()


@pytest.mark.parametrize("twins", [4 * LANES, 2 * ROOM])
def test_what_is_equally_close_comes_in_the_order_of_the_slots(twins: int) -> None:
    """More of it than is wanted, and more than there was room to note."""
    world = World(8, angular=False, capacity=3 * ROOM)
    slots = np.random.default_rng(1).permutation(world.places.size)[:twins]
    world.vectors[slots] = world.vectors[slots[0]]
    world.put(np.arange(world.places.size), np.arange(world.places.size) % LISTS)
    close, (found,) = world.lists.search(world.vectors[slots[:1]], 40, LISTS)
    assert found.tolist() == np.sort(slots)[:40].tolist()
    assert np.unique(close).tolist() == [0.0]


def test_zero_is_zero_whatever_its_sign() -> None:
    world = World(2, angular=True)
    world.vectors[:4] = [[-0.0, 1.0], [0.0, 1.0], [-1.0, 0.0], [-0.0, 1.0]]
    world.put(np.arange(4), np.zeros(4, np.int32))
    close, found = world.lists.search(np.array([[1.0, 0.0]], np.float32), 4, LISTS)
    assert found.tolist() == [[0, 1, 3, 2]]
    assert close.tolist() == [[0.0, 0.0, 0.0, -1.0]]


def test_what_a_list_says_of_a_vector_depends_on_nothing_else() -> None:
    """Not on its place, on the queries beside, or on how much is looked at: a restored index must answer as before."""
    world, rng = World(19, angular=True), np.random.default_rng(2)
    everything, queries = np.arange(world.places.size), rng.normal(size=(9, 19)).astype(np.float32)

    def told(rows: slice) -> list[dict[int, float]]:
        return [
            dict(zip(s.tolist(), c.tolist(), strict=True))
            for c, s in zip(*world.lists.search(queries[rows], 30, 3), strict=True)
        ]

    world.put(everything, everything % LISTS)
    before = told(slice(None))
    world.put(everything, np.full(everything.size, -1))
    shuffled = rng.permutation(everything)
    world.put(shuffled, shuffled % LISTS)
    assert told(slice(None)) == before
    assert [told(slice(n, n + 1))[0] for n in range(9)] == [{k: v for k, v in one.items() if k >= 0} for one in before]


def test_fewer_than_wanted() -> None:
    world = World(8, angular=False)
    world.put(np.array([5, 9]), np.array([0, 1]))
    _, found = world.lists.search(world.vectors[:3], 4, LISTS)
    assert [sorted(row[row >= 0]) for row in found] == [[5, 9]] * 3
