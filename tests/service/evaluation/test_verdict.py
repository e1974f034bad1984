"""Verdicts, and their refusals."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from service.evaluation.calibration import calibrated
from service.evaluation.estimators import Decisions
from service.evaluation.verdict import judge
from tests.service.evaluation.worlds import (
    LOGGED,
    RARE_LOGGED,
    RARE_VALUE,
    REWARD,
    VALUE,
    equal,
    list_value,
    lists,
    one_position,
    rare,
)


def test_a_better_policy_is_found_better_and_a_worse_one_worse() -> None:
    decisions = one_position(4000, 1)
    assert abs(VALUE - LOGGED) > 0.03
    found = judge(decisions)
    assert found.verdict == ("better" if VALUE > LOGGED else "worse")
    gain, low, high = found.difference
    assert low < gain < high and low < VALUE - LOGGED < high
    turned = judge(replace(decisions, reward=-decisions.reward))
    assert {found.verdict, turned.verdict} == {"better", "worse"}


def test_the_same_policy_is_undecided_with_the_full_sample_size() -> None:
    found = judge(equal(one_position(500, 2)))
    assert (found.verdict, found.reasons) == ("undecided", [])
    assert found.difference == (0.0, 0.0, 0.0)
    assert (found.effective_sample_size, found.mean_weight, found.largest_weight) == pytest.approx((500, 1, 1))
    assert found.kept == 500


def test_every_estimate_lies_in_its_intervals_and_ends_its_curve() -> None:
    found = judge(one_position(800, 3))
    for name, one in found.estimates.items():
        assert one.running.value.row[-1] == 800
        assert one.running.value.value[-1] == pytest.approx(one.value)
        if name == "dm":
            continue
        assert one.low <= one.value <= one.high
        assert one.running.low[-1] <= one.value <= one.running.high[-1]
        if name in ("replay", "snips"):
            assert math.isnan(one.bernstein_low) and math.isnan(one.bernstein_high)
        else:
            assert one.bernstein_low < one.low and one.high < one.bernstein_high


WORLDS: dict[str, tuple[Callable[[int], Decisions], float, float]] = {
    "one place": (lambda seed: one_position(300, seed), VALUE, LOGGED),
    "rare clicks": (lambda seed: rare(1500, seed), RARE_VALUE, RARE_LOGGED),
    "lists": (lambda seed: lists(100, seed, model=0.6), list_value(1), list_value(0)),
}


@pytest.mark.parametrize("world", WORLDS)
def test_every_interval_has_at_least_its_nominal_coverage(world: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 200 intervals at 95 %, 10 may miss the truth, and 9 more by chance (3 standard deviations)."""
    monkeypatch.setattr("service.evaluation.verdict.RESAMPLES", 200)
    make, value, logged = WORLDS[world]
    missed: Counter[str] = Counter()
    for seed in range(200):
        found = judge(calibrated(make(seed)), seed=seed)
        for name, one in found.estimates.items():
            truth = logged if name == "logged" else value
            ends = {
                name: (one.low, one.high),
                f"{name}, Bernstein": (one.bernstein_low, one.bernstein_high),
                f"{name}, running": (one.running.low[-1], one.running.high[-1]),
            }
            missed.update(which for which, (low, high) in ends.items() if truth < low or truth > high)
        _, low, high = found.difference
        missed["difference"] += not low <= value - logged <= high
    assert all(count <= 19 for count in missed.values()), missed


def test_the_direct_method_has_no_interval() -> None:
    """Its bias is that of the ranker, so unknown; here it is a factor of two."""
    one = judge(one_position(4000, 3, model=2 * REWARD)).estimates["dm"]
    assert one.value == pytest.approx(2 * VALUE, rel=0.05)
    assert all(map(math.isnan, (one.low, one.high, one.bernstein_low, one.bernstein_high, *one.running.low, *one.running.high)))


def test_without_a_reward_there_is_neither_interval_nor_verdict() -> None:
    found = judge(replace(one_position(800, 3), reward=np.zeros(800)))
    assert found.verdict == "refused"
    assert any("reward: all rewards are 0" in reason for reason in found.reasons)
    assert all(math.isnan(one.low) and math.isnan(one.bernstein_high) for one in found.estimates.values())


def test_below_the_floor_there_is_no_verdict() -> None:
    decisions = one_position(4000, 1)
    size = judge(decisions).effective_sample_size
    assert judge(decisions, floor=size - 1).verdict != "refused"
    found = judge(decisions, floor=size + 1)
    assert found.verdict == "refused"
    (reason,) = found.reasons
    assert f"{size:.1f}" in reason and f"{size + 1:g}" in reason and "--positions" in reason
    assert found.estimates["snips"].value == judge(decisions).estimates["snips"].value


def test_a_log_without_the_choices_of_the_policy_gives_no_verdict() -> None:
    """The logging policy never explored: weights cannot correct for items that were never shown."""
    decisions = one_position(4000, 4)
    never = replace(decisions, propensity=np.ones(4000), target=np.where(np.arange(4000) % 3 == 0, 1.0, 0.0))
    found = judge(never)
    assert found.effective_sample_size > 1000
    assert found.verdict == "refused"
    assert "mean weight 0.33" in found.reasons[0] and "every candidate" in found.reasons[0]


def test_a_policy_that_never_agrees_with_the_log_is_refused_without_meaningless_numbers() -> None:
    found = judge(replace(one_position(300, 5), target=np.zeros(300)))
    assert found.verdict == "refused"
    assert found.effective_sample_size == 0
    assert math.isnan(found.estimates["snips"].value)
    assert found.match_rate == 0


def test_a_single_impression_is_refused() -> None:
    found = judge(equal(one_position(1, 6)))
    assert found.verdict == "refused"
    assert found.impressions == 1


def test_the_clip_can_be_fixed() -> None:
    decisions = one_position(800, 7)
    assert judge(decisions, clip=1.5).clip == 1.5
    assert judge(decisions, clip=1.5).estimates["clipped"].value < judge(decisions).estimates["ips"].value


def test_the_seed_determines_the_draws() -> None:
    one, same, other = (judge(one_position(300, 8), seed=seed) for seed in (1, 1, 2))
    assert repr(one) == repr(same)
    assert one.estimates["ips"].low != other.estimates["ips"].low
