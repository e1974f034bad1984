"""Calibrates a ranker's predictions to the rewards of a log, for the direct method and the doubly robust estimate.

An untrained ranker predicts one half for a while, although a click may be one in two hundred. It is not known beforehand when
it has learned enough. So the slope is measured: how much the reward of a row grows with its prediction.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from service.evaluation.estimators import Decisions, Rows
from service.evaluation.intervals import Values

__all__ = ["calibrated"]

FOLDS = 10
MIN_BLOCK = 256
"""Impressions in the shortest block, unless the log is shorter."""


def calibrated(decisions: Decisions) -> Decisions:
    """Replace predictions f by ``mean reward + slope * (f - mean prediction)``.

    The mean reward is that of the log. Slope and mean prediction are those of a block: the last half of the log, the quarter
    before it, the eighth before that, and so on. The slope comes from a ridge regression of rewards on predictions. In blocks
    where the ranker is untrained, the slope is near 0, so the prediction is the mean reward of the log. Everything that depends
    on rewards is estimated from other impressions (cross-fitting): no prediction depends on its own outcome.

    Parameters
    ----------
    decisions : Decisions
        With the ranker's predictions on any scale, in the order of the log.

    Returns
    -------
    Decisions
        With `predicted`, `expected` and `on_policy` on the scale of the rewards.

    References
    ----------
    V. Chernozhukov et al., "Double/Debiased Machine Learning for Treatment and Structural Parameters", The Econometrics Journal
    21 (2018): cross-fitting.
    A. Hoerl, R. Kennard, "Ridge Regression", Technometrics 12 (1970).
    """
    impressions = decisions.start.size
    impression = np.repeat(np.arange(impressions), np.diff(decisions.start, append=decisions.reward.size))
    block, fold = _blocks(impressions)[impression], impression % FOLDS

    def sums(values: Values) -> Values:
        """Sum over the rows of each block outside each fold, (blocks, folds)."""
        count = (int(block[-1]) + 1) * FOLDS
        part = np.bincount(block * FOLDS + fold, decisions.importance * values, count).reshape(-1, FOLDS)
        return part.sum(axis=1, keepdims=True) - part  # type: ignore[no-any-return]

    reward = decisions.reward
    rows, rewards, squares = sums(np.ones_like(reward)), sums(reward), sums(reward**2)
    mean_reward = _ratio(rewards.sum(axis=0), rows.sum(axis=0))
    noise = _ratio(squares.sum(axis=0), rows.sum(axis=0)) - mean_reward**2
    mean = np.bincount(block, decisions.importance * decisions.predicted) / np.bincount(block, decisions.importance)
    deviation = decisions.predicted - mean[block]
    shift = _ratio(sums(deviation), rows)
    covariance, variance = sums(deviation * reward) - shift * rewards, sums(deviation**2) - shift**2 * rows
    # The ridge penalty is a prior on the slope with mean 0 and standard deviation 1: a calibrated ranker has slope 1. A
    # negative slope is treated as noise.
    slope = np.maximum(_ratio(covariance, variance + np.maximum(noise, 0.0)), 0.0)

    def calibrate(values: Values) -> Values:
        return mean_reward[fold] + slope[block, fold] * (values - mean[block])

    return replace(
        decisions,
        predicted=calibrate(decisions.predicted),
        expected=calibrate(decisions.expected),
        on_policy=calibrate(decisions.on_policy),
    )


def _blocks(impressions: int) -> Rows:
    """Block of each impression, from 0, (impressions,) int64."""
    starts = []
    end = impressions
    while end // 2 >= MIN_BLOCK:
        end //= 2
        starts.append(end)
    return np.searchsorted(starts[::-1], np.arange(impressions), side="right")


def _ratio(numerator: Values, denominator: Values) -> Values:
    """Quotients; 0 where the denominator is not positive."""
    return np.divide(numerator, denominator, out=np.zeros_like(numerator), where=denominator > 0)
