"""Learns beta, the weight of the values that are added to scores; where they are worthless, that costs almost nothing.

References
----------
M. Herbster, M. Warmuth, "Tracking the Best Expert", Machine Learning 32 (1998): fixed share.
G. Shafer et al., "Test Martingales, Bayes Factors and p-Values", Statistical Science 26 (2011): a likelihood ratio may be
looked at after every row, if it is that of one mixture chosen beforehand, and each row counts once.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from memory.arrays import Arrays, Floats, Ids
from memory.jit import njit
from memory.stateful import Stateful

__all__ = ["LearnedBeta", "limited"]

Values = npt.NDArray[np.float64]

_BETAS = np.arange(17) / 16

_SCEPTICISM = 0.95
"""Belief in 0 at the beginning. The others outweigh it when they have made the outcomes 19 times as likely as 0 has: with
scores that are right, that happens once in 20 streams."""

_START = np.r_[_SCEPTICISM, np.full(16, (1.0 - _SCEPTICISM) / 16)]

_CERTAIN = 1e-7
"""Probabilities are clipped to [_CERTAIN, 1 - _CERTAIN] before their logarithm is taken."""

_WAY = 0.95
"""Part of the way from a score to 0 or 1 that a value may take it at most."""

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def limited(score: Values | Floats, value: Values) -> Values:
    """Limit values (n,) so that each beta leaves scores (n,) between 0 and 1; then the mean beta gives the mean of these."""
    return np.clip(value, -_WAY * score, _WAY * (1.0 - score))


class LearnedBeta(Stateful):
    """Beliefs in 17 values of beta from 0 to 1, of which 0 is the most likely before the first row.

    A row multiplies the belief in a beta by the likelihood of the label under it. Then all beliefs move a little back to those
    of the beginning, because beta may have changed (fixed share). The score with the mean beta has the likelihood of the
    mixture of all betas, so over all sampled rows it is at most a constant worse than the scores alone: 0.05 nats, and 0.05
    more for each 1.4 half-lives. For this no row may count more than once: neither its own weight nor that of the rows that
    were not sampled may make it certain.

    Parameters
    ----------
    half_life : int
        Rows after which beta is still the same with a probability of a half.
    sample : float
        Share of the rows that are learned from, above 0.

    Attributes
    ----------
    belief : Arrays
        ``mass`` (1, 17) float64, of sum 1.
    clock : Arrays
        ``seen`` (1,) int64: rows so far. ``weights`` (1, 2) float64: sum of the weights of the sampled rows, and their number,
        both faded by the half-life.
    """

    def __init__(self, half_life: int, sample: float) -> None:
        self.belief = Arrays(mass=_START[None].copy())
        self.clock = Arrays(seen=np.zeros(1, np.int64), weights=np.zeros((1, 2)), private=["seen", "weights"])
        self._sample, self._keep = sample, 0.5 ** (1.0 / (half_life * sample))

    @property
    def value(self) -> float:
        """The mean beta; exactly 0 while 0 is as likely as all others together."""
        mass = self.belief["mass"][0]
        return float(mass @ _BETAS) if mass[0] < 0.5 else 0.0

    def sample(self, rows: int) -> Ids:
        """Select some of the next rows by their number alone, (s,) int64, ascending; a row's label must not decide.

        Multiples of the golden ratio are spread evenly and without a period, so no position in a request is preferred.
        """
        number = np.arange(rows, dtype=np.uint64) + np.uint64(self.clock["seen"][0])
        self.clock["seen"][0] += rows
        self.clock.mark()
        return np.flatnonzero((number * _GOLDEN >> np.uint64(11)) * 2.0**-53 < self._sample)

    def learn(self, score: Floats, value: Values, label: Floats, weight: Floats) -> None:
        """Learn rows that `sample` selected.

        Parameters
        ----------
        score, label : (s,) float32
            Scores and labels, from 0 to 1.
        value : (s,) float64
            What is added to each score, times beta; see `limited`.
        weight : (s,) float32
            Weights, above 0. A row counts as its weight relative to the mean lately, and at most once.
        """
        _learn(score, value, label, weight, self._keep, self.clock["weights"][0], self.belief["mass"][0])
        self.belief.mark()
        self.clock.mark()


@njit(cache=True, nogil=True)
def _learn(score, value, label, weight, keep, weights, mass):  # type: ignore[no-untyped-def]
    loss = np.empty(mass.size)
    for row in range(score.size):
        weights[0] = weights[0] * keep + weight[row]
        weights[1] = weights[1] * keep + 1.0
        count = min(weight[row] * weights[1] / weights[0], 1.0)
        for n in range(mass.size):
            scored = min(max(score[row] + value[row] * _BETAS[n], _CERTAIN), 1.0 - _CERTAIN)
            loss[n] = -count * (label[row] * np.log(scored) + (1.0 - label[row]) * np.log1p(-scored))
        least, total = loss.min(), 0.0
        for n in range(mass.size):
            mass[n] *= np.exp(least - loss[n])
            total += mass[n]
        for n in range(mass.size):
            mass[n] = keep * mass[n] / total + (1.0 - keep) * _START[n]
