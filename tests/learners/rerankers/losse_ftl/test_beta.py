"""A learned beta: where the values tell nothing it stays 0, where they tell something it is found, and no row counts twice."""

from __future__ import annotations

import numpy as np
import pytest

from learners.contract.worlds import cut
from learners.rerankers.losse_ftl.beta import LearnedBeta, limited
from tests.learners.rerankers.losse_ftl.shop import learner, satiated


def stream(rows: int, beta: float, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scores, values, and labels whose probability is ``score + beta * value``."""
    rng = np.random.default_rng(seed)
    score = rng.uniform(0.2, 0.8, rows)
    value = limited(score, rng.normal(0.0, 0.15, rows))
    label = rng.random(rows) < score + beta * value
    return score.astype(np.float32), value, label.astype(np.float32)


def betas(learned: LearnedBeta, score: np.ndarray, value: np.ndarray, label: np.ndarray, weight: float = 1.0) -> np.ndarray:
    """Beta before each row; then the row is learned, if it is sampled."""
    before = np.empty(score.size)
    for n in range(score.size):
        before[n], row = learned.value, slice(n, n + 1)
        if learned.sample(1).size:
            learned.learn(score[row], value[row], label[row], np.array([weight], np.float32))
    return before


def loss(score: np.ndarray, label: np.ndarray) -> float:
    """Sum of the log losses."""
    return float(-np.log(np.where(label > 0, score, 1.0 - score)).sum())


@pytest.mark.parametrize("sample", [1.0, 0.2])
def test_values_that_tell_nothing_are_rarely_believed_and_cost_almost_nothing(sample: float) -> None:
    found, lost = [], []
    for seed in range(100):
        score, value, label = stream(2000, 0.0, seed)
        before = betas(LearnedBeta(30_000, sample), score, value, label)
        found.append(before.any())
        lost.append(loss(score + before * value, label) - loss(score, label))
    assert np.mean(found) <= 0.08, "beta leaves 0 in one of 20 streams at most, but for chance"
    assert np.mean(lost) < 0.5, "nats of 2,000 rows"


def test_the_scores_of_a_learned_beta_are_a_constant_worse_at_most() -> None:
    """Values that are as wrong as they can be, after they were right: the mean beta is the mixture of all betas."""
    score, value, label = stream(3000, 1.0, 1)
    label[1500:] = value[1500:] < 0
    learned, lost = LearnedBeta(1000, 1.0), 0.0
    for n in range(score.size):
        mean = float(learned.belief["mass"][0] @ (np.arange(17) / 16))
        lost += loss(score[n] + mean * value[n], label[n]) - loss(score[n], label[n])
        learned.learn(score[n : n + 1], value[n : n + 1], label[n : n + 1], np.ones(1, np.float32))
        if n == 1499:
            assert learned.value > 0.7
            lost = 0.0
    assert learned.value == 0.0
    assert lost < np.log(1000 / np.log(2) / 0.95) + 0.2, "a belief never falls below what one step gives back to it"


@pytest.mark.parametrize("beta", [0.5, 1.0])
def test_a_beta_that_helps_is_found(beta: float) -> None:
    learned = LearnedBeta(30_000, 1.0)
    betas(learned, *stream(4000, beta, 2))
    assert learned.value == pytest.approx(beta, abs=0.25)
    assert LearnedBeta(30_000, 1.0).value == 0.0, "nothing speaks for it yet"


def test_no_row_counts_more_than_once() -> None:
    heavy, light = LearnedBeta(30_000, 1.0), LearnedBeta(30_000, 1.0)
    for learned, weight in ((heavy, 1e6), (light, 1.0)):
        betas(learned, *stream(50, 0.0, 3))
        half, one = np.full(1, 0.5, np.float32), np.ones(1, np.float32)
        learned.learn(half, np.array([0.4]), one, np.full(1, weight, np.float32))
    np.testing.assert_allclose(heavy.belief["mass"], light.belief["mass"], rtol=1e-12)
    equal, many = LearnedBeta(30_000, 1.0), LearnedBeta(30_000, 1.0)
    np.testing.assert_array_equal(betas(equal, *stream(900, 0.5, 4)), betas(many, *stream(900, 0.5, 4), weight=8.0))


def test_rows_are_sampled_by_their_number_and_from_all_positions() -> None:
    taken = LearnedBeta(30_000, 0.2).sample(50_000)
    assert taken.size == pytest.approx(10_000, rel=0.01)
    positions = np.bincount(taken % 5, minlength=5)
    assert positions.min() > 0.9 * positions.max(), "requests of 5 rows"
    parts = LearnedBeta(30_000, 0.2)
    np.testing.assert_array_equal(np.r_[parts.sample(700), parts.sample(300) + 700], taken[taken < 1000])
    assert LearnedBeta(30_000, 1.0).sample(1000).size == 1000


def test_a_reranker_does_not_believe_a_few_rows_of_coin_flips() -> None:
    found = 0
    for seed in range(6):
        flips, made = satiated(400, seed), learner(beta="learned", sample=0.2, waves=24, horizon=1)
        flips.reward = (np.random.default_rng(seed + 50).random(flips.rows) < 0.3).astype(np.float32)
        largest = 0.0
        for n in range(flips.rows):
            made.learn(cut(flips, n, n + 1))
            largest = max(largest, made.beta)
        found += largest > 0.0
    assert found <= 1
