"""Is the winner better than the base on rows that the search has not seen? A paired interval, and a verdict."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from service.evaluation.tuning.samples import Sample
from streams.batch import Bools, Ids

__all__ = ["BLOCKS", "Confirmation", "confirmed"]

BLOCKS = 50
"""Blocks of neighbouring units that the jackknife leaves out in turn: neighbouring rows are not independent samples."""

FEWEST = 10
"""Fewest units in a block for an interval."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Confirmation:
    """Base and winner on the rest of the stream.

    Attributes
    ----------
    units : int
        Rows, tests of the list or impressions of the rest.
    base, winner : float
        The objective over them.
    gain : float
        How much the winner is better, whatever the direction of the objective.
    margin : float
        Half the width of the paired interval of `gain`; NaN with too few units.
    ahead, ahead_margin : float
        How much the winner is better than a guess that knows nothing of users and items; NaN for objectives without one.
    confidence : float
        Level of the intervals.
    verdict : str
        A sentence.
    holds : bool
        Whether the gain is confirmed.
    """

    units: int
    base: float
    winner: float
    gain: float
    margin: float
    ahead: float
    ahead_margin: float
    confidence: float
    verdict: str
    holds: bool


def confirmed(base: Sample, winner: Sample, first: int, confidence: float, *, lower_is_better: bool) -> Confirmation:
    """Compare two configs on the units from `first` on, each unit with itself.

    Parameters
    ----------
    base, winner : Sample
        Of the whole stream.
    first : int
        Place in the stream where the rest begins.
    confidence : float
        Level of the interval.
    lower_is_better : bool

    Raises
    ------
    ValueError
        When the samples are not of the same units.

    References
    ----------
    H. Künsch, "The Jackknife and the Bootstrap for General Stationary Observations", Annals of Statistics 17 (1989): blocks
    of neighbours are left out, because neighbours depend on each other.
    """
    if not base.same_units(winner):
        raise ValueError("the winner was measured on other rows than the base, so they cannot be compared pair by pair")
    rest = base.at >= first
    sign = -1.0 if lower_is_better else 1.0

    def difference(units: Bools) -> float:
        return sign * (winner.value(units) - base.value(units))

    gain, margin = _jackknife(difference, rest, confidence)
    ahead, ahead_margin = _jackknife(winner.ahead, rest, confidence)
    holds, verdict = _judged(gain, margin, ahead, ahead_margin, confidence)
    return Confirmation(
        units=int(rest.sum()),
        base=base.value(rest),
        winner=winner.value(rest),
        gain=gain,
        margin=margin,
        ahead=ahead,
        ahead_margin=ahead_margin,
        confidence=confidence,
        verdict=verdict,
        holds=holds,
    )


def _judged(gain: float, margin: float, ahead: float, ahead_margin: float, confidence: float) -> tuple[bool, str]:
    level = f"{confidence:.0%} interval"
    if math.isnan(margin):
        return False, "The gain is not confirmed: the rest of the stream is too short for an interval. Keep the base"
    if not gain > margin:
        if gain < -margin:
            return False, f"The gain does not hold: on the rest the base is better, and the {level} says so. Keep the base"
        return False, f"The gain does not hold: on the rest its {level} contains 0, so it may be noise. Keep the base"
    if not math.isnan(ahead) and not ahead > ahead_margin:
        problem = "the winner is not better than a guess that knows nothing of users and items"
        return False, f"The gain is noise: on the rest {problem}, by its {level}. Keep the base"
    return True, f"The gain holds on rows that the search has not seen, by its {level}"


def _jackknife(statistic: Callable[[Bools], float], units: Bools, confidence: float) -> tuple[float, float]:
    """The statistic over the units, and half the width of its interval; NaN with too few of them."""
    value, numbers = statistic(units), np.flatnonzero(units)
    if math.isnan(value) or numbers.size < BLOCKS * FEWEST:
        return value, math.nan
    left_out = np.array([statistic(_without(units, block)) for block in np.array_split(numbers, BLOCKS)])
    error = math.sqrt((BLOCKS - 1) / BLOCKS * float(((left_out - left_out.mean()) ** 2).sum()))
    return value, _quantile(confidence, BLOCKS - 1) * error


def _without(units: Bools, block: Ids) -> Bools:
    kept = units.copy()
    kept[block] = False
    return kept


def _quantile(confidence: float, degrees: int) -> float:
    """Two-sided quantile of Student's t, by the first term of its expansion around the normal distribution."""
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    return z + (z**3 + z) / (4 * degrees)
