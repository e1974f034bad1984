"""Parts of one step of a factorization machine over hashed features. `learners.rankers.fm` has the references.

M machines may share a table. A feature's rows of all machines follow each other: machine m has row (key & mask) * M + m.

======= ==================== =======================================================
mask    2**bits - 1          the row of a feature is its key & mask
scales  (2**bits,)           largest magnitude of a value seen for a feature
weights (2**bits * M, k + 1) weight w of a feature, then its vector v
======= ==================== =======================================================
"""

from __future__ import annotations

import numpy as np

from memory.jit import njit

__all__ = [
    "FINITE",
    "PRIOR",
    "contribution",
    "log_odds",
    "normalize",
    "probability",
    "raise_scales",
    "slope_lengths",
    "sum_vectors",
]

PRIOR = 0.15
"""AdaGrad's initial sums of squared gradients. A row with predicted probability 0.5 adds 0.25 x^2."""

FINITE = 3e38
"""Values are clipped to this, which removes infinities and NaN. Scales take care of large finite values."""


@njit(cache=True, nogil=True)
def raise_scales(keys, values, scales):  # type: ignore[no-untyped-def]
    """Let the scales of a row's features follow its magnitudes. A scale at most doubles at a time, and never falls."""
    mask = scales.shape[0] - 1
    for c in range(keys.size):
        at, magnitude = keys[c] & mask, abs(values[c])
        if magnitude > scales[at]:
            scales[at] = magnitude if scales[at] == 0.0 else min(magnitude, np.float32(2.0) * scales[at])


@njit(cache=True, nogil=True)  # no fastmath: it would multiply by 1 / scale, which overflows
def normalize(keys, values, scales, x):  # type: ignore[no-untyped-def]
    """Fill `x` with the values, divided by the scales of their features and normalised to unit length."""
    mask = scales.shape[0] - 1
    length = np.float32(0.0)
    for c in range(keys.size):
        value = values[c]
        if value != np.float32(0.0):
            scale = scales[keys[c] & mask]
            if scale == np.float32(0.0):
                scale = abs(value)
            value = np.float32(1.0) if value == scale else min(max(value / scale, np.float32(-1.0)), np.float32(1.0))
        x[c] = value
        length += value * value
    if length > np.float32(0.0):
        shrink = np.float32(1.0) / np.sqrt(length)
        for c in range(keys.size):
            x[c] *= shrink


@njit(cache=True, nogil=True, fastmath=True)
def sum_vectors(keys, x, mask, machines, machine, weights, total, squared):  # type: ignore[no-untyped-def]
    """Fill `total` (k,) with the sum of v x over the columns, and `squared` with that of (v x)^2. Returns the linear part."""
    total[:] = np.float32(0.0)
    squared[:] = np.float32(0.0)
    linear = np.float32(0.0)
    for c in range(keys.size):
        if x[c] != 0.0:
            row = (keys[c] & mask) * machines + machine
            linear += weights[row, 0] * x[c]
            for k in range(total.size):
                vx = weights[row, k + 1] * x[c]
                total[k] += vx
                squared[k] += vx * vx
    return linear


@njit(cache=True, nogil=True, fastmath=True)
def log_odds(linear, total, squared):  # type: ignore[no-untyped-def]
    """Return the log-odds, clipped to 30, from the intercept plus the linear part, and the sums of `sum_vectors`."""
    pairs = np.float32(0.0)
    for k in range(total.size):
        pairs += total[k] * total[k] - squared[k]
    odds = linear + np.float32(0.5) * pairs
    return min(max(odds, np.float32(-30.0)), np.float32(30.0))


@njit(cache=True, nogil=True, fastmath=True)
def probability(odds):  # type: ignore[no-untyped-def]
    """Return the probability of log-odds."""
    return np.float32(1.0) / (np.float32(1.0) + np.exp(-odds))


@njit(cache=True, nogil=True, fastmath=True)
def contribution(row, x, total):  # type: ignore[no-untyped-def]
    """Return what a column of value `x` adds to the log-odds: its weight plus half of all its pairs."""
    pairs = np.float32(0.0)
    for k in range(total.size):
        vx = row[k + 1] * x
        pairs += vx * (total[k] - vx)
    return row[0] * x + np.float32(0.5) * pairs


@njit(cache=True, nogil=True, fastmath=True)
def slope_lengths(keys, x, mask, machines, machine, weights, total, lengths):  # type: ignore[no-untyped-def]
    """Fill `lengths` (C,) with |d log-odds / d v_c|^2 for each column c."""
    for c in range(keys.size):
        length = np.float32(0.0)
        if x[c] != 0.0:
            row = (keys[c] & mask) * machines + machine
            for k in range(total.size):
                rest = total[k] - weights[row, k + 1] * x[c]
                length += rest * rest
        lengths[c] = length * x[c] * x[c]
