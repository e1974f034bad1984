"""The factorization machine against the formulas written out in numpy, and in worlds that it must solve."""

from __future__ import annotations

import numpy as np
import pytest

from learners.rankers.fm import FactorizationMachine
from streams.batch import Feedback


def rows(features: np.ndarray, values: np.ndarray, reward: np.ndarray) -> Feedback:
    n = len(reward)
    return Feedback(
        user=np.arange(1, n + 1),
        timestamp=np.zeros(n),
        history=np.zeros((n, 0), np.int64),
        context=np.zeros((n, 0), np.int64),
        context_values=np.zeros((n, 0), np.float32),
        item=np.arange(1, n + 1),
        request=np.arange(n),
        features=features.astype(np.int64),
        values=values.astype(np.float32),
        reward=reward.astype(np.float32),
        propensity=np.full(n, np.nan, np.float32),
        weight=np.ones(n, np.float32),
        kind=np.ones(n, np.int32),
        outcome_time=np.zeros(n),
        correction=np.zeros(n, np.bool_),
    )


def random_rows(seed: int, n: int = 200) -> Feedback:
    rng = np.random.default_rng(seed)
    values = rng.choice([0.0, 1.0, 0.5, -2.0], (n, 4), p=[0.2, 0.6, 0.1, 0.1])
    return rows(rng.integers(1, 60, (n, 4)), values, rng.random(n) < 0.4)


class Reference:
    """Rendle's model with diagonal AdaGrad, one coordinate at a time, in double precision."""

    def __init__(self, model: FactorizationMachine) -> None:
        self.step, self.factor_step, self.adaptive = model.step, model.factor_step, model.adaptive
        self.weights = model.rows["weights"].astype(np.float64)
        self.squares = model.rows["squares"].astype(np.float64)
        self.w0, self.s0 = float(model.intercept["weights"][0]), float(model.intercept["squares"][0])

    def probability(self, keys: np.ndarray, x: np.ndarray) -> float:
        at = keys & (len(self.weights) - 1)
        odds = self.w0 + self.weights[at, 0] @ x
        for i in range(len(x)):
            for j in range(i + 1, len(x)):
                odds += self.weights[at[i], 1:] @ self.weights[at[j], 1:] * x[i] * x[j]
        return float(1 / (1 + np.exp(-odds)))

    def learn(self, keys: np.ndarray, x: np.ndarray, label: float) -> None:
        at = keys & (len(self.weights) - 1)
        slope = self.probability(keys, x) - label
        total = (self.weights[at, 1:] * x[:, None]).sum(0)
        if self.adaptive:
            self.s0 += slope**2
        self.w0 -= self.step * slope / (np.sqrt(self.s0) if self.adaptive else 1)
        for place, value in zip(at, x, strict=True):
            if value == 0:
                continue
            own = self.weights[place, 1:]
            gradient = np.concatenate([[slope * value], slope * value * (total - own * value)])
            if self.adaptive:
                self.squares[place] += gradient**2
            steps = np.concatenate([[self.step], np.full(own.size, self.factor_step)])
            self.weights[place] -= steps * gradient / (np.sqrt(self.squares[place]) if self.adaptive else 1)


@pytest.mark.parametrize("adaptive", [True, False])
def test_it_predicts_and_learns_as_the_formulas_say(adaptive: bool) -> None:
    model = FactorizationMachine(factors=3, bits=8, adaptive=adaptive, seed=3)
    reference, feedback = Reference(model), random_rows(0)
    for n in range(feedback.rows):
        one = rows(feedback.features[n : n + 1], feedback.values[n : n + 1], feedback.reward[n : n + 1])
        model.score(one)
        keys, x = one.features[0], one.values[0].astype(np.float64)
        assert one.score[0] == pytest.approx(reference.probability(keys, x), abs=2e-5)
        model.learn(one)
        reference.learn(keys, x, float(one.reward[0]))
    np.testing.assert_allclose(model.rows["weights"], reference.weights, atol=2e-4)


def test_a_batch_learns_exactly_what_its_rows_one_by_one_do() -> None:
    together, alone, feedback = FactorizationMachine(bits=8), FactorizationMachine(bits=8), random_rows(1)
    together.learn(feedback)
    for n in range(feedback.rows):
        alone.learn(rows(feedback.features[n : n + 1], feedback.values[n : n + 1], feedback.reward[n : n + 1]))
    assert (together.rows["weights"] == alone.rows["weights"]).all()
    assert (together.rows["squares"] == alone.rows["squares"]).all()


@pytest.mark.parametrize("adaptive", [True, False])
def test_it_solves_a_world_that_no_linear_model_can(adaptive: bool) -> None:
    """Reward is the exclusive or of two features: without pairs, nothing better than a coin."""
    rng = np.random.default_rng(0)
    left, right = rng.integers(0, 2, 20_000), rng.integers(0, 2, 20_000)
    keys = np.stack([left + 11, right + 21], 1)
    feedback = rows(keys, np.ones(keys.shape), left ^ right)
    model = FactorizationMachine(factors=4, bits=6, adaptive=adaptive)
    model.learn(feedback)
    model.score(feedback)
    assert (feedback.score[left != right] > 0.95).all()
    assert (feedback.score[left == right] < 0.05).all()


def test_constant_steps_forget_what_adaptive_steps_remember() -> None:
    before, after = np.ones(5_000), np.zeros(300)
    keys = np.full((5_300, 1), 7)
    feedback = rows(keys, np.ones(keys.shape), np.concatenate([before, after]))
    score = {}
    for adaptive in (True, False):
        model = FactorizationMachine(bits=4, adaptive=adaptive)
        model.learn(feedback)
        model.score(feedback)
        score[adaptive] = feedback.score[0]
    assert score[False] < 0.05 < score[True]


def test_contributions_add_up_to_the_log_odds() -> None:
    model, feedback = FactorizationMachine(bits=8), random_rows(2)
    model.learn(feedback)
    model.score(feedback)
    odds = np.log(feedback.score / (1 - feedback.score))
    told = model.explain(feedback).sum(1) + model.intercept["weights"][0]
    np.testing.assert_allclose(told, odds, atol=2e-4)


def test_hidden_sums_to_the_pairs() -> None:
    model, feedback = FactorizationMachine(bits=8), random_rows(3)
    model.learn(feedback)
    model.score(feedback)
    assert feedback.hidden is not None
    linear = (model.rows["weights"][feedback.features & 255, 0] * feedback.values).sum(1)
    odds = np.log(feedback.score / (1 - feedback.score))
    np.testing.assert_allclose(feedback.hidden.sum(1), odds - linear - model.intercept["weights"][0], atol=2e-4)


def test_extreme_rewards_and_weights_stay_finite() -> None:
    feedback = random_rows(4)
    feedback.reward[:] = np.where(feedback.reward > 0, 1e6, -1e6)
    feedback.values *= 100
    model = FactorizationMachine(bits=8)
    for _ in range(20):
        model.learn(feedback)
    model.score(feedback)
    assert np.isfinite(feedback.score).all()
