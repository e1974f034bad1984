"""How much of an error to believe: found from outcomes, while they arrive, and forgotten as they age.

References
----------
A. Raftery, M. Karny, P. Ettler, "Online Prediction under Model Uncertainty via Dynamic Model Averaging: Application to a Cold
Rolling Mill", Technometrics 2010: models weighted by their discounted likelihood.
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
"""Values of lambda among which one is found."""

CERTAIN = 1e-7
"""Least distance of a probability from 0 and 1 where its logarithm is taken."""

UNIT = 1 << 32
"""Chances of rows are counted in so many parts: their sums are exact, however the rows are cut into batches."""

Values = npt.NDArray[Any]


class LearnedWeight(Stateful):
    """Share of several estimates of a score's error that is added to it: the mean over all values, by their likelihood.

    A model is an estimate and a value of lambda from 0 to 1. Its weight is the likelihood of the labels under it, where a label
    counts half `half_life` rows later.

    Parameters
    ----------
    estimates : int
        Estimates of the error of each row.
    half_life : int
        Rows after which an outcome counts half.
    sample : float
        Share of the rows that is learned from, above 0; 1: all. See `sample`.

    Attributes
    ----------
    trust : Arrays
        ``loss`` (estimates, 17) float64: discounted log loss of each model, beyond that of the best.
    clock : Arrays
        ``chance`` (1,) int64: where between two whole numbers the sum of all chances is.
    """

    def __init__(self, estimates: int, half_life: int, sample: float) -> None:
        self.trust = Arrays(loss=np.zeros((estimates, WEIGHTS.size)))
        self.clock = Arrays(chance=np.zeros(1, np.int64), private=["chance"])
        self._half_life, self._sample = half_life, sample

    @property
    def values(self) -> Values:
        """Lambda of each estimate, (estimates,) float64; they sum to 1 at most."""
        likelihood = np.exp(self.trust["loss"].min() - self.trust["loss"])
        values: Values = (likelihood * WEIGHTS).sum(axis=1) / likelihood.sum()
        return values

    def sample(self, score: Floats, label: Floats) -> tuple[Ids, Values]:
        """Take some of n rows to learn from.

        A row's chance is in proportion to the slope of its log loss, |label - score| / (score (1 - score)), for that is what
        tells one lambda from another. Its mean is 2 where scores are right. A row is taken where the sum of all chances so far
        passes a whole number: no random numbers, and the same rows however they are cut into batches.

        Parameters
        ----------
        score, label : (n,) float32
            From 0 to 1.

        Returns
        -------
        rows : (s,) int64
            Those taken, in order.
        times : (s,) float64
            How many rows each stands for: 1 / chance.
        """
        if self._sample == 1:
            return np.arange(label.size), np.ones(label.size)
        rows, times = np.empty(label.size, np.int64), np.empty(label.size)
        taken, self.clock["chance"][0] = _take(score, label, self._sample / 2, self.clock["chance"][0], rows, times)
        self.clock.mark()
        return rows[:taken], times[:taken]

    def charge(self, score: Floats, errors: Values, label: Floats, times: Values, rows: int) -> None:
        """Charge every model the log loss of the scores that it would have made.

        Parameters
        ----------
        score, label : (s,) float32
            Of the rows that `sample` took.
        errors : (estimates, s) float64
            How much too low each score is, by each estimate.
        times : (s,) float64
            From `sample`.
        rows : int
            That they were taken from.
        """
        loss = self.trust["loss"] * 0.5 ** (rows / self._half_life)
        _charge(score, errors, label, times, loss)
        self.trust["loss"][...] = loss - loss.min()
        self.trust.mark()


# Compiled part. It keeps the interpreter's lock: to get it back may take longer than the work, while others run.


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
