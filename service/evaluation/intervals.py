"""How sure an estimate is: empirical Bernstein, bootstrap, and the large-sample standard error.

Everything is a ratio of two sums over impressions, which are drawn independently of each other; what is inside an impression
is not.

Where rewards are rare, many logs lack the click at a large weight that a few have, and no resample of such a log has it.
So each end of an interval is computed with one more impression than the log has: the worst, or the best, that could have
occurred. It is drawn as often as a bootstrap draws one row. It widens an interval in proportion to 1 / m.

References
----------
M. Fay, E. Feuer, "Confidence Intervals for Directly Standardized Rates: a Method Based on the Gamma Distribution", Statistics
in Medicine 16 (1997): the upper end for weighted counts has one more event, of the largest weight.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["BLOCKS", "Terms", "bernstein", "bootstrap", "running_ends", "running_errors", "standard_error"]

Values = npt.NDArray[np.float64]

BLOCKS = 10_000
"""Most parts that the bootstrap draws from; of more impressions, neighbours are put together."""


@dataclass(frozen=True, slots=True)
class Terms:
    """An estimate as ``sum(over) / sum(under)``, impression by impression.

    Attributes
    ----------
    over, under : (m,) float64
        What each impression adds above and below the line.
    spread : float
        Difference between the largest and the smallest that `over` can be; NaN for an estimate that is no mean, because
        what is below the line is random too.
    lowest, highest : (float, float)
        What one more impression adds to both sums when it goes as badly, or as well, as it can.
    """

    over: Values
    under: Values
    spread: float = math.nan
    lowest: tuple[float, float] = (0.0, 0.0)
    highest: tuple[float, float] = (0.0, 0.0)

    @property
    def value(self) -> float:
        """The estimate; NaN where nothing is below the line."""
        under = float(self.under.sum())
        return float(self.over.sum()) / under if under else math.nan


def standard_error(terms: Terms) -> float:
    """Large-sample standard error of the ratio, by the delta method; NaN below two impressions.

    References
    ----------
    A. Owen, "Monte Carlo theory, methods and examples", 2013, section 9.2, equation (9.9).
    """
    under, m = float(terms.under.sum()), terms.over.size
    if m < 2 or not under:
        return math.nan
    residual = terms.over - terms.value * terms.under
    return math.sqrt(m / (m - 1) * float(residual @ residual)) / abs(under)


def running_errors(terms: Terms, at: npt.NDArray[np.int64]) -> tuple[Values, Values]:
    """Estimate and standard error after the first ``at[i]`` impressions, two (points,) float64; NaN where there is none yet."""
    over, under = terms.over.cumsum()[at - 1], terms.under.cumsum()[at - 1]
    squares = [np.cumsum(part)[at - 1] for part in (terms.over**2, terms.over * terms.under, terms.under**2)]
    with np.errstate(divide="ignore", invalid="ignore"):
        value = over / under
        residual = squares[0] - 2 * value * squares[1] + value**2 * squares[2]
        error = np.sqrt(np.maximum(residual, 0.0) * at / np.maximum(at - 1, 1)) / np.abs(under)
    return value, np.where(at > 1, error, np.nan)


def running_ends(terms: Terms, at: npt.NDArray[np.int64], reach: float) -> tuple[Values, Values]:
    """Ends of the large-sample interval after the first ``at[i]`` impressions, two (points,) float64.

    `reach` is in standard errors; NaN where there is none yet.
    """
    value, error = running_errors(terms, at)
    over, under = terms.over.cumsum()[at - 1], terms.under.cumsum()[at - 1]
    ends = []
    for (more_over, more_under), away in ((terms.lowest, -reach), (terms.highest, reach)):
        with np.errstate(divide="ignore", invalid="ignore"):
            moved = (over + more_over) / (under + more_under)
            ends.append(moved + away * np.hypot(error, (more_over - value * more_under) / under))
    return ends[0], ends[1]


def bernstein(terms: Terms, level: float) -> tuple[float, float]:
    """Two-sided empirical Bernstein interval of a mean; NaN for a ratio of two random sums.

    It holds for every sample size when ``terms.spread`` was known beforehand.

    References
    ----------
    A. Maurer, M. Pontil, "Empirical Bernstein Bounds and Sample Variance Penalization", COLT 2009, theorem 4, once for each
    side with half of the error.
    """
    m = terms.over.size
    if m < 2 or math.isnan(terms.spread):
        return math.nan, math.nan
    scale = float(terms.under.mean())
    values = terms.over / scale
    log = math.log(4 / (1 - level))
    half = math.sqrt(2 * float(values.var(ddof=1)) * log / m) + 7 * terms.spread / scale * log / (3 * (m - 1))
    mean = float(values.mean())
    return mean - half, mean + half


def bootstrap(terms: list[Terms], resamples: int, rng: np.random.Generator) -> tuple[Values, Values]:
    """Estimates from impressions drawn with replacement, the same draws for all: one set for each end of an interval.

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
        Draws for the lower end, with ``terms.lowest`` among the impressions, and for the upper end, with ``terms.highest``. NaN
        where a draw has nothing below the line.

    References
    ----------
    B. Efron, "Bootstrap Methods: Another Look at the Jackknife", Annals of Statistics 7 (1979).
    """
    columns = np.stack([part for one in terms for part in (one.over, one.under)], axis=1)
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
    over, under = sums[:, ::2], sums[:, 1::2]
    return np.divide(over, under, out=np.full_like(over, np.nan), where=under != 0)
