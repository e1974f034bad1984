"""Compiled passes of a factorization machine, some of whose columns have their vectors in pools of blocks.

They are those of `learners.networks.factorization` but for these columns. Of a pooled column, the gradient is computed for all
k numbers of the row at hand, and the pool decides what it keeps of it.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from learners.kernels.factorization import probability
from memory.arrays import Bools, Floats
from memory.jit import njit
from memory.sparse.chains import Pool, Settings, read_vector, step, step_size, touch

__all__ = ["Beginning", "Chains", "Side", "backward", "forward", "rows_of"]


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


@njit(cache=True, nogil=True)
def rows_of(features, values, columns, sizes):  # type: ignore[no-untyped-def]
    """Rows of the ids in each pool plus 1, (pools, n) int64; 0 where a row has no id.

    `columns` (pools,) are those of the ids, and `sizes` (pools,) the pools' rows, powers of two.
    """
    found = np.zeros((columns.size, features.shape[0]), np.int64)
    for p in range(columns.size):
        c, mask = columns[p], sizes[p] - 1
        for n in range(features.shape[0]):
            if values[n, c] != np.float32(0.0):
                found[p, n] = (features[n, c] & mask) + 1
    return found


class Chains(NamedTuple):
    """The arrays of a pool that reading needs; see `memory.sparse.chains.Pool`. A request passes no more than that."""

    values: Floats
    number: npt.NDArray[np.uint8]
    following: npt.NDArray[np.int32]
    first: npt.NDArray[np.int32]


class Beginning(NamedTuple):
    """How rows of a pool begin; see `memory.sparse.chains.Settings`."""

    blocks: int
    prefix: int
    seed: int
    init: float


@njit(cache=True, nogil=True)
def _read(features, given, columns, sizes, pools, narrow, width):  # type: ignore[no-untyped-def]
    """Of the ids: vectors, which of them each row has (n, pools), and linear weights (n, pools); anything for rows without id.

    Vector m of pool p is ``vectors[m, p]``.
    """
    at = rows_of(features, given, columns, sizes)
    vectors, which = np.empty((features.shape[0], columns.size, width), np.float32), np.empty(at.shape[::-1], np.int64)
    weights = np.zeros((features.shape[0], columns.size), np.float32)
    # Pools are outside: taking one out of the tuple counts references to each of its arrays.
    for p in range(columns.size):
        values, number, following, first, blocks, prefix, seed, init = pools[p]
        pool, beginning, weight = Chains(values, number, following, first), Beginning(blocks, prefix, seed, init), narrow[p]
        for n in range(features.shape[0]):
            row = at[p, n] - 1
            if row < 0:
                continue
            weights[n, p] = weight[row]
            # The candidates of a request follow each other, and have one user.
            if n > 0 and at[p, n - 1] == at[p, n]:
                which[n, p] = which[n - 1, p]
            else:
                which[n, p] = n
                read_vector(pool, beginning, row, vectors[n, p])
    return vectors, which, weights


@njit(cache=True, nogil=True, fastmath=True)
def forward(  # type: ignore[no-untyped-def]
    features, values, field, pooled, columns, sizes, pools, narrow, intercept, rows, scales, odds, fields
):
    """Fill `odds` (n,) and `fields` (n, fields, k), see `learners.networks.factorization.forward`.

    `pooled` (F,) is the pool of each column, or -1. Of each pool, `pools` has the `Chains` and `beginnings` the `Beginning`, as
    plain tuples, and `narrow` the linear weights of its rows. See `rows_of` for `columns` and `sizes`.
    """
    width, mask, zero = rows.shape[1] - 1, rows.shape[0] - 1, np.float32(0.0)
    x, total = np.empty(features.shape[1], np.float32), np.empty(width, np.float32)
    vectors, which, weights = _read(features, values, columns, sizes, pools, narrow, width)
    # The log-odds as in `_log_odds`, and the fields in the same pass. Numbers are addressed one by one: a slice of an array
    # takes longer than what is done with it.
    for n in range(features.shape[0]):
        _normalize(features[n], values[n], pooled, scales, x)
        linear, pairs = intercept[0], zero
        total[:] = zero
        fields[n] = zero
        for c in range(field.size):
            if x[c] == zero:
                continue
            f, p, at = field[c], pooled[c], features[n, c] & mask
            if p >= 0:
                m = which[n, p]
                linear += weights[n, p] * x[c]
                for k in range(width):
                    vx = vectors[m, p, k] * x[c]
                    total[k] += vx
                    fields[n, f, k] += vx
                    pairs -= vx * vx
            elif f >= 0:
                linear += rows[at, 0] * x[c]
                for k in range(width):
                    vx = rows[at, k + 1] * x[c]
                    total[k] += vx
                    fields[n, f, k] += vx
                    pairs -= vx * vx
            else:
                linear += rows[at, 0] * x[c]
                for k in range(width):
                    vx = rows[at, k + 1] * x[c]
                    total[k] += vx
                    pairs -= vx * vx
        for k in range(width):
            pairs += total[k] * total[k]
        odds[n] = min(max(linear + np.float32(0.5) * pairs, np.float32(-30.0)), np.float32(30.0))


class Side(NamedTuple):
    """What learning changes of one pool."""

    pool: Pool
    settings: Settings
    weight: Floats
    """(R,), linear weight of each row."""
    squares: Floats
    """(R,), its sum of squares."""
    dirty: Bools
    """(R,), whether it changed since the last shipment."""
    evidence: Floats
    """(slots, blocks)."""


@njit(cache=True, nogil=True, error_model="numpy")  # a check for division by 0 would prevent vectorisation
def backward(  # type: ignore[no-untyped-def]
    features, values, field, label, weight, others, gradient, pooled, first, second, at_pool, slots, fresh,
    intercept, intercept_squares, rows, scales, squares, dirty, rate_w, rate_v,
):  # fmt: skip
    """Learn rows in order, see `learners.networks.factorization.backward`.

    `first` and `second` are the pools' `Side`; of one pool, it is given twice. `at_pool` (pools, n) are what `rows_of`
    returns. `slots` (pools, n) say where in a pool's evidence the rows collect, and `fresh` (pools, n) who begins there.
    """
    # Sides have names: taking one out of a tuple by number would count references to each of its arrays, for each row.
    pool_a, settings_a, weight_a, squares_a, dirty_a, evidence_a = first
    pool_b, settings_b, weight_b, squares_b, dirty_b, evidence_b = second
    width, mask, columns = rows.shape[1] - 1, rows.shape[0] - 1, features.shape[1]
    rate_w, rate_v, largest = np.float32(rate_w), np.float32(rate_v), np.float32(30.0)
    zero, one = np.float32(0.0), np.float32(1.0)
    x, total = np.empty(columns, np.float32), np.empty(width, np.float32)
    vectors, weights = np.zeros((len(at_pool), width), np.float32), np.zeros(len(at_pool), np.float32)
    slopes, quotients = np.empty((columns, width), np.float32), np.empty(width, np.float32)
    for p in range(len(slots)):
        evidence = evidence_a if p == 0 else evidence_b
        for n in range(features.shape[0]):
            if fresh[p, n]:
                evidence[slots[p, n]] = zero
    for n in range(features.shape[0]):
        keys = features[n]
        if weight[n] <= zero:
            continue
        for c in range(columns):
            at, magnitude, p = keys[c] & mask, abs(values[n, c]), pooled[c]
            if p >= 0 and magnitude > zero:
                row = at_pool[p, n] - 1
                if p == 0:
                    touch(pool_a, settings_a, row)
                    read_vector(pool_a, settings_a, row, vectors[p])
                    weights[p] = weight_a[row]
                else:
                    touch(pool_b, settings_b, row)
                    read_vector(pool_b, settings_b, row, vectors[p])
                    weights[p] = weight_b[row]
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
                row = at_pool[p, n] - 1
                for k in range(width):
                    slopes[c, k] = x[c] * (total[k] - vectors[p, k] * x[c])
                if p == 0:
                    speed += rate_w * x[c] * x[c] / np.sqrt(squares_a[row])
                    speed += np.float32(step_size(pool_a, settings_a, row, slopes[c]))
                else:
                    speed += rate_w * x[c] * x[c] / np.sqrt(squares_b[row])
                    speed += np.float32(step_size(pool_b, settings_b, row, slopes[c]))
            else:
                for k in range(width):
                    slopes[c, k] = x[c] * (total[k] - rows[at, k + 1] * x[c])
                # In two loops, because sums are in order, and would keep the quotients from being vectorised.
                for k in range(width):
                    quotients[k] = slopes[c, k] * slopes[c, k] / np.sqrt(squares[at, k + 1])
                for k in range(width):
                    of_vector += quotients[k]
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
            if p == 0:
                row = at_pool[p, n] - 1
                squares_a[row] += seen * x[c] * x[c]
                weight_a[row] -= rate_w * slope * damping * x[c] / np.sqrt(squares_a[row])
                dirty_a[row] = True
                step(pool_a, settings_a, row, slopes[c], weight[n], damping, evidence_a[slots[p, n]])
            elif p > 0:
                row = at_pool[p, n] - 1
                squares_b[row] += seen * x[c] * x[c]
                weight_b[row] -= rate_w * slope * damping * x[c] / np.sqrt(squares_b[row])
                dirty_b[row] = True
                step(pool_b, settings_b, row, slopes[c], weight[n], damping, evidence_b[slots[p, n]])
            else:
                dirty[at] = True
                squares[at, 0] += seen * x[c] * x[c]
                rows[at, 0] -= rate_w * slope * damping * x[c] / np.sqrt(squares[at, 0])
                for k in range(width):
                    squares[at, k + 1] += slopes[c, k] * slopes[c, k] / weight[n]
                    rows[at, k + 1] -= rate_v * damping * slopes[c, k] / np.sqrt(squares[at, k + 1])
