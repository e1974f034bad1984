"""Calibration of a ranker's predictions to the rewards of a log, for the direct method and the doubly robust estimate.

A ranker that starts from nothing predicts one half for a while, and a click may be one in two hundred. When it has learned
enough is not known beforehand. So it is measured: how much larger the reward of a row is for each unit of prediction.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from service.evaluation.estimators import Decisions, Rows
from service.evaluation.intervals import Values

__all__ = ["calibrated"]

FOLDS = 10
SMALLEST = 256
"""Impressions of the shortest block, unless the log is shorter."""


def calibrated(decisions: Decisions) -> Decisions:
    """Replace predictions f by ``mean reward + slope * (f - mean prediction)``.

    The mean reward is that of the log. Slope and mean prediction are those of a block: the last half of the log, the quarter
    before it, the eighth before that, and so on. The slope is a ridge regression of rewards on predictions. It is near 0 in
    blocks where the ranker knew nothing, and the prediction there is the log's mean reward. All that depends on rewards is
    estimated from other impressions (cross-fitting): no prediction knows its own outcome.

    Parameters
    ----------
    decisions : Decisions
        With predictions as the ranker made them, of any scale; in the order of the log.

    Returns
    -------
    Decisions
        With `predicted`, `expected` and `own` on the scale of the rewards.

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
        """Over the rows of each block that are not in a fold, (blocks, folds)."""
        count = (int(block[-1]) + 1) * FOLDS
        part = np.bincount(block * FOLDS + fold, decisions.importance * values, count).reshape(-1, FOLDS)
        return part.sum(axis=1, keepdims=True) - part  # type: ignore[no-any-return]

    reward = decisions.reward
    rows, rewards, squares = sums(np.ones_like(reward)), sums(reward), sums(reward**2)
    level = _ratio(rewards.sum(axis=0), rows.sum(axis=0))
    noise = _ratio(squares.sum(axis=0), rows.sum(axis=0)) - level**2
    mean = np.bincount(block, decisions.importance * decisions.predicted) / np.bincount(block, decisions.importance)
    away = decisions.predicted - mean[block]
    shift = _ratio(sums(away), rows)
    together, spread = sums(away * reward) - shift * rewards, sums(away**2) - shift**2 * rows
    # The penalty is that of a prior for the slope with mean 0 and standard deviation 1: a calibrated ranker has slope 1. A
    # slope below 0 is taken for noise.
    slope = np.maximum(_ratio(together, spread + np.maximum(noise, 0.0)), 0.0)

    def bring(values: Values) -> Values:
        return level[fold] + slope[block, fold] * (values - mean[block])

    return replace(
        decisions,
        predicted=bring(decisions.predicted),
        expected=bring(decisions.expected),
        own=bring(decisions.own),
    )


def _blocks(impressions: int) -> Rows:
    """Block of each impression, from 0, (impressions,) int64."""
    starts = []
    end = impressions
    while end // 2 >= SMALLEST:
        end //= 2
        starts.append(end)
    return np.searchsorted(starts[::-1], np.arange(impressions), side="right")


def _ratio(over: Values, under: Values) -> Values:
    """Quotients; 0 where nothing is below the line."""
    return np.divide(over, under, out=np.zeros_like(over), where=under > 0)
