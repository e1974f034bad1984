"""Learns lambda, the share of an estimated error that is added to a score, online from recent outcomes.

References
----------
A. Raftery, M. Karny, P. Ettler, "Online Prediction under Model Uncertainty via Dynamic Model Averaging: Application to a Cold
Rolling Mill", Technometrics 2010: models are weighted by their discounted likelihood.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from memory.arrays import Arrays
from memory.jit import njit
from memory.stateful import Stateful
from streams.batch import Floats, Ids

__all__ = ["LearnedWeight"]

WEIGHTS = np.arange(17) / 16
"""Grid of values of lambda."""

CERTAIN = 1e-7
"""Probabilities are clipped to [CERTAIN, 1 - CERTAIN] before their logarithm is taken."""

UNIT = 1 << 32
"""Fixed-point unit of sampling probabilities. Integer sums are exact, so they do not depend on the micro-batch size."""

Values = npt.NDArray[Any]


class LearnedWeight(Stateful):
    """Learns lambda for each of several error estimates, by dynamic model averaging.

    A model is one estimate with one value of lambda from 0 to 1. Its weight is the likelihood of the labels under it, in which
    a label counts half after `half_life` rows. The lambda of an estimate is the weighted mean over its models.

    Parameters
    ----------
    estimates : int
        Number of error estimates per row.
    half_life : int
        Rows after which an outcome counts half.
    sample : float
        Share of the rows that is learned from, above 0; 1 means all. See `sample`.

    Attributes
    ----------
    trust : Arrays
        ``loss`` (estimates, 17) float64: discounted log loss of each model, minus that of the best model.
    clock : Arrays
        ``chance`` (1,) int64: fractional part of the sum of all sampling probabilities, in `UNIT`. ``weights`` (1, 2) float64:
        discounted sum of the weights of the rows, and their discounted number.
    """

    def __init__(self, estimates: int, half_life: int, sample: float) -> None:
        self.trust = Arrays(loss=np.zeros((estimates, WEIGHTS.size)))
        self.clock = Arrays(chance=np.zeros(1, np.int64), weights=np.zeros((1, 2)), private=["chance", "weights"])
        self._half_life, self._sample = half_life, sample

    @property
    def values(self) -> Values:
        """Lambda of each estimate, (estimates,) float64. Their sum is at most 1."""
        likelihood = np.exp(self.trust["loss"].min() - self.trust["loss"])
        values: Values = (likelihood * WEIGHTS).sum(axis=1) / likelihood.sum()
        return values

    def sample(self, score: Floats, label: Floats) -> tuple[Ids, Values]:
        """Select some of n rows to learn from.

        A row's probability is proportional to the slope of its log loss, |label - score| / (score (1 - score)), because rows
        with a steep slope distinguish the values of lambda best. The mean slope is 2 for calibrated scores. A row is selected
        when the sum of all probabilities passes an integer (systematic sampling). So no random numbers are needed, and results
        do not depend on the micro-batch size.

        Parameters
        ----------
        score, label : (n,) float32
            Numbers from 0 to 1.

        Returns
        -------
        rows : (s,) int64
            Selected rows, in order.
        times : (s,) float64
            Weight of each selected row: 1 / its probability.
        """
        if self._sample == 1:
            return np.arange(label.size), np.ones(label.size)
        rows, times = np.empty(label.size, np.int64), np.empty(label.size)
        taken, self.clock["chance"][0] = _take(score, label, self._sample / 2, self.clock["chance"][0], rows, times)
        self.clock.mark()
        return rows[:taken], times[:taken]

    def relative(self, weight: Floats) -> Values:
        """Return the weights of rows (n,), above 0, divided by their mean over the recent rows and these, (n,) float64.

        So large weights do not make the likelihood more certain than the number of rows does.
        """
        sums = self.clock["weights"][0]
        sums *= 0.5 ** (weight.size / self._half_life)
        sums += weight.sum(dtype=np.float64), weight.size
        self.clock.mark()
        relative: Values = weight * (sums[1] / sums[0])
        return relative

    def charge(self, score: Floats, errors: Values, label: Floats, times: Values, rows: int) -> None:
        """Add the log loss of the scores that each model would have given to the model's loss.

        Parameters
        ----------
        score, label : (s,) float32
            Scores and labels of the rows that `sample` selected.
        errors : (estimates, s) float64
            Estimated error of each score; positive if the score is too low.
        times : (s,) float64
            Weights from `sample`, times those from `relative`.
        rows : int
            Number of rows that they were selected from.
        """
        loss = self.trust["loss"] * 0.5 ** (rows / self._half_life)
        _charge(score, errors, label, times, loss)
        self.trust["loss"][...] = loss - loss.min()
        self.trust.mark()


# Compiled part. It keeps the GIL: with other threads running, getting the GIL back may take longer than the work itself.


@njit(cache=True)
def _take(score, label, share, passed, rows, times):  # type: ignore[no-untyped-def]
    taken = 0
    for row in range(score.size):
        likely = min(max(np.float64(score[row]), CERTAIN), 1.0 - CERTAIN)
        slope = max(abs(label[row] - likely) / (likely * (1.0 - likely)), 1.0)
        chance = np.int64(np.rint(min(slope * share, 1.0) * UNIT))
        passed += chance
        if passed >= UNIT:
            passed -= UNIT
            rows[taken], times[taken] = row, UNIT / chance
            taken += 1
    return taken, passed


@njit(cache=True)
def _charge(score, errors, label, times, loss):  # type: ignore[no-untyped-def]
    for one in range(loss.shape[0]):
        for row in range(score.size):
            for n in range(WEIGHTS.size):
                scored = min(max(score[row] + errors[one, row] * WEIGHTS[n], CERTAIN), 1.0 - CERTAIN)
                if label[row] > 0.0:
                    loss[one, n] -= times[row] * label[row] * np.log(scored)
                if label[row] < 1.0:
                    loss[one, n] -= times[row] * (1.0 - label[row]) * np.log1p(-scored)
