"""Estimators on worlds whose value is known."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from service.evaluation import estimators
from service.evaluation.estimators import Decisions
from service.evaluation.intervals import Terms
from tests.service.evaluation import worlds
from tests.service.evaluation.worlds import LOGGED, LOGGING, REWARD, VALUE, equal, lists, one_position

Estimator = Callable[[Decisions], Terms]
SEEDS = range(200)


def over_seeds(estimator: Estimator, make: Callable[[int], Decisions]) -> tuple[float, float]:
    """Mean of an estimate over many logs, and its standard error."""
    values = np.array([estimator(make(seed)).value for seed in SEEDS])
    return float(values.mean()), float(values.std(ddof=1) / math.sqrt(values.size))


def by_hand() -> Decisions:
    return Decisions(
        start=np.array([0, 2, 3]),
        reward=np.array([1.0, 0.0, 1.0, 0.0, 1.0]),
        propensity=np.array([0.5, 0.5, 0.25, 0.5, 1.0]),
        target=np.array([0.25, 1.0, 0.5, 1.0, 0.5]),
        importance=np.array([1.0, 1.0, 2.0, 1.0, 1.0]),
        predicted=np.array([0.5, 0.5, 0.5, 0.5, 0.5]),
        expected=np.array([0.1, 0.2, 0.3, 0.4, 0.5]),
        on_policy=np.array([0.1, 0.1, 0.3, 0.4, 0.1]),
    )


def test_by_hand() -> None:
    decisions = by_hand()
    weight, above = decisions.weights
    assert weight.tolist() == [0.5, 1.0, 2.0, 2.0, 1.0]
    assert above.tolist() == [1.0, 0.5, 1.0, 1.0, 2.0]
    assert estimators.logged(decisions).value == pytest.approx((1 + 2 + 1) / 6)
    assert estimators.ips(decisions).value == pytest.approx((0.5 + 2 * 2 + 1) / 6)
    assert estimators.ips(decisions, 1.5).value == pytest.approx((0.5 + 2 * 1.5 + 1) / 6)
    assert estimators.snips(decisions).value == pytest.approx((0.5 + 4 + 1) / (1.5 + 4 + 3))
    assert estimators.direct(decisions).value == pytest.approx((0.2 + 0.6 + 0.5) / 6)
    corrected = 0.1 + 0.5 * 0.5, 0.5 * 0.2 - 0.5, 2 * (0.3 + 2 * 0.5), 0.4 - 2 * 0.5, 2 * 0.5 + 0.5
    assert estimators.doubly_robust(decisions).value == pytest.approx(sum(corrected) / 6)
    assert estimators.snips(decisions).denominator.tolist() == [1.5, 4.0, 3.0]


def test_weights_of_independent_positions_do_not_multiply() -> None:
    weight, above = replace(by_hand(), chain=False).weights
    assert weight.tolist() == [0.5, 2.0, 2.0, 2.0, 0.5]
    assert above.tolist() == [1.0] * 5


@pytest.mark.parametrize("estimator", [estimators.ips, estimators.doubly_robust])
@pytest.mark.parametrize("model", [1.0, 0.0, 3.0])
def test_ips_and_dr_are_unbiased_whatever_the_model(estimator: Estimator, model: float) -> None:
    mean, error = over_seeds(estimator, lambda seed: one_position(300, seed, model=model * REWARD))
    assert abs(mean - VALUE) < 4 * error


def test_dr_is_right_when_the_model_is_and_the_propensities_are_not() -> None:
    wrong = LOGGING**0.3 / (LOGGING**0.3).sum(axis=1, keepdims=True)
    dr, error = over_seeds(estimators.doubly_robust, lambda seed: one_position(300, seed, propensities=wrong))
    assert abs(dr - VALUE) < 4 * error
    ips, error = over_seeds(estimators.ips, lambda seed: one_position(300, seed, propensities=wrong))
    assert abs(ips - VALUE) > 4 * error


def test_the_direct_method_has_the_bias_of_its_model() -> None:
    right, error = over_seeds(estimators.direct, lambda seed: one_position(300, seed))
    assert abs(right - VALUE) < 4 * error
    wrong, _ = over_seeds(estimators.direct, lambda seed: one_position(300, seed, model=2 * REWARD))
    assert wrong == pytest.approx(2 * VALUE, rel=0.02)


def test_a_right_model_removes_most_of_the_noise() -> None:
    plain = np.std([estimators.ips(one_position(300, seed)).value for seed in SEEDS])
    corrected = np.std([estimators.doubly_robust(one_position(300, seed)).value for seed in SEEDS])
    assert corrected < 0.8 * plain


def test_replay_keeps_what_the_policy_would_have_shown() -> None:
    mean, error = over_seeds(lambda d: estimators.rejection(d, np.random.default_rng(1)), lambda seed: one_position(1000, seed))
    assert abs(mean - VALUE) < 4 * error


def test_replay_under_uniform_logging_is_agreement() -> None:
    decisions = one_position(400, 0, propensities=np.full((worlds.CONTEXTS, worlds.ACTIONS), 1 / 6))
    decisions = replace(decisions, target=(np.arange(400) % 6 == 0).astype(float))
    kept = estimators.rejection(decisions, np.random.default_rng(0))
    assert np.flatnonzero(kept.denominator).tolist() == list(range(0, 400, 6))
    assert kept.value == pytest.approx(decisions.reward[::6].mean())


@pytest.mark.parametrize("estimator", [estimators.ips, estimators.doubly_robust])
def test_lists_have_the_value_of_lists_filled_by_the_policy(estimator: Estimator) -> None:
    mean, error = over_seeds(estimator, lambda seed: lists(60, seed, model=0.6))
    assert abs(mean - worlds.list_value(1)) < 4 * error
    by_place, error = over_seeds(estimator, lambda seed: lists(60, seed, chain=False, model=0.6))
    assert abs(by_place - worlds.position_value()) < 4 * error
    # The two values differ in these worlds.
    assert abs(worlds.position_value() - worlds.list_value(1)) > 8 * error


def test_snips_of_lists_converges_to_the_value_of_the_lists() -> None:
    terms = [estimators.snips(lists(500, seed)) for seed in range(20)]
    pooled = sum(one.numerator.sum() for one in terms) / sum(one.denominator.sum() for one in terms)
    assert pooled == pytest.approx(worlds.list_value(1), abs=0.01)


def test_the_same_policy_has_weights_of_one() -> None:
    for decisions in (equal(one_position(50, 1)), equal(lists(50, 1)), equal(lists(50, 1, chain=False))):
        weight, _ = decisions.weights
        assert np.all(weight == 1)
        assert estimators.ips(decisions).value == estimators.snips(decisions).value == pytest.approx(decisions.reward.mean())
        assert estimators.effective_sample_size(estimators.snips(decisions).denominator) == pytest.approx(decisions.start.size)


def test_snips_stays_among_the_rewards_and_ips_need_not() -> None:
    decisions = one_position(30, 2)
    rare = replace(decisions, reward=np.full(30, 0.7), propensity=np.full(30, 0.01), target=np.linspace(0.1, 0.9, 30))
    assert estimators.snips(rare).value == pytest.approx(0.7)
    assert estimators.ips(rare).value > 1


def test_clipping_biases_towards_zero_and_lowers_the_variance() -> None:
    decisions = one_position(3000, 3)
    clips = [math.inf, 4.0, 2.0, 1.0, 0.5]
    values = [estimators.ips(decisions, clip).value for clip in clips]
    assert values == sorted(values, reverse=True)
    costs = replace(decisions, reward=-decisions.reward)
    assert [estimators.ips(costs, clip).value for clip in clips] == pytest.approx([-value for value in values])
    spreads = [np.std([estimators.ips(one_position(300, seed), clip).value for seed in SEEDS]) for clip in clips]
    assert spreads == sorted(spreads, reverse=True)


def test_the_clip_is_chosen_between_bias_and_variance() -> None:
    # Weights that hardly differ: clipping gains nothing. Much data and large weights: the bias of clipping shows.
    assert estimators.choose_clip(equal(one_position(500, 4))) == 1.0
    decisions = one_position(100_000, 4)
    chosen = estimators.choose_clip(decisions)
    largest = decisions.weights[0].max()
    assert 1.0 < chosen <= largest
    assert abs(estimators.ips(decisions, chosen).value - VALUE) < abs(estimators.ips(decisions, 1.0).value - VALUE)
    # Little data: the variance dominates.
    assert estimators.choose_clip(one_position(200, 4)) < chosen


def test_the_clip_is_not_so_low_that_most_of_the_value_is_cut_off() -> None:
    """Clicks are so few that the intervals of all clips overlap, and a clip of 1 would lose half of the value."""
    chosen = [estimators.choose_clip(one_position(100, seed)) for seed in range(50)]
    assert np.median(chosen) > 2
    value = np.mean([estimators.ips(one_position(100, seed), clip).value for seed, clip in enumerate(chosen)])
    assert abs(value - VALUE) < 0.15 * VALUE


def test_the_bounds_of_clipped_weights_hold_the_value_between_them() -> None:
    for clip in (0.5, 1.0, 2.0, 100.0):
        bounds = np.array([[one.value for one in estimators.clipped_bounds(one_position(300, seed), clip)] for seed in SEEDS])
        slack = 4 * bounds.std(axis=0) / math.sqrt(len(bounds))
        assert bounds[:, 0].mean() - slack[0] < VALUE < bounds[:, 1].mean() + slack[1]
    decisions = replace(by_hand(), reward=np.array([-1.0, 0.0, 1.0, 0.0, 1.0]))
    weight = np.array([0.5, 1.0, 1.5, 1.5, 1.0])
    low, high = estimators.clipped_bounds(decisions, 1.5)
    assert low.value == pytest.approx(np.average(-1 + weight * (decisions.reward + 1), weights=decisions.importance))
    assert high.value == pytest.approx(np.average(1 + weight * (decisions.reward - 1), weights=decisions.importance))


def test_one_more_impression_is_the_heaviest_one_with_the_worst_and_the_best_reward() -> None:
    decisions = replace(by_hand(), reward=np.array([-1.0, 0.0, 2.0, 0.0, 1.0]))
    ips, snips, logged = estimators.ips(decisions), estimators.snips(decisions), estimators.logged(decisions)
    # The second impression has weight 4 (one position with importance 2), the others 1.5 and 3.
    assert (ips.lowest, ips.highest) == ((-4.0, 2.0), (8.0, 2.0))
    assert (snips.lowest, snips.highest) == ((-4.0, 4.0), (8.0, 4.0))
    assert (logged.lowest, logged.highest) == ((-2.0, 2.0), (4.0, 2.0))
    dr = estimators.doubly_robust(decisions)
    # Baselines are 0.2, 0.6 and 1.4; residuals from -1.5 to 1.5.
    assert dr.lowest == pytest.approx((0.2 - 4 * 1.5, 2.0)) and dr.highest == pytest.approx((1.4 + 4 * 1.5, 2.0))


def test_a_sampled_log_counts_each_row_by_its_importance() -> None:
    decisions = one_position(400, 5)
    twice = replace(decisions, importance=np.where(np.arange(400) < 200, 2.0, 1.0))
    doubled = np.concatenate((np.arange(200), np.arange(400)))
    columns = ("reward", "propensity", "target", "importance", "predicted", "expected", "on_policy")
    repeated = replace(decisions, start=np.arange(600), **{name: getattr(decisions, name)[doubled] for name in columns})
    for estimator in (estimators.logged, estimators.ips, estimators.snips, estimators.direct, estimators.doubly_robust):
        assert estimator(twice).value == pytest.approx(estimator(repeated).value)


def test_effective_sample_size() -> None:
    assert estimators.effective_sample_size(np.full(7, 0.3)) == pytest.approx(7)
    assert estimators.effective_sample_size(np.array([5.0, 0.0, 0.0])) == pytest.approx(1)
    assert estimators.effective_sample_size(np.zeros(3)) == 0
    assert pytest.approx(VALUE, rel=0.05) != LOGGED
