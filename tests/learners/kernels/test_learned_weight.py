"""The learned share of an error: its value after known outcomes, and the rows it learns from."""

from __future__ import annotations

import math

import numpy as np
import pytest

from learners.kernels.learned_weight import UNIT, LearnedWeight


def learned(estimates: int = 1, half_life: int = 100, sample: float = 1.0) -> LearnedWeight:
    return LearnedWeight(estimates, half_life, sample)


def charge(weight: LearnedWeight, score: float, errors: list[float], label: float, times: float = 1.0, rows: int = 1) -> None:
    one = np.float32([score]), np.array(errors)[:, None], np.float32([label]), np.array([times])
    weight.charge(*one, rows)


def test_models_are_weighted_by_likelihood() -> None:
    weight = learned()
    assert weight.values == pytest.approx([0.5]), "nothing is known"
    charge(weight, 0.25, [0.5], 1.0)
    values = np.arange(17) / 16
    likelihood = 0.25 + 0.5 * values
    assert weight.values == pytest.approx([(likelihood * values).sum() / likelihood.sum()])
    charge(weight, 0.25, [0.5], 0.0)
    likelihood *= 0.75 - 0.5 * values
    # The first outcome has decayed a little.
    assert weight.values == pytest.approx([(likelihood * values).sum() / likelihood.sum()], abs=2e-3)


def test_an_outcome_counts_half_after_the_half_life() -> None:
    weight = learned(half_life=100)
    charge(weight, 0.25, [0.5], 1.0)
    before = weight.trust["loss"].copy()
    assert before[0, 0] == pytest.approx(math.log(0.75 / 0.25))
    weight.charge(np.empty(0, np.float32), np.empty((1, 0)), np.empty(0, np.float32), np.empty(0), 100)
    assert weight.trust["loss"] == pytest.approx(before / 2)


def test_the_better_estimate_gets_the_weight() -> None:
    weight = learned(estimates=2)
    for _ in range(50):
        charge(weight, 0.5, [0.4, -0.4], 1.0)
    assert weight.values[0] > 0.8
    assert weight.values[1] < 1e-6
    assert weight.values.sum() <= 1


def test_a_row_of_weight_three_counts_three_times() -> None:
    one, other = learned(half_life=10**12), learned(half_life=10**12)
    charge(one, 0.25, [0.5], 1.0, times=3.0)
    for _ in range(3):
        charge(other, 0.25, [0.5], 1.0)
    assert one.trust["loss"] == pytest.approx(other.trust["loss"])


def test_rows_of_equal_probability_are_selected_at_equal_intervals() -> None:
    """At a score of 0.5 every row has the mean slope, so a sample of 0.25 is every fourth row, with weight 4."""
    weight = learned(sample=0.25)
    rows, times = weight.sample(np.full(10, 0.5, np.float32), np.arange(10) % 2)
    assert rows.tolist() == [3, 7]
    assert times.tolist() == [4, 4]
    assert weight.clock["chance"][0] == UNIT // 2
    assert weight.sample(np.full(3, 0.5, np.float32), np.ones(3, np.float32))[0].tolist() == [1]


def test_surprising_rows_are_always_selected_and_have_weight_1() -> None:
    label = np.zeros(1000, np.float32)
    label[[5, 500]] = 1
    rows, times = learned(sample=0.1).sample(np.full(1000, 0.01, np.float32), label)
    assert {5, 500} <= set(rows.tolist())
    assert times[np.isin(rows, [5, 500])].tolist() == [1, 1]
    assert times[~np.isin(rows, [5, 500])] == pytest.approx(0.99 / 0.05, rel=1e-6)


@pytest.mark.parametrize("share", [0.05, 0.3])
def test_a_sample_estimates_the_loss_of_all_rows(share: float) -> None:
    rng = np.random.default_rng(0)
    score = rng.beta(1, 6, 100_000).astype(np.float32)
    label = (rng.random(score.size) < score).astype(np.float32)
    rows, times = learned(sample=share).sample(score, label)
    assert rows.size < share * score.size
    assert times.sum() == pytest.approx(score.size, rel=0.02)
    loss = -np.log(np.where(label > 0, score, 1 - score))
    assert (times * loss[rows]).sum() == pytest.approx(loss.sum(), rel=0.02)


@pytest.mark.parametrize("size", [1, 13, 400])
def test_the_sample_does_not_depend_on_batches_or_restarts(size: int) -> None:
    rng = np.random.default_rng(1)
    score, label = rng.random(1000).astype(np.float32), (rng.random(1000) < 0.5).astype(np.float32)
    once = learned(sample=0.3)
    rows, times = once.sample(score, label)
    weight, selected, weights = learned(sample=0.3), [], []
    for start in range(0, 1000, size):
        part = slice(start, start + size)
        found, counts = weight.sample(score[part], label[part])
        selected += (found + start).tolist()
        weights += counts.tolist()
        state, weight = weight.state_dict(), learned(sample=0.3)
        weight.load_state_dict(state)
    assert selected == rows.tolist()
    assert weights == times.tolist()
    assert weight.clock["chance"] == once.clock["chance"]


def test_scores_of_0_and_1_are_sampled_too() -> None:
    rows, times = learned(sample=0.5).sample(np.float32([0, 1, 0, 1]), np.float32([1, 0, 0, 1]))
    assert rows[:2].tolist() == [0, 1]
    assert np.isfinite(times).all()
