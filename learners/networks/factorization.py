"""Compiled passes of a factorization machine whose vectors a network reads, too. Its tables: `learners.kernels.factorization`.

The forward pass returns the machine's log-odds and a vector per field. The backward pass takes the network's part of the
log-odds, and the gradients of the loss by these vectors. Rows are learned one after the other: for the machine, it does not
matter how rows are cut into pieces. Unlike the machine alone, it has a sum of squares for each number, so that a dimension that
the network needs does not slow down the others.
"""

from __future__ import annotations

import numpy as np

from learners.kernels.factorization import log_odds, normalize, probability, raise_scales, sum_vectors
from memory.jit import njit

__all__ = ["backward", "forward"]


@njit(cache=True, nogil=True, fastmath=True)
def forward(features, values, field, intercept, rows, scales, odds, fields):  # type: ignore[no-untyped-def]
    """Fill `odds` (n,) with the machine's log-odds, and `fields` (n, fields, k) with the sums of v x over each field's columns.

    `field` (F,) is the field of each column, -1 for none.
    """
    width, mask = rows.shape[1] - 1, rows.shape[0] - 1
    total, squared, x = np.empty(width, np.float32), np.empty(width, np.float32), np.empty(features.shape[1], np.float32)
    for n in range(features.shape[0]):
        normalize(features[n], values[n], scales, x)
        linear = intercept[0] + sum_vectors(features[n], x, mask, 1, 0, rows, total, squared)
        odds[n] = log_odds(linear, total, squared)
        fields[n] = np.float32(0.0)
        for c in range(field.size):
            if field[c] >= 0 and x[c] != 0.0:
                at, vector = features[n, c] & mask, fields[n, field[c]]
                for k in range(width):
                    vector[k] += rows[at, k + 1] * x[c]


@njit(cache=True, nogil=True, fastmath=True)
def backward(  # type: ignore[no-untyped-def]
    features, values, field, label, weight, others, gradient, intercept, intercept_squares, rows, scales, squares, dirty,
    rate_w, rate_v,
):  # fmt: skip
    """Learn rows in order.

    `others` (n,) is the network's part of the log-odds. `gradient` (n, fields, k) is that of the loss by the network's inputs.
    """
    width, mask, columns = rows.shape[1] - 1, rows.shape[0] - 1, features.shape[1]
    rate_w, rate_v = np.float32(rate_w), np.float32(rate_v)
    one, quarter, largest = np.float32(1.0), np.float32(0.25), np.float32(30.0)
    total, squared, x = np.empty(width, np.float32), np.empty(width, np.float32), np.empty(columns, np.float32)
    for n in range(features.shape[0]):
        keys = features[n]
        raise_scales(keys, values[n], scales)
        normalize(keys, values[n], scales, x)
        linear = intercept[0] + sum_vectors(keys, x, mask, 1, 0, rows, total, squared)
        odds = min(max(log_odds(linear, total, squared) + others[n], -largest), largest)
        miss = probability(odds) - label[n]
        # Of the machine alone: what a slope of 1 would change in its log-odds.
        speed = rate_w / np.sqrt(intercept_squares[0])
        for c in range(columns):
            if x[c] != 0.0:
                at, of_vector = keys[c] & mask, np.float32(0.0)
                for k in range(width):
                    rest = total[k] - rows[at, k + 1] * x[c]
                    of_vector += rest * rest / np.sqrt(squares[at, k + 1])
                speed += x[c] * x[c] * (rate_w / np.sqrt(squares[at, 0]) + rate_v * of_vector)
        damping = one / (one + quarter * weight[n] * speed)
        slope = miss * weight[n]
        seen, slope_length = miss * miss * weight[n], miss * np.sqrt(weight[n])
        intercept_squares[0] += seen
        intercept[0] -= rate_w * slope * damping / np.sqrt(intercept_squares[0])
        for c in range(columns):
            if x[c] == 0.0:
                continue
            at = keys[c] & mask
            dirty[at] = True
            squares[at, 0] += seen * x[c] * x[c]
            rows[at, 0] -= rate_w * slope * damping * x[c] / np.sqrt(squares[at, 0])
            for k in range(width):
                rest = total[k] - rows[at, k + 1] * x[c]
                of_network = gradient[n, field[c], k] if field[c] >= 0 else np.float32(0.0)
                length = x[c] * (slope_length * rest + of_network)
                squares[at, k + 1] += length * length
                rows[at, k + 1] -= rate_v * damping * x[c] * (slope * rest + of_network) / np.sqrt(squares[at, k + 1])
