"""Weights of pairs of columns, by hash, for one or more models: their log-odds, and one step of AdaGrad.

The value of a pair is the product of its columns' values. The pairs of a row are scaled to one Euclidean length, as
`learners.kernels.factorization.normalize` does with the columns.

References
----------
H.-T. Cheng et al., "Wide & Deep Learning for Recommender Systems", DLRS 2016: crosses with linear weights beside vectors.
O. Chapelle, E. Manavoglu, R. Rosales, "Simple and Scalable Response Prediction for Display Advertising", ACM Transactions on
Intelligent Systems and Technology 2014: crosses of all sides, hashed (section 3.2).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from learners.features import mix
from learners.kernels.factorization import PRIOR
from memory.arrays import Arrays
from memory.jit import njit
from streams.batch import Bools, Floats, Ids

__all__ = [
    "Crosses",
    "add_shares",
    "find_pairs",
    "learn_pairs",
    "live_crosses",
    "new_crosses",
    "no_crosses",
    "pair_speeds",
]


class Crosses(NamedTuple):
    """The live arrays, as compiled functions take them.

    Attributes
    ----------
    pairs : (P, 2) int64
        Columns that are crossed.
    weights, squares : (2**bits, M) float32
        Weights of the M models, and their sums of squared gradients.
    dirty : (2**bits,) bool
    scale : float
        Length of the vector of a row's pairs. AdaGrad's initial sum of squares does not change with it, so weights learn more
        slowly with a smaller one.
    """

    pairs: Ids
    weights: Floats
    squares: Floats
    dirty: Bools
    scale: float


def new_crosses(bits: int, models: int) -> Arrays:
    """Create the store of 2**bits rows of weights."""

    def first() -> dict[str, Floats]:
        shape = (1 << bits, models)
        return {"weights": np.zeros(shape, np.float32), "squares": np.full(shape, PRIOR, np.float32)}

    return Arrays.from_factory(first, private=["squares"])


def no_crosses(models: int) -> Crosses:
    """Return arrays without pairs."""
    return live_crosses(new_crosses(0, models), np.zeros((0, 2), np.int64), 1.0)


def live_crosses(store: Arrays, pairs: Ids, scale: float) -> Crosses:
    """Return the arrays of a store."""
    return Crosses(pairs, store["weights"], store["squares"], store.dirty, scale)


@njit(cache=True, nogil=True, fastmath=True)
def find_pairs(keys, x, crosses, at, z, odds):  # type: ignore[no-untyped-def]
    """Find the pairs of a row, and what they add to the log-odds. The order of a pair's columns does not matter.

    Fills `at` (P,) with their rows of weights, `z` (P,) with their values, 0 where one is absent, and `odds` (M,) by model.
    """
    weights, mask = crosses.weights, crosses.weights.shape[0] - 1
    length = np.float32(0.0)
    for p in range(at.size):
        one, other = crosses.pairs[p, 0], crosses.pairs[p, 1]
        z[p] = x[one] * x[other]
        length += z[p] * z[p]
        at[p] = mix(min(keys[one], keys[other]), max(keys[one], keys[other]) * np.int64(3)) & mask
    factor = np.float32(crosses.scale) / np.sqrt(length) if length > np.float32(0.0) else np.float32(0.0)
    odds[:] = np.float32(0.0)
    for p in range(at.size):
        z[p] *= factor
        for m in range(odds.size):
            odds[m] += weights[at[p], m] * z[p]


@njit(cache=True, nogil=True, fastmath=True)
def pair_speeds(at, z, crosses, rates, speeds):  # type: ignore[no-untyped-def]
    """Fill `speeds` (M,) with what a slope of 1 moves the log-odds of each model by, at its learning rate."""
    squares = crosses.squares
    speeds[:] = np.float32(0.0)
    for p in range(at.size):
        for m in range(speeds.size):
            speeds[m] += z[p] * z[p] / np.sqrt(squares[at[p], m])
    for m in range(speeds.size):
        speeds[m] *= rates[m]


@njit(cache=True, nogil=True, fastmath=True)
def learn_pairs(at, z, crosses, slopes, seen, rates, keep):  # type: ignore[no-untyped-def]
    """Update the pairs' weights of all models. All but the pairs are (M,).

    Parameters
    ----------
    slopes : (M,) float32
        Slopes of the loss by the log-odds.
    seen : (M,) float32
        Their squares, as AdaGrad sums them up.
    rates : (M,) float32
        Learning rates.
    keep : (M,) float32
        Share of its sum of squares that a pair keeps; the rest falls to the initial value.
    """
    weights, squares, one = crosses.weights, crosses.squares, np.float32(1.0)
    for p in range(at.size):
        if z[p] != 0.0:
            row = at[p]
            crosses.dirty[row] = True
            for m in range(slopes.size):
                regained = (one - keep[m]) * np.float32(PRIOR)
                squares[row, m] = keep[m] * squares[row, m] + regained + seen[m] * z[p] * z[p]
                weights[row, m] -= rates[m] * slopes[m] * z[p] / np.sqrt(squares[row, m])


@njit(cache=True, nogil=True, fastmath=True)
def add_shares(at, z, crosses, mixing, contributions):  # type: ignore[no-untyped-def]
    """Add to `contributions` (F,) what the pairs give to the log-odds, half to each column; models are weighted by `mixing`."""
    for p in range(at.size):
        for m in range(mixing.size):
            half = np.float32(0.5 * mixing[m]) * crosses.weights[at[p], m] * z[p]
            contributions[crosses.pairs[p, 0]] += half
            contributions[crosses.pairs[p, 1]] += half
