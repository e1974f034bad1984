"""ReLoop2 with its memory on a device answers and learns as on the CPU. torch's CPU stands in for a GPU where there is none."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from learners.contract.worlds import world
from learners.rerankers.reloop2.reranker import ReLoop2
from memory import digest
from memory.error_memory import ErrorMemory
from memory.vectors import gpu_vectors, vector_index
from memory.vectors.gpu_vectors import GpuVectors

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
def test_a_row_without_neighbours_keeps_its_score_and_is_no_hit() -> None:
    there, _ = pair(weight=0.9)
    feedback = world(1)
    assert np.array_equal(there.rerank(feedback), feedback.score)
    there.learn(feedback)
    assert isinstance(there.memory, ErrorMemory)
    there.memory.clear()
    assert np.array_equal(there.rerank(feedback), feedback.score)
    assert there.metrics()["hit_rate"] == 0


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


@pytest.mark.parametrize("angular", [True, False])
@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=needs_gpu)])
def test_dead_slots_are_never_found(angular: bool, device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where every live vector is far less similar than a dead slot's zeros, and with each way of searching."""
    vectors = -1e6 * np.abs(np.random.default_rng(0).normal(1.0, 0.1, (300, 8)).astype(np.float32))
    alive = np.arange(300) % 3 == 0
    copy = GpuVectors(300, 8, device=device)
    copy.write(np.arange(300), np.where(alive[:, None], vectors, 0), alive)
    queries = np.abs(np.random.default_rng(1).normal(1.0, 0.1, (40, 8)).astype(np.float32))
    for few in (1, 1000):
        monkeypatch.setattr(gpu_vectors, "FEW", few)
        monkeypatch.setattr(gpu_vectors, "MANY", 0)
        for k in (20, 100, 300):
            similarity, slots = copy.search(queries, k, 300, angular)
            live = min(k, 100)
            assert alive[slots[:, :live]].all()
            assert (slots[:, live:] == -1).all()
            assert np.isneginf(similarity[:, live:]).all()
            assert np.isfinite(similarity[:, :live]).all()
