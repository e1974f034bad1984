"""Predictions are calibrated to the scale of the rewards."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from service.evaluation import estimators
from service.evaluation.calibration import FOLDS, calibrated
from service.evaluation.estimators import Decisions
from tests.service.evaluation.worlds import LOGGED, REWARD, VALUE, lists, one_position

NONSENSE = np.random.default_rng(5).normal(0.5, 0.2, REWARD.shape)
"""Predictions of an untrained ranker."""


def untrained_for(decisions: Decisions, nonsense: Decisions, impressions: int) -> Decisions:
    """Use the predictions of `nonsense` for the first impressions."""
    first = np.arange(decisions.start.size) < impressions
    columns = ("predicted", "expected", "on_policy")
    return replace(decisions, **{name: np.where(first, getattr(nonsense, name), getattr(decisions, name)) for name in columns})


@pytest.mark.parametrize("scale", [0.3, 1.0, 2.0])
def test_a_wrong_scale_is_put_right(scale: float) -> None:
    raw = one_position(20_000, 1, model=0.2 + scale * REWARD)
    assert abs(estimators.direct(raw).value - VALUE) > 0.02
    assert estimators.direct(calibrated(raw)).value == pytest.approx(VALUE, abs=0.01)
    assert abs(VALUE - LOGGED) > 0.03


def test_nonsense_is_the_mean_of_the_log_and_what_was_learned_counts() -> None:
    """The ranker is untrained in the first half and exact in the second."""
    raw = untrained_for(one_position(8192, 2), one_position(8192, 2, model=NONSENSE), 4096)
    found = calibrated(raw)
    assert found.predicted[:4096].std() < 0.1 * raw.predicted[:4096].std()
    assert found.predicted[:4096].mean() == pytest.approx(raw.reward.mean(), abs=0.01)
    late = slice(4096, None)
    error = found.predicted[late] - raw.predicted[late]
    assert np.sqrt(np.mean(error**2)) < 0.15 * raw.predicted.std()


def test_no_prediction_knows_its_own_outcome() -> None:
    raw = one_position(1000, 3)
    before = calibrated(raw)
    turned = raw.reward.copy()
    turned[500] = 1 - turned[500]
    after = calibrated(replace(raw, reward=turned))
    for name in ("predicted", "expected", "on_policy"):
        # Sums without a fold are differences, so compare beyond rounding.
        changed = ~np.isclose(getattr(before, name), getattr(after, name), rtol=1e-10, atol=0)
        assert not changed[500 % FOLDS :: FOLDS].any(), "impressions of its fold are predicted without it"
        assert changed.mean() > 0.8


@pytest.mark.parametrize("model", [2 * REWARD, NONSENSE, 1 - REWARD])
def test_dr_is_right_whatever_the_ranker_predicts(model: np.ndarray) -> None:
    """It may be noisier than IPS by the model's part only; here it is less noisy even with nonsense."""
    made = [one_position(300, seed, model=model) for seed in range(200)]
    values = np.array([estimators.doubly_robust(calibrated(one)).value for one in made])
    assert abs(values.mean() - VALUE) < 4 * values.std(ddof=1) / np.sqrt(200)
    assert values.std() < np.std([estimators.ips(one).value for one in made])


def test_predictions_with_a_negative_slope_are_ignored() -> None:
    raw = one_position(4000, 4, model=1 - REWARD)
    found = calibrated(raw)
    assert np.unique(found.predicted).size <= FOLDS
    assert estimators.direct(found).value == pytest.approx(raw.reward.mean(), abs=1e-6)


def test_short_logs_have_the_mean_of_the_rest() -> None:
    raw = replace(one_position(3, 5), reward=np.array([1.0, 0.0, 0.0]), importance=np.array([1.0, 1.0, 3.0]))
    same = replace(raw, predicted=np.full(3, 0.5), expected=np.full(3, 0.5), on_policy=np.full(3, 0.5))
    assert calibrated(same).predicted.tolist() == [0.0, 0.25, 0.5]
    alone = one_position(1, 6)
    assert calibrated(alone).predicted.tolist() == [0.0]


def test_the_positions_of_a_list_are_in_one_fold() -> None:
    raw = lists(400, 7, model=0.3)
    found = calibrated(raw)
    turned = raw.reward.copy()
    turned[300:303] = 1 - turned[300:303]  # impression 100
    after = calibrated(replace(raw, reward=turned))
    assert after.predicted[300:303] == pytest.approx(found.predicted[300:303], rel=1e-10)
    assert found.predicted.mean() == pytest.approx(raw.reward.mean(), abs=0.01)
    assert estimators.direct(found).value == pytest.approx(estimators.direct(lists(400, 7)).value, abs=0.03)
