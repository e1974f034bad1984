"""ReLoop2 with its memory on a device answers and learns as on the CPU. torch's CPU stands in for a GPU where there is none."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from learners.base import Reranker
from learners.contract.checks import check_learner
from learners.contract.worlds import world
from learners.registry import ConfigError, build
from learners.rerankers.reloop2.reranker import ReLoop2
from memory import digest
from memory.error_memory import ErrorMemory
from memory.vectors import gpu_vectors, vector_index
from memory.vectors.gpu_vectors import GpuVectors
from memory.vectors.vector_index import VectorIndex

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU here")

VARIANTS: dict[str, dict[str, Any]] = {
    "fixed weight": {"weight": 0.4, "gamma": 0.5},
    "learned weight": {"weight": "learned", "half_life": 50, "sample": 1.0},
    "l2": {"similarity": "l2", "temperature": 10.0, "weight": 0.9},
    "inner product": {"similarity": "inner_product", "weight": 0.9},
}


@pytest.fixture(params=["torch on the CPU", pytest.param("cuda", marks=needs_gpu)])
def device(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param != "cuda":
        monkeypatch.setattr(vector_index, "_gpu_vectors", lambda *sizes: GpuVectors(*sizes, device="cpu"))


def pair(**keywords: Any) -> tuple[ReLoop2, ReLoop2]:
    """One on the device, and one on the CPU."""
    given = {"capacity": 100, "neighbours": 10, "index": "flat"} | keywords
    return ReLoop2(8, device="cuda", **given), ReLoop2(8, **given)


@pytest.mark.usefixtures("device")
@pytest.mark.parametrize("keywords", VARIANTS.values(), ids=VARIANTS.keys())
def test_it_answers_and_learns_as_on_the_cpu(keywords: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Over several rounds of the ring, with rows erased, and without one look at the copy in main memory."""
    there, here = pair(**keywords)
    read: list[int] = []
    monkeypatch.setattr(there, "_read_here", lambda hidden: read.append(len(hidden)))
    for seed in range(8):
        for learner in (there, here):
            feedback = world(seed)
            feedback.score = learner.rerank(feedback)
            learner.learn(feedback)
            if seed == 5:
                learner.forget(feedback.user[:3])
        np.testing.assert_allclose(there.rerank(world(90)), here.rerank(world(90)), atol=ReLoop2.tolerance)
    assert not read
    assert there.metrics().keys() == here.metrics().keys()
    for name, value in here.metrics().items():
        assert there.metrics()[name] == pytest.approx(value, abs=1e-5)


@pytest.mark.usefixtures("device")
@pytest.mark.parametrize("name", ["fixed weight", "learned weight", "l2"])
def test_contract(name: str) -> None:
    check_learner(lambda: ReLoop2(8, capacity=100, neighbours=10, index="flat", device="cuda", **VARIANTS[name]))


@pytest.mark.usefixtures("device")
def test_a_row_without_neighbours_keeps_its_score_and_is_no_hit() -> None:
    there, _ = pair(weight=0.9)
    feedback = world(1)
    assert np.array_equal(there.rerank(feedback), feedback.score)
    there.learn(feedback)
    assert isinstance(there.memory, ErrorMemory)
    there.memory.clear()
    assert np.array_equal(there.rerank(feedback), feedback.score)
    assert there.metrics()["hit_rate"] == 0


@pytest.mark.parametrize("keywords", [{}, {"memory": "sketch", "index": "flat"}])
def test_what_cannot_be_on_a_gpu_is_refused_by_name(keywords: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r'device: "cuda" with memory .* index .*; give "neighbours" and "flat"'):
        build(Reranker, "reloop2", {"width": 8, "device": "cuda"} | keywords)


@pytest.mark.usefixtures("device")
def test_a_follower_and_a_restored_copy_have_the_same_outcomes_on_the_device() -> None:
    """Labels arrive with the changes of a leader. If the copy on the device were made before them, labels would be old."""
    leader, _ = pair(weight=0.9)
    follower, restored = pair(weight=0.9)[0], pair(weight=0.9)[0]
    for seed in range(4):
        leader.learn(world(seed))
        follower.apply_changes(leader.take_changes())
    restored.load_state_dict(leader.state_dict())
    want = leader.rerank(world(50))
    assert not np.allclose(want, world(50).score, atol=1e-3)
    for other in (follower, restored):
        np.testing.assert_allclose(other.rerank(world(50)), want, atol=ReLoop2.tolerance)
    assert digest(restored.state_dict()) == digest(leader.state_dict())


@pytest.mark.usefixtures("device")
def test_more_equal_keys_than_candidates_are_read_from_the_exact_search() -> None:
    there, here = pair(weight=0.9, neighbours=5)
    feedback = world(1)
    assert feedback.hidden is not None
    feedback.hidden[:] = 1.0
    for learner in (there, here):
        learner.learn(feedback)
    assert there._read(feedback.hidden).slots.tolist() == here._read(feedback.hidden).slots.tolist()  # type: ignore[union-attr]


@pytest.mark.parametrize("similarity", ["cosine", "inner_product", "l2"])
@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=needs_gpu)])
def test_dead_slots_are_never_found(similarity: Any, device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where every live vector is far less similar than a dead slot's zeros. With none dead, faiss may search."""
    monkeypatch.setattr(vector_index, "_gpu_vectors", lambda *sizes: GpuVectors(*sizes, device=device))
    monkeypatch.setattr(gpu_vectors, "MANY_QUERIES", 20)
    monkeypatch.setattr(gpu_vectors, "MANY_VECTORS", 1)
    there, here = (VectorIndex(300, 8, similarity=similarity, device=where) for where in ("cuda", "cpu"))
    vectors = -100 * np.abs(np.random.default_rng(0).normal(1.0, 0.1, (300, 8)).astype(np.float32))
    queries = np.abs(np.random.default_rng(1).normal(1.0, 0.1, (40, 8)).astype(np.float32))
    dead = np.flatnonzero(np.arange(300) % 3)
    for step in ("full", "some dead", "full again"):
        for index in (there, here):
            if step == "some dead":
                index.delete(dead)
            else:
                index.write(np.arange(300), vectors)
        for some in (queries[:3], queries):
            for k in (5, 20, 100, 300):
                slots, similarities = there.search(some, k)
                want_slots, want = here.search(some, k)
                assert np.array_equal(slots, want_slots)
                assert np.array_equal(similarities, want)
                found = there.nearest(some, k)
                assert found is not None
                close, columns = found.similarity.cpu().numpy(), min(k, there._end)
                np.testing.assert_allclose(close, want[:, :columns], rtol=1e-5, atol=1e-6)
                assert np.array_equal(found.slots.cpu().numpy() < 0, want_slots[:, :columns] < 0)
                assert not np.isin(found.slots.cpu().numpy(), dead).any() or step != "some dead"
    assert len(there) == 300


def test_faiss_searches_for_many_queries_among_many_vectors_and_only_while_no_slot_is_dead(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A stand-in for faiss, whose `knn_gpu` cannot leave out slots either."""
    searched: list[int] = []

    def knn_gpu(resources: Any, queries: Any, vectors: Any, k: int, metric: int) -> tuple[Any, Any]:
        searched.append(len(queries))
        assert metric == gpu_vectors.faiss.METRIC_L2
        distances, slots = torch.topk(torch.cdist(queries, vectors).square(), k, largest=False)
        return distances, slots

    monkeypatch.setattr(gpu_vectors.faiss, "knn_gpu", knn_gpu, raising=False)
    copy = GpuVectors(gpu_vectors.MANY_VECTORS, 4, device="cpu")
    copy._faiss = object()
    rng = np.random.default_rng(0)
    stored, queries = (rng.normal(size=(rows, 4)).astype(np.float32) for rows in (gpu_vectors.MANY_VECTORS, 600))
    copy.write(np.arange(len(stored)), stored, np.ones(len(stored), np.bool_))
    found = {}
    for rows, end, full in ((600, len(stored), True), (600, len(stored), False), (600, 100, True), (5, len(stored), True)):
        found[rows, end, full] = copy.search(queries[:rows], 3, end, angular=False, full=full)[1]
    assert searched == [600]
    assert np.array_equal(found[600, len(stored), True], found[600, len(stored), False])
    assert np.array_equal(found[5, len(stored), True], found[600, len(stored), True][:5])
