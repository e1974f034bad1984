"""Confidence intervals of estimates: empirical Bernstein, bootstrap, and large-sample standard error.

Every estimate is a ratio of two sums over impressions. Impressions are independent samples; rows inside an impression are not.

If rewards are rare, a log may lack a click with a large weight, and then no resample of it has one. So each end of an interval
counts one more impression: the worst, or the best, that could have occurred. It is drawn as often as a bootstrap draws one row.
It widens an interval in proportion to 1 / m.

References
----------
M. Fay, E. Feuer, "Confidence Intervals for Directly Standardized Rates: a Method Based on the Gamma Distribution", Statistics
in Medicine 16 (1997): the upper limit for weighted counts adds one event with the largest weight.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["BLOCKS", "Terms", "bernstein", "bootstrap", "running_errors", "running_intervals", "standard_error"]

Values = npt.NDArray[np.float64]

BLOCKS = 10_000
"""Most units that the bootstrap draws from. If there are more impressions, neighbours are merged."""


@dataclass(frozen=True, slots=True)
class Terms:
    """The terms of an estimate ``sum(numerator) / sum(denominator)``, one per impression.

    Attributes
    ----------
    numerator, denominator : (m,) float64
        Contributions of each impression.
    spread : float
        Largest minus smallest possible `numerator`. NaN if the estimate is not a mean, because its denominator is random too.
    lowest, highest : (float, float)
        Contributions of one more impression in the worst, and in the best case.
    """

    numerator: Values
    denominator: Values
    spread: float = math.nan
    lowest: tuple[float, float] = (0.0, 0.0)
    highest: tuple[float, float] = (0.0, 0.0)

    @property
    def value(self) -> float:
        """The estimate; NaN if the denominator is 0."""
        denominator = float(self.denominator.sum())
        return float(self.numerator.sum()) / denominator if denominator else math.nan


def standard_error(terms: Terms) -> float:
    """Large-sample standard error of the ratio, by the delta method; NaN below two impressions.

    References
    ----------
    A. Owen, "Monte Carlo theory, methods and examples", 2013, section 9.2, equation (9.9).
    """
    denominator, m = float(terms.denominator.sum()), terms.numerator.size
    if m < 2 or not denominator:
        return math.nan
    residual = terms.numerator - terms.value * terms.denominator
    return math.sqrt(m / (m - 1) * float(residual @ residual)) / abs(denominator)


def running_errors(terms: Terms, at: npt.NDArray[np.int64]) -> tuple[Values, Values]:
    """Estimate and standard error after the first ``at[i]`` impressions, two (points,) float64; NaN where undefined."""
    numerator, denominator = terms.numerator.cumsum()[at - 1], terms.denominator.cumsum()[at - 1]
    products = (terms.numerator**2, terms.numerator * terms.denominator, terms.denominator**2)
    squares = [np.cumsum(product)[at - 1] for product in products]
    with np.errstate(divide="ignore", invalid="ignore"):
        value = numerator / denominator
        residual = squares[0] - 2 * value * squares[1] + value**2 * squares[2]
        error = np.sqrt(np.maximum(residual, 0.0) * at / np.maximum(at - 1, 1)) / np.abs(denominator)
    return value, np.where(at > 1, error, np.nan)


def running_intervals(terms: Terms, at: npt.NDArray[np.int64], z: float) -> tuple[Values, Values]:
    """Ends of the large-sample interval after the first ``at[i]`` impressions, two (points,) float64.

    `z` is the half width in standard errors. NaN where undefined.
    """
    value, error = running_errors(terms, at)
    numerator, denominator = terms.numerator.cumsum()[at - 1], terms.denominator.cumsum()[at - 1]
    ends = []
    for (more_numerator, more_denominator), shift in ((terms.lowest, -z), (terms.highest, z)):
        with np.errstate(divide="ignore", invalid="ignore"):
            with_one_more = (numerator + more_numerator) / (denominator + more_denominator)
            ends.append(with_one_more + shift * np.hypot(error, (more_numerator - value * more_denominator) / denominator))
    return ends[0], ends[1]


def bernstein(terms: Terms, level: float) -> tuple[float, float]:
    """Two-sided empirical Bernstein interval of a mean; NaN for a ratio of two random sums.

    It holds for every sample size if ``terms.spread`` was known beforehand.

    References
    ----------
    A. Maurer, M. Pontil, "Empirical Bernstein Bounds and Sample Variance Penalization", COLT 2009, theorem 4, applied to
    each side with half of the error probability.
    """
    m = terms.numerator.size
    if m < 2 or math.isnan(terms.spread):
        return math.nan, math.nan
    scale = float(terms.denominator.mean())
    values = terms.numerator / scale
    log = math.log(4 / (1 - level))
    half = math.sqrt(2 * float(values.var(ddof=1)) * log / m) + 7 * terms.spread / scale * log / (3 * (m - 1))
    mean = float(values.mean())
    return mean - half, mean + half


def bootstrap(terms: list[Terms], resamples: int, rng: np.random.Generator) -> tuple[Values, Values]:
    """Estimates from impressions drawn with replacement, with the same draws for all: one set for each end of an interval.

    Parameters
    ----------
    terms : list of Terms
        Of the same m impressions.
    resamples : int
        Draws.
    rng : numpy.random.Generator

    Returns
    -------
    ((resamples, len(terms)) float64, (resamples, len(terms)) float64)
        Draws for the lower end, with ``terms.lowest`` added, and for the upper end, with ``terms.highest`` added. NaN where the
        denominator of a draw is 0.

    References
    ----------
    B. Efron, "Bootstrap Methods: Another Look at the Jackknife", Annals of Statistics 7 (1979).
    """
    columns = np.stack([part for one in terms for part in (one.numerator, one.denominator)], axis=1)
    if len(columns) > BLOCKS:
        columns = np.add.reduceat(columns, np.arange(BLOCKS) * len(columns) // BLOCKS, axis=0)
    sums = np.empty((resamples, columns.shape[1]))
    for draw in range(resamples):
        sums[draw] = np.bincount(rng.integers(len(columns), size=len(columns)), minlength=len(columns)) @ columns
    times = rng.poisson(1.0, (resamples, 1))
    lowest = np.concatenate([one.lowest for one in terms])
    highest = np.concatenate([one.highest for one in terms])
    return _ratios(sums + times * lowest), _ratios(sums + times * highest)


def _ratios(sums: Values) -> Values:
    numerator, denominator = sums[:, ::2], sums[:, 1::2]
    return np.divide(numerator, denominator, out=np.full_like(numerator, np.nan), where=denominator != 0)
