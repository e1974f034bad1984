"""Exact probabilities that one of many independent normal variables is the largest, for Thompson sampling."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from memory.jit import njit
from streams.batch import Ids

__all__ = ["all_win_probabilities", "win_probabilities"]

_Values = npt.NDArray[np.float64]

_REACH = 7.5  # in standard deviations; a normal variable has 3e-14 of its mass beyond it
_POINTS, _WEIGHTS = np.polynomial.legendre.leggauss(16)


def win_probabilities(mean: _Values, deviation: _Values, chosen: Ids) -> _Values:
    """Return the probability that each chosen row draws the highest value among the rows that remained for its position.

    Row s draws from N(mean[s], deviation[s]^2), independently. The probability of row r is the integral over x of its density
    times the product of the other rows' distribution functions at x. All positions share one set of nodes in Gauss-Legendre
    panels. A panel is two deviations wide, for the narrowest row that has mass there. The product is built from the last
    position to the first, so that it never needs a division.

    Parameters
    ----------
    mean, deviation : (n,) float64
        Finite; the deviation may be 0.
    chosen : (k,) int64
        Rows in the order of their positions, all different.

    Returns
    -------
    (k,) float64
        The absolute error is below 1e-9, the relative error below 1e-5 up to 10,000 rows. Rows of deviation 0 and equal mean
        share their probability.
    """
    if chosen.size == 0:
        return np.empty(0)
    x, weight = _nodes(mean - _REACH * deviation, mean + _REACH * deviation, deviation, chosen.size)
    return _integrate(mean, deviation, chosen, x, weight)


def all_win_probabilities(mean: _Values, deviation: _Values) -> _Values:
    """Return the probability of each row to draw the highest value of all.

    Parameters
    ----------
    mean, deviation : (n,) float64
        As for `win_probabilities`; n > 0.

    Returns
    -------
    (n,) float64
        Probabilities that sum to 1, as accurate as those of `win_probabilities`.
    """
    x, weight = _nodes(mean - _REACH * deviation, mean + _REACH * deviation, deviation, 1)
    probabilities = _integrate_all(mean, deviation, x, weight)
    return probabilities / probabilities.sum()  # type: ignore[no-any-return]


@njit(cache=True, nogil=True)
def _distribution(x: float, mean: float, deviation: float) -> float:
    if deviation == 0.0:
        return 1.0 if x >= mean else 0.0
    return 0.5 * math.erfc((mean - x) / (deviation * math.sqrt(2.0)))


@njit(cache=True, nogil=True)
def _nodes(low: _Values, high: _Values, deviation: _Values, positions: int) -> tuple[_Values, _Values]:
    # The product is 0 below the highest `low` of the remaining rows. This is at least the k-th highest `low` of all rows.
    floor = np.sort(low)[max(low.size - positions, 0)]
    top = high.max()
    edges = [floor]
    while edges[-1] < top:
        at = edges[-1]
        narrow = np.inf
        for s in range(low.size):
            if low[s] <= at < high[s]:
                narrow = min(narrow, deviation[s])
        end = min(at + 2.0 * narrow, top)
        for s in range(low.size):
            if at < low[s] < end and deviation[s] < narrow:
                end = low[s]
        edges.append(end if end > at else np.nextafter(at, np.inf))
    size = _POINTS.size
    x, weight = np.empty((len(edges) - 1) * size), np.empty((len(edges) - 1) * size)
    for panel in range(len(edges) - 1):
        half = (edges[panel + 1] - edges[panel]) / 2
        x[panel * size : (panel + 1) * size] = edges[panel] + half * (1 + _POINTS)
        weight[panel * size : (panel + 1) * size] = half * _WEIGHTS
    return x, weight


@njit(cache=True, nogil=True)
def _integrate(mean: _Values, deviation: _Values, chosen: Ids, x: _Values, weight: _Values) -> _Values:
    among_chosen = np.zeros(mean.size, np.bool_)
    among_chosen[chosen] = True
    others = np.flatnonzero(~among_chosen)
    high = mean + _REACH * deviation
    others = others[np.argsort(-high[others])]
    below = np.ones(x.size)
    for node in range(x.size):
        for s in others:
            if high[s] < x[node]:
                break
            below[node] *= _distribution(x[node], mean[s], deviation[s])
            if below[node] < 1e-20:
                below[node] = 0.0
                break
    probabilities = np.zeros(chosen.size)
    for position in range(chosen.size - 1, -1, -1):
        r = chosen[position]
        if deviation[r] == 0.0:
            # The row always draws its mean, so there is no integral. Equal rows share the probability.
            probability, tied = 1.0, 1
            for s in others:
                probability *= _distribution(mean[r], mean[s], deviation[s])
                tied += deviation[s] == 0.0 and mean[s] == mean[r]
            for later in chosen[position + 1 :]:
                probability *= _distribution(mean[r], mean[later], deviation[later])
                tied += deviation[later] == 0.0 and mean[later] == mean[r]
            probabilities[position] = probability / tied
        for node in range(x.size):
            if deviation[r] > 0.0:
                z = (x[node] - mean[r]) / deviation[r]
                probabilities[position] += weight[node] * below[node] * math.exp(-0.5 * z * z) / deviation[r]
            below[node] *= _distribution(x[node], mean[r], deviation[r])
        if deviation[r] > 0.0:
            probabilities[position] /= math.sqrt(2 * math.pi)
    return probabilities


@njit(cache=True, nogil=True)
def _integrate_all(mean: _Values, deviation: _Values, x: _Values, weight: _Values) -> _Values:
    probabilities = np.zeros(mean.size)
    below, up_to = np.empty(mean.size), np.empty(mean.size + 1)
    for node in range(x.size):
        # The product of all other rows is the product of the rows before it times that of the rows after it.
        up_to[0] = 1.0
        for s in range(mean.size):
            below[s] = _distribution(x[node], mean[s], deviation[s])
            up_to[s + 1] = up_to[s] * below[s]
        after = 1.0
        for s in range(mean.size - 1, -1, -1):
            if deviation[s] > 0.0:
                z = (x[node] - mean[s]) / deviation[s]
                density = math.exp(-0.5 * z * z) / (deviation[s] * math.sqrt(2 * math.pi))
                probabilities[s] += weight[node] * density * up_to[s] * after
            after *= below[s]
    for r in range(mean.size):
        if deviation[r] == 0.0:
            # The row always draws its mean, so there is no integral. Equal rows share the probability.
            probability, tied = 1.0, 0
            for s in range(mean.size):
                if s != r:
                    probability *= _distribution(mean[r], mean[s], deviation[s])
                tied += deviation[s] == 0.0 and mean[s] == mean[r]
            probabilities[r] = probability / tied
    return probabilities
