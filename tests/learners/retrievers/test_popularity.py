from __future__ import annotations

from collections import defaultdict

import numpy as np
import pytest

from learners.base import Exclusion
from learners.contract.worlds import cut, feedback_of, requests_of
from learners.kernels.top_k import top_k
from learners.retrievers.popularity import Popularity
from memory.stateful import digest


def stream(rows, seed=0, items=30, span=3000.0):
    rng = np.random.default_rng(seed)
    return feedback_of(
        user=rng.integers(1, 9, rows),
        item=rng.zipf(1.5, rows) % items + 1,
        reward=rng.integers(-1, 3, rows),
        timestamp=np.sort(rng.uniform(0, span, rows)),
    )


def truth(feedback, now, half_life):
    counts = defaultdict(float)
    for item, reward, request in zip(feedback.item, feedback.reward, feedback.request, strict=True):
        if reward > 0:
            counts[int(item)] += 2 ** ((feedback.timestamp[request] - now) / half_life)
    return counts


@pytest.mark.parametrize("half_life", [50.0, 2.0, np.inf])
def test_decayed_counts_are_exact(half_life):
    feedback = stream(500)  # at a half-life of 2 s the counts are rescaled on the way
    learner = Popularity(64, half_life)
    learner.learn(feedback)
    now = float(
        feedback.timestamp[feedback.request[feedback.reward > 0]].max()
    )  # later requests are answered as of the latest event
    counts = truth(feedback, now, half_life)
    items = np.arange(1, 40)
    batch = feedback_of(user=np.ones(39), item=items, reward=np.zeros(39), timestamp=np.full(39, now))
    score = learner.score(batch)
    expected = np.array([counts[i] / (1 + counts[i]) for i in items])
    assert score == pytest.approx(expected, rel=1e-5)
    found = learner.retrieve(requests_of([5], now), 10, Exclusion.none(1))
    assert [counts[i] for i in found.item] == pytest.approx(sorted(counts.values(), reverse=True)[:10])
    assert found.score == pytest.approx([counts[i] / (1 + counts[i]) for i in found.item], rel=1e-5)


def test_no_half_life_is_no_decay():
    never, zero = Popularity(64, np.inf), Popularity(64, 0)
    for learner in (never, zero):
        learner.learn(stream(300))
    assert digest(never.state_dict()) == digest(zero.state_dict())
    assert never.items["count"].sum() == np.count_nonzero(stream(300).reward > 0)


def test_each_request_has_its_own_exclusions():
    learner = Popularity(16, np.inf)
    learner.learn(feedback_of(user=[1] * 6, item=[1, 1, 1, 2, 2, 3], reward=[1] * 6))
    exclude = Exclusion(np.array([1, 99, 2, 1, 3, 2]), np.array([0, 2, 2, 3, 6]))
    found = learner.retrieve(requests_of([1, 2, 3, 4]), 2, exclude)
    assert [found.item[found.request == b].tolist() for b in range(4)] == [[2, 3], [1, 2], [1, 3], []]
    assert learner.retrieve(requests_of([1, 2, 3, 4]), 0, exclude).item.size == 0


def test_weights_count_and_rows_without_reward_do_not():
    learner = Popularity(16, np.inf)
    learner.learn(feedback_of(user=[1] * 4, item=[1, 2, 2, 3], reward=[1, 1, 1, 0], weight=[3, 1, 1, 9]))
    assert learner.retrieve(requests_of([1]), 9, Exclusion.none(1)).item.tolist() == [1, 2]


def test_removed_items_are_gone():
    learner = Popularity(16)
    learner.learn(feedback_of(user=[1, 1, 1], item=[1, 1, 2], reward=[1, 1, 1]))
    learner.remove(np.array([1, 77]))
    assert learner.retrieve(requests_of([1]), 9, Exclusion.none(1)).item.tolist() == [2]


@pytest.mark.parametrize("size", [1, 7, 500])
@pytest.mark.parametrize("capacity", [5, 64])
def test_the_state_does_not_depend_on_the_micro_batch_size(size, capacity):
    feedback = stream(300, seed=2)
    whole, pieces = Popularity(capacity, 3.0), Popularity(capacity, 3.0)
    whole.learn(feedback)
    for start in range(0, 300, size):
        pieces.learn(cut(feedback, start, start + size))
    assert digest(pieces.state_dict()) == digest(whole.state_dict())


def test_late_events_and_late_requests():
    learner = Popularity(16, 10.0)
    learner.learn(feedback_of(user=[1, 1], item=[1, 2], reward=[1, 1], timestamp=[1e9, 1e9 - 20_000]))
    found = learner.retrieve(requests_of([1], now=0.0), 9, Exclusion.none(1))
    assert found.item.tolist() == [1]
    assert found.score.tolist() == [0.5]


@pytest.mark.parametrize("k", [0, 1, 5, 200])
def test_top_k_is_a_stable_order(k):
    rng = np.random.default_rng(1)
    score = np.round(rng.normal(size=120), 1)
    score[::17] = np.nan
    slot = rng.permutation(1000)[:120]
    order = sorted(np.flatnonzero(score > 0), key=lambda position: (-score[position], slot[position]))
    assert top_k(score, slot, k).tolist() == order[:k]


@pytest.mark.parametrize("k", [1, 20, 300])
@pytest.mark.parametrize("falling", [False, True])
def test_top_k_of_more_scores_than_are_collected_at_once(k, falling):
    """Few distinct scores, so that ties lie on both sides of each selection."""
    rng = np.random.default_rng(2)
    score = np.sort(rng.integers(-2, 40, 6000)).astype(np.float32)
    score = score[::-1].copy() if falling else score
    slot = rng.permutation(score.size)
    order = sorted(np.flatnonzero(score > 0), key=lambda position: (-score[position], slot[position]))
    assert top_k(score, slot, k).tolist() == order[:k]


def test_evidence_is_the_log_of_the_count():
    learner = Popularity(16, 10.0)
    learner.learn(feedback_of(user=[1, 1], item=[1, 2], reward=[1, 1], weight=[4, 50], timestamp=[0.0, 10.0]))
    rows = feedback_of(user=[1] * 3, item=[1, 2, 3], reward=[0] * 3, timestamp=[10.0] * 3)
    assert learner.evidence(rows) == pytest.approx(np.log([[2.02], [50.02], [0.02]]), rel=1e-5)
    assert [(column.name, column.prior) for column in learner.evidence_columns] == [("log_count", 0.05)]
