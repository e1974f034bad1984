"""Compiled passes of a factorization machine, some of whose columns have their vectors in pools of blocks.

They are those of `learners.networks.factorization` but for these columns. Of a pooled column, the gradient is computed for all
k numbers of the row at hand, and the pool decides what it keeps of it.
"""

from __future__ import annotations

import numpy as np

from learners.kernels.factorization import probability
from memory.jit import njit
from memory.sparse.chains import Pool, Settings, read_vector, step, step_size, touch

__all__ = ["backward", "forward"]


@njit(cache=True, nogil=True)  # no fastmath: it would multiply by 1 / scale, which overflows
def _normalize(keys, values, pooled, scales, x):  # type: ignore[no-untyped-def]
    """Fill `x` like `learners.kernels.factorization.normalize`. The values of pooled columns have the scale 1."""
    mask, length = scales.shape[0] - 1, np.float32(0.0)
    for c in range(keys.size):
        value = values[c]
        if value != np.float32(0.0):
            scale = np.float32(1.0) if pooled[c] >= 0 else scales[keys[c] & mask]
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
def _log_odds(keys, x, pooled, vectors, weights, intercept, rows, total):  # type: ignore[no-untyped-def]
    """Fill `total` (k,) with the sum of v x over the columns. Returns the log-odds.

    `vectors` (pools, k) and `weights` (pools,) are those of the pooled columns.
    """
    mask, linear, pairs = rows.shape[0] - 1, intercept, np.float32(0.0)
    total[:] = np.float32(0.0)
    for c in range(keys.size):
        if x[c] == np.float32(0.0):
            continue
        if pooled[c] >= 0:
            vector = vectors[pooled[c]]
            linear += weights[pooled[c]] * x[c]
            for k in range(total.size):
                vx = vector[k] * x[c]
                total[k] += vx
                pairs -= vx * vx
        else:
            at = keys[c] & mask
            linear += rows[at, 0] * x[c]
            for k in range(total.size):
                vx = rows[at, k + 1] * x[c]
                total[k] += vx
                pairs -= vx * vx
    for k in range(total.size):
        pairs += total[k] * total[k]
    return min(max(linear + np.float32(0.5) * pairs, np.float32(-30.0)), np.float32(30.0))


@njit(cache=True, nogil=True, fastmath=True)
def forward(  # type: ignore[no-untyped-def]
    features, values, field, pooled, pools, settings, narrow, at_pool, intercept, rows, scales, odds, fields
):
    """Fill `odds` (n,) and `fields` (n, fields, k), see `learners.networks.factorization.forward`.

    `pooled` (F,) is the pool of each column, or -1. `narrow` has the linear weights of each pool's rows, and `at_pool` (n,
    pools) the rows' numbers in each pool.
    """
    width, mask = rows.shape[1] - 1, rows.shape[0] - 1
    x, total = np.empty(features.shape[1], np.float32), np.empty(width, np.float32)
    vectors, weights = np.zeros((len(pools), width), np.float32), np.zeros(len(pools), np.float32)
    for n in range(features.shape[0]):
        for p in range(len(pools)):
            row = at_pool[n, p]
            # The candidates of a request follow each other, and have one user.
            if row >= 0 and (n == 0 or row != at_pool[n - 1, p]):
                read_vector(Pool(*pools[p]), Settings(*settings[p]), row, vectors[p])
                weights[p] = narrow[p][row]
        _normalize(features[n], values[n], pooled, scales, x)
        odds[n] = _log_odds(features[n], x, pooled, vectors, weights, intercept[0], rows, total)
        fields[n] = np.float32(0.0)
        for c in range(field.size):
            if field[c] < 0 or x[c] == np.float32(0.0):
                continue
            of_field = fields[n, field[c]]
            if pooled[c] >= 0:
                vector = vectors[pooled[c]]
                for k in range(width):
                    of_field[k] += vector[k] * x[c]
            else:
                at = features[n, c] & mask
                for k in range(width):
                    of_field[k] += rows[at, k + 1] * x[c]


@njit(cache=True, nogil=True)
def backward(  # type: ignore[no-untyped-def]
    features, values, field, label, weight, others, gradient, pooled, pools, settings, narrow, narrow_squares, narrow_dirty,
    at_pool, slots, evidence, intercept, intercept_squares, rows, scales, squares, dirty, rate_w, rate_v,
):  # fmt: skip
    """Learn rows in order, see `learners.networks.factorization.backward`.

    `slots` (n, pools) say where in a pool's `evidence` the rows collect.
    """
    width, mask, columns = rows.shape[1] - 1, rows.shape[0] - 1, features.shape[1]
    rate_w, rate_v, largest = np.float32(rate_w), np.float32(rate_v), np.float32(30.0)
    zero, one = np.float32(0.0), np.float32(1.0)
    x, total = np.empty(columns, np.float32), np.empty(width, np.float32)
    vectors, weights = np.zeros((len(pools), width), np.float32), np.zeros(len(pools), np.float32)
    slopes = np.empty((columns, width), np.float32)
    for n in range(features.shape[0]):
        keys = features[n]
        if weight[n] <= zero:
            continue
        for c in range(columns):
            at, magnitude, p = keys[c] & mask, abs(values[n, c]), pooled[c]
            if p >= 0 and magnitude > zero:
                pool, setting, row = Pool(*pools[p]), Settings(*settings[p]), at_pool[n, p]
                touch(pool, setting, row)
                read_vector(pool, setting, row, vectors[p])
                weights[p] = narrow[p][row]
            elif p < 0 and magnitude > scales[at]:
                scales[at] = magnitude if scales[at] == zero else min(magnitude, np.float32(2.0) * scales[at])
        _normalize(keys, values[n], pooled, scales, x)
        odds = _log_odds(keys, x, pooled, vectors, weights, intercept[0], rows, total) + others[n]
        miss = probability(min(max(odds, -largest), largest)) - label[n]
        # Of the machine alone: what a slope of 1 would change in its log-odds.
        speed = rate_w / np.sqrt(intercept_squares[0])
        for c in range(columns):
            if x[c] == zero:
                continue
            at, p, of_vector = keys[c] & mask, pooled[c], zero
            if p >= 0:
                for k in range(width):
                    slopes[c, k] = x[c] * (total[k] - vectors[p, k] * x[c])
                speed += rate_w * x[c] * x[c] / np.sqrt(narrow_squares[p][at_pool[n, p]])
                speed += np.float32(step_size(Pool(*pools[p]), Settings(*settings[p]), at_pool[n, p], slopes[c]))
            else:
                for k in range(width):
                    slopes[c, k] = x[c] * (total[k] - rows[at, k + 1] * x[c])
                    of_vector += slopes[c, k] * slopes[c, k] / np.sqrt(squares[at, k + 1])
                speed += rate_w * x[c] * x[c] / np.sqrt(squares[at, 0]) + rate_v * of_vector
        damping = one / (one + np.float32(0.25) * weight[n] * speed)
        slope, seen = miss * weight[n], miss * miss * weight[n]
        intercept_squares[0] += seen
        intercept[0] -= rate_w * slope * damping / np.sqrt(intercept_squares[0])
        for c in range(columns):
            if x[c] == zero:
                continue
            at, p = keys[c] & mask, pooled[c]
            for k in range(width):
                of_network = gradient[n, field[c], k] * x[c] if field[c] >= 0 else zero
                slopes[c, k] = slope * slopes[c, k] + of_network
            if p >= 0:
                row = at_pool[n, p]
                narrow_squares[p][row] += seen * x[c] * x[c]
                narrow[p][row] -= rate_w * slope * damping * x[c] / np.sqrt(narrow_squares[p][row])
                narrow_dirty[p][row] = True
                step(Pool(*pools[p]), Settings(*settings[p]), row, slopes[c], weight[n], damping, evidence[p][slots[n, p]])
            else:
                dirty[at] = True
                squares[at, 0] += seen * x[c] * x[c]
                rows[at, 0] -= rate_w * slope * damping * x[c] / np.sqrt(squares[at, 0])
                for k in range(width):
                    squares[at, k + 1] += slopes[c, k] * slopes[c, k] / weight[n]
                    rows[at, k + 1] -= rate_v * damping * slopes[c, k] / np.sqrt(squares[at, k + 1])
