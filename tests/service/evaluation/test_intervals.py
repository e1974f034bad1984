"""Intervals have their nominal coverage."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from service.evaluation import estimators
from service.evaluation.intervals import BLOCKS, Terms, bernstein, bootstrap, running_errors, running_intervals, standard_error
from tests.service.evaluation.worlds import VALUE, list_value, lists, one_position


def ratio(n: int, seed: int) -> Terms:
    rng = np.random.default_rng(seed)
    denominator = rng.exponential(size=n)
    return Terms(denominator * 0.3 + rng.normal(scale=0.2, size=n), denominator)


def ends(terms: list[Terms], resamples: int, seed: int) -> list[tuple[float, float]]:
    low, high = bootstrap(terms, resamples, np.random.default_rng(seed))
    return list(zip(np.quantile(low, 0.025, axis=0).tolist(), np.quantile(high, 0.975, axis=0).tolist(), strict=True))


def test_the_bootstrap_covers_the_truth_about_as_often_as_it_says() -> None:
    """Of 300 intervals at 95 %, 285 should contain the truth, within 4 standard deviations of 3.8."""
    held = {"ips": 0, "snips": 0, "dr": 0}
    for seed in range(300):
        decisions = one_position(400, seed)
        terms = [estimators.ips(decisions), estimators.snips(decisions), estimators.doubly_robust(decisions)]
        for name, (low, high) in zip(held, ends(terms, 200, seed), strict=True):
            held[name] += low <= VALUE <= high
    assert all(270 <= count <= 300 for count in held.values()), held


def test_the_bootstrap_draws_the_positions_of_a_list_together() -> None:
    held = 0
    for seed in range(150):
        ((low, high),) = ends([estimators.snips(lists(150, seed))], 200, seed)
        held += low <= list_value(1) <= high
    assert held >= 132, held


def test_an_interval_counts_with_one_more_impression() -> None:
    """No click in 100 rows: a policy with a click-through of up to 3 % may have such a log."""
    none = Terms(np.zeros(100), np.ones(100), lowest=(0.0, 1.0), highest=(1.0, 1.0))
    ((low, high),) = ends([none], 1000, 0)
    assert low == 0.0
    assert high == pytest.approx(3 / 103)  # 97.5 % of Poisson draws with mean 1 are up to 3
    assert ends([Terms(none.numerator, none.denominator)], 1000, 0) == [(0.0, 0.0)]


def test_empirical_bernstein_holds_at_least_as_often_as_it_says() -> None:
    """With clipped weights the range is known beforehand, and clipped weight counts as worst and as best."""
    held = 0
    for seed in range(300):
        below, above = estimators.clipped_bounds(one_position(400, seed), 2.0)
        held += bernstein(below, 0.95)[0] <= VALUE <= bernstein(above, 0.95)[1]
    assert held >= 285


def test_empirical_bernstein_by_hand() -> None:
    terms = Terms(np.array([0.0, 1.0, 1.0, 0.0]), np.ones(4), 1.0)
    low, high = bernstein(terms, 0.95)
    half = math.sqrt(2 * (1 / 3) * math.log(80) / 4) + 7 * math.log(80) / 9
    assert (low, high) == pytest.approx((0.5 - half, 0.5 + half))
    assert all(map(math.isnan, bernstein(Terms(terms.numerator, terms.denominator), 0.95)))
    assert all(map(math.isnan, bernstein(Terms(np.ones(1), np.ones(1), 1.0), 0.95)))


def test_standard_error_of_a_ratio() -> None:
    values = [ratio(500, seed).value for seed in range(400)]
    estimated = np.mean([standard_error(ratio(500, seed)) for seed in range(50)])
    assert estimated == pytest.approx(np.std(values), rel=0.15)
    assert math.isnan(standard_error(Terms(np.ones(1), np.ones(1))))
    assert math.isnan(standard_error(Terms(np.zeros(3), np.zeros(3))))


def test_running_errors_end_at_the_full_log() -> None:
    terms = ratio(100, 3)
    value, error = running_errors(terms, np.array([1, 50, 100]))
    assert (value[2], error[2]) == pytest.approx((terms.value, standard_error(terms)))
    half = Terms(terms.numerator[:50], terms.denominator[:50])
    assert (value[1], error[1]) == pytest.approx((half.value, standard_error(half)))
    assert math.isnan(error[0])


def test_running_intervals_count_one_more_impression() -> None:
    terms = replace(ratio(100, 3), lowest=(0.0, 2.0), highest=(3.0, 2.0))
    value, error = running_errors(terms, np.array([1, 100]))
    low, high = running_intervals(terms, np.array([1, 100]), 2.0)
    numerator, denominator = terms.numerator.sum(), terms.denominator.sum()
    assert low[1] == pytest.approx(numerator / (denominator + 2) - 2 * math.hypot(error[1], 2 * value[1] / denominator))
    assert high[1] == pytest.approx(
        (numerator + 3) / (denominator + 2) + 2 * math.hypot(error[1], (3 - 2 * value[1]) / denominator)
    )
    assert math.isnan(low[0]) and math.isnan(high[0])


def test_many_impressions_are_drawn_in_blocks() -> None:
    terms = ratio(12 * BLOCKS + 7, 1)
    draws, _ = bootstrap([terms], 100, np.random.default_rng(0))
    assert draws[:, 0].std() == pytest.approx(standard_error(terms), rel=0.3)
    assert abs(draws[:, 0].mean() - terms.value) < 4 * standard_error(terms)


def test_all_estimates_are_drawn_together() -> None:
    one = ratio(50, 2)
    low, high = bootstrap([one, one], 20, np.random.default_rng(0))
    assert np.array_equal(low[:, 0], low[:, 1]) and np.array_equal(low, high)
    assert np.isnan(bootstrap([Terms(np.ones(3), np.zeros(3))], 5, np.random.default_rng(0))).all()
