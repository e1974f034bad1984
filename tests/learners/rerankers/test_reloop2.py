"""ReLoop2 against golden vectors, and its invariants: no change without similar rows, and no use of future labels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from learners.base import Reranker
from learners.contract.checks import check_learner
from learners.contract.worlds import cut, feedback_of, world
from learners.registry import ConfigError, build
from learners.rerankers.reloop2.compensation import attention, estimate_error
from learners.rerankers.reloop2.reranker import ReLoop2
from memory.error_memory import ErrorMemory, ErrorSketch
from memory.stateful import digest
from streams.batch import Feedback

GOLDEN = Path(__file__).parents[2] / "golden"


def rows(hidden: np.ndarray, base: np.ndarray, label: np.ndarray, first: int = 0) -> Feedback:
    numbers = np.arange(first, first + len(hidden))
    feedback = feedback_of(user=numbers + 1, item=numbers + 1, reward=label, timestamp=numbers)
    feedback.hidden, feedback.base = hidden.astype(np.float32), base.astype(np.float32)
    feedback.score = feedback.base.copy()
    return feedback


def queries(golden: Any) -> Feedback:
    return rows(golden["Q"], golden["ybq"], np.zeros(len(golden["Q"])))


@pytest.mark.parametrize("k", [1, 10, 70])
@pytest.mark.parametrize(("name", "similarity"), [("cos", "cosine"), ("l2", "l2")])
def test_golden_neighbours(name: str, similarity: Any, k: int) -> None:
    golden = np.load(GOLDEN / "reloop2_knn.npz")
    n = len(golden["H"])
    memory = ErrorMemory(n, 16, similarity=similarity, dtype=np.float64)
    none = np.zeros(n, np.int64)
    memory.write(golden["H"], golden["y"], golden["yb"], timestamp=none * 1.0, user=none, item=none, k=k)
    evidence = memory.read(golden["Q"], k)
    temperature = 0.1
    weights = attention(evidence, temperature)
    close(weights[:, 0], golden[f"{name}_k{k}/a"])
    close((weights[:, 0] * evidence.label).sum(1), golden[f"{name}_k{k}/ybar"])
    close((weights[:, 0] * evidence.base_score).sum(1), golden[f"{name}_k{k}/ybbar"])
    for weight in (0.4, 0.9):
        for gamma in (0.0, 0.5, 1.0):
            key = f"{name}_k{k}_lam{weight}_gam{gamma}"
            (error,), hit = estimate_error(golden["ybq"], evidence, gamma, temperature)
            close(error, golden[f"{key}/y_err"])
            close(golden["ybq"] + weight * error, golden[f"{key}/y_raw"])
            assert hit.all()
            for where in ({"index": "flat"}, {"index": "ivf", "probes": 1000}):
                learner = ReLoop2(16, weight=weight, gamma=gamma, neighbours=k, similarity=similarity, capacity=n, **where)
                learner.learn(rows(golden["H"], golden["yb"], golden["y"]))
                assert np.abs(learner.rerank(queries(golden)) - golden[f"{key}/y_pred"]).max() < 1e-5


@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU here")
@pytest.mark.parametrize("k", [1, 10, 70])
@pytest.mark.parametrize(("name", "similarity"), [("cos", "cosine"), ("l2", "l2")])
def test_golden_neighbours_on_a_gpu(name: str, similarity: Any, k: int) -> None:
    golden = np.load(GOLDEN / "reloop2_knn.npz")
    learner = ReLoop2(
        16, weight=0.9, neighbours=k, similarity=similarity, capacity=len(golden["H"]), index="flat", device="cuda"
    )
    learner.learn(rows(golden["H"], golden["yb"], golden["y"]))
    assert np.abs(learner.rerank(queries(golden)) - golden[f"{name}_k{k}_lam0.9_gam1.0/y_pred"]).max() < 1e-5


def close(one: np.ndarray, other: np.ndarray) -> None:
    assert np.abs(one - other).max() < 1e-10


def test_golden_clamp() -> None:
    golden = np.load(GOLDEN / "reloop2_knn.npz")
    learner = ReLoop2(16, weight=0.9, gamma=0.0, capacity=len(golden["H"]))
    learner.learn(rows(golden["H"], golden["clamp/yb"], np.zeros(len(golden["H"]))))
    feedback = rows(golden["Q"], golden["clamp/ybq"], np.zeros(len(golden["Q"])))
    assert np.abs(learner.rerank(feedback) - golden["clamp/y_pred"]).max() < 1e-5
    assert (golden["clamp/y_raw"] < 0).all()


def test_golden_blend_of_the_authors_demonstration() -> None:
    """Two neighbours by Euclidean distance, the plain mean of their labels, and weight 0.1."""
    golden = np.load(GOLDEN / "reloop2_knn.npz")
    learner = ReLoop2(16, weight=0.1, similarity="l2", temperature=1e9, neighbours=2, capacity=len(golden["H"]))
    learner.learn(rows(golden["H"], golden["yb"], golden["y"]))
    assert np.abs(learner.rerank(queries(golden)) - golden["mindspore/y_pred"]).max() < 1e-5


@pytest.mark.parametrize("written", [10, 100, 600])
@pytest.mark.parametrize("reading", ["softmax", "count"])
def test_golden_sketch(written: int, reading: Any) -> None:
    golden = np.load(GOLDEN / "reloop2_sketch.npz")
    for weight, gamma in ((0.4, 1.0), (0.9, 0.5)):
        key = f"n{written}/{reading}_lam{weight}_gam{gamma}"
        learner = ReLoop2(16, memory="sketch", weight=weight, gamma=gamma, arrays=5, bits=6, centred=False, reading=reading)
        sketch = ErrorSketch(16, arrays=5, bits=6, centred=False)
        assert isinstance(learner.memory, ErrorSketch)
        learner.memory.planes[...] = sketch.planes[...] = golden["W"]
        sketch.write(golden["H"][:written], golden["y"][:written], golden["yb"][:written])
        evidence = sketch.read(golden["Q"])
        temperature = 0.1 if reading == "softmax" else None
        weights = attention(evidence, temperature)
        (error,), hit = estimate_error(golden["ybq"], evidence, gamma, temperature)
        assert np.array_equal(hit, golden[f"{key}/hit"])
        close(weights[hit, 0], golden[f"{key}/a"].T[hit])
        close(error[hit], golden[f"{key}/y_err"][hit])
        close(np.clip(golden["ybq"] + weight * error, 0, 1), golden[f"{key}/y_pred"])
        learner.learn(rows(golden["H"][:written], golden["yb"][:written], golden["y"][:written]))
        assert np.abs(learner.rerank(queries(golden)) - golden[f"{key}/y_pred"]).max() < 1e-5


def test_golden_ring_with_an_error_filter() -> None:
    golden = np.load(GOLDEN / "reloop2_fifo.npz")
    learner = ReLoop2(
        16, capacity=int(golden["capacity"]), min_error=float(golden["sigma"]), neighbours=10, weight=0.4, index="flat"
    )
    assert isinstance(learner.memory, ErrorMemory)
    for event in range(120):
        one = slice(event, event + 1)
        learner.learn(rows(golden["H"][one], golden["yb"][one], golden["y"][one], event))
        if f"t{event}/slots" in golden:
            assert np.array_equal(learner.memory.rows["item"] - 1, golden[f"t{event}/slots"])
            assert np.abs(learner.rerank(queries(golden)) - golden[f"t{event}/y_pred"]).max() < 1e-5
            found = learner.explain(queries(golden))
            assert found is not None
            assert np.array_equal(found.item - 1, golden[f"t{event}/neighbour_event"])


VARIANTS: dict[str, dict[str, Any]] = {
    "ivf": {"capacity": 100, "lists": 4, "neighbours": 10, "weight": 0.4},
    "flat": {"capacity": 100, "index": "flat", "neighbours": 10, "weight": 0.4},
    "l2": {"capacity": 100, "similarity": "l2", "temperature": 10.0, "gamma": 0.5, "weight": 0.9},
    "learned weight": {"capacity": 100, "weight": "learned", "half_life": 50},
    "learned weight, all ages alike": {"capacity": 100, "weight": "learned", "half_life": 50, "ages": 1, "sample": 1.0},
    "filter": {"capacity": 100, "min_error": 0.3, "clear_every": 150, "weight": 0.4},
    "sketch": {"memory": "sketch", "arrays": 5, "bits": 4, "decay": 0.9, "weight": 0.4},
    "sketch, uncentred": {
        "memory": "sketch",
        "arrays": 5,
        "bits": 4,
        "centred": False,
        "reading": "softmax",
        "weight": "learned",
    },
}


@pytest.mark.parametrize("keywords", VARIANTS.values(), ids=VARIANTS.keys())
def test_contract_of_every_variant(keywords: dict[str, Any]) -> None:
    check_learner(lambda: ReLoop2(8, **keywords))


@pytest.mark.parametrize("keywords", VARIANTS.values(), ids=VARIANTS.keys())
def test_an_empty_memory_or_weight_0_keeps_every_bit(keywords: dict[str, Any]) -> None:
    feedback = world(1)
    assert np.array_equal(ReLoop2(8, **keywords).rerank(feedback), feedback.score)
    learner = ReLoop2(8, **(keywords | {"weight": 0.0}))
    learner.learn(feedback)
    assert np.array_equal(learner.rerank(feedback), feedback.score)


@pytest.mark.parametrize("keywords", VARIANTS.values(), ids=VARIANTS.keys())
def test_scores_stay_within_0_and_1(keywords: dict[str, Any]) -> None:
    learner = ReLoop2(8, **({"weight": 1.0} | keywords | {"gamma": 0.0}))
    feedback = world(1)
    feedback.base = feedback.score = np.where(feedback.reward > 0, 0.01, 0.99).astype(np.float32)
    learner.learn(feedback)
    score = learner.rerank(feedback)
    assert score.dtype == np.float32
    assert 0 <= score.min() <= score.max() <= 1
    assert not np.array_equal(score, feedback.score)


def test_a_row_in_an_empty_bucket_keeps_its_score() -> None:
    learner = ReLoop2(8, memory="sketch", arrays=1, bits=20, centred=False)
    learner.learn(cut(world(1), 0, 1))
    feedback = world(2)
    unmoved = learner.rerank(feedback) == feedback.score
    assert unmoved.mean() > 0.9


def test_the_base_score_is_stored_not_the_corrected_one() -> None:
    learner = ReLoop2(8, capacity=300)
    feedback = world(1)
    feedback.score = np.full(feedback.rows, 0.9, np.float32)
    learner.learn(feedback)
    assert isinstance(learner.memory, ErrorMemory)
    assert np.array_equal(learner.memory.rows["base_score"][: feedback.rows], feedback.base)


def test_no_label_reaches_the_scores_of_its_own_batch() -> None:
    """Poisoned labels of a batch change the scores of the next batch, but not its own."""
    learners = ReLoop2(8, capacity=300), ReLoop2(8, capacity=300)
    poisoned, feedback = world(1), world(1)
    poisoned.reward = 1 - poisoned.reward
    for one in learners:
        one.learn(world(0))
    assert np.array_equal(learners[0].rerank(feedback), learners[1].rerank(poisoned))
    learners[0].learn(feedback)
    learners[1].learn(poisoned)
    assert not np.array_equal(learners[0].rerank(feedback), learners[1].rerank(feedback))


def test_memory_can_be_emptied_at_regular_intervals() -> None:
    learner = ReLoop2(8, capacity=300, clear_every=100)
    feedback = world(1)
    for start in range(0, 240, 60):
        learner.learn(cut(feedback, start, start + 60))
        assert len(learner.memory) == 60, "60 rows and 60 more are too many"


@pytest.mark.parametrize("weight", [0.4, "learned"])
def test_a_hidden_vector_is_needed_and_must_be_finite(weight: Any) -> None:
    learner, feedback = ReLoop2(8, capacity=600, weight=weight), world(1)
    learner.learn(world(2))
    feedback.hidden[3] = np.nan  # type: ignore[index]
    learner.learn(feedback)
    assert len(learner.memory) == 2 * feedback.rows - 1
    assert learner.metrics()["left_out"] == 1
    with pytest.raises(FloatingPointError, match="hidden"):
        learner.rerank(feedback)
    feedback.hidden = None
    with pytest.raises(ValueError, match="hidden"):
        learner.learn(feedback)


def test_metrics_count_reads_and_hits() -> None:
    learner, feedback = ReLoop2(8, capacity=480, weight=0.5), world(1)
    learner.rerank(feedback)
    assert learner.metrics()["hit_rate"] == 0
    learner.learn(feedback)
    moved = np.abs(learner.rerank(feedback) - feedback.score).sum()
    metrics = learner.metrics()
    assert metrics["reads"] == 480
    assert metrics["hit_rate"] == 0.5
    assert metrics["compensation"] == pytest.approx(moved / 480)
    assert metrics["fill"] == 0.5
    assert metrics["recall"] == 1.0


def test_neighbours_explain_the_score() -> None:
    learner, feedback = ReLoop2(8, capacity=300, neighbours=7, weight=0.4), world(1)
    learner.learn(feedback)
    later = world(2)
    later.timestamp = later.timestamp + 1e6
    found = learner.explain(later)
    assert found is not None
    assert found.item.shape == (240, 7)
    assert np.isin(found.item, feedback.item).all()
    assert (found.age > 0).all()
    assert np.allclose(found.weight.sum(axis=1), 1)
    assert np.allclose(learner.rerank(later), 0.6 * later.score + 0.4 * (found.weight * found.label).sum(axis=1), atol=1e-6)
    assert ReLoop2(8, memory="sketch").explain(later) is None


def test_a_learned_weight_follows_the_usefulness_of_the_memory() -> None:
    rng = np.random.default_rng(0)
    learner = ReLoop2(4, weight="learned", half_life=500, capacity=1000, neighbours=20)
    weights = []
    for batch in range(120):
        hidden = rng.normal(size=(100, 4))
        true = np.where(hidden[:, 0] > 0, 0.9, 0.1)
        label = rng.random(100) < true
        base = true if batch < 60 else 1 - true  # first the ranker is right, then it is wrong
        learner.rerank(rows(hidden, base, label))
        learner.learn(rows(hidden, base, label))
        weights.append(learner.weight)
    assert weights[0] == 0.5, "without outcomes, all values have equal weight"
    assert weights[59] < 0.1
    assert weights[119] > 0.9


def learn_rows(learner: ReLoop2, key: np.ndarray, base: float, label: np.ndarray) -> None:
    learner.learn(rows(np.tile(key, (len(label), 1)), np.full(len(label), base), label))


def test_each_age_window_averages_its_own_neighbours() -> None:
    """Of 8 identical rows the last 2 are clicks, so the four age windows estimate 2/8, 2/4, 2/2 and 1/1."""
    key = np.array([1.0, 0.0])
    learner = ReLoop2(2, capacity=8, neighbours=8, ages=4, index="flat")
    learn_rows(learner, key, 0.5, np.array([0, 0, 0, 0, 0, 0, 1, 1]))
    query = rows(key[None], np.array([0.5]), np.zeros(1))
    assert learner.learned is not None
    assert np.allclose(learner.learned.values, 0.125), "without outcomes, half of the error, in equal shares"
    mean = (2 / 8 + 2 / 4 + 2 / 2 + 1 / 1) / 4
    assert learner.rerank(query)[0] == pytest.approx(0.5 * 0.5 + 0.5 * mean)
    found = learner.explain(query)
    assert found is not None
    assert found.weight.sum() == pytest.approx(1)
    assert (found.weight * found.label).sum() == pytest.approx(mean)
    learner.learned.trust["loss"][:3] = 1e6  # only the shortest window keeps its weight
    assert learner.rerank(query)[0] == pytest.approx(0.75)
    assert learner.metrics()["horizon"] == 1


def test_without_recent_neighbours_older_ones_are_used() -> None:
    near, far = np.array([1.0, 0.0]), np.array([-1.0, 0.0])
    scores = []
    for ages in (1, 4):
        learner = ReLoop2(2, capacity=8, neighbours=2, ages=ages, index="flat")
        learner.learn(rows(np.repeat([near, far], [2, 5], axis=0), np.full(7, 0.5), np.repeat([1, 0], [2, 5])))
        scores.append(learner.rerank(rows(near[None], np.array([0.5]), np.zeros(1))))
    assert np.allclose(scores[0], 0.75)
    assert np.allclose(scores[1], scores[0])


def test_after_a_shift_only_recent_neighbours_count_and_later_all_again() -> None:
    """The ranker is constant, and the labels of two kinds of rows are swapped. Old rows stay in the memory for long."""
    rng = np.random.default_rng(0)
    learners = {ages: ReLoop2(4, capacity=8000, neighbours=200, half_life=500, ages=ages) for ages in (1, 4)}
    loss: dict[int, list[float]] = {1: [], 4: []}
    horizons = []
    for batch in range(160):
        hidden = rng.normal(size=(100, 4))
        likely = np.where((hidden[:, 0] > 0) == (batch < 80), 0.9, 0.1)
        label = rng.random(100) < likely
        for ages, learner in learners.items():
            score = np.clip(learner.rerank(rows(hidden, np.full(100, 0.5), label)), 1e-3, 1 - 1e-3)
            loss[ages].append(float(-np.log(np.where(label, score, 1 - score)).mean()))
            learner.learn(rows(hidden, np.full(100, 0.5), label))
        horizons.append(learners[4].metrics()["horizon"])
    change = np.array(loss[4]) - np.array(loss[1])
    assert abs(change[40:80].mean()) < 0.005, "no harm before the shift"
    assert change[85:120].mean() < -0.1, "half of the stored rows are from before the shift"
    assert max(horizons[85:100]) < 3000 < horizons[79]


def test_a_fixed_weight_ignores_ages_and_sample() -> None:
    """It is the paper's method, bit for bit: no additional state, and the same scores."""
    one, other = ReLoop2(8, capacity=100, weight=0.4), ReLoop2(8, capacity=100, weight=0.4, ages=9, sample=0.1)
    for learner in (one, other):
        learner.learn(world(1))
    assert digest(one.state_dict()) == digest(other.state_dict())
    assert not any("trust" in name for name in one.state_dict())
    assert np.array_equal(one.rerank(world(2)), other.rerank(world(2)))


def test_learning_reads_only_a_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    learner, read = ReLoop2(8, capacity=300, sample=0.1), []
    learner.learn(world(0))
    original = learner.memory.read
    monkeypatch.setattr(learner.memory, "read", lambda queries, k: read.append(len(queries)) or original(queries, k))  # type: ignore[func-returns-value,call-arg]
    for seed in range(1, 11):
        learner.learn(world(seed))
    assert 0 < sum(read) < 0.25 * 10 * world(0).rows


@pytest.mark.parametrize("size", [1, 7, 240])
def test_the_sample_does_not_depend_on_the_micro_batch_size(size: int) -> None:
    feedback, learner = world(1), ReLoop2(8, capacity=300, neighbours=5)
    learner.learn(cut(world(0), 0, 1))
    for start in range(0, feedback.rows, size):
        learner.learn(cut(feedback, start, min(start + size, feedback.rows)))
    assert learner.learned is not None
    once = ReLoop2(8, capacity=300, neighbours=5)
    once.learn(cut(world(0), 0, 1))
    once.learn(feedback)
    assert once.learned is not None
    assert learner.learned.clock["chance"] == once.learned.clock["chance"] > 0


def test_reusing_the_evidence_of_a_batch_changes_nothing() -> None:
    """Scoring a batch before learning it saves a second look-up, and the state is the same, bit for bit."""
    one, other = (ReLoop2(8, weight="learned", capacity=300, neighbours=5) for _ in range(2))
    for seed in range(4):
        feedback, same = world(seed), world(seed)
        one.rerank(feedback)
        if seed == 2:
            for learner in (one, other):
                learner.forget(feedback.user[:5])
        one.learn(feedback)
        other.learn(same)
        assert digest(one.state_dict()) == digest(other.state_dict())


def test_an_unavailable_device_is_refused_by_name() -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    with pytest.raises(ConfigError, match="no GPU"):
        build(Reranker, "reloop2", {"width": 8, "index": "flat", "device": "cuda"})
