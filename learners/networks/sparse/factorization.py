"""Compiled passes of a factorization machine, some of whose columns have their vectors in pools of blocks.

They are those of `learners.networks.factorization` but for these columns. A row's vectors are first copied side by side. Of a
pooled column, the gradient is computed for all k numbers of this row, and the pool decides what it keeps of it.
"""

from __future__ import annotations

import numpy as np

from learners.kernels.factorization import probability
from memory.jit import njit
from memory.sparse.chains import read_vector, step, step_size, touch

__all__ = ["backward", "forward"]


@njit(cache=True, nogil=True)
def _read(keys, values, pooled, pools, settings, narrow, rows, scales, x, vectors):  # type: ignore[no-untyped-def]
    """Fill `x` (F,) with the normalised values, and `vectors` (F, k). Returns the linear part."""
    mask, length, linear = rows.shape[0] - 1, np.float32(0.0), np.float32(0.0)
    for c in range(keys.size):
        value = values[c]
        if value != np.float32(0.0):
            scale = np.float32(1.0) if pooled[c] >= 0 else scales[keys[c] & mask]
            if scale == np.float32(0.0):
                scale = abs(value)
            value = np.float32(1.0) if value == scale else min(max(value / scale, np.float32(-1.0)), np.float32(1.0))
        x[c] = value
        length += value * value
    shrink = np.float32(1.0) / np.sqrt(length) if length > np.float32(0.0) else np.float32(0.0)
    for c in range(keys.size):
        x[c] *= shrink
        if x[c] == np.float32(0.0):
            continue
        p = pooled[c]
        if p >= 0:
            row = keys[c] & (narrow[p].size - 1)
            linear += narrow[p][row] * x[c]
            read_vector(pools[p], settings[p], row, vectors[c])
        else:
            at = keys[c] & mask
            linear += rows[at, 0] * x[c]
            for k in range(vectors.shape[1]):
                vectors[c, k] = rows[at, k + 1]
    return linear


@njit(cache=True, nogil=True, fastmath=True)
def _log_odds(linear, x, vectors, total):  # type: ignore[no-untyped-def]
    """Fill `total` (k,) with the sum of v x. Returns the log-odds."""
    total[:] = np.float32(0.0)
    pairs = np.float32(0.0)
    for c in range(x.size):
        if x[c] != np.float32(0.0):
            for k in range(total.size):
                vx = vectors[c, k] * x[c]
                total[k] += vx
                pairs -= vx * vx
    for k in range(total.size):
        pairs += total[k] * total[k]
    return linear + np.float32(0.5) * pairs


@njit(cache=True, nogil=True)
def forward(  # type: ignore[no-untyped-def]
    features, values, field, pooled, pools, settings, narrow, intercept, rows, scales, odds, fields
):
    """Fill `odds` (n,) and `fields` (n, fields, k), see `learners.networks.factorization.forward`.

    `pooled` (F,) is the pool of each column, or -1. `narrow` has the linear weights of each pool's rows.
    """
    width = rows.shape[1] - 1
    x, total = np.empty(features.shape[1], np.float32), np.empty(width, np.float32)
    vectors = np.empty((features.shape[1], width), np.float32)
    for n in range(features.shape[0]):
        linear = intercept[0] + _read(features[n], values[n], pooled, pools, settings, narrow, rows, scales, x, vectors)
        odds[n] = _log_odds(linear, x, vectors, total)
        fields[n] = np.float32(0.0)
        for c in range(field.size):
            if field[c] >= 0 and x[c] != np.float32(0.0):
                for k in range(width):
                    fields[n, field[c], k] += vectors[c, k] * x[c]


@njit(cache=True, nogil=True)
def backward(  # type: ignore[no-untyped-def]
    features, values, field, label, weight, others, gradient, pooled, pools, settings, narrow, narrow_squares, narrow_dirty,
    slots, evidence, intercept, intercept_squares, rows, scales, squares, dirty, rate_w, rate_v,
):  # fmt: skip
    """Learn rows in order, see `learners.networks.factorization.backward`.

    `slots` (n, pools) says where in each pool's `evidence` a row collects.
    """
    width, mask, columns = rows.shape[1] - 1, rows.shape[0] - 1, features.shape[1]
    rate_w, rate_v, largest = np.float32(rate_w), np.float32(rate_v), np.float32(30.0)
    zero, one = np.float32(0.0), np.float32(1.0)
    x, total = np.empty(columns, np.float32), np.empty(width, np.float32)
    vectors, slopes = np.empty((columns, width), np.float32), np.empty((columns, width), np.float32)
    for n in range(features.shape[0]):
        keys = features[n]
        if weight[n] <= zero:
            continue
        for c in range(columns):
            at, magnitude = keys[c] & mask, abs(values[n, c])
            if pooled[c] >= 0:
                if magnitude > zero:
                    touch(pools[pooled[c]], settings[pooled[c]], keys[c] & (narrow[pooled[c]].size - 1))
            elif magnitude > scales[at]:
                scales[at] = magnitude if scales[at] == zero else min(magnitude, np.float32(2.0) * scales[at])
        linear = intercept[0] + _read(keys, values[n], pooled, pools, settings, narrow, rows, scales, x, vectors)
        odds = min(max(_log_odds(linear, x, vectors, total) + others[n], -largest), largest)
        miss = probability(odds) - label[n]
        speed = rate_w / np.sqrt(intercept_squares[0])
        for c in range(columns):
            if x[c] == zero:
                continue
            p, of_vector = pooled[c], zero
            for k in range(width):
                slopes[c, k] = x[c] * (total[k] - vectors[c, k] * x[c])
            if p >= 0:
                row = keys[c] & (narrow[p].size - 1)
                speed += rate_w * x[c] * x[c] / np.sqrt(narrow_squares[p][row])
                speed += np.float32(step_size(pools[p], settings[p], row, slopes[c]))
            else:
                at = keys[c] & mask
                for k in range(width):
                    of_vector += slopes[c, k] * slopes[c, k] / np.sqrt(squares[at, k + 1])
                speed += rate_w * x[c] * x[c] / np.sqrt(squares[at, 0]) + rate_v * of_vector
        damping = one / (one + np.float32(0.25) * weight[n] * speed)
        slope, seen = miss * weight[n], miss * miss * weight[n]
        intercept_squares[0] += seen
        intercept[0] -= rate_w * slope * damping / np.sqrt(intercept_squares[0])
        for c in range(columns):
            if x[c] == zero:
                continue
            p = pooled[c]
            for k in range(width):
                slopes[c, k] *= slope
                if field[c] >= 0:
                    slopes[c, k] += gradient[n, field[c], k] * x[c]
            if p >= 0:
                row = keys[c] & (narrow[p].size - 1)
                narrow_squares[p][row] += seen * x[c] * x[c]
                narrow[p][row] -= rate_w * slope * damping * x[c] / np.sqrt(narrow_squares[p][row])
                narrow_dirty[p][row] = True
                step(pools[p], settings[p], row, slopes[c], weight[n], damping, evidence[p][slots[n, p]])
            else:
                at = keys[c] & mask
                dirty[at] = True
                squares[at, 0] += seen * x[c] * x[c]
                rows[at, 0] -= rate_w * slope * damping * x[c] / np.sqrt(squares[at, 0])
                for k in range(width):
                    squares[at, k + 1] += slopes[c, k] * slopes[c, k] / weight[n]
                    rows[at, k + 1] -= rate_v * damping * slopes[c, k] / np.sqrt(squares[at, k + 1])
