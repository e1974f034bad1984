"""The factorization machine, against a plain numpy implementation and on problems that it must solve."""

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
    """The formulas of the model and its updates, one weight at a time, in double precision."""

    def __init__(self, model: FactorizationMachine) -> None:
        self.learning_rate, self.factor_learning_rate, self.l2 = model.learning_rate, model.factor_learning_rate, model.l2
        self.weights = model.rows["weights"].astype(np.float64)
        self.scales = model.rows["scales"].astype(np.float64)
        self.squares = model.rows["squares"].astype(np.float64)
        self.w0, self.s0 = float(model.intercept["weights"][0]), float(model.intercept["squares"][0])

    def unit(self, at: np.ndarray, values: np.ndarray) -> np.ndarray:
        scales = np.where(self.scales[at] > 0, self.scales[at], np.maximum(np.abs(values), 1e-300))
        x = np.clip(values / scales, -1, 1)
        return x / max(np.sqrt((x**2).sum()), 1e-300)

    def probability(self, keys: np.ndarray, values: np.ndarray) -> float:
        at = keys & (len(self.weights) - 1)
        x = self.unit(at, values)
        odds = self.w0 + self.weights[at, 0] @ x
        for i in range(len(x)):
            for j in range(i + 1, len(x)):
                odds += self.weights[at[i], 1:] @ self.weights[at[j], 1:] * x[i] * x[j]
        return float(1 / (1 + np.exp(-odds)))

    def learn(self, keys: np.ndarray, values: np.ndarray, label: float, weight: float = 1.0) -> None:
        at = keys & (len(self.weights) - 1)
        for row, magnitude in zip(at, np.abs(values), strict=True):
            if magnitude > self.scales[row]:
                self.scales[row] = min(magnitude, 2 * self.scales[row] or magnitude)
        x = self.unit(at, values)
        miss = self.probability(keys, values) - label
        total = x @ self.weights[at, 1:]
        lengths = ((x[:, None] * (total - x[:, None] * self.weights[at, 1:])) ** 2).sum(1)
        speed = self.learning_rate / np.sqrt(self.s0)
        speed += (self.learning_rate * x**2 / np.sqrt(self.squares[at, 0])).sum()
        speed += (self.factor_learning_rate * lengths / np.sqrt(self.squares[at, 1])).sum()
        slope = weight * miss / (1 + weight * speed / 4)
        self.s0 += weight * miss**2
        self.w0 -= self.learning_rate * slope / np.sqrt(self.s0)
        for i in np.flatnonzero(x):
            row, square = self.weights[at[i]], self.squares[at[i]]
            square += weight * miss**2 * np.array([x[i] ** 2, lengths[i] / (row.size - 1)])
            row[0] -= self.learning_rate * slope * x[i] / np.sqrt(square[0])
            rate = self.factor_learning_rate / np.sqrt(square[1])
            gradient = x[i] * (total - x[i] * row[1:])
            row[1:] = (row[1:] - rate * slope * gradient) / (1 + rate * self.l2)


@pytest.mark.parametrize("l2", [0.0, 0.02])
def test_it_predicts_and_learns_as_the_formulas_say(l2: float) -> None:
    model = FactorizationMachine(factors=3, bits=8, l2=l2, seed=3)
    reference, feedback = Reference(model), random_rows(0)
    for n in range(feedback.rows):
        one = rows(feedback.features[n : n + 1], feedback.values[n : n + 1], feedback.reward[n : n + 1])
        one.weight[:] = 0.5 + n % 3
        model.score(one)
        keys, values = one.features[0], one.values[0].astype(np.float64)
        assert one.score[0] == pytest.approx(reference.probability(keys, values), abs=2e-5)
        model.learn(one)
        reference.learn(keys, values, float(one.reward[0]), float(one.weight[0]))
    np.testing.assert_allclose(model.rows["weights"], reference.weights, atol=2e-4)
    np.testing.assert_allclose(model.rows["squares"], reference.squares, rtol=1e-3)


def test_a_batch_learns_the_same_as_its_rows_one_by_one() -> None:
    together, alone, feedback = FactorizationMachine(bits=8), FactorizationMachine(bits=8), random_rows(1)
    together.learn(feedback)
    for n in range(feedback.rows):
        alone.learn(rows(feedback.features[n : n + 1], feedback.values[n : n + 1], feedback.reward[n : n + 1]))
    assert (together.rows["weights"] == alone.rows["weights"]).all()
    assert (together.rows["squares"] == alone.rows["squares"]).all()
    assert (together.rows["scales"] == alone.rows["scales"]).all()


def test_it_solves_a_world_that_no_linear_model_can() -> None:
    """The reward is the exclusive or of two features. A model without pairs cannot learn it."""
    rng = np.random.default_rng(0)
    left, right = rng.integers(0, 2, 20_000), rng.integers(0, 2, 20_000)
    keys = np.stack([left + 11, right + 21], 1)
    feedback = rows(keys, np.ones(keys.shape), left ^ right)
    model = FactorizationMachine(factors=4, bits=6)
    model.learn(feedback)
    model.score(feedback)
    assert (feedback.score[left != right] > 0.95).all()
    assert (feedback.score[left == right] < 0.05).all()


def first_move(columns: int, **keywords: float) -> float:
    """Return the log-odds of a row of categories after learning it once as positive, starting from 0."""
    feedback = rows(np.arange(1, columns + 1)[None], np.ones((1, columns)), np.ones(1))
    model = FactorizationMachine(bits=12, init=0.0, **keywords)  # type: ignore[arg-type]
    model.learn(feedback)
    model.score(feedback)
    return float(np.log(feedback.score[0] / (1 - feedback.score[0])))


@pytest.mark.parametrize("columns", [1, 2, 5, 20, 200])
def test_an_update_does_not_depend_on_the_number_of_columns(columns: int) -> None:
    """It is that of the intercept and one column of value 1, or a little more: many columns have smaller sums of squares."""
    share = 0.5 / (1 + 2 * 0.7 / np.sqrt(0.15) / 4) * 0.7  # damped gradient at probability 0.5, times the learning rate
    lower = share * 2 / np.sqrt(0.15 + 0.25)
    upper = share * (1 / np.sqrt(0.15 + 0.25) + 1 / np.sqrt(0.15))
    assert lower - 1e-5 <= first_move(columns) <= upper + 1e-5


@pytest.mark.parametrize("columns", [1, 20])
def test_no_update_overshoots(columns: int) -> None:
    """With the largest learning rate, the update is at most the gradient 0.5, divided by the curvature bound 1/4."""
    assert 1.0 < first_move(columns, learning_rate=10.0) < 2.0


@pytest.mark.parametrize("unit", [1e-40, 1e-30, 0.01, 100.0, 1e30])
def test_the_unit_of_a_number_does_not_matter(unit: float) -> None:
    plain, scaled = random_rows(5), random_rows(5)
    scaled.features[:, 3] = plain.features[:, 3] = 1_000_001  # a column of numbers: one key
    scaled.values[:, 3] *= np.float32(unit)
    scores = []
    for feedback in (plain, scaled):
        model = FactorizationMachine(bits=10)
        model.learn(feedback)
        model.score(feedback)
        scores.append(feedback.score)
    np.testing.assert_allclose(scores[1], scores[0], atol=1e-4)


@pytest.mark.parametrize(("noise", "cost"), [(0, 0.015), (1, 0.025), (18, 0.045)])
def test_few_columns_and_many_learn_the_same_world(noise: int, cost: float) -> None:
    """Two categories of 20 values decide, and the other columns are noise. Measures the excess log loss of the last half."""
    rng = np.random.default_rng(1)
    left, right = rng.integers(0, 20, 8_000), rng.integers(0, 20, 8_000)
    chance = 1 / (1 + np.exp(-rng.normal(0, 1.5, 20)[left] - rng.normal(0, 1.5, 20)[right]))
    noise_keys = rng.integers(0, 10, (8_000, noise)) + 1_000 * np.arange(1, noise + 1)
    keys = np.concatenate([np.stack([left + 100, right + 200], 1), noise_keys], 1)
    reward = rng.random(8_000) < chance
    model, score = FactorizationMachine(bits=16), np.empty(8_000)
    for start in range(0, 8_000, 10):
        part = slice(start, start + 10)
        feedback = rows(keys[part], np.ones((10, 2 + noise)), reward[part])
        model.score(feedback)
        score[part] = feedback.score
        model.learn(feedback)
    learned, true = (-np.log(np.where(reward, p, 1 - p))[4_000:].mean() for p in (score, chance))
    assert learned - true < cost


def test_contributions_add_up_to_the_log_odds() -> None:
    model, feedback = FactorizationMachine(bits=8), random_rows(2)
    model.learn(feedback)
    model.score(feedback)
    odds = np.log(feedback.score / (1 - feedback.score))
    total = model.explain(feedback).sum(1) + model.intercept["weights"][0]
    np.testing.assert_allclose(total, odds, atol=2e-4)


def test_hidden_sums_to_the_pairs() -> None:
    model, feedback = FactorizationMachine(bits=8), random_rows(3)
    model.learn(feedback)
    model.score(feedback)
    assert feedback.hidden is not None
    reference = Reference(model)
    units = np.stack(
        [reference.unit(keys & 255, values) for keys, values in zip(feedback.features, feedback.values, strict=True)]
    )
    linear = (model.rows["weights"][feedback.features & 255, 0] * units).sum(1)
    odds = np.log(feedback.score / (1 - feedback.score))
    np.testing.assert_allclose(feedback.hidden.sum(1), odds - linear - model.intercept["weights"][0], atol=2e-4)


def test_extremes_stay_finite() -> None:
    """Values from the smallest to the largest float32, rewards of 1e30, weights of 1,000, and the largest learning rates."""
    rng = np.random.default_rng(7)
    quiet, loud = random_rows(4), random_rows(4)
    loud.features[:, 3] = 1_000_001
    extremes = np.array([1e-45, 1e-38, -1e-20, 1.0, 1e20, -3.4e38, 3.4e38], np.float32)
    loud.values[:, 3] = rng.choice(extremes, loud.rows)
    loud.reward[:] = np.where(loud.reward > 0, 1e30, -1e30)
    loud.weight[:] = rng.choice([1e-30, 1.0, 1e3], loud.rows)
    model = FactorizationMachine(bits=10, learning_rate=10.0, factor_learning_rate=10.0)
    for _ in range(20):
        model.learn(loud)
    for feedback in (loud, quiet):
        model.score(feedback)
        assert np.isfinite(feedback.score).all()
    assert all(np.isfinite(model.rows[name]).all() for name in ("weights", "scales", "squares"))
