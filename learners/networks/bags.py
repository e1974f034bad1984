"""Compiled sums of weighted rows of a table."""

from __future__ import annotations

import numpy as np

from memory.jit import njit
from streams.batch import Floats, Ids

__all__ = ["bag_sums"]


@njit(cache=True, nogil=True, fastmath={"contract"})
def bag_sums(keys: Ids, values: Floats, mask: int, table: Floats) -> Floats:
    """Sum the rows of a table that the lowest bits of `keys` name, each times its value.

    Parameters
    ----------
    keys : (n, W) int64
    values : (n, W) float32
    mask : int
        Rows of the table minus 1.
    table : (rows, dim) float32

    Returns
    -------
    (n, dim) float32
    """
    sums = np.zeros((keys.shape[0], table.shape[1]), np.float32)
    for row in range(keys.shape[0]):
        for column in range(keys.shape[1]):
            value = values[row, column]
            if value != 0.0:
                at = keys[row, column] & mask
                for d in range(table.shape[1]):
                    sums[row, d] += value * table[at, d]
    return sums
