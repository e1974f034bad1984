"""Compiled steps of the models of a mixture, and of their mixing weights. `ranker` has the references."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from learners.kernels.crosses import Crosses, add_shares, find_pairs, learn_pairs, pair_speeds
from learners.kernels.factorization import (
    PRIOR,
    contribution,
    log_odds,
    normalize,
    probability,
    raise_scales,
    slope_lengths,
    sum_vectors,
)
from memory.jit import njit
from streams.batch import Floats

__all__ = ["State", "explain_rows", "learn_rows", "score_rows"]

_STEP = 1.0
"""Limit of what one row changes in the logarithm of a mixing weight."""


class State(NamedTuple):
    """Arrays of the stores, and parameters. A feature's machines follow each other in `weights` and `squares`.

    The models of `crosses` are the machines and then the linear models.
    """

    weights: Floats
    linear: Floats
    scales: Floats
    squares: Floats
    linear_squares: Floats
    dirty: npt.NDArray[np.bool_]
    intercepts: Floats
    intercept_squares: Floats
    mixing: npt.NDArray[np.float64]
    rates: Floats
    linear_rates: Floats
    l2: np.float32
    mixing_rate: float
    mixing_share: float
    crosses: Crosses


@njit(cache=True, nogil=True, fastmath=True)
def _odds(keys, x, crossed, mask, weights, linear, intercepts, totals, squared, odds):  # type: ignore[no-untyped-def]
    """Fill `odds` (M + L,) with the log-odds of the models, and `totals` and `squared` (M, k); see `sum_vectors`.

    `crossed` (M + L,) are the parts of the crosses, if there are any.
    """
    machines, lines = totals.shape[0], linear.shape[1]
    for m in range(machines):
        part = intercepts[m] + sum_vectors(keys, x, mask, machines, m, weights, totals[m], squared[m])
        if crossed.size:
            part += crossed[m]
        odds[m] = log_odds(part, totals[m], squared[m])
    for line in range(lines):
        part = intercepts[machines + line]
        for c in range(keys.size):
            part += linear[keys[c] & mask, line] * x[c]
        if crossed.size:
            part += crossed[machines + line]
        odds[machines + line] = min(max(part, np.float32(-30.0)), np.float32(30.0))


@njit(cache=True, nogil=True, fastmath=True)
def _mixed(odds, mixing):  # type: ignore[no-untyped-def]
    mixed = 0.0
    for m in range(odds.size):
        mixed += mixing[m] * odds[m]
    return np.float32(mixed)


@njit(cache=True, nogil=True, fastmath=True)
def score_rows(features, values, state, score, hidden):  # type: ignore[no-untyped-def]
    """Fill `score` (N,) and `hidden` (N, M * k)."""
    weights, linear, scales, intercepts, mixing = state.weights, state.linear, state.scales, state.intercepts, state.mixing
    machines, factors, mask, crosses = state.rates.shape[1], weights.shape[1] - 1, scales.size - 1, state.crosses
    totals, squared = np.empty((machines, factors), np.float32), np.empty((machines, factors), np.float32)
    x, odds = np.empty(features.shape[1], np.float32), np.empty(mixing.size, np.float32)
    at, z = np.empty(crosses.pairs.shape[0], np.int64), np.empty(crosses.pairs.shape[0], np.float32)
    crossed = np.empty(mixing.size if at.size else 0, np.float32)
    for n in range(features.shape[0]):
        normalize(features[n], values[n], scales, x)
        if at.size:
            find_pairs(features[n], x, crosses, at, z, crossed)
        _odds(features[n], x, crossed, mask, weights, linear, intercepts, totals, squared, odds)
        score[n] = probability(_mixed(odds, mixing))
        for m in range(machines):
            for k in range(factors):
                hidden[n, m * factors + k] = np.float32(0.5) * (totals[m, k] * totals[m, k] - squared[m, k])


@njit(cache=True, nogil=True, fastmath=True)
def learn_rows(features, values, label, weight, state):  # type: ignore[no-untyped-def]
    """Learn from rows in order."""
    weights, squares, linear, linear_squares = state.weights, state.squares, state.linear, state.linear_squares
    intercepts, intercept_squares, scales, dirty = state.intercepts, state.intercept_squares, state.scales, state.dirty
    rates, linear_rates, mixing, l2, crosses = state.rates, state.linear_rates, state.mixing, state.l2, state.crosses
    columns, machines, factors, mask = features.shape[1], rates.shape[1], weights.shape[1] - 1, scales.size - 1
    totals, squared = np.empty((machines, factors), np.float32), np.empty((machines, factors), np.float32)
    x, lengths = np.empty(columns, np.float32), np.empty(columns, np.float32)
    odds, misses = np.empty(mixing.size, np.float32), np.empty(mixing.size, np.float32)
    at, z = np.empty(crosses.pairs.shape[0], np.int64), np.empty(crosses.pairs.shape[0], np.float32)
    crossing = mixing.size if at.size else 0
    crossed, speeds = np.empty(crossing, np.float32), np.empty(crossing, np.float32)
    slopes, seen = np.empty(crossing, np.float32), np.empty(crossing, np.float32)
    pair_rates, keep = np.empty(crossing, np.float32), np.ones(crossing, np.float32)
    if at.size:
        pair_rates[:machines], pair_rates[machines:], keep[:machines] = rates[0], linear_rates, rates[2]
    one, quarter = np.float32(1.0), np.float32(0.25)
    for n in range(features.shape[0]):
        keys = features[n]
        raise_scales(keys, values[n], scales)
        normalize(keys, values[n], scales, x)
        if at.size:
            find_pairs(keys, x, crosses, at, z, crossed)
            pair_speeds(at, z, crosses, pair_rates, speeds)
        _odds(keys, x, crossed, mask, weights, linear, intercepts, totals, squared, odds)
        for m in range(odds.size):
            misses[m] = probability(odds[m]) - label[n]
        for m in range(machines):
            slope_lengths(keys, x, mask, machines, m, weights, totals[m], lengths)
            _learn_machine(
                keys,
                x,
                mask,
                m,
                misses[m],
                speeds,
                weight[n],
                intercepts,
                intercept_squares,
                weights,
                squares,
                rates,
                l2,
                totals[m],
                lengths,
            )
        _learn_linear(
            keys,
            x,
            mask,
            machines,
            misses,
            speeds,
            weight[n],
            intercepts,
            intercept_squares,
            linear,
            linear_squares,
            linear_rates,
        )
        if at.size:
            for m in range(odds.size):
                slopes[m] = misses[m] * weight[n] / (one + quarter * weight[n] * speeds[m])
                seen[m] = misses[m] * misses[m] * weight[n]
            learn_pairs(at, z, crosses, slopes, seen, pair_rates, keep)
        for c in range(columns):
            if x[c] != 0.0:
                dirty[keys[c] & mask] = True
        _learn_mixing(odds, label[n], weight[n], mixing, state.mixing_rate, state.mixing_share)


@njit(cache=True, nogil=True, fastmath=True)
def _learn_machine(  # type: ignore[no-untyped-def]
    keys, x, mask, m, miss, speeds, weight, intercepts, intercept_squares, weights, squares, rates, l2, total, lengths,
):  # fmt: skip
    """Update machine `m` by one row; like `learners.rankers.fm`, with sums that may forget.

    `speeds` (M + L,), if there are crosses: theirs on entry, of the whole models on return.
    """
    machines, rate_w, rate_v, keep = rates.shape[1], rates[0, m], rates[1, m], rates[2, m]
    one, quarter, share = np.float32(1.0), np.float32(0.25), np.float32(1.0 / total.size)
    speed = rate_w / np.sqrt(intercept_squares[m])
    for c in range(keys.size):
        if x[c] != 0.0:
            row = (keys[c] & mask) * machines + m
            speed += rate_w * x[c] * x[c] / np.sqrt(squares[row, 0]) + rate_v * lengths[c] / np.sqrt(squares[row, 1])
    if speeds.size:
        speed += speeds[m]
        speeds[m] = speed
    slope = miss * weight / (one + quarter * weight * speed)
    # The sums fall to their initial value, not to 0: no learning rate is larger than in the beginning.
    seen, regained = miss * miss * weight, (one - keep) * np.float32(PRIOR)
    intercept_squares[m] += seen
    intercepts[m] -= rate_w * slope / np.sqrt(intercept_squares[m])
    for c in range(keys.size):
        if x[c] == 0.0:
            continue
        row = (keys[c] & mask) * machines + m
        squares[row, 0] = keep * squares[row, 0] + regained + seen * x[c] * x[c]
        squares[row, 1] = keep * squares[row, 1] + regained + seen * lengths[c] * share
        weights[row, 0] -= rate_w * slope * x[c] / np.sqrt(squares[row, 0])
        rate = rate_v / np.sqrt(squares[row, 1])
        decay = one / (one + rate * l2)
        pull = decay * rate * slope * x[c]
        kept = decay + pull * x[c]
        for k in range(total.size):
            weights[row, k + 1] = kept * weights[row, k + 1] - pull * total[k]


@njit(cache=True, nogil=True, fastmath=True)
def _learn_linear(  # type: ignore[no-untyped-def]
    keys, x, mask, machines, misses, speeds, weight, intercepts, intercept_squares, linear, squares, rates,
):  # fmt: skip
    """Update the linear models by one row: like machines without vectors, whose sums do not forget.

    `speeds` (M + L,), if there are crosses: theirs on entry, of the whole models on return.
    """
    one, quarter = np.float32(1.0), np.float32(0.25)
    for line in range(rates.size):
        m, rate = machines + line, rates[line]
        miss = misses[m]
        speed = rate / np.sqrt(intercept_squares[m])
        for c in range(keys.size):
            if x[c] != 0.0:
                speed += rate * x[c] * x[c] / np.sqrt(squares[keys[c] & mask, line])
        if speeds.size:
            speed += speeds[m]
            speeds[m] = speed
        slope = miss * weight / (one + quarter * weight * speed)
        seen = miss * miss * weight
        intercept_squares[m] += seen
        intercepts[m] -= rate * slope / np.sqrt(intercept_squares[m])
        for c in range(keys.size):
            if x[c] != 0.0:
                row = keys[c] & mask
                squares[row, line] += seen * x[c] * x[c]
                linear[row, line] -= rate * slope * x[c] / np.sqrt(squares[row, line])


@njit(cache=True, nogil=True, fastmath=True)
def _learn_mixing(odds, label, weight, mixing, rate, share):  # type: ignore[no-untyped-def]
    """Exponentiated gradient on the log loss of the mixture, then fixed share."""
    mixed = _mixed(odds, mixing)
    slope = rate * weight * (probability(mixed) - label)
    total = 0.0
    for m in range(odds.size):
        mixing[m] *= np.exp(min(max(-slope * (odds[m] - mixed), -_STEP), _STEP))
        total += mixing[m]
    kept, given = (1.0 - share) / total, share / odds.size
    for m in range(odds.size):
        mixing[m] = kept * mixing[m] + given


@njit(cache=True, nogil=True, fastmath=True)
def explain_rows(features, values, state, contributions):  # type: ignore[no-untyped-def]
    """Fill `contributions` (N, F)."""
    weights, linear, mixing, crosses = state.weights, state.linear, state.mixing, state.crosses
    machines, mask, factors = state.rates.shape[1], state.scales.size - 1, weights.shape[1] - 1
    totals, squared = np.empty((machines, factors), np.float32), np.empty((machines, factors), np.float32)
    x, odds = np.empty(features.shape[1], np.float32), np.empty(mixing.size, np.float32)
    at, z = np.empty(crosses.pairs.shape[0], np.int64), np.empty(crosses.pairs.shape[0], np.float32)
    crossed = np.empty(mixing.size if at.size else 0, np.float32)
    for n in range(features.shape[0]):
        keys = features[n]
        normalize(keys, values[n], state.scales, x)
        if at.size:
            find_pairs(keys, x, crosses, at, z, crossed)
        _odds(keys, x, crossed, mask, weights, linear, state.intercepts, totals, squared, odds)
        for c in range(keys.size):
            row, mixed = keys[c] & mask, 0.0
            for m in range(machines):
                mixed += mixing[m] * contribution(weights[row * machines + m], x[c], totals[m])
            for m in range(machines, odds.size):
                mixed += mixing[m] * linear[row, m - machines] * x[c]
            contributions[n, c] = mixed
        add_shares(at, z, crosses, mixing, contributions[n])
