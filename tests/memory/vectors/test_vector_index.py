"""One contract over every kind of vector index: exact, inverted lists, GPU."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import faiss
import numpy as np
import pytest
import torch

from memory import digest
from memory.stateful import without_private
from memory.vectors import inverted_file, vector_index
from memory.vectors.gpu_vectors import GpuVectors
from memory.vectors.vector_index import SLACK, VectorIndex

CAPACITY, WIDTH = 400, 8

KINDS = [
    pytest.param({"kind": "flat"}, id="flat"),
    pytest.param({"kind": "ivf", "lists": 8, "probes": 8}, id="ivf"),
    pytest.param(
        {"device": "cuda"},
        id="cuda",
        marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU here"),
    ),
]
"""All lists are probed, so that every kind must find the true neighbours."""

Make = Callable[..., VectorIndex]


@pytest.fixture(params=KINDS)
def make(request: pytest.FixtureRequest) -> Make:
    def made(**keywords: Any) -> VectorIndex:
        return VectorIndex(CAPACITY, WIDTH, **(request.param | keywords))

    return made


@pytest.fixture
def small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """A training takes about sixty steps."""
    monkeypatch.setattr(inverted_file, "WORK", 8 * WIDTH * 15 // 4)


def vectors(seed: int, rows: int, centre: float = 0.0) -> np.ndarray:
    return np.random.default_rng(seed).normal(centre, 1.0, (rows, WIDTH)).astype(np.float32)


def write(index: VectorIndex, slots: np.ndarray, rows: np.ndarray) -> None:
    index.write(slots, rows)
    index.maintain(k=5, rows=len(rows))


def fill(index: VectorIndex, rows: np.ndarray, at_once: int = 50) -> None:
    for start in range(0, len(rows), at_once):
        write(index, np.arange(start, min(start + at_once, len(rows))) % CAPACITY, rows[start : start + at_once])


def expected(similarity: str, stored: np.ndarray, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    stored, queries = stored.astype(np.float64), queries.astype(np.float64)
    if similarity == "l2":
        similarities = -np.square(queries[:, None] - stored).sum(-1)
    else:
        similarities = queries @ stored.T
        if similarity == "cosine":
            similarities /= np.linalg.norm(queries, axis=1)[:, None] * np.linalg.norm(stored, axis=1)
    best = np.argsort(-similarities, axis=1, kind="stable")[:, :k]
    return best, np.take_along_axis(similarities, best, axis=1)


@pytest.mark.parametrize("similarity", ["cosine", "inner_product", "l2"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_most_similar_come_first(make: Make, similarity: Any, dtype: Any) -> None:
    index, stored, queries = make(similarity=similarity, dtype=dtype), vectors(0, CAPACITY), vectors(1, 30)
    fill(index, stored)
    for some in (queries, queries[:3]):  # faiss has different code for many queries and for few
        slots, similarities = index.search(some, 10)
        want_slots, want_close = expected(similarity, stored, some, 10)
        assert np.array_equal(slots, want_slots)
        assert np.allclose(similarities, want_close, rtol=1e-5, atol=1e-5)
        assert (slots.dtype, similarities.dtype) == (np.int64, dtype)


def test_a_slot_is_overwritten_in_place(make: Make) -> None:
    index, stored = make(similarity="l2"), vectors(0, CAPACITY)
    fill(index, stored)
    stored[[7, 300]] = vectors(2, 2)
    write(index, np.array([7, 300]), stored[[7, 300]])
    assert len(index) == CAPACITY
    slots, similarities = index.search(stored, 3)
    assert np.array_equal(slots[:, 0], np.arange(CAPACITY))
    assert not similarities[:, 0].any()
    assert np.array_equal(slots, expected("l2", stored, stored, 3)[0])


def test_a_deleted_slot_is_not_found_until_it_is_written_again(make: Make) -> None:
    index, stored = make(), vectors(0, CAPACITY)
    fill(index, stored)
    gone = np.array([3, 4, 5, 200, CAPACITY - 1])
    index.delete(gone)
    assert len(index) == CAPACITY - 5
    slots, _ = index.search(stored, CAPACITY)
    assert not np.isin(slots, gone).any()
    assert np.array_equal(np.sort(slots[0])[:5], [-1] * 5)
    write(index, gone, stored[gone])
    slots, _ = index.search(stored[gone], 1)
    assert np.array_equal(slots[:, 0], gone)


def test_equal_vectors_come_in_the_order_of_their_slots(make: Make) -> None:
    """Many more ties than candidates, in slots that were overwritten before."""
    index, stored = make(), vectors(0, CAPACITY)
    twins = np.random.default_rng(3).permutation(CAPACITY)[: 5 * SLACK]
    stored[twins] = stored[0]
    order = np.random.default_rng(4).permutation(CAPACITY)
    for start in range(0, CAPACITY, 40):
        write(index, order[start : start + 40], stored[order[start : start + 40]])
    for _ in range(3):
        write(index, twins[::-7].copy(), stored[twins[::-7]])
    for some in (stored[:1], np.repeat(stored[:1], 30, axis=0)):
        slots, similarities = index.search(some, 10)
        assert np.array_equal(slots[0], np.sort(np.append(twins, 0) if 0 not in twins else twins)[:10])
        assert np.ptp(similarities) == 0


def test_fewer_than_asked_for(make: Make) -> None:
    index = make()
    assert [array.shape for array in index.search(vectors(0, 2), 4)] == [(2, 4), (2, 4)]
    assert np.array_equal(index.search(vectors(0, 2), 4)[0], np.full((2, 4), -1))
    write(index, np.array([5, 9]), vectors(1, 2))
    slots, similarities = index.search(vectors(0, 2), 4)
    assert np.array_equal(np.sort(slots), [[-1, -1, 5, 9]] * 2)
    assert np.isneginf(similarities[:, 2:]).all()
    assert np.isfinite(similarities[:, :2]).all()
    assert index.search(vectors(0, 0), 4)[0].shape == (0, 4)
    assert index.search(vectors(0, 2), 0)[0].shape == (2, 0)


def test_a_vector_without_length_has_cosine_0(make: Make) -> None:
    index = make()
    write(index, np.array([0, 1, 2]), np.array([[0.0] * 8, [1.0] * 8, [-1.0] * 8]))
    slots, similarities = index.search(np.stack([np.ones(WIDTH), np.zeros(WIDTH)]), 3)
    assert np.array_equal(slots, [[1, 0, 2], [0, 1, 2]])
    assert np.allclose(similarities, [[1, 0, -1], [0, 0, 0]])


@pytest.mark.usefixtures("small_steps")
def test_a_copy_restored_at_any_time_continues_like_the_original(make: Make) -> None:
    """Also during a training, and after overwriting has shuffled the lists."""
    index, stored, queries = make(probes=2), vectors(0, 3 * CAPACITY), vectors(1, 25)
    stored[::9] = stored[0]
    rng = np.random.default_rng(5)
    copy = make(probes=2)
    for step in range(150):
        slots = rng.permutation(CAPACITY)[: rng.integers(1, 20)]
        rows = stored[rng.integers(0, len(stored), slots.size)]
        for one in (index, copy):
            write(one, slots, rows)
            if step % 10 == 3:
                one.delete(slots[:2])
        assert digest(copy.state_dict()) == digest(index.state_dict())
        same_answers(index, copy, queries)
        if step % 4 == 0:
            copy = make(probes=2)
            copy.load_state_dict(index.state_dict())
            assert digest(copy.state_dict()) == digest(index.state_dict())
            same_answers(index, copy, queries)
    assert getattr(index, "inverted", None) is None or index.inverted.generation >= 1


@pytest.mark.usefixtures("small_steps")
def test_a_twin_follows_by_changes(make: Make) -> None:
    leader, follower, queries = make(probes=2), make(probes=2), vectors(1, 25)
    rng = np.random.default_rng(6)
    for step in range(150):
        slots = rng.permutation(CAPACITY)[: rng.integers(1, 20)]
        write(leader, slots, vectors(step, slots.size))
        if step % 10 == 3:
            leader.delete(slots[:2])
        if step % 3 == 0:
            follower.apply_changes(leader.take_changes())
            followed, led = (digest(without_private(index, index.state_dict())) for index in (follower, leader))
            assert followed == led, "equal except for the sums of a training, which only the leader needs"
            same_answers(leader, follower, queries)
    assert getattr(leader, "inverted", None) is None or leader.inverted.generation >= 1


def same_answers(one: VectorIndex, other: VectorIndex, queries: np.ndarray) -> None:
    for some in (queries, queries[:1]):
        for mine, theirs in zip(one.search(some, 6), other.search(some, 6), strict=True):
            assert np.array_equal(mine, theirs)


def clusters(seed: int, rows: int, apart: float = 6.0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (rng.normal(0, apart, (8, WIDTH))[rng.integers(0, 8, rows)] + rng.normal(0, 1, (rows, WIDTH))).astype(np.float32)


def true_recall(index: VectorIndex, stored: np.ndarray, queries: np.ndarray, k: int) -> float:
    found, true = index.search(queries, k)[0], expected(index.similarity, stored, queries, k)[0]
    return float(np.mean([np.isin(mine, theirs).mean() for mine, theirs in zip(found, true, strict=True)]))


def trained(probes: int) -> VectorIndex:
    index = VectorIndex(CAPACITY, WIDTH, kind="ivf", lists=8, probes=probes)
    fill(index, clusters(0, 10 * CAPACITY))
    assert index.inverted.generation == 1
    return index


def test_until_there_are_lists_search_is_exact() -> None:
    index = VectorIndex(CAPACITY, WIDTH, kind="ivf", lists=8, probes=1)
    stored = vectors(0, 100)
    fill(index, stored)
    assert index.inverted.generation == 0
    assert index.recall(5) == 1.0
    assert true_recall(index, stored, vectors(1, 20), 5) == 1.0


def test_lists_are_where_the_vectors_are() -> None:
    index, last = trained(probes=1), clusters(0, 10 * CAPACITY)[-CAPACITY:]
    assert true_recall(index, last, last[:50], 5) > 0.9
    assert index.recall(5) > 0.9


def test_estimated_recall_is_close_to_true_recall() -> None:
    stored = vectors(0, 4000)
    for probes, low, high in ((1, 0.1, 0.6), (4, 0.4, 0.9)):
        index = VectorIndex(4000, WIDTH, kind="ivf", lists=40, probes=probes)
        for start in range(0, 4000, 50):
            write(index, np.arange(start, start + 50), stored[start : start + 50])
        for step in range(100):
            write(index, np.array([step]), stored[step : step + 1])
        true = true_recall(index, stored, vectors(1, 200), 10)
        assert low < true < high
        assert index.recall(10) == pytest.approx(true, abs=0.12)


def test_lists_too_large_for_the_cache_hold_rounded_vectors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vector_index, "CACHE", 4 * CAPACITY * WIDTH - 1)
    index, again = (VectorIndex(CAPACITY, WIDTH, kind="ivf", lists=8, probes=8) for _ in range(2))
    stored, queries = vectors(0, CAPACITY), vectors(1, 30)
    fill(index, stored)
    fill(index, stored[::-1])
    slots, similarities = index.search(queries, 10)
    want_slots, want_close = expected("cosine", stored[::-1], queries, 10)
    assert np.mean(slots == want_slots) > 0.99
    assert 1e-7 < np.abs(similarities - want_close).max() < 3e-5, "rounded, and not far off"
    again.load_state_dict(index.state_dict())
    for one, other in zip((slots, similarities), again.search(queries, 10), strict=True):
        assert np.array_equal(one, other), "the restored lists have another order"


@pytest.mark.usefixtures("small_steps")
def test_lists_are_trained_again_when_the_vectors_have_moved() -> None:
    index = VectorIndex(CAPACITY, WIDTH, kind="ivf", similarity="l2", lists=8, probes=1)
    fill(index, clusters(0, 4 * CAPACITY), at_once=4)
    before, generation, imbalance = index.recall(5), index.inverted.generation, index.inverted.imbalance()
    assert generation >= 1
    later = clusters(7, 8 * CAPACITY) + 30
    fill(index, later[:CAPACITY], at_once=4)
    fill(index, later[CAPACITY:], at_once=4)
    assert index.inverted.generation > generation
    assert index.recall(5) > before - 0.1
    assert index.inverted.imbalance() < 2 * imbalance


@pytest.mark.parametrize("rows", [1, 7])
def test_the_work_of_a_step_is_proportional_to_the_rows_written(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many slots there are, a step assigns no more than its budget allows."""
    monkeypatch.setattr(inverted_file, "WORK", 8 * WIDTH * 10)
    index = VectorIndex(CAPACITY, WIDTH, kind="ivf", lists=8)
    index.write(np.arange(CAPACITY), clusters(0, CAPACITY))
    moved = []
    while not index.inverted.generation:
        before = np.count_nonzero(index.inverted.places["next"] >= 0)
        index.maintain(5, rows)
        moved.append(np.count_nonzero(index.inverted.places["next"] >= 0) - before)
    assert max(moved) == 10 * rows


def test_sizes_and_devices_are_refused_by_name() -> None:
    for name, keywords in (("capacity", {"capacity": 0}), ("width", {"width": 0}), ("probes", {"probes": 0})):
        with pytest.raises(ValueError, match=f"^{name}: 0; give at least 1"):
            VectorIndex(**({"capacity": 5, "width": 5} | keywords))
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match=r"device: .*no GPU"):
            VectorIndex(5, 5, device="cuda")


@pytest.mark.parametrize("angular", [True, False])
def test_the_gpu_code_finds_the_true_neighbours(angular: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The GPU code runs on the CPU here, in one part and in several."""
    copy = GpuVectors(CAPACITY, WIDTH, device="cpu")
    stored, queries = vectors(0, CAPACITY), vectors(1, 20)
    alive = np.ones(CAPACITY, np.bool_)
    alive[::5] = False
    copy.write(np.arange(CAPACITY), stored, alive)
    want = expected("inner_product" if angular else "l2", stored[alive], queries, 10)[0]
    for part in (1 << 30, CAPACITY * 4 * 3):
        monkeypatch.setattr("memory.vectors.gpu_vectors.SIMILARITY_BYTES", part)
        similarities, slots = copy.search(queries, 10, CAPACITY, angular, False)
        assert np.array_equal(slots, np.flatnonzero(alive)[want])
        assert (np.diff(similarities) <= 0).all()
    similarities, slots = copy.search(queries, CAPACITY, CAPACITY, angular, False)
    assert (slots[:, alive.sum() :] == -1).all()


def test_faiss_uses_one_thread_whatever_thread_calls() -> None:
    index = VectorIndex(CAPACITY, WIDTH)
    write(index, np.arange(CAPACITY), vectors(30, CAPACITY))

    def threads() -> int:
        faiss.omp_set_num_threads(4)
        index.search(vectors(31, 40), 5)
        return faiss.omp_get_max_threads()

    with ThreadPoolExecutor(1) as other:
        assert other.submit(threads).result() == 1
