"""Lists of vectors: vectors that were added are found, removed ones are not, and no near one is missed."""

from __future__ import annotations

import numpy as np
import pytest

from memory.simd import LANES
from memory.vectors.blocks import MAX_INT16
from memory.vectors.inverted_lists import BUDGET, BUFFER_SIZE, MAX_QUERIES, InvertedLists

LISTS = 7


class World:
    """Lists, and their expected content."""

    def __init__(self, width: int, angular: bool, capacity: int = 24 * LANES, quantized: bool = False) -> None:
        rng = np.random.default_rng(0)
        self.vectors = rng.normal(size=(capacity, width)).astype(np.float32)
        self.list_numbers = np.full(capacity, -1, np.int32)
        self.centroids = rng.normal(size=(LISTS, width)).astype(np.float32)
        self.angular, self.quantized = angular, quantized
        self.lists = InvertedLists(self.centroids, capacity, angular, quantized)

    def put(self, slots: np.ndarray, list_numbers: np.ndarray) -> None:
        self.list_numbers[slots] = list_numbers
        self.lists.update(slots, self.list_numbers[slots], self.vectors)

    def similarity(self, queries: np.ndarray, vectors: np.ndarray) -> np.ndarray:
        if self.angular:
            return queries @ vectors.T
        return -np.square(queries[:, None] - vectors).sum(-1)

    def held(self, slots: np.ndarray) -> np.ndarray:
        vectors = self.vectors[slots]
        step = np.abs(vectors).max(axis=1, keepdims=True) / MAX_INT16
        return np.rint(vectors / step) * step if self.quantized else vectors

    def check(self, queries: np.ndarray, k: int, probes: int) -> None:
        similarity, found = self.lists.search(queries, k, probes)
        nearness = self.similarity(queries, self.centroids)
        nearness[:, ~np.isin(np.arange(LISTS), self.list_numbers)] = -np.inf  # empty lists are probed last
        probed = np.argsort(-nearness, axis=1)[:, :probes]
        sizes = np.bincount(self.list_numbers[self.list_numbers >= 0], minlength=LISTS)
        nearer = np.cumsum(sizes[probed], axis=1) - sizes[probed]
        enough = nearer >= max(BUDGET * probes * int(sizes.sum()) // LISTS, k)
        for row, slots in enumerate(found):
            within = np.flatnonzero(np.isin(self.list_numbers, probed[row][~enough[row]]))
            expected = self.similarity(queries[row : row + 1], self.held(within))[0]
            best = np.argsort(-expected, kind="stable")[:k]
            assert slots[: best.size].tolist() == within[best].tolist()
            assert similarity[row, : best.size] == pytest.approx(expected[best], rel=1e-4, abs=1e-5)
            assert (slots[best.size :] == -1).all()
            assert np.isneginf(similarity[row, best.size :]).all()


@pytest.mark.parametrize(("angular", "quantized"), [(True, False), (False, False), (True, True)])
@pytest.mark.parametrize("width", [3, 8, 19])
def test_the_nearest_are_found_after_any_moves(width: int, angular: bool, quantized: bool) -> None:
    world, rng = World(width, angular, quantized=quantized), np.random.default_rng(1)
    queries = rng.normal(size=(20, width)).astype(np.float32)
    for step in range(60):
        slots = rng.permutation(world.list_numbers.size)[: rng.integers(1, 80)]
        world.vectors[slots] = rng.normal(size=(slots.size, width))
        world.put(slots, rng.integers(-1, LISTS if step % 9 else 1, slots.size))
        world.check(queries, 10, int(rng.integers(1, LISTS + 1)))


def test_all_in_one_list_and_more_queries_than_at_once() -> None:
    world = World(16, angular=True)
    world.put(np.arange(world.list_numbers.size), np.full(world.list_numbers.size, 3))
    queries = np.random.default_rng(1).normal(size=(2 * MAX_QUERIES + 5, 16)).astype(np.float32)
    world.check(queries, 5, LISTS)
    world.check(queries, 4 * LANES, LISTS)
    world.put(np.arange(world.list_numbers.size), np.full(world.list_numbers.size, -1))
    assert (world.lists.search(queries, 5, LISTS)[1] == -1).all()


@pytest.mark.parametrize("twins", [4 * LANES, 2 * BUFFER_SIZE])
def test_ties_are_in_the_order_of_the_slots(twins: int) -> None:
    """More ties than asked for, and more than the buffer holds."""
    world = World(8, angular=False, capacity=3 * BUFFER_SIZE)
    slots = np.random.default_rng(1).permutation(world.list_numbers.size)[:twins]
    world.vectors[slots] = world.vectors[slots[0]]
    world.put(np.arange(world.list_numbers.size), np.arange(world.list_numbers.size) % LISTS)
    similarity, (found,) = world.lists.search(world.vectors[slots[:1]], 40, LISTS)
    assert found.tolist() == np.sort(slots)[:40].tolist()
    assert np.unique(similarity).tolist() == [0.0]


def test_zero_is_zero_whatever_its_sign() -> None:
    world = World(2, angular=True)
    world.vectors[:4] = [[-0.0, 1.0], [0.0, 1.0], [-1.0, 0.0], [-0.0, 1.0]]
    world.put(np.arange(4), np.zeros(4, np.int32))
    similarity, found = world.lists.search(np.array([[1.0, 0.0]], np.float32), 4, LISTS)
    assert found.tolist() == [[0, 1, 3, 2]]
    assert similarity.tolist() == [[0.0, 0.0, 0.0, -1.0]]


def test_a_similarity_depends_on_query_and_vector_alone() -> None:
    """Not on the position in the list, other queries or the number of probes: a restored index must answer as before."""
    world, rng = World(19, angular=True), np.random.default_rng(2)
    everything, queries = np.arange(world.list_numbers.size), rng.normal(size=(9, 19)).astype(np.float32)

    def answers(rows: slice) -> list[dict[int, float]]:
        return [
            dict(zip(s.tolist(), c.tolist(), strict=True))
            for c, s in zip(*world.lists.search(queries[rows], 30, 3), strict=True)
        ]

    world.put(everything, everything % LISTS)
    before = answers(slice(None))
    world.put(everything, np.full(everything.size, -1))
    shuffled = rng.permutation(everything)
    world.put(shuffled, shuffled % LISTS)
    assert answers(slice(None)) == before
    assert [answers(slice(n, n + 1))[0] for n in range(9)] == [{k: v for k, v in row.items() if k >= 0} for row in before]


def test_fewer_than_wanted() -> None:
    world = World(8, angular=False)
    world.put(np.array([5, 9]), np.array([0, 1]))
    _, found = world.lists.search(world.vectors[:3], 4, LISTS)
    assert [sorted(row[row >= 0]) for row in found] == [[5, 9]] * 3


def test_a_search_looks_at_a_bounded_number_of_vectors_where_few_lists_have_most_of_them() -> None:
    world, capacity = World(8, True), 24 * LANES
    world.centroids[:] = np.eye(LISTS, 8)
    world.lists = InvertedLists(world.centroids, capacity, True, False)
    numbers = np.concatenate([np.zeros(capacity // 2), np.ones(capacity // 2 - 5), np.full(5, 2)]).astype(np.int32)
    query = np.linspace(1, 0.3, 8, dtype=np.float32)[None]  # near list 0, then 1, then 2
    world.vectors[numbers == 2] = query
    world.put(np.arange(capacity), numbers)
    assert set(numbers[world.lists.search(query, 9, 3)[1][0]]) <= {0, 1}, "lists 0 and 1 have all but five vectors"
    assert set(numbers[world.lists.search(query, capacity, 3)[1][0]]) == {0, 1, 2}, "as many as asked for, where there are"
